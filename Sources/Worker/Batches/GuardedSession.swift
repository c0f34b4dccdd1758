// One run's session on PostgreSQL: batches that write nothing after the lease.
// Invariant: every write goes through `batch`. A batch whose guard refuses is an error, never "nothing to do".

import Coordination
import Reactor

/// The lease of the current run, which the batches and the task that renews it share.
@EventLoop
final class HeldLease {
  var lease: Lease
  /// Whether the run has to stop after its batch because the sweeper was paused.
  var stopRequested = false

  init(_ lease: Lease) {
    self.lease = lease
  }
}

/// A connection that one run uses.
@EventLoop
final class GuardedSession {
  /// The answers to a batch's statements.
  struct Batch {
    let results: [PostgresResult]
    /// When its transaction began, in ms on PostgreSQL's clock.
    let beganAt: Int64
    let duration: Duration
  }

  private let connection: any SweepConnection
  private let held: HeldLease
  let clock: LoopClock
  private let name: RunName
  private let run: Run
  private let ageMicroseconds: Int64
  private let isDraining: @EventLoop () -> Bool
  /// Called with each session terminated because it held the advisory lock for an earlier run.
  private let onTermination: @EventLoop (AdvisoryHolder) -> Void
  /// The swept table's schema, which determines the advisory lock's key. Set before the first batch.
  var schema = ""
  private(set) var cutoffMicroseconds: Int64?
  /// The brakes of a row sweep's run; nil if there are none.
  var brakes: SweepBrakes?

  init(
    connection: any SweepConnection, held: HeldLease, clock: LoopClock, name: RunName, run: Run,
    age: Duration, isDraining: @escaping @EventLoop () -> Bool,
    onTermination: @escaping @EventLoop (AdvisoryHolder) -> Void = { _ in }
  ) {
    self.connection = connection
    self.held = held
    self.clock = clock
    self.name = name
    self.run = run
    ageMicroseconds = age.nanoseconds / 1_000
    self.isDraining = isDraining
    self.onTermination = onTermination
  }

  /// The second key of the advisory lock. It depends on the schema and not on the worker, so that workers that do not
  /// know of each other never write to one schema at the same time.
  static func advisoryKey(schema: String, sweeper: String) -> Int32 {
    Int32(bitPattern: StableHash.fnv1a("\(schema)\n\(sweeper)"))
  }

  /// Whether the run has to end after its batch.
  var isEnding: Bool { isDraining() }

  private var advisoryKey: Int32 { Self.advisoryKey(schema: schema, sweeper: name.sweeper) }

  /// Runs `statements` between the guard and the verdict, in one round trip and one transaction.
  ///
  /// - Parameters:
  ///   - limit: an instant before the lease's end after which nothing may be committed.
  ///   - proof: checks that enclose the statements.
  /// - Throws: `RunInterruption`, `SweepRefusal`, or `PostgresError` if a statement failed.
  func batch(
    _ statements: [PostgresStatement], notAfter limit: MonotonicInstant? = nil, proving proof: AuditProof? = nil
  ) async throws -> Batch {
    var entry = BatchGuard()
    while true {
      let sample = connection.attachment as? ClockSample
      switch entry.next(at: clock.now, lease: &held.lease, sample: sample, isDraining: isDraining()) {
      case .sample:
        try await readClock()
      case .send(let deadline):
        let earlier = limit.flatMap { instant in sample.map { $0.earliest(at: instant) } }
        if let batch = try await attempt(statements, min(deadline, earlier ?? deadline), proof) { return batch }
        entry.contended()
      case .evict:
        entry.evicted(leaving: try await evict())
      case .pause(let duration):
        try await clock.sleep(for: duration)
        entry.paused()
      case .stop(let interruption):
        throw interruption
      }
    }
  }

  /// - Returns: nil if another session holds the advisory lock.
  private func attempt(
    _ statements: [PostgresStatement], _ deadline: Int64, _ proof: AuditProof?
  ) async throws -> Batch? {
    precondition(!schema.isEmpty, "a batch works on a schema")
    let open = PostgresStatement(
      connection.serverVersion >= GuardStatements.transactionTimeoutVersion
        ? GuardStatements.openWithTransactionTimeout : GuardStatements.open,
      [
        "\(deadline)", name.text(epoch: run.epoch), cutoffMicroseconds.map { "\($0)" }, "\(ageMicroseconds)",
        "\(advisoryKey)",
      ], isPrepared: true)
    let begin = connection.prelude + [open] + (proof.map { [$0.opening] } ?? [])
    let proved = begin + statements + (proof?.closing ?? [])
    let results: [PostgresResult]
    do {
      results = try await connection.pipeline(
        proved + [PostgresStatement(GuardStatements.close, isPrepared: true)], by: held.lease.stopAt)
    } catch let error as PostgresError {
      if let proof, case .server(AuditProof.missingState, _, proved.count - 1, _) = error {
        throw SweepRefusal.missingLines(proof.refusal)
      }
      throw await explain(error, closing: proved.count, proved: proof != nil)
    }
    let opened = results[connection.prelude.count]
    let closed = results[results.count - 1]
    noteClock(closed[row: 0, column: 2])
    guard opened[row: 0, column: 0] == "t" else { throw RunInterruption.leaseLost }
    guard closed[row: 0, column: 0] == "t" else { return nil }
    cutoffMicroseconds = Self.microseconds(closed[row: 0, column: 3])
    let endedAt = Self.microseconds(closed[row: 0, column: 2]) ?? 0
    let microseconds = Self.microseconds(closed[row: 0, column: 4]) ?? 0
    return Batch(
      results: Array(results[begin.count..<(begin.count + statements.count)]),
      beganAt: (endedAt - microseconds) / 1_000,
      duration: .microseconds(microseconds))
  }

