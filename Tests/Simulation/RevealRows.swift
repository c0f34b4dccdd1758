// Reveal sessions and their wraps, row by row: what users do with them, and what the statements of a window do.
// Invariant: it behaves as LinkedStatements. A batch's rows stay locked until its transaction ends.

import Coordination
import Reactor
import Worker

/// The two tables. Times are in µs of the server's clock unless noted as true time.
@EventLoop
final class RevealTable {
  @EventLoop
  final class Wrap {
    var isConsumed = false
    var expiresAt: Int64
    /// When another session's lock on it ends, in true time.
    var lockedUntil: Int64 = 0

    init(expiresAt: Int64) { self.expiresAt = expiresAt }
  }

  @EventLoop
  final class Session {
    let number: Int
    let expiresAt: Int64
    /// When it was created and becomes due, in true time.
    let madeAt: Int64
    let dueAt: Int64
    let wraps: [Wrap]
    var lockedUntil: Int64 = 0
    /// Whether another session ever locked it or one of its wraps.
    var wasLocked = false
    /// Whether an uncommitted batch has changed it.
    var isHeld = false

    init(number: Int, expiresAt: Int64, madeAt: Int64, dueAt: Int64, wraps: [Wrap]) {
      self.number = number
      self.expiresAt = expiresAt
      self.madeAt = madeAt
      self.dueAt = dueAt
      self.wraps = wraps
    }
  }

  let world: World
  let mutation: Mutation?
  private let judge: Judge
  private let time: @EventLoop () -> Int64
  /// How long a session may stay open after it expires: an interval with its jitter, and a run.
  private let patience: Int64
  /// Sessions that have not ended, in order of creation.
  private(set) var open: [Session] = []
  private var count = 0

  init(
    _ world: World, _ scenario: Scenario, _ judge: Judge, _ mutation: Mutation?, time: @escaping @EventLoop () -> Int64
  ) {
    self.world = world
    self.judge = judge
    self.mutation = mutation
    self.time = time
    patience = scenario.intervals[Scenario.reveal] * 1_050 + 3_000_000
  }

  // MARK: Users

  /// Users open sessions, read wraps, and close some sessions themselves.
  func live() {
    world.after(world.any(1_000_000...20_000_000)) { [self] in
      openSession()
      live()
    }
  }

  private func openSession() {
    let length = world.any(5_000_000...90_000_000)
    // Sometimes more than fit in a window.
    let wraps = (0..<(world.oneIn(40) ? 600 : world.any(0...4))).map { _ in
      Wrap(expiresAt: time() + length + world.any(0...600_000_000))
    }
    count += 1
    let session = Session(
      number: count, expiresAt: time() + length, madeAt: world.now, dueAt: world.now + length, wraps: wraps)
    open.append(session)
    if world.oneIn(2), let wrap = wraps.first {
      world.after(world.any(0...length * 6 / 5)) { [self] in read(wrap, of: session) }
    }
    if world.oneIn(6) { world.after(world.any(0...length)) { [self] in close(session) } }
    if world.oneIn(6) { world.after(length + world.any(-1_000_000...15_000_000)) { [self] in lock(session) } }
  }

  private func read(_ wrap: Wrap, of session: Session) {
    if !session.isHeld, wrap.expiresAt > time() { wrap.isConsumed = true }
  }

  private func close(_ session: Session) {
    guard !session.isHeld, open.contains(where: { $0 === session }) else { return }
    for wrap in session.wraps where !wrap.isConsumed { wrap.expiresAt = min(wrap.expiresAt, time()) }
    remove(session)
  }

  private func lock(_ session: Session) {
    guard !session.isHeld else { return }
    session.wasLocked = true
    let end = world.now + world.any(50_000...8_000_000)
    if let wrap = session.wraps.last, world.oneIn(2) { wrap.lockedUntil = end } else { session.lockedUntil = end }
  }

  // MARK: The sweep

  /// Whether a session is due by the server's clock.
  var isAnyDue: Bool {
    if mutation == .nothingDue { return false }
    let time = time()
    return open.contains { $0.expiresAt <= time }
  }

  func ended(_ sessions: [Session]) {
    let time = time()
    for session in sessions {
      remove(session)
      if session.wraps.contains(where: { !$0.isConsumed && $0.expiresAt > time }) {
        judge.violated("a wrap of session \(session.number) can be read after its end")
      }
      if session.expiresAt > time, judge.postgresSteppedAt < session.madeAt {
        judge.violated("session \(session.number) was ended before its time")
      }
      checkLateness(of: session)
    }
  }

  private func remove(_ session: Session) {
    open.removeAll { $0 === session }
  }

