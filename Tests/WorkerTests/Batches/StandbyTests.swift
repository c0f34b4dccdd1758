// Sweeps beside a real standby whose replay is paused.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct StandbyTests {
  @EventLoop
  private final class Reported {
    var waits = 0
    var isHidden = false
    nonisolated init() {}

    func note(_ change: StandbyReports.Change) {
      switch change {
      case .waiting: waits += 1
      case .resumed: break
      case .hidden: isHidden = true
      }
    }
  }

  /// A primary with the control plane's tables, and a standby that streams from it.
  private func servers() async throws -> (primary: PrivatePostgres, standby: PrivatePostgres) {
    let primary = try await PrivatePostgres.start()
    try await primary.whileHalted("echo 'host replication all samehost trust' >>pg_hba.conf")
    try await primary.psql(ControlPlane.schema())
    let standby = try await PrivatePostgres.start(settings: ["wal_receiver_status_interval=1s"])
    try await standby.whileHalted(
      """
      find . -mindepth 1 -delete
      pg_basebackup -h 127.0.0.1 -p \(primary.port) -U postgres -D . -R -c fast -X stream
      """)
    return (primary, standby)
  }

  /// Due jobs on many pages, so that a run has many batches.
  private static let dueJobs = """
    ALTER TABLE sync_jobs SET (fillfactor = 10);
    INSERT INTO sync_jobs (job_type, correlation_id, status, claim_expires_at, payload)
    SELECT 'sync', gen_random_uuid(), 'claimed', now() - interval '1 hour', to_jsonb(n || repeat(' ', 150))
      FROM generate_series(1, 3000) AS n
    """

  private func behind(_ primary: PrivatePostgres) async throws -> (bytes: Int64, milliseconds: Int64) {
    let text = try await primary.psql(
      """
      SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn),
             coalesce(extract(epoch FROM replay_lag) * 1000, 0)::bigint FROM pg_stat_replication
      """)
    let parts = text.split(whereSeparator: { $0 == "|" || $0 == "\n" }).compactMap { Int64($0) }
    return parts.count == 2 ? (parts[0], parts[1]) : (.max, 0)
  }

  private func sweep(
    _ server: PrivatePostgres, _ limit: LagLimit, user: String = PrivatePostgres.user
  ) async throws -> (count: SweepCount, waits: Int, isHidden: Bool) {
    let plane = ControlPlane(url: server.url(user: user), user: user, name: "postgres")
    // A run hands over after this interval.
    let sweeper = Sweeper.jobsRecovery(try plane.settings(["SB_WORKER_JOBS_RECOVERY_INTERVAL": "1500ms"]))
    var brakes = BrakeSettings()
    brakes.maximumLag = limit
    let settings = brakes
    return try await onLoop {
      let reported = Reported()
      let pool = try plane.pool(connections: 2)
      let count = try await plane.sweep(sweeper, through: pool, brakes: settings, reportStandbys: { reported.note($0) })
      await pool.close()
      return (count, reported.waits, reported.isHidden)
    }
  }

  @Test func aSweepWaitsForAStandbyThatDoesNotReplayAndHandsOver() async throws {
    let (primary, standby) = try await servers()
    try await primary.psql("CREATE ROLE blind LOGIN; GRANT SELECT, UPDATE ON sync_jobs TO blind")
    try await standby.psql("SELECT pg_wal_replay_pause()")
    try await primary.psql(Self.dueJobs)

    let paused = try await sweep(primary, .bytes(64 << 10))
    #expect(paused.count.isPartial && paused.count.changed > 0 && paused.count.changed < 3_000)
    #expect(paused.waits == 1)

    try await standby.psql("SELECT pg_wal_replay_resume()")
    try await onLoop {
      try await eventually("the standby has caught up") { try await behind(primary).bytes == 0 }
    }
    let resumed = try await sweep(primary, .bytes(64 << 20))
    #expect(!resumed.count.isPartial && resumed.count.changed + paused.count.changed == 3_000)
    #expect(resumed.waits == 0)

    try await standby.psql("SELECT pg_wal_replay_pause()")
    try await primary.psql("UPDATE sync_jobs SET status = 'claimed'")
    try await onLoop {
      try await eventually("the standby is seconds behind", within: .seconds(15)) {
        try await behind(primary).milliseconds > 1_000
      }
    }
    let late = try await sweep(primary, .time(.seconds(1)))
    #expect(late.count.isPartial && late.count.changed < 3_000)

    // What the role cannot see it does not wait for, and says so.
    let blind = try await sweep(primary, .time(.seconds(1)), user: "blind")
    #expect(!blind.count.isPartial && blind.count.changed + late.count.changed == 3_000)
    #expect(blind.isHidden && blind.waits == 0)
    await standby.stop()
    await primary.stop()
  }

  @Test func aLimitIsATimeOrASize() {
    #expect(LagLimit("10s") == .time(.seconds(10)))
    #expect(LagLimit("64MB") == .bytes(64 << 20))
    #expect(LagLimit("1kB") == .bytes(1_024))
    #expect(LagLimit("2GB") == .bytes(2 << 30))
    for text in ["64", "0MB", "-1MB", "64mb", "MB", "0s", "1.5MB", "9999999999GB", ""] {
      #expect(LagLimit(text) == nil, "\(text)")
    }
  }

  @Test func aStandbyThatCatchesUpIsTooFarBehindInTimeOnly() {
    var lag = ReplicationLag()
    lag.bytes = 1_000
    lag.isCatchingUp = true
    #expect(LagLimit.time(.seconds(60)).isExceeded(by: lag))
    #expect(!LagLimit.bytes(1_000).isExceeded(by: lag))
    lag.isCatchingUp = false
    lag.time = .seconds(60)
    #expect(!LagLimit.time(.seconds(60)).isExceeded(by: lag))
    lag.time = .milliseconds(60_001)
    #expect(LagLimit.time(.seconds(60)).isExceeded(by: lag))
  }

  @Test func aWaitIsReportedAtItsBeginningAndEndAndHiddenLagOnce() async throws {
    let reported = try await onLoop {
      let reports = StandbyReports()
      var hidden = ReplicationLag()
      hidden.isHidden = true
      let readings = [(hidden, false), (hidden, false)] + [true, true, false].map { (ReplicationLag(), $0) }
      return readings.map { reading in
        switch reports.change(with: reading.0, isTooFar: reading.1) {
        case nil: "-"
        case .waiting: "waits"
        case .resumed: "goes on"
        case .hidden: "hidden"
        }
      }
    }
    #expect(reported == ["hidden", "-", "waits", "-", "goes on"])
  }
}
