// Who gets which connection, which are opened and which are closed. Invariant: never more connections than the limit,
// nobody waits while a connection is idle, and for each who waits one is being opened if there is room. Pure:
// PostgresPool tells and does.

/// The book-keeping of a pool.
///
///     (none) ── room ──▶ opening ── opened ──▶ idle or lent ── returned ──▶ idle ── taken ──▶ lent
///                           │                        │                        │
///                           │ failed                 │ abandoned              │ aged, unused, lost
///                           ▼                        ▼                        ▼
///                         (none)                  draining ── clean ──▶ idle or lent
///                                                    └────── closed ─▶ (none)
///
/// Whoever finds no idle connection waits in a queue; each connection that becomes free goes to the head of it. A
/// connection is opened on behalf of one who waits, and outlasts them: if they leave, the next to come gets it.
struct PostgresPoolState {
  /// More than this do not wait.
  static let mostWaiting = 1024
  /// So many unused ones are kept for reuse, up to their lifetime.
  static let keptIdle = 1

  typealias Ticket = UInt64
  typealias Slot = UInt64

  enum Action: Equatable {
    case lend(Slot, to: Ticket)
    /// Report with `opened` or `failed`.
    case open(Slot, for: Ticket)
    case wait(Ticket)
    case refuse(Ticket)
    /// The connection that was being opened for this one cannot be had.
    case fail(Ticket)
    case close(Slot)
  }

  private enum Use: Equatable {
    /// For whom; nil if they left, or got another one.
    case opening(for: Ticket?)
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
  var open: Int { entries.count { !isOpening($0) } }
  var opening: Int { entries.count { isOpening($0) } }
  var draining: Int { entries.count { $0.use == .draining } }
  var lent: Int { entries.count { $0.use == .lent } }
  var idle: Int { entries.count { isIdle($0) } }

  func isLent(_ slot: Slot) -> Bool { index(of: slot, .lent) != nil }
  func isDraining(_ slot: Slot) -> Bool { index(of: slot, .draining) != nil }

  private func isIdle(_ entry: Entry) -> Bool {
    if case .idle = entry.use { true } else { false }
  }

  private func isOpening(_ entry: Entry) -> Bool {
    if case .opening = entry.use { true } else { false }
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
    return actions + [.wait(ticket)] + serveQueue(now)
  }

  /// Whether a connection is being opened for this one.
  func isOpening(for ticket: Ticket) -> Bool {
    entries.contains { $0.use == .opening(for: ticket) }
  }

  /// Someone does not wait any more. False where it got something meanwhile.
  mutating func leaveQueue(_ ticket: Ticket) -> Bool {
    guard let index = queue.firstIndex(of: ticket) else { return false }
    queue.remove(at: index)
    giveOn(from: ticket)
    return true
  }

  /// What was being opened for one who needs it no more is for the first who waits without.
  private mutating func giveOn(from ticket: Ticket) {
    guard let index = entries.firstIndex(where: { $0.use == .opening(for: ticket) }) else { return }
    entries[index].use = .opening(for: queue.first { !isOpening(for: $0) })
  }

  /// The connection of `slot` is open.
  mutating func opened(_ slot: Slot, now: MonotonicInstant) -> [Action] {
    guard let index = entries.firstIndex(where: { $0.slot == slot }), case .opening(let ticket) = entries[index].use
    else { return [] }
    entries[index].bornAt = now
    guard !isClosed, let ticket, let place = queue.firstIndex(of: ticket) else { return becameFree(index, now) }
    queue.remove(at: place)
    return [lend(at: index, to: ticket)]
  }

  /// The connection of `slot` could not be opened.
  mutating func failed(_ slot: Slot, now: MonotonicInstant) -> [Action] {
    guard let index = entries.firstIndex(where: { $0.slot == slot }), case .opening(let ticket) = entries[index].use
    else { return [] }
    entries.remove(at: index)
    guard let ticket, let place = queue.firstIndex(of: ticket) else { return serveQueue(now) }
    queue.remove(at: place)
    return [.fail(ticket)] + serveQueue(now)
  }

  /// There is no longer a connection for `slot`.
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

  /// No more requests; what is idle is closed, what is lent when it comes back, what is being opened when it is open.
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
    if !queue.isEmpty {
      let ticket = queue.removeFirst()
      let action = lend(at: index, to: ticket)
      giveOn(from: ticket)
      return [action]
    }
    // Behind the others, so that the list's order is that of their last use.
    var entry = entries.remove(at: index)
    entry.use = .idle(since: now)
    entries.append(entry)
    return []
  }

  /// Has a connection opened for each who waits without, as far as there is room.
  private mutating func serveQueue(_ now: MonotonicInstant) -> [Action] {
    var actions: [Action] = []
    for ticket in queue where !isOpening(for: ticket) {
      if let index = entries.firstIndex(where: { $0.use == .opening(for: nil) }) {
        entries[index].use = .opening(for: ticket)
      } else if entries.count < limit {
        lastSlot += 1
        entries.append(Entry(slot: lastSlot, use: .opening(for: ticket), bornAt: now))
        actions.append(.open(lastSlot, for: ticket))
      } else {
        break
      }
    }
    return actions
  }
}
