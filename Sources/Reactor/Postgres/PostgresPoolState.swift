// The pool's decisions: which request gets which connection, and which connections are opened and closed. Invariant:
// there are never more connections than the limit, or than the server has just said it accepts; no request waits while
// a connection is idle; and a connection is being opened for each waiting request up to the limit. Driven by
// PostgresPool.

/// A pool's connections and its queue of requests.
///
///     (none) ── room ──▶ opening ── opened ──▶ idle or lent ── returned ──▶ idle ── taken ──▶ lent
///                           │                        │                        │
///                           │ failed                 │ abandoned              │ aged, unused, lost
///                           ▼                        ▼                        ▼
///                         (none)                 cancelling ── clean ──▶ idle or lent
///                                                    └─────── closed ─▶ (none)
///
/// A request that finds no idle connection waits in a queue; a connection that becomes free goes to the head of the
/// queue. A connection is opened for one request and outlives it: if the caller leaves, the next request gets the
/// connection.
struct PostgresPoolState {
  /// The maximum number of waiting requests; further ones are refused.
  static let mostWaiting = 1024
  /// The number of unused connections that are kept for reuse, up to their lifetime.
  static let keptIdle = 1
  /// How long no further connection is opened after the server had no room for one.
  static let fullPause = Duration.seconds(5)

  typealias RequestID = UInt64
  typealias ConnectionID = UInt64

  enum Action: Equatable {
    case lend(ConnectionID, to: RequestID)
    /// Report with `opened` or `failed`.
    case open(ConnectionID, for: RequestID)
    case wait(RequestID)
    case refuse(RequestID)
    /// The connection that was being opened for this request failed.
    case fail(RequestID)
    case close(ConnectionID)
  }

  private enum Use: Equatable {
    /// The request it is opened for; nil if that has left or got another connection.
    case opening(for: RequestID?)
    case lent
    case idle(since: MonotonicInstant)
    case cancelling
  }

  private struct Entry {
    let connectionID: ConnectionID
    var use: Use
    var bornAt: MonotonicInstant
  }

  let limit: Int
  let lifetime: Duration
  let idleTimeout: Duration
  private var entries: [Entry] = []
  private var queue: [RequestID] = []
  private var lastConnectionID: ConnectionID = 0
  /// How many connections the server accepts, until when that is assumed, and why it refused another one.
  private var serverLimit: (count: Int, until: MonotonicInstant, reason: String)?
  private(set) var isClosed = false

  init(limit: Int, lifetime: Duration, idleTimeout: Duration) {
    self.limit = max(1, limit)
    self.lifetime = lifetime
    self.idleTimeout = idleTimeout
  }

  var waiting: Int { queue.count }
  /// Why the server refused a further connection; nil once another one may be opened.
  var serverLimitReason: String? { serverLimit?.reason }
  /// Established connections.
  var open: Int { entries.count { !isOpening($0) } }
  var opening: Int { entries.count { isOpening($0) } }
  var cancelling: Int { entries.count { $0.use == .cancelling } }
  var lent: Int { entries.count { $0.use == .lent } }
  var idle: Int { entries.count { isIdle($0) } }

  func isLent(_ connectionID: ConnectionID) -> Bool { index(of: connectionID, .lent) != nil }
  func isCancelling(_ connectionID: ConnectionID) -> Bool { index(of: connectionID, .cancelling) != nil }

  private func isIdle(_ entry: Entry) -> Bool {
    if case .idle = entry.use { true } else { false }
  }

  private func isOpening(_ entry: Entry) -> Bool {
    if case .opening = entry.use { true } else { false }
  }

  private func isAged(_ entry: Entry, _ now: MonotonicInstant) -> Bool {
    entry.bornAt.duration(to: now) >= lifetime
  }

