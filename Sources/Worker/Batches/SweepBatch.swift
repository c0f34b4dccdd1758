// One transaction of a row sweep: the statements between the guard and the verdict, and why it failed if it did.
// Invariant: what can be tried in another way is a `Trouble`, and everything else is thrown as it is.

import Coordination
import Reactor

/// Sends the batches of one sweep.
@EventLoop
final class SweepBatches {
  /// Of so many batches, which take a second or two, one waits until the disk has it and all that came before it; as
  /// does the last one. What a crash of the server takes back is swept again, but how far the run got must not be told
  /// too early.
  static let batchesPerFlush = 64

  /// How long a statement may take. A slow disk or trigger makes the next ones smaller, long before the lease ends.
  static let statementLimit = Duration.seconds(1)

  /// For one row that is slow by itself: no other limit than the lease and the operator's own.
  static let noLimit = Duration.milliseconds(Int64(Int32.max))

  /// For a look at a whole table, at the beginning or the end of a run.
  private static let countLimit = Duration.seconds(10)

  /// How long a lock is waited for where rows are tried one by one: any row of a page may be locked.
  static let singleRowLockMilliseconds = 10

  private let sweep: RowSweep
  let session: GuardedSession
  private let memory: TableMemory
  let tally: RunTally
  private var batches = 0
  private var roundTrip = RoundTrip()
  /// The times of the next batch.
  var time: BatchTime { roundTrip.batchTime }
  /// Whether it is known that the statements as such are accepted.
  private var isProved = false
  /// What triggers do behind the changes; nil if there is none that could.
  var watch: TriggerWatch?
  /// Of the lines that changes leave in the audit trail; nil if they leave none.
  private let proof: AuditProof?

  init(
    _ sweep: RowSweep, on table: TableSurvey, in session: GuardedSession, knowing memory: TableMemory,
    noting tally: RunTally
  ) {
    self.sweep = sweep
    watch = TriggerWatch(table, deletes: sweep.deletes)
    self.session = session
    self.memory = memory
    self.tally = tally
    proof = sweep.audit == nil ? nil : memory.related?.tables[AuditNote.table].map { AuditProof($0) }
  }

  /// What the statements of a batch answered.
  struct Answers {
    let results: [PostgresResult]
    /// The table's extent, where it was measured.
    let table: TableSize?
    let beganAt: Int64
    let duration: Duration
    /// Whether the disk has it.
    let isFlushed: Bool
    let time: BatchTime

    /// Whether the clock may have stopped it.
    var wasStopped: Bool { duration >= time.writeLimit }

    /// Without the answer of the first statement.
    var withoutFirst: Answers {
      Answers(
        results: Array(results.dropFirst()), table: table, beganAt: beganAt, duration: duration,
        isFlushed: isFlushed, time: time)
    }
  }

  /// Why a batch failed that may succeed in another way.
  struct Trouble: Error {
    enum Kind: Equatable {
      /// A lock was waited for in vain.
      case locked
      case tooLong
      /// The change of a row failed, with this SQLSTATE.
      case refused(String)
    }
    let kind: Kind
    let cause: any Error
  }

  /// How a batch is sent.
  @EventLoop
  struct Options {
    var measures = false
    /// Any range of pages has the same plan, though a small one is estimated to cost less than the plan that was kept;
    /// a walk's depends on what it looks for.
    var plansOnce = false
    var statementLimit = SweepBatches.statementLimit
    var lockMilliseconds = GuardStatements.lockTimeoutMilliseconds
    /// Only a look at a whole table is worth starting parallel workers for.
    var isParallel = false
  }

  /// Runs `statements` in one guarded transaction.
  ///
  /// - Throws: `Trouble` if the same can be tried in another way, else the failure itself.
  func send(_ statements: [PostgresStatement], _ options: Options = Options()) async throws -> Answers {
    let flushes = options.measures || batches % Self.batchesPerFlush == 0
    batches += 1
    let settings = TableStatements.settings(
      flushes: flushes, statementLimit: options.statementLimit, plansOnce: options.plansOnce,
      lockMilliseconds: options.lockMilliseconds, isParallel: options.isParallel, time)
    let begin = [settings] + (watch.map { [$0.opening] } ?? []) + (tally.attempts.map { [$0.opening] } ?? [])
    let attempted = tally.attempts == nil ? [] : [AttemptCounts.closing]
    let checked = memory.checkable(at: session.clock.now)
    // Behind the statements, which have the table locked: what is measured is what they met.
    let measure = options.measures ? [checked?.check ?? look] : []
    let (sentAt, time) = (session.clock.now, time)
    var serverTime: Duration?
    defer { session.brakes?.worked(from: sentAt, serverTime: serverTime) }
    do {
      let done = try await session.batch(
        begin + statements + attempted + measure + (watch?.closing ?? []), proving: proof)
      serverTime = done.duration
      if !flushes { roundTrip.noted(sentAt.duration(to: session.clock.now), serverTime: done.duration) }
      tally.count.cutoffMicroseconds = session.cutoffMicroseconds
      let end = begin.count + statements.count
      if !attempted.isEmpty { tally.attempts?.changed(done.results[end][row: 0, column: 0] ?? "") }
      let table = options.measures ? try await measured(done.results[end + attempted.count], checked) : nil
      watch?.note(done.results[done.results.count - 1])
      return Answers(
        results: Array(done.results[begin.count..<end]), table: table, beganAt: done.beganAt,
        duration: done.duration, isFlushed: flushes, time: time)
    } catch let error as PostgresError {
      guard let kind = Self.kind(of: error) else { throw error }
      throw Trouble(kind: kind, cause: error)
    } catch SweepRefusal.settingsReset {
      throw Trouble(kind: .refused(Self.resetState), cause: SweepRefusal.settingsReset)
    } catch let refusal as SweepRefusal {
      guard case .discardedLines = refusal else { throw refusal }
      throw Trouble(kind: .refused(refusal.reason), cause: refusal)
    }
  }

