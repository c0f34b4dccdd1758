// One run's way to PostgreSQL: batches that write nothing after the lease.
// Invariant: every write goes through `batch`, and a batch whose guard said no is an error, never "nothing to do".

import Coordination
import Reactor

/// The lease of the present run, as the batches and its keeper share it.
@EventLoop
final class HeldLease {
  var lease: Lease
  /// Whether the run is to stop after its batch: the sweeper was paused.
  var stopRequested = false

  init(_ lease: Lease) {
    self.lease = lease
  }
}

/// A connection in the hands of one run.
@EventLoop
final class GuardedSession {
  /// What a batch's statements answered.
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
  /// Called with each session that was ended because it held the advisory lock for an earlier run.
  private let onTermination: @EventLoop (AdvisoryHolder) -> Void
  /// The schema that is worked on, which the advisory lock is named after: set before the first batch.
  var schema = ""
  private(set) var cutoffMicroseconds: Int64?
  /// What slows or ends a row sweep's run; nil if nothing does.
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

  /// The second key of the advisory lock. It follows from what is worked on, and not from who works: workers that do
  /// not know of each other never write to one schema at once.
  static func advisoryKey(schema: String, sweeper: String) -> Int32 {
    Int32(bitPattern: StableHash.fnv1a("\(schema)\n\(sweeper)"))
  }

  /// Whether the run is to end after its batch.
  var isEnding: Bool { isDraining() }

  private var advisoryKey: Int32 { Self.advisoryKey(schema: schema, sweeper: name.sweeper) }

  /// Runs `statements` between the guard and the verdict, in one round trip and one transaction.
  ///
  /// - Parameters:
  ///   - limit: an instant before the lease's end from which on nothing of it may be committed.
  ///   - proof: is to hold of what the statements did.
  /// - Throws: `RunInterruption`, `SweepRefusal`, or `PostgresError` as a statement failed.
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
        try await evict()
        entry.evicted()
      case .pause(let duration):
        try await clock.sleep(for: duration)
        entry.paused()
      case .stop(let interruption):
        throw interruption
      }
    }
  }

  /// - Returns: nil where the advisory lock is someone else's.
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
    let proved = begin + statements + (proof.map { [$0.closing] } ?? [])
    let results: [PostgresResult]
    do {
      results = try await connection.pipeline(
        proved + [PostgresStatement(GuardStatements.close, isPrepared: true)], by: held.lease.stopAt)
    } catch let error as PostgresError {
      if let proof, case .server(AuditProof.missingState, _, proved.count - 1, _) = error { throw proof.refusal }
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

  /// Why a batch failed, whose closing statement has this number. Before it may come that of a proof.
  private func explain(_ error: PostgresError, closing: Int, proved: Bool) async -> any Error {
    if Self.isPastDeadline(error, closing: closing) {
      // Or the server's clock was set forward since the sample, by which later runs would be late, too.
      connection.attachment = nil
      return RunInterruption.leaseLost
    }
    if case .server(let state, _, let statement, _) = error, Self.resetStates.contains(state),
      statement == closing || (proved && statement == closing - 1)
    {
      return SweepRefusal.settingsReset
    }
    guard error.isReadOnly else { return error }
    // The server was demoted: the next try asks for a connection to one that can be written to.
    defer { connection.close() }
    do {
      let question = connection.prelude + [PostgresStatement(Self.readOnlyQuestion)]
      let answer = try await connection.pipeline(question, by: held.lease.stopAt)
      return answer.last?[row: 0, column: 0] == "off" ? SweepRefusal.refusedAsReadOnly : error
    } catch let other {
      // The connection is lost, too, which says no more than that it was demoted.
      return other is CancellationError ? other : error
    }
  }

  private static let readOnlyQuestion = CatalogSQL.qualified("SELECT current_setting('transaction_read_only')")

  /// What the closing statement fails with where the guard's settings are gone: invalid_text_representation of an empty
  /// one, or undefined_object.
  private static let resetStates = ["22P02", "42704"]

  /// Runs a statement outside of any batch, one that only reads.
  func query(_ statement: PostgresStatement) async throws -> PostgresResult {
    let begin = connection.prelude + [PostgresStatement(GuardStatements.readLimits, isPrepared: true)]
    let results = try await connection.pipeline(begin + [statement], by: held.lease.stopAt)
    return results[results.count - 1]
  }

  /// The closing statement refused, so that nothing of the batch was committed, or the server ended the session.
  private static func isPastDeadline(_ error: PostgresError, closing: Int) -> Bool {
    if case .server(GuardStatements.pastDeadlineState, _, closing, _) = error { return true }
    return error.sqlState == GuardStatements.transactionTimeoutState && !error.isRaised
  }

  /// A lock was waited for in vain: lock_not_available.
  static let lockTimeoutState = "55P03"

  /// A statement took too long, or someone had it cancelled: query_canceled.
  static let cancelledState = "57014"

  /// Ends the sessions of earlier runs of this scope that hold the advisory lock.
  ///
  /// - Throws: `RunInterruption.foreignWorker` if a worker of another scope holds it, or `.preparedTransaction`.
  private func evict() async throws {
    let results = try await connection.pipeline(
      [
        PostgresStatement(AdvisoryHolder.loginRole),
        PostgresStatement(AdvisoryHolder.look, ["\(advisoryKey)", name.prefix, "\(run.epoch)"]),
      ], by: held.lease.stopAt)
    let holders = AdvisoryHolder.all(in: results[1])
    for holder in holders where holder.isTerminated { onTermination(holder) }
    if holders.contains(where: { $0.processID == 0 }) { throw RunInterruption.preparedTransaction }
    if holders.contains(where: { name.isOtherScope($0.applicationName) }) { throw RunInterruption.foreignWorker }
  }

  private func readClock() async throws {
    let results = try await connection.pipeline([PostgresStatement(GuardStatements.clock)], by: held.lease.stopAt)
    noteClock(results[0][row: 0, column: 0])
  }

  private func noteClock(_ microseconds: String?) {
    guard let reading = Self.microseconds(microseconds) else { return }
    connection.attachment = ClockSample(reading: reading, arrivedAt: clock.now, unitsPerSecond: 1_000_000)
  }

  /// Nil for what no clock shows, so that nothing computed with it overflows.
  private static func microseconds(_ text: String?) -> Int64? {
    guard let number = text.flatMap({ Int64($0) }), (0...(1 << 53)).contains(number) else { return nil }
    return number
  }
}