  /// A caller wants a connection.
  mutating func request(_ requestID: RequestID, now: MonotonicInstant) -> [Action] {
    if isClosed || queue.count >= Self.mostWaiting { return [.refuse(requestID)] }
    var actions: [Action] = []
    // The most recently used one, so that surplus connections stay unused and expire.
    while let index = entries.lastIndex(where: isIdle) {
      if isAged(entries[index], now) {
        actions.append(.close(entries.remove(at: index).connectionID))
      } else {
        return actions + [lend(at: index, to: requestID)]
      }
    }
    queue.append(requestID)
    return actions + [.wait(requestID)] + serveQueue(now)
  }

  /// Whether a connection is being opened for this request.
  func isOpening(for requestID: RequestID) -> Bool {
    entries.contains { $0.use == .opening(for: requestID) }
  }

  /// A caller no longer waits. Returns false if the request has ended meanwhile: a result and a deadline or a
  /// cancellation can come in the same turn of the loop.
  mutating func leaveQueue(_ requestID: RequestID) -> Bool {
    guard let index = queue.firstIndex(of: requestID) else { return false }
    queue.remove(at: index)
    giveOn(from: requestID)
    return true
  }

  /// Passes the connection that is being opened for `requestID` on to the first request that has none.
  private mutating func giveOn(from requestID: RequestID) {
    guard let index = entries.firstIndex(where: { $0.use == .opening(for: requestID) }) else { return }
    entries[index].use = .opening(for: queue.first { !isOpening(for: $0) })
  }

  /// The connection is open.
  mutating func opened(_ connectionID: ConnectionID, now: MonotonicInstant) -> [Action] {
    let (index, requestID) = openingEntry(connectionID)
    entries[index].bornAt = now
    guard !isClosed, let requestID, let place = queue.firstIndex(of: requestID) else { return becameFree(index, now) }
    queue.remove(at: place)
    return [lend(at: index, to: requestID)]
  }

  /// The connection could not be opened.
  mutating func failed(_ connectionID: ConnectionID, now: MonotonicInstant) -> [Action] {
    let (index, requestID) = openingEntry(connectionID)
    entries.remove(at: index)
    guard let requestID, let place = queue.firstIndex(of: requestID) else { return serveQueue(now) }
    queue.remove(at: place)
    return [.fail(requestID)] + serveQueue(now)
  }

  /// The connection could not be opened, because the server or the role has no room for it. Its request waits for one
  /// of the others, open or being opened, if there are any.
  mutating func refusedAsFull(_ connectionID: ConnectionID, reason: String, now: MonotonicInstant) -> [Action] {
    guard entries.count > 1 else { return failed(connectionID, now: now) }
    entries.remove(at: openingEntry(connectionID).index)
    serverLimit = (entries.count, now.advanced(by: Self.fullPause), reason)
    return serveQueue(now)
  }

  /// The connection has been closed.
  mutating func removed(_ connectionID: ConnectionID, now: MonotonicInstant) -> [Action] {
    // A lent connection can be lost and removed before its caller gives it back, which removes it again.
    guard let index = entries.firstIndex(where: { $0.connectionID == connectionID }) else { return [] }
    entries.remove(at: index)
    return serveQueue(now)
  }

  /// A lent connection came back clean.
  mutating func returned(_ connectionID: ConnectionID, now: MonotonicInstant) -> [Action] {
    let index = lentEntry(connectionID)
    return becameFree(index, now)
  }

  /// A lent connection came back with a statement under way.
  mutating func returnedUnclean(_ connectionID: ConnectionID) {
    entries[lentEntry(connectionID)].use = .cancelling
  }

  /// A connection whose statement was cancelled became clean.
  mutating func becameClean(_ connectionID: ConnectionID, now: MonotonicInstant) -> [Action] {
    // The server can answer before the caller gives the connection back: it is still lent then.
    guard let index = index(of: connectionID, .cancelling) else { return [] }
    return becameFree(index, now)
  }

