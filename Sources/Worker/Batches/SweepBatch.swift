// One transaction of a row sweep: the statements between the guard and the verdict, and the reason if it failed.
// Invariant: a failure that another attempt can avoid is thrown as `Failure`, every other one unchanged.

import Coordination
import Reactor

/// Sends the batches of one sweep.
@EventLoop
final class SweepBatches {
  /// Every 64th batch, after a second or two, and the last one commit synchronously, which makes all earlier ones
  /// durable. Changes that a server crash undoes are swept again, but the run's position must not be recorded before
  /// they are durable.
  static let batchesPerFlush = 64

  /// The time limit of a statement. With a slow disk or trigger, smaller batches follow long before the lease ends.
  static let statementLimit = Duration.seconds(1)

  /// For a single slow row: no limit but the lease's and the operator's.
  static let noLimit = Duration.milliseconds(Int64(Int32.max))

  /// For counting a whole table, at the beginning or the end of a run.
  private static let countLimit = Duration.seconds(10)

  /// The lock timeout when rows are tried one by one: any row of a page may be locked.
  static let singleRowLockMilliseconds = 10

  private let sweep: RowSweep
  private let tableName: String
  let session: GuardedSession
  private let memory: TableMemory
  let tally: RunTally
  private var batches = 0
  private var roundTrip = RoundTrip()
  /// The times of the next batch.
  var time: BatchTime { roundTrip.batchTime }
  /// Whether the statements have succeeded without rows, so a failure must be about rows.
  private var isProved = false
  /// Counts what triggers write besides the changes; nil without such triggers.
  var watch: TriggerWatch?
  /// Proves that the changes' audit lines exist; nil for a sweep without any.
  private let proof: AuditProof?

  init(
    _ sweep: RowSweep, on table: TableSurvey, in session: GuardedSession, knowing memory: TableMemory,
    noting tally: RunTally
  ) {
    self.sweep = sweep
    tableName = table.displayName
    watch = TriggerWatch(table, deletes: sweep.deletes)
    self.session = session
    self.memory = memory
    self.tally = tally
    proof = sweep.audit.map { _ in
      guard let trail = memory.related?.tables[AuditNote.table] else {
        preconditionFailure("a sweep with audit lines runs once the trail is known")
      }
      return AuditProof(trail)
    }
  }

  /// The answers to a batch's statements.
  struct Answers {
    let results: [PostgresResult]
    /// The table's size, if it was measured.
    let table: TableSize?
    let beganAt: Int64
    let duration: Duration
    /// Whether it is durable.
    let isFlushed: Bool
    let time: BatchTime

    /// Whether it may have hit the time limit.
    var wasStopped: Bool { duration >= time.writeLimit }

    /// The same without the first statement's answer.
    var withoutFirst: Answers {
      Answers(
        results: Array(results.dropFirst()), table: table, beganAt: beganAt, duration: duration,
        isFlushed: isFlushed, time: time)
    }
  }

  /// Why a batch failed that may succeed in another form.
  struct Failure: Error {
    enum Kind: Equatable {
      /// The lock timeout passed.
      case locked
      case tooLong
      /// The change of a row was refused.
      case refused(RowRefusal)
    }
    let kind: Kind
    let cause: any Error
  }

  /// How a batch is sent.
  @EventLoop
  struct Options {
    var measures = false
    /// Whether the statements use a generic plan. All page ranges have the same plan, but PostgreSQL would replan small
    /// ones because it estimates a lower cost. The plan of an index scan depends on its parameters.
    var plansOnce = false
    var statementLimit = SweepBatches.statementLimit
    var lockMilliseconds = GuardStatements.lockTimeoutMilliseconds
    /// Whether parallel workers may be used. They pay off only for a whole table.
    var isParallel = false
  }