  /// In place of an SQLSTATE, which would not tell.
  private static let resetState = "a trigger resets the session's settings"

  /// How many rows `statement` counts, which reads the whole table; nil if that takes too long. What is due then is the
  /// next run's to meet.
  func countUndone(_ statement: PostgresStatement) async throws -> Int? {
    do {
      return try await countWithinLimit(statement).number(0)
    } catch is Trouble {
      return nil
    }
  }

  /// Runs a statement that reads the whole table.
  func countWithinLimit(_ statement: PostgresStatement) async throws -> PostgresResult {
    try await send([statement], Options(statementLimit: Self.countLimit, isParallel: true)).results[0]
  }

  /// Takes back what was told as changed by an index and is due again: of the rows that are due now, those that nothing
  /// else kept.
  func takeBackUndone(_ statements: TableStatements) async throws {
    guard let watch, watch.isInDoubt else { return }
    guard let due = try await countUndone(PostgresStatement(statements.dueAtAll)) else { return }
    let known = tally.count.skipped + tally.count.refused + tally.count.kept
    let undone = min(watch.changedByIndex, max(0, due - known))
    tally.count.changed -= watch.overcount(undone: undone)
    tally.count.kept += undone
  }

  /// Whether `trouble` is about rows, and not about the statements: `statements` are tried on no row at all.
  ///
  /// - Throws: `SweepRefusal` if the server lets nothing be written.
  func isAboutRows(_ trouble: Trouble, _ statements: [PostgresStatement]) async throws -> Bool {
    guard case .refused(let state) = trouble.kind else { return true }
    if state.utf8.starts(with: Self.limitClass.utf8) { try await proveTransactions() }
    guard !isProved else { return true }
    do {
      _ = try await send(statements)
      isProved = true
      return true
    } catch is Trouble {
      return false
    }
  }

  /// Program limits: of one row, such as an index entry's size, or of the server's transactions, whose numbers come to
  /// an end where old ones are not vacuumed away. Statements that write nothing need no number.
  private static let limitClass = "54"

  private func proveTransactions() async throws {
    do {
      _ = try await send([PostgresStatement(Self.number)])
    } catch is Trouble {
      throw SweepRefusal.noTransactionNumbers
    }
  }

  private static let number = CatalogSQL.qualified("SELECT pg_current_xact_id()::text")

  /// Rows that stay as they are for `trouble`.
  func giveUp(_ rows: Int, _ trouble: Trouble) {
    switch trouble.kind {
    case .locked: tally.count.skipped += rows
    case .tooLong: tally.count.refuse(rows, state: GuardedSession.cancelledState)
    case .refused(let state): tally.count.refuse(rows, state: state)
    }
  }

  private var look: PostgresStatement {
    TableSurvey.statement(sweep.table, key: sweep.key, moments: sweep.moments, event: sweep.event)
  }

  /// - Parameter checked: what the answer is a check of; nil if it is a look's.
  private func measured(_ answer: PostgresResult, _ checked: TableSurvey?) async throws -> TableSize? {
    if let checked {
      if let survey = checked.checked(by: answer) {
        memory.survey = survey
        return survey.size
      }
      return try session.note(
        TableSurvey(table: sweep.table, try await session.query(look)), of: sweep.table, in: memory
      ).size
    }
    return try session.note(TableSurvey(table: sweep.table, answer), of: sweep.table, in: memory).size
  }

  /// Nil for what another way does not help against: the connection, the server, its resources, a role's login, and
  /// what the same statement may meet or not a moment later. What a trigger raises is about its row, whatever the code.
  private static func kind(of error: PostgresError) -> Trouble.Kind? {
    guard case .server = error, let state = error.sqlState else { return nil }
    if error.isRaised { return .refused(state) }
    if state == GuardedSession.lockTimeoutState { return .locked }
    if state == GuardedSession.cancelledState { return .tooLong }
    switch state.prefix(2) {
    case "08", "25", "26", "28", "40", "53", "55", "57", "58": return nil
    default: return .refused(state)
    }
  }
}

extension SweepCount {
  /// The most SQLSTATEs that are told of one run.
  private static let stateLimit = 5

  fileprivate mutating func refuse(_ rows: Int, state: String) {
    refused += rows
    if !refusalStates.contains(state), refusalStates.count < Self.stateLimit { refusalStates.append(state) }
  }
}

extension PostgresResult {
  /// The first row's value in this column, as a whole number; 0 if there is none.
  func number(_ column: Int) -> Int {
    self[row: 0, column: column].flatMap { Int($0) } ?? 0
  }

  /// The same of a key in µs; nil if there is none.
  func key(_ column: Int) -> Int64? {
    self[row: 0, column: column].flatMap { Int64($0) }
  }
}