// MARK: - What is known of a table

/// What a sweeper's runs in this process know of their table.
@EventLoop
final class TableMemory {
  /// How old a look may be. What a check does not see, such as a new trigger or index, is noticed after this.
  static let lookLimit = Duration.seconds(300)

  /// As the last run met it.
  var survey: TableSurvey?
  var lookedAt = MonotonicInstant(nanoseconds: 0)
  /// The table of linked rows, where the sweep has any.
  var second: TableSurvey?
  var secondLookedAt = MonotonicInstant(nanoseconds: 0)
  /// The other tables that its sweep names, and the look at the table after which they were looked at.
  var related: RelatedTables?
  var relatedLookedAt = MonotonicInstant(nanoseconds: 0)
  /// How far the full pass of each part got (`FullPass.Record`, as text), where parts are swept by themselves.
  var passes: [String: String] = [:]
  private var statements: TableStatements?
  private var linkedStatements: (second: TableSurvey, texts: LinkedStatements)?

  /// Asks whether nothing is due, in one round trip that only reads; false where no run has met the table yet.
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

  /// What a check suffices for; nil if the table is to be looked at.
  func checkable(at now: MonotonicInstant) -> TableSurvey? {
    guard let survey, !survey.hasParts, lookedAt.duration(to: now) < Self.lookLimit else { return nil }
    return survey
  }
}

extension TableMemory {
  /// Forgets the passes of parts that are none of `targets`.
  func keepPasses(of targets: [String]) {
    passes = passes.filter { targets.contains($0.key) }
  }

  /// The statements by which `target` is swept: those of the last call, where it was about the same.
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

  /// The same for a sweep with linked rows in the table `second`.
  func statements(of linked: LinkedRows, _ second: TableSurvey, with rows: TableStatements) -> LinkedStatements {
    if let linkedStatements, linkedStatements.second.hasSameShape(as: second) { return linkedStatements.texts }
    let made = LinkedStatements(linked, of: rows, in: second)
    linkedStatements = (second, made)
    return made
  }
}

extension GuardedSession {
  /// The table as the session finds it by its name. Where nothing is known of it, it is looked at, which takes a round
  /// trip.
  ///
  /// - Throws: `SweepRefusal` if there is no such table; `PostgresError`.
  func survey(
    _ table: String, key: String, moments: [String], event: TableSurvey.Event, knownTo memory: TableMemory
  ) async throws -> TableSurvey {
    if let survey = memory.survey {
      schema = survey.schema
      return survey
    }
    return try await look(at: table, key: key, moments: moments, event: event, for: memory)
  }

  /// The same, however much is known of it.
  func look(
    at table: String, key: String, moments: [String], event: TableSurvey.Event, for memory: TableMemory
  ) async throws -> TableSurvey {
    let answer = try await query(TableSurvey.statement(table, key: key, moments: moments, event: event))
    return try note(TableSurvey(table: table, answer), of: table, in: memory)
  }

  /// The table of linked rows, looked at where nothing is known of it or the last look is old.
  ///
  /// - Throws: `SweepRefusal` if there is no such table; `PostgresError`.
  func survey(_ linked: LinkedRows, knownTo memory: TableMemory) async throws -> TableSurvey {
    if let second = memory.second, !second.hasParts,
      memory.secondLookedAt.duration(to: clock.now) < TableMemory.lookLimit
    {
      return second
    }
    let answer = try await query(
      TableSurvey.statement(linked.table, key: linked.key, moments: [linked.key], event: .update))
    guard let second = TableSurvey(table: linked.table, answer) else { throw SweepRefusal.noTable(linked.table) }
    memory.second = second
    memory.secondLookedAt = clock.now
    return second
  }

  /// Remembers what a look at the table saw.
  ///
  /// - Throws: `SweepRefusal` if there is no such table.
  @discardableResult
  func note(_ survey: TableSurvey?, of table: String, in memory: TableMemory) throws(SweepRefusal) -> TableSurvey {
    memory.survey = survey
    memory.lookedAt = clock.now
    guard let survey else { throw .noTable(table) }
    schema = survey.schema
    return survey
  }
}