  /// Why a batch failed. `closing` is the index of its closing statement; a proof's may precede it.
  private func explain(_ error: PostgresError, closing: Int, proved: Bool) async -> any Error {
    if Self.isPastDeadline(error, closing: closing) {
      // Or the server's clock was set forward after the sample, which would make later runs late too.
      connection.attachment = nil
      return RunInterruption.leaseLost
    }
    if case .server(let state, _, let statement, _) = error, Self.resetStates.contains(state),
      statement == closing || (proved && statement == closing - 1)
    {
      return SweepRefusal.settingsReset
    }
    guard error.isReadOnly else { return error }
    // The server was demoted. The next attempt connects to one that accepts writes.
    defer { connection.close() }
    do {
      let statements = connection.prelude + [PostgresStatement(Self.readOnlyQuery)]
      let answer = try await connection.pipeline(statements, by: held.lease.stopAt)
      return answer.last?[row: 0, column: 0] == "off" ? SweepRefusal.refusedAsReadOnly : error
    } catch let other {
      // The lost connection adds nothing to the demotion.
      return other is CancellationError ? other : error
    }
  }

  private static let readOnlyQuery = CatalogSQL.qualified("SELECT current_setting('transaction_read_only')")

  /// The SQLSTATEs of the closing statement if the guard's settings are gone: invalid_text_representation for an empty
  /// one, or undefined_object.
  private static let resetStates = ["22P02", "42704"]

  /// Runs a read-only statement outside of a batch.
  func query(_ statement: PostgresStatement) async throws -> PostgresResult {
    let begin = connection.prelude + [PostgresStatement(GuardStatements.readLimits, isPrepared: true)]
    let results = try await connection.pipeline(begin + [statement], by: held.lease.stopAt)
    return results[results.count - 1]
  }

  /// Whether the closing statement refused to commit the batch, or the server ended the session.
  private static func isPastDeadline(_ error: PostgresError, closing: Int) -> Bool {
    if case .server(GuardStatements.pastDeadlineState, _, closing, _) = error { return true }
    return error.sqlState == GuardStatements.transactionTimeoutState && !error.isRaised
  }

  /// The lock timeout passed: lock_not_available.
  static let lockTimeoutState = "55P03"

  /// A statement took too long or was cancelled: query_canceled.
  static let cancelledState = "57014"

  /// Terminates sessions of earlier runs of this scope that hold the advisory lock.
  ///
  /// - Returns: the process on PostgreSQL that holds it and was not terminated; nil if there is none.
  /// - Throws: `RunInterruption.foreignWorker` if a worker of another scope holds it, or `.preparedTransaction`.
  private func evict() async throws -> Int32? {
    let results = try await connection.pipeline(
      [
        PostgresStatement(AdvisoryHolder.loginRole),
        PostgresStatement(AdvisoryHolder.query, ["\(advisoryKey)", name.prefix, "\(run.epoch)"]),
      ], by: held.lease.stopAt)
    let holders = AdvisoryHolder.all(in: results[1])
    for holder in holders where holder.isTerminated { onTermination(holder) }
    if holders.contains(where: { $0.processID == 0 }) { throw RunInterruption.preparedTransaction }
    if let foreign = holders.first(where: { name.isOtherScope($0.applicationName) }) {
      throw RunInterruption.foreignWorker(foreign.processID)
    }
    return holders.first { !$0.isTerminated }?.processID
  }

  private func readClock() async throws {
    let results = try await connection.pipeline([PostgresStatement(GuardStatements.clock)], by: held.lease.stopAt)
    noteClock(results[0][row: 0, column: 0])
  }

  private func noteClock(_ microseconds: String?) {
    guard let reading = Self.microseconds(microseconds) else { return }
    connection.attachment = ClockSample(reading: reading, arrivedAt: clock.now, unitsPerSecond: 1_000_000)
  }

  /// Nil for an implausible time, so that computing with it cannot overflow.
  private static func microseconds(_ text: String?) -> Int64? {
    guard let number = text.flatMap({ Int64($0) }), (0...(1 << 53)).contains(number) else { return nil }
    return number
  }
}

// MARK: - What is known of a table

/// What this process remembers of a sweeper's tables between runs.
@EventLoop
final class TableMemory {
  /// The maximum age of a survey, and so the delay until a change that a check misses, such as a new trigger, is seen.
  static let surveyMaximumAge = Duration.seconds(300)

