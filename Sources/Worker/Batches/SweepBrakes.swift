// What slows a row sweep's run or ends it early: the pace, the lag of standbys, and the row limit per run.
// Invariant: no wait outlasts the run's interval or the start of a shutdown.

import Coordination
import Reactor

/// The brakes that the settings apply to every row sweep.
struct BrakeSettings: Sendable {
  var maximumRows: Int?
  var pace = Pace.full
  var maximumLag: LagLimit?

  init() {}

  init(_ settings: Settings) {
    maximumRows = settings[.maximumRowsPerRun]
    pace = settings[.pace]
    maximumLag = settings[.maximumReplicationLag]
  }

  var areOff: Bool { maximumRows == nil && pace == .full && maximumLag == nil }
}

/// The brakes of one run.
@EventLoop
final class SweepBrakes {
  private let maximumRows: Int?
  private let clock: LoopClock
  private let draining: Latch
  /// The maximum age of a lag reading, and how often it is repeated while a run waits for standbys.
  private static let lagMaximumAge = Duration.milliseconds(200)
  private static let lagInterval = Duration.seconds(1)

  /// When a waiting run ends, so that the next one continues.
  private let deadline: MonotonicInstant
  private let isSlowed: Bool
  private let maximumLag: LagLimit?
  private let standbyReports: StandbyReports
  private let report: @EventLoop (StandbyReports.Change) -> Void
  private var lagReadAt: MonotonicInstant?
  private var pacing: Pacing
  private var changed = 0

  /// - Parameters:
  ///   - interval: between two runs.
  ///   - draining: ends a wait.
  ///   - report: called with changes about standbys.
  init(
    _ settings: BrakeSettings, every interval: Duration, clock: LoopClock, draining: Latch,
    standbyReports: StandbyReports = StandbyReports(),
    report: @escaping @EventLoop (StandbyReports.Change) -> Void = { _ in }
  ) {
    maximumRows = settings.maximumRows
    pacing = Pacing(settings.pace)
    self.clock = clock
    self.draining = draining
    deadline = clock.now.advanced(by: interval)
    isSlowed = settings.pace != .full
    maximumLag = settings.maximumLag
    self.standbyReports = standbyReports
    self.report = report
  }

  /// The row limit of the next batch; nil for none.
  var rowLimit: Int? {
    [maximumRows.map { max(1, $0 - changed) }, pacing.rowLimit].compactMap(\.self).min()
  }

  /// A batch was answered, or failed; see `Pacing`.
  func worked(from sentAt: MonotonicInstant, serverTime: Duration?) {
    pacing.worked(from: sentAt, until: clock.now, serverTime: serverTime)
  }

  /// Waits until the next batch is due or the worker drains.
  ///
  /// - Parameter changed: rows that the run has changed so far.
  /// - Returns: false if the run has to end here.
  /// - Throws: `CancellationError`.
  func wait(changed: Int) async throws -> Bool {
    let next = pacing.nextBatch(rows: changed - self.changed) ?? clock.now
    self.changed = changed
    if let maximumRows, changed >= maximumRows { return false }
    guard !isSlowed || max(next, clock.now) < deadline else { return false }
    if next > clock.now { try await clock.sleep(until: next, orUntil: draining) }
    return true
  }

  /// Waits while a standby lags too far, but not beyond the run's deadline.
  ///
  /// - Returns: false if the run has to end here.
  /// - Throws: `PostgresError`; `CancellationError`.
  func waitForStandbys(asking session: GuardedSession) async throws -> Bool {
    guard let maximumLag else { return true }
    if let lagReadAt, lagReadAt.duration(to: clock.now) < Self.lagMaximumAge { return true }
    while !session.isEnding {
      let lag = ReplicationLag(try await session.query(PostgresStatement(ReplicationLag.query, isPrepared: true)))
      lagReadAt = clock.now
      let isTooFar = maximumLag.isExceeded(by: lag)
      if let change = standbyReports.change(with: lag, isTooFar: isTooFar) { report(change) }
      guard isTooFar else { return true }
      let next = clock.now.advanced(by: Self.lagInterval)
      guard next < deadline else { return false }
      try await clock.sleep(until: next, orUntil: draining)
    }
    return true
  }
}

extension SweepBatches {
  /// Waits as the brakes require before the next batch. Returns false, and marks the tally as partial, if the run has
  /// to end here.
  func waitForBrakes() async throws -> Bool {
    guard let brakes = session.brakes else { return true }
    if try await brakes.wait(changed: tally.count.changed), try await brakes.waitForStandbys(asking: session) {
      return true
    }
    tally.count.isPartial = true
    return false
  }

  /// The row limit of the next batch; nil for none.
  var rowLimit: Int? { session.brakes?.rowLimit }

  /// `rows`, or the next batch's limit if that is less.
  func limited(_ rows: Int) -> Int { min(rows, rowLimit ?? rows) }
}

extension Setting where Value == Int? {
  static var maximumRowsPerRun: Setting {
    let unlimited = "unlimited"
    return Setting(
      name: "SB_WORKER_MAX_ROWS_PER_RUN", kind: "number or unlimited", absence: .text(unlimited),
      help: "Maximum number of rows that a run changes. The next run continues."
    ) { text in
      if text == unlimited { return .accepted(nil) }
      guard let value = Int(text), value > 0 else { return .mustBe("a whole number above zero, or unlimited") }
      return .accepted(value)
    }
  }
}