  /// Runs `statements` in one guarded transaction.
  ///
  /// - Throws: `Failure` if another form may succeed, else the error itself.
  func send(_ statements: [PostgresStatement], _ options: Options = Options()) async throws -> Answers {
    let flushes = options.measures || batches % Self.batchesPerFlush == 0
    batches += 1
    let settings = TableStatements.settings(
      flushes: flushes, statementLimit: options.statementLimit, plansOnce: options.plansOnce,
      lockMilliseconds: options.lockMilliseconds, isParallel: options.isParallel, time)
    let begin = [settings] + (watch.map { [$0.opening] } ?? []) + (tally.attempts.map { [$0.opening] } ?? [])
    let attempted = tally.attempts == nil ? [] : [AttemptCounts.closing]
    let checked = memory.checkable(at: session.clock.now)
    // Runs after the statements, which lock the table, so that the measured table is the one that they used.
    let measure = options.measures ? [checked?.check ?? survey] : []
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
      guard let kind = kind(of: error) else { throw error }
      throw Failure(kind: kind, cause: error)
    } catch SweepRefusal.settingsReset {
      throw Failure(kind: .refused(.settingsReset), cause: SweepRefusal.settingsReset)
    } catch SweepRefusal.missingLines(let reason) {
      throw Failure(kind: .refused(reason), cause: SweepRefusal.missingLines(reason))
    }
  }

  /// The number of rows that `statement` counts in the whole table; nil if that takes too long. The next run then finds
  /// the due rows.
  func countUndone(_ statement: PostgresStatement) async throws -> Int? {
    do {
      return try await countWithinLimit(statement).number(0)
    } catch is Failure {
      return nil
    }
  }

  /// Runs a statement that reads the whole table.
  func countWithinLimit(_ statement: PostgresStatement) async throws -> PostgresResult {
    try await send([statement], Options(statementLimit: Self.countLimit, isParallel: true)).results[0]
  }

  /// Subtracts rows that an index scan counted as changed and that are due again: the due rows that no other reason
  /// accounts for.
  func takeBackUndone(_ statements: TableStatements) async throws {
    guard let watch, watch.isInDoubt else { return }
    guard let due = try await countUndone(PostgresStatement(statements.dueAtAll)) else { return }
    let known = tally.count.skipped + tally.count.refused + tally.count.kept
    let undone = min(watch.changedByIndex, max(0, due - known))
    tally.count.changed -= watch.overcount(undone: undone)
    tally.count.kept += undone
  }

  /// Whether `failure` is about rows rather than the statements. To find out, runs `statements`, which select no rows.
  ///
  /// - Throws: `SweepRefusal` if the server accepts no writes.
  func isAboutRows(_ failure: Failure, _ statements: [PostgresStatement]) async throws -> Bool {
    guard case .refused(let reason) = failure.kind else { return true }
    if case .sqlState(let state, _) = reason, state.hasPrefix(Self.limitClass) { try await proveTransactions() }
    guard !isProved else { return true }
    do {
      _ = try await send(statements)
      isProved = true
      return true
    } catch is Failure {
      return false
    }
  }

  /// Program limits: of a row, such as the size of an index entry, or of transaction numbers, which run out without
  /// vacuuming. Statements that write nothing need no number.
  private static let limitClass = "54"

  private func proveTransactions() async throws {
    do {
      _ = try await send([PostgresStatement(Self.number)])
    } catch is Failure {
      throw SweepRefusal.noTransactionNumbers
    }
  }

  private static let number = CatalogSQL.qualified("SELECT pg_current_xact_id()::text")

  /// Counts rows that stay unchanged due to `failure`.
  func giveUp(_ rows: Int, _ failure: Failure) {
    switch failure.kind {
    case .locked: tally.count.skipped += rows
    case .tooLong: tally.count.refuse(rows, .sqlState(GuardedSession.cancelledState))
    case .refused(let reason): tally.count.refuse(rows, reason)
    }
  }

  private var survey: PostgresStatement {
    TableSurvey.statement(sweep.table, key: sweep.key, moments: sweep.moments, event: sweep.event)
  }

  /// - Parameter checked: the survey that the answer checks; nil if the answer is a new survey.
  private func measured(_ answer: PostgresResult, _ checked: TableSurvey?) async throws -> TableSize? {
    if let checked {
      if let survey = checked.checked(by: answer) {
        memory.survey = survey
        return survey.size
      }
      return try session.note(
        TableSurvey(table: sweep.table, try await session.query(survey)), of: sweep.table, in: memory
      ).size
    }
    return try session.note(TableSurvey(table: sweep.table, answer), of: sweep.table, in: memory).size
  }

  /// Nil if another form of the batch cannot help: lost connections, the server, its resources, a role's login, and
  /// transient errors. An error that a trigger raises is about its row, whatever its code.
  private func kind(of error: PostgresError) -> Failure.Kind? {
    guard case .server(let state, _, _, let place) = error else { return nil }
    if error.isRaised { return .refused(.sqlState(state)) }
    if state == GuardedSession.lockTimeoutState { return .locked }
    if state == GuardedSession.cancelledState { return .tooLong }
    switch state.prefix(2) {
    case "08", "25", "26", "28", "40", "53", "55", "57", "58": return nil
    default: return .refused(.sqlState(state, on: otherRelation(state, place)))
    }
  }

  /// foreign_key_violation
  private static let foreignKeyState = "23503"

  /// The relation that refused a row, if it is not the swept table. For a foreign key the server names the table that
  /// declares it, which on a delete is never the one that is deleted from.
  private func otherRelation(_ state: String, _ place: PostgresErrorPlace) -> String? {
    guard let table = place.table, !(sweep.deletes && state == Self.foreignKeyState) else { return nil }
    let name = (place.schema.map { "\($0)." } ?? "") + table
    return name == tableName ? nil : name
  }
}

extension SweepCount {
  /// The most reasons that a run reports.
  private static let reasonLimit = 5

  fileprivate mutating func refuse(_ rows: Int, _ reason: RowRefusal) {
    refused += rows
    if !refusals.contains(reason), refusals.count < Self.reasonLimit { refusals.append(reason) }
  }
}

extension PostgresResult {
  /// The first row's value in this column, as an integer; 0 if there is none.
  func number(_ column: Int) -> Int {
    self[row: 0, column: column].flatMap { Int($0) } ?? 0
  }

  /// The same for a key in µs; nil if there is none.
  func key(_ column: Int) -> Int64? {
    self[row: 0, column: column].flatMap { Int64($0) }
  }
}
