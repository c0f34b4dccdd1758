// Who gets which connection, which are opened and which are closed. Invariant: never more connections than the limit,
// and nobody waits while a connection is idle or one may be opened. Pure: PostgresPool tells and does.

/// The book-keeping of a pool.
///
///     (none) ── room ──▶ opening ── opened ──▶ lent ── returned ──▶ idle ── taken ──▶ lent
///                           │                   │                     │
///                           │ failed            │ abandoned           │ aged, unused, lost
///                           ▼                   ▼                     ▼
///                         (none)             draining ── clean ──▶ idle or lent
///                                               └────── closed ─▶ (none)
///
/// Whoever finds neither an idle connection nor room waits in a queue; each connection or place that becomes free goes
/// to the head of it.
struct PostgresPoolState {
  /// More than this do not wait.
  static let mostWaiting = 1024
  /// So many unused ones are kept for reuse, up to their lifetime.
  static let keptIdle = 1

  typealias Ticket = UInt64
  typealias Slot = UInt64

  enum Action: Equatable {
    case lend(Slot, to: Ticket)
    case open(Slot, for: Ticket)
    case wait(Ticket)
    case refuse(Ticket)
    case close(Slot)
  }

  private enum Use: Equatable {
    case opening
    case lent
    case idle(since: MonotonicInstant)
    case draining
  }

  private struct Entry {
    let slot: Slot
    var use: Use
    var bornAt: MonotonicInstant
  }

  let limit: Int
  let lifetime: Duration
  let idleTimeout: Duration
  private var entries: [Entry] = []
  private var queue: [Ticket] = []
  private var lastSlot: Slot = 0
  private(set) var isClosed = false

  init(limit: Int, lifetime: Duration, idleTimeout: Duration) {
    self.limit = max(1, limit)
    self.lifetime = lifetime
    self.idleTimeout = idleTimeout
  }

  var waiting: Int { queue.count }
  /// Connected ones.
  var open: Int { entries.count { $0.use != .opening } }
  var opening: Int { entries.count { $0.use == .opening } }
  var draining: Int { entries.count { $0.use == .draining } }
  var lent: Int { entries.count { $0.use == .lent } }
  var idle: Int { entries.count { isIdle($0) } }

  func isLent(_ slot: Slot) -> Bool { index(of: slot, .lent) != nil }
  func isDraining(_ slot: Slot) -> Bool { index(of: slot, .draining) != nil }

  private func isIdle(_ entry: Entry) -> Bool {
    if case .idle = entry.use { true } else { false }
  }

  private func isAged(_ entry: Entry, _ now: MonotonicInstant) -> Bool {
    entry.bornAt.duration(to: now) >= lifetime
  }

  /// Someone wants a connection.
  mutating func request(_ ticket: Ticket, now: MonotonicInstant) -> [Action] {
    if isClosed || queue.count >= Self.mostWaiting { return [.refuse(ticket)] }
    var actions: [Action] = []
    // The one used last first, so that those beyond need grow old unused.
    while let index = entries.lastIndex(where: isIdle) {
      if isAged(entries[index], now) {
        actions.append(.close(entries.remove(at: index).slot))
      } else {
        return actions + [lend(at: index, to: ticket)]
      }
    }
    queue.append(ticket)
    let next = serveQueue(now)
    return actions + (next.isEmpty ? [.wait(ticket)] : next)
  }

  /// Someone does not wait any more. False where it got something meanwhile.
  mutating func leaveQueue(_ ticket: Ticket) -> Bool {
    guard let index = queue.firstIndex(of: ticket) else { return false }
    queue.remove(at: index)
    return true
  }

  /// The connection of `slot` is open and in its requester's hands.
  mutating func opened(_ slot: Slot, now: MonotonicInstant) {
    guard let index = index(of: slot, .opening) else { return }
    entries[index].use = .lent
    entries[index].bornAt = now
  }

  /// There is no connection for `slot`, or no longer one.
  mutating func removed(_ slot: Slot, now: MonotonicInstant) -> [Action] {
    guard let index = entries.firstIndex(where: { $0.slot == slot }) else { return [] }
    entries.remove(at: index)
    return serveQueue(now)
  }

  /// A lent connection came back clean.
  mutating func returned(_ slot: Slot, now: MonotonicInstant) -> [Action] {
    guard let index = index(of: slot, .lent) else { return [] }
    return becameFree(index, now)
  }

  /// A lent connection came back with a statement under way.
  mutating func returnedDraining(_ slot: Slot) {
    guard let index = index(of: slot, .lent) else { return }
    entries[index].use = .draining
  }

  /// A draining connection became clean.
  mutating func drained(_ slot: Slot, now: MonotonicInstant) -> [Action] {
    guard let index = index(of: slot, .draining) else { return [] }
    return becameFree(index, now)
  }

  /// Closes what is too old, and what nobody needed for the idle timeout.
  mutating func sweep(_ now: MonotonicInstant) -> [Action] {
    var closed = entries.filter { isIdle($0) && isAged($0, now) }.map(\.slot)
    // The oldest unused ones first; the last is kept.
    var surplus = idle - closed.count - Self.keptIdle
    for entry in entries where surplus > 0 && !closed.contains(entry.slot) {
      guard case .idle(let since) = entry.use, since.duration(to: now) >= idleTimeout else { continue }
      closed.append(entry.slot)
      surplus -= 1
    }
    entries = entries.filter { !closed.contains($0.slot) }
    return closed.map { .close($0) } + serveQueue(now)
  }

  /// When `sweep` has something to do at the earliest; nil where nothing is idle.
  var nextSweep: MonotonicInstant? {
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

  /// Closes what nobody uses, and whoever waits gets new ones.
  mutating func closeIdle(now: MonotonicInstant) -> [Action] {
    let closed = entries.filter(isIdle).map { Action.close($0.slot) }
    entries.removeAll(where: isIdle)
    return closed + serveQueue(now)
  }

  /// No more requests; what is idle is closed, what is lent when it comes back.
  mutating func close() -> [Action] {
    isClosed = true
    var actions = queue.map { Action.refuse($0) }
    queue.removeAll()
    for entry in entries where isIdle(entry) { actions.append(.close(entry.slot)) }
    entries = entries.filter { !isIdle($0) }
    return actions
  }

  private func index(of slot: Slot, _ use: Use) -> Int? {
    entries.firstIndex { $0.slot == slot && $0.use == use }
  }

  private mutating func lend(at index: Int, to ticket: Ticket) -> Action {
    entries[index].use = .lent
    return .lend(entries[index].slot, to: ticket)
  }

  private mutating func becameFree(_ index: Int, _ now: MonotonicInstant) -> [Action] {
    if isClosed || isAged(entries[index], now) {
      let slot = entries.remove(at: index).slot
      return [.close(slot)] + serveQueue(now)
    }
    if !queue.isEmpty { return [lend(at: index, to: queue.removeFirst())] }
    // Behind the others, so that the list's order is that of their last use.
    var entry = entries.remove(at: index)
    entry.use = .idle(since: now)
    entries.append(entry)
    return []
  }

  /// Gives free places to those who wait.
  private mutating func serveQueue(_ now: MonotonicInstant) -> [Action] {
    var actions: [Action] = []
    while !queue.isEmpty, entries.count < limit {
      lastSlot += 1
      entries.append(Entry(slot: lastSlot, use: .opening, bornAt: now))
      actions.append(.open(lastSlot, for: queue.removeFirst()))
    }
    return actions
  }
}
