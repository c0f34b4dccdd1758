// One run's way to PostgreSQL: batches that write nothing after the lease.
// Invariant: every write goes through `batch`, and a batch whose guard said no is an error, never "nothing to do".

import Reactor

/// The lease of the present run, as the batches and its keeper share it.
@EventLoop
final class HeldLease {
  var lease: Lease

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

  private let connection: PostgresConnection
  private let held: HeldLease
  private let clock: LoopClock
  private let sweeper: String
  private let ticket: RunTicket
  private let ageMicroseconds: Int64
  private let isDraining: @EventLoop () -> Bool
  private(set) var cutoff: String?

  init(
    connection: PostgresConnection, held: HeldLease, clock: LoopClock, sweeper: String, ticket: RunTicket,
    age: Duration,
    isDraining: @escaping @EventLoop () -> Bool
  ) {
    self.connection = connection
    self.held = held
    self.clock = clock
    self.sweeper = sweeper
    self.ticket = ticket
    ageMicroseconds = age.nanoseconds / 1_000
    self.isDraining = isDraining
  }

  private var advisoryKey: Int32 {
    Int32(bitPattern: StableHash.fnv1a(sweeper))
  }

  /// What all of this sweeper's runs begin their application_name with; the epoch follows. PostgreSQL keeps 63 bytes.
  private var namePrefix: String {
    "secrets-bridge-worker \(sweeper) "
  }

  /// Runs `statements` between the guard and the verdict, in one round trip and one transaction.
  ///
  /// - Throws: `RunInterruption`, or `PostgresError` as a statement failed.
  func batch(_ statements: [PostgresStatement]) async throws -> Batch {
    var entry = BatchGuard()
    while true {
      let sample = connection.attachment as? ClockSample
      switch entry.next(at: clock.now, lease: &held.lease, sample: sample, isDraining: isDraining()) {
      case .sample:
        try await readClock()
      case .send(let deadline):
        if let batch = try await attempt(statements, deadline) { return batch }
        entry.contended()
      case .evict:
        try await endPredecessor()
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
  private func attempt(_ statements: [PostgresStatement], _ deadline: Int64) async throws -> Batch? {
    let open = PostgresStatement(
      connection.serverVersion >= GuardStatements.transactionTimeoutVersion
        ? GuardStatements.openWithTransactionTimeout : GuardStatements.open,
      ["\(deadline)", "\(namePrefix)\(ticket.epoch)", cutoff, "\(ageMicroseconds)", "\(advisoryKey)"], isKept: true)
    let prelude = connection.prelude
    let first = prelude.count
    let results: [PostgresResult]
    do {
      results = try await connection.pipeline(
        prelude + [open] + statements + [PostgresStatement(GuardStatements.close, isKept: true)],
        by: held.lease.stopAt)
    } catch let error as PostgresError {
      if Self.isPastDeadline(error, closing: first + statements.count + 1) { throw RunInterruption.leaseLost }
      // The server was demoted: the next try asks for a connection to one that can be written to.
      if error.sqlState == Self.readOnlyState { connection.close() }
      throw error
    }
    let opened = results[first]
    let closed = results[results.count - 1]
    noteClock(closed[row: 0, column: 2])
    guard opened[row: 0, column: 0] == "t" else { throw RunInterruption.leaseLost }
    guard closed[row: 0, column: 0] == "t" else { return nil }
    cutoff = closed[row: 0, column: 3]
    let endedAt = Self.microseconds(closed[row: 0, column: 2]) ?? 0
    let microseconds = Self.microseconds(closed[row: 0, column: 4]) ?? 0
    return Batch(
      results: Array(results[(first + 1)..<(results.count - 1)]), beganAt: (endedAt - microseconds) / 1_000,
      duration: .microseconds(microseconds))
  }

  /// The closing statement refused, so that nothing of the batch was committed, or the server ended the session.
  private static func isPastDeadline(_ error: PostgresError, closing: Int) -> Bool {
    if case .server(GuardStatements.pastDeadlineState, _, closing) = error { return true }
    return error.sqlState == GuardStatements.transactionTimeoutState
  }

  /// A lock was waited for in vain: lock_not_available.
  static let lockTimeoutState = "55P03"

  /// A statement took too long, or someone had it cancelled: query_canceled.
  static let cancelledState = "57014"

  /// The server, or the session, does not let anything be written: read_only_sql_transaction.
  private static let readOnlyState = "25006"

  var now: MonotonicInstant { clock.now }

  private func endPredecessor() async throws {
    _ = try await connection.query(
      PostgresStatement(
        GuardStatements.terminatePredecessor, ["\(advisoryKey)", namePrefix, "\(ticket.epoch)"]),
      by: held.lease.stopAt)
  }

  private func readClock() async throws {
    let result = try await connection.query(PostgresStatement(GuardStatements.clock), by: held.lease.stopAt)
    noteClock(result[row: 0, column: 0])
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
