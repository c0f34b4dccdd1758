// The server's connections, one list a state, each in the order in which its members entered it.
// Invariant: all members of a list have the same time limit, so the first of each is the next to be overdue, and one
// timer for the earliest of them serves all connections; no connection, no timer. Used by HTTPServer.

/// What a connection waits for; each state has its own limit and its own list.
enum HTTPConnectionState: Int, CaseIterable {
  /// The next request's first byte. The oldest gives way first where connections run out.
  case idle
  /// The rest of a request.
  case receiving
  /// The handler's later answer. No limit here: a handler bounds its own waits.
  case answering
  /// The peer, to read what it asked for.
  case writing
  /// The peer's end, after the last answer: closing with bytes unread would reset the connection under that answer.
  case lingering
  /// The peer's end, after a last answer that it has not read yet.
  case flushing
  /// Nothing; in no list.
  case closed
}

@EventLoop
final class HTTPConnectionLists {
  /// First and last of one list. A list owns its members: by `first`, and by each member's `next`.
  private struct List {
    var first: HTTPConnection?
    // Safe: it is a member, and each change of the list's end sets it anew.
    unowned(unsafe) var last: HTTPConnection?
    var limit: Duration?
  }

  private var lists: [List]
  private(set) var count = 0

  init(limits: HTTPServerLimits) {
    lists = HTTPConnectionState.allCases.map { state in
      switch state {
      case .idle: List(limit: limits.idleTimeout)
      case .receiving: List(limit: limits.requestTimeout)
      case .writing, .flushing: List(limit: limits.writeTimeout)
      case .lingering: List(limit: limits.lingerTimeout)
      case .answering, .closed: List(limit: nil)
      }
    }
  }

  func first(_ state: HTTPConnectionState) -> HTTPConnection? {
    lists[state.rawValue].first
  }

  func limit(_ state: HTTPConnectionState) -> Duration? {
    lists[state.rawValue].limit
  }

  /// When the first of a list is overdue; nil where no limit runs.
  var nextDeadline: MonotonicInstant? {
    var earliest: MonotonicInstant?
    for list in lists {
      guard let limit = list.limit, let first = list.first else { continue }
      let deadline = first.since.advanced(by: limit)
      if let known = earliest, known <= deadline { continue }
      earliest = deadline
    }
    return earliest
  }

  /// One that is overdue at `now`.
  func overdue(at now: MonotonicInstant) -> HTTPConnection? {
    for list in lists {
      guard let limit = list.limit, let first = list.first else { continue }
      if first.since.advanced(by: limit) <= now { return first }
    }
    return nil
  }

  func insert(_ connection: HTTPConnection, _ state: HTTPConnectionState, at now: MonotonicInstant) {
    count += 1
    append(connection, state, at: now)
  }

  /// To the end of the list of `state`, also where it was in that list before.
  func move(_ connection: HTTPConnection, to state: HTTPConnectionState, at now: MonotonicInstant) {
    if connection.state == state, connection.next == nil {
      connection.since = now
      return
    }
    unlink(connection)
    append(connection, state, at: now)
  }

  func remove(_ connection: HTTPConnection) {
    unlink(connection)
    connection.state = .closed
    count -= 1
  }

  private func append(_ connection: HTTPConnection, _ state: HTTPConnectionState, at now: MonotonicInstant) {
    connection.state = state
    connection.since = now
    connection.previous = lists[state.rawValue].last
    if let last = lists[state.rawValue].last {
      last.next = connection
    } else {
      lists[state.rawValue].first = connection
    }
    lists[state.rawValue].last = connection
  }

  private func unlink(_ connection: HTTPConnection) {
    let place = connection.state.rawValue
    let next = connection.next
    if let next { next.previous = connection.previous } else { lists[place].last = connection.previous }
    connection.next = nil
    if let previous = connection.previous { previous.next = next } else { lists[place].first = next }
    connection.previous = nil
  }
}