  /// Closes idle connections that are older than the lifetime or were not used for the idle timeout.
  mutating func closeExpired(_ now: MonotonicInstant) -> [Action] {
    var closed = entries.filter { isIdle($0) && isAged($0, now) }.map(\.connectionID)
    // The longest unused first; the last one stays open.
    var surplus = idle - closed.count - Self.keptIdle
    for entry in entries where surplus > 0 && !closed.contains(entry.connectionID) {
      guard case .idle(let since) = entry.use, since.duration(to: now) >= idleTimeout else { continue }
      closed.append(entry.connectionID)
      surplus -= 1
    }
    entries = entries.filter { !closed.contains($0.connectionID) }
    return closed.map { .close($0) } + serveQueue(now)
  }

  /// When `closeExpired` next has something to do; nil if no connection is idle.
  var nextExpiry: MonotonicInstant? {
    var next: MonotonicInstant?
    let hasSurplus = idle > Self.keptIdle
    for entry in entries {
      guard case .idle(let since) = entry.use else { continue }
      var due = entry.bornAt.advanced(by: lifetime)
      if hasSurplus { due = min(due, since.advanced(by: idleTimeout)) }
      next = min(next ?? due, due)
    }
    return next
  }

  /// Closes all idle connections; waiting requests get new ones.
  mutating func closeIdle(now: MonotonicInstant) -> [Action] {
    let closed = entries.filter(isIdle).map { Action.close($0.connectionID) }
    entries.removeAll(where: isIdle)
    return closed + serveQueue(now)
  }

  /// Refuses all requests from now on and closes idle connections. Lent ones are closed when they come back, and those
  /// that are being opened when they are open.
  mutating func close() -> [Action] {
    isClosed = true
    var actions = queue.map { Action.refuse($0) }
    queue.removeAll()
    for entry in entries where isIdle(entry) { actions.append(.close(entry.connectionID)) }
    entries = entries.filter { !isIdle($0) }
    return actions
  }

  /// An attempt ends once, and nothing else removes its entry.
  private func openingEntry(_ connectionID: ConnectionID) -> (index: Int, requestID: RequestID?) {
    guard let index = entries.firstIndex(where: { $0.connectionID == connectionID }),
      case .opening(let requestID) = entries[index].use
    else { preconditionFailure("connection \(connectionID) is not being opened") }
    return (index, requestID)
  }

  /// A caller gives back what it was lent, once.
  private func lentEntry(_ connectionID: ConnectionID) -> Int {
    guard let index = index(of: connectionID, .lent) else {
      preconditionFailure("connection \(connectionID) is not lent")
    }
    return index
  }

  private func index(of connectionID: ConnectionID, _ use: Use) -> Int? {
    entries.firstIndex { $0.connectionID == connectionID && $0.use == use }
  }

  private mutating func lend(at index: Int, to requestID: RequestID) -> Action {
    entries[index].use = .lent
    return .lend(entries[index].connectionID, to: requestID)
  }

  private mutating func becameFree(_ index: Int, _ now: MonotonicInstant) -> [Action] {
    if isClosed || isAged(entries[index], now) {
      let connectionID = entries.remove(at: index).connectionID
      return [.close(connectionID)] + serveQueue(now)
    }
    if !queue.isEmpty {
      let requestID = queue.removeFirst()
      let action = lend(at: index, to: requestID)
      giveOn(from: requestID)
      return [action]
    }
    // Last in the list, which is in the order of last use.
    var entry = entries.remove(at: index)
    entry.use = .idle(since: now)
    entries.append(entry)
    return []
  }

  /// Opens a connection for each waiting request that has none, up to the limit.
  private mutating func serveQueue(_ now: MonotonicInstant) -> [Action] {
    var actions: [Action] = []
    if let serverLimit, now >= serverLimit.until { self.serverLimit = nil }
    let limit = min(limit, serverLimit?.count ?? limit)
    for requestID in queue where !isOpening(for: requestID) {
      if let index = entries.firstIndex(where: { $0.use == .opening(for: nil) }) {
        entries[index].use = .opening(for: requestID)
      } else if entries.count < limit {
        lastConnectionID += 1
        entries.append(Entry(connectionID: lastConnectionID, use: .opening(for: requestID), bornAt: now))
        actions.append(.open(lastConnectionID, for: requestID))
      } else {
        break
      }
    }
    return actions
  }
}
