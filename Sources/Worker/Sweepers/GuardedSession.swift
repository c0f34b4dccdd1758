// One run's way to PostgreSQL: batches that write nothing after the lease.
// Invariant: every write goes through `batch`, and a batch whose guard said no is an error, never "nothing to do".

import Reactor

/// Why a run ended before its work was done.
enum RunInterruption: Error, Equatable, Sendable {
  /// The lease was lost, or PostgreSQL's clock reached its deadline.
  case leaseLost
  /// An earlier run's session holds the advisory lock and would not go.
  case superseded
  /// The worker drains: the slot is given back.
  case drained
}

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
  /// How old a sample of PostgreSQL's clock may be. Clocks drift by up to 500 ppm while they are slewed (adjtimex): a
  /// minute costs 30 ms of the lease's margin.
  static let sampleLimit = Duration.seconds(60)

  /// What a batch's statements answered.
  struct Batch {
    let results: [PostgresResult]
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
    var triesLeft = 3
    while true {
      if isDraining() { throw RunInterruption.drained }
      if let batch = try await attempt(statements) { return batch }
      // Another session holds the advisory lock, while we hold the lock in Redis.
      triesLeft -= 1
      guard triesLeft > 0 else { throw RunInterruption.superseded }
      try await endPredecessor()
    }
  }

  /// - Returns: nil where the advisory lock is someone else's.
  private func attempt(_ statements: [PostgresStatement]) async throws -> Batch? {
    let sample = try await clockSample()
    guard held.lease.isHeld(at: clock.now) else { throw RunInterruption.leaseLost }
    let stopAt = held.lease.stopAt
    let open = PostgresStatement(
      GuardStatements.open,
      [
        "\(sample.estimate(at: stopAt))", "\(namePrefix)\(ticket.epoch)", cutoff, "\(ageMicroseconds)",
        "\(advisoryKey)",
      ])
    let results = try await connection.pipeline(
      [open] + statements + [PostgresStatement(GuardStatements.close)], by: stopAt)
    let opened = results[0]
    let closed = results[results.count - 1]
    noteClock(closed[row: 0, column: 2])
    guard opened[row: 0, column: 5] == "t", closed[row: 0, column: 1] == "t" else { throw RunInterruption.leaseLost }
    guard closed[row: 0, column: 0] == "t" else { return nil }
    cutoff = closed[row: 0, column: 3]
    return Batch(
      results: Array(results[1..<(results.count - 1)]),
      duration: .microseconds(closed[row: 0, column: 4].flatMap { Int64($0) } ?? 0))
  }

  /// The statement that failed may have left the range's rows to a slower way: was a lock waited for in vain?
  static func isLockTimeout(_ error: any Error) -> Bool {
    (error as? PostgresError)?.sqlState == "55P03"
  }

  private func endPredecessor() async throws {
    _ = try await connection.query(
      PostgresStatement(
        GuardStatements.terminatePredecessor, ["\(advisoryKey)", namePrefix, "\(ticket.epoch)"]),
      by: held.lease.stopAt)
    // The session that was told to end takes a moment to give its locks back.
    try await clock.sleep(for: .milliseconds(50))
  }

  private func clockSample() async throws -> ClockSample {
    if let sample = connection.attachment as? ClockSample,
      sample.arrivedAt.duration(to: clock.now) < Self.sampleLimit
    {
      return sample
    }
    let result = try await connection.query(PostgresStatement(GuardStatements.clock), by: held.lease.stopAt)
    noteClock(result[row: 0, column: 0])
    guard let sample = connection.attachment as? ClockSample else { throw RunInterruption.leaseLost }
    return sample
  }

  private func noteClock(_ microseconds: String?) {
    guard let reading = microseconds.flatMap({ Int64($0) }) else { return }
    connection.attachment = ClockSample(reading: reading, arrivedAt: clock.now, unitsPerSecond: 1_000_000)
  }
}