  /// The simulation has ended.
  func checkOpen() {
    for session in open { checkLateness(of: session) }
  }

  private func checkLateness(of session: Session) {
    let limit = session.dueAt + patience
    guard world.now > limit, !session.wasLocked, judge.postgresSteppedAt < session.madeAt,
      judge.wasQuiet(from: session.dueAt, to: limit, Scenario.reveal)
    else { return }
    judge.violated("session \(session.number) was open for \((world.now - session.dueAt) / 1_000) ms too long")
  }
}

/// What one batch does: first the linked rows, then the sessions without any left.
@EventLoop
final class RevealChange: RowChange {
  private let table: RevealTable
  private let statements: [PostgresStatement]
  private let roles: [StatementRole]
  private var answers: [[String?]]
  private var cutoff: Int64 = 0
  private var wraps: [RevealTable.Wrap] = []
  private var sessions: [RevealTable.Session] = []

  init(_ statements: [PostgresStatement], _ roles: [StatementRole], in table: RevealTable) {
    self.statements = statements
    self.roles = roles
    self.table = table
    // The answers of a batch without the verdict.
    answers = roles.map { _ in ["0", "0", nil, "0", "0"] }
  }

  /// How many rows a run counts.
  var rows: Int { sessions.count }

  func result(_ index: Int) -> PostgresResult { PostgresResult(rows: [answers[index]]) }

  /// Executes the statements. False if a row stays locked.
  func write(began: Int64) -> Bool {
    cutoff = Self.cutoff(statements, began: began)
    for (index, role) in roles.enumerated() {
      switch role {
      case .writeLinked: guard writeLinked(index, skipsLocked: false) else { return giveUp() }
      case .writeLinkedSkippingLocked: _ = writeLinked(index, skipsLocked: true)
      case .write: guard write(index, skipsLocked: false) else { return giveUp() }
      case .writeSkippingLocked: _ = write(index, skipsLocked: true)
      case .firstKey: answers[index] = [sought(index).first.map { "\($0.expiresAt)" }]
      default: break
      }
    }
    for session in sessions { session.isHeld = true }
    return true
  }

  private func giveUp() -> Bool {
    (wraps, sessions) = ([], [])
    return false
  }

  /// The window's sessions.
  private func sought(_ index: Int) -> [RevealTable.Session] {
    let parameters = statements[index].parameters.map { $0.flatMap { Int64($0) } }
    let (from, passedOver, limit) = (parameters[0] ?? .min, Int(parameters[1] ?? 0), Int(parameters[2] ?? 0))
    let due = table.open.filter { $0.expiresAt <= cutoff && $0.expiresAt >= from }
      .sorted { ($0.expiresAt, $0.number) < ($1.expiresAt, $1.number) }
    var size = 0
    return due.dropFirst(passedOver).prefix(limit).enumerated().prefix { number, session in
      size += 1 + session.wraps.count
      return number == 0 || size <= limit
    }.map(\.element)
  }

  private func isDue(_ wrap: RevealTable.Wrap) -> Bool { !wrap.isConsumed && wrap.expiresAt > cutoff }

  private func writeLinked(_ index: Int, skipsLocked: Bool) -> Bool {
    for wrap in sought(index).flatMap(\.wraps) where isDue(wrap) {
      if wrap.lockedUntil <= table.world.now {
        wraps.append(wrap)
      } else if !skipsLocked {
        return false
      }
    }
    answers[index] = ["\(wraps.count)", "0"]
    return true
  }

  private func write(_ index: Int, skipsLocked: Bool) -> Bool {
    let sought = sought(index)
    let changed = Set(wraps.map(ObjectIdentifier.init))
    for session in sought {
      let isBlocked = session.wraps.contains { isDue($0) && !changed.contains(ObjectIdentifier($0)) }
      guard !isBlocked || table.mutation == .wrapsLeft else { continue }
      if session.lockedUntil <= table.world.now {
        sessions.append(session)
      } else if !skipsLocked {
        return false
      }
    }
    let last = sought.last?.expiresAt
    let left = sought.count { $0.expiresAt == last } - sessions.count { $0.expiresAt == last }
    answers[index] = [
      "\(sought.count)", "\(sessions.count)", last.map { "\($0)" }, "\(left)", "\(sessions.count)",
      sought.first.map { "\($0.expiresAt)" },
    ]
    return true
  }

  func committed(isLate: Bool) {
    for wrap in wraps { wrap.expiresAt = cutoff }
    for session in sessions { session.isHeld = false }
    table.ended(sessions)
  }

  func rolledBack() {
    for session in sessions { session.isHeld = false }
    _ = giveUp()
  }
}