  /// The swept table, as last surveyed.
  var survey: TableSurvey?
  var surveyedAt = MonotonicInstant(nanoseconds: 0)
  /// The table of linked rows, as last surveyed; nil for a sweep without one.
  var linkedTable: TableSurvey?
  var linkedSurveyedAt = MonotonicInstant(nanoseconds: 0)
  /// The other tables that the sweep names, and the preceding survey of the swept table.
  var related: RelatedTables?
  var relatedSurveyedAt = MonotonicInstant(nanoseconds: 0)
  /// The `FullPass.Record` of each part, as text, if parts are swept separately.
  var passes: [String: String] = [:]
  private var statements: TableStatements?
  private var linkedStatements: (table: TableSurvey, texts: LinkedStatements)?

  /// Asks whether nothing is due, in one read-only round trip. False before the first run.
  ///
  /// - Throws: `PostgresError`.
  func nothingIsDue(over connection: any SweepConnection, by deadline: MonotonicInstant) async throws -> Bool {
    guard let statements, let survey, survey.foreignParts == nil else { return false }
    let results = try await connection.pipeline(
      connection.prelude + [
        PostgresStatement(GuardStatements.readLimits, isPrepared: true),
        PostgresStatement(statements.nothingDue, isPrepared: true),
      ], by: deadline)
    return results[results.count - 1][row: 0, column: 0] == "t"
  }

  /// The survey, if a check suffices to confirm it; nil if the table has to be surveyed again.
  func checkable(at now: MonotonicInstant) -> TableSurvey? {
    guard let survey, !survey.hasParts, surveyedAt.duration(to: now) < Self.surveyMaximumAge else { return nil }
    return survey
  }
}

extension TableMemory {
  /// Forgets the passes of parts that are not in `targets`.
  func keepPasses(of targets: [String]) {
    passes = passes.filter { targets.contains($0.key) }
  }

  /// The statements that sweep `target`, reused from the last call if nothing has changed.
  func statements(
    of target: String, in table: TableSurvey, for sweep: RowSweep, related: RelatedTables, indexHasAll: Bool
  ) -> TableStatements {
    if let statements, statements.table == target, statements.moments == table.moments,
      statements.countsDue == table.canKeepRows, statements.indexHasAll == indexHasAll, statements.related == related
    {
      return statements
    }
    let made = TableStatements(
      sweep: sweep, table: target, moments: table.moments, countsDue: table.canKeepRows, related: related,
      indexHasAll: indexHasAll)
    statements = made
    linkedStatements = nil
    return made
  }

  /// The same for a sweep with linked rows in `table`.
  func statements(of linked: LinkedRows, in table: TableSurvey, with rows: TableStatements) -> LinkedStatements {
    if let linkedStatements, linkedStatements.table.hasSameShape(as: table) { return linkedStatements.texts }
    let made = LinkedStatements(linked, of: rows, in: table)
    linkedStatements = (table, made)
    return made
  }
}

extension GuardedSession {
  /// The table with this name in the session's search path. Surveys it, in one round trip, if it is unknown.
  ///
  /// - Throws: `SweepRefusal` if there is no such table; `PostgresError`.
  func survey(
    _ table: String, key: String, moments: [String], event: TableSurvey.Event, knownTo memory: TableMemory
  ) async throws -> TableSurvey {
    if let survey = memory.survey {
      schema = survey.schema
      return survey
    }
    return try await surveyAgain(table, key: key, moments: moments, event: event, for: memory)
  }

  /// Surveys the table, even if it is known.
  func surveyAgain(
    _ table: String, key: String, moments: [String], event: TableSurvey.Event, for memory: TableMemory
  ) async throws -> TableSurvey {
    let answer = try await query(TableSurvey.statement(table, key: key, moments: moments, event: event))
    return try note(TableSurvey(table: table, answer), of: table, in: memory)
  }

  /// The table of linked rows. Surveys it if it is unknown or the last survey is too old.
  ///
  /// - Throws: `SweepRefusal` if there is no such table; `PostgresError`.
  func survey(_ linked: LinkedRows, knownTo memory: TableMemory) async throws -> TableSurvey {
    if let table = memory.linkedTable, !table.hasParts,
      memory.linkedSurveyedAt.duration(to: clock.now) < TableMemory.surveyMaximumAge
    {
      return table
    }
    let answer = try await query(
      TableSurvey.statement(linked.table, key: linked.key, moments: [linked.key], event: .update))
    guard let table = TableSurvey(table: linked.table, answer) else { throw SweepRefusal.noTable(linked.table) }
    memory.linkedTable = table
    memory.linkedSurveyedAt = clock.now
    return table
  }

  /// Remembers a survey of the table.
  ///
  /// - Throws: `SweepRefusal` if there is no such table.
  @discardableResult
  func note(_ survey: TableSurvey?, of table: String, in memory: TableMemory) throws(SweepRefusal) -> TableSurvey {
    memory.survey = survey
    memory.surveyedAt = clock.now
    guard let survey else { throw .noTable(table) }
    schema = survey.schema
    return survey
  }
}
