// The server's connections: one list per state, ordered by when they entered it.
// Invariant: all members of a list have the same time limit, so the first is the next to expire. One timer serves all
// connections, and none runs without a connection. Used by HTTPServer.

@EventLoop
final class HTTPConnectionLists {
  /// First and last member of a list. A list owns its members through `first` and each member's `next`.
  private struct List {
    var first: HTTPConnection?
    // Safe: it is a member, and every change at the end of the list updates it.
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

  /// When the first member of any list expires; nil if no limit applies.
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

  /// A connection whose limit has passed at `now`.
  func overdue(at now: MonotonicInstant) -> HTTPConnection? {
    for list in lists {
      guard let limit = list.limit, let first = list.first else { continue }
      if first.since.advanced(by: limit) <= now { return first }
    }
    return nil
  }

  func insert(_ connection: HTTPConnection, at now: MonotonicInstant) {
    count += 1
    append(connection, at: now)
  }

  /// Moves a connection to the end of the list of its state, even if it is already in it.
  func move(_ connection: HTTPConnection, at now: MonotonicInstant) {
    if connection.list == connection.state, connection.next == nil {
      connection.since = now
      return
    }
    unlink(connection)
    append(connection, at: now)
  }

  func remove(_ connection: HTTPConnection) {
    unlink(connection)
    connection.list = .closed
    count -= 1
  }

  private func append(_ connection: HTTPConnection, at now: MonotonicInstant) {
    let list = connection.state
    connection.list = list
    connection.since = now
    connection.previous = lists[list.rawValue].last
    if let last = lists[list.rawValue].last {
      last.next = connection
    } else {
      lists[list.rawValue].first = connection
    }
    lists[list.rawValue].last = connection
  }

  private func unlink(_ connection: HTTPConnection) {
    let place = connection.list.rawValue
    let next = connection.next
    if let next { next.previous = connection.previous } else { lists[place].last = connection.previous }
    connection.next = nil
    if let previous = connection.previous { previous.next = next } else { lists[place].first = next }
    connection.previous = nil
  }
}
