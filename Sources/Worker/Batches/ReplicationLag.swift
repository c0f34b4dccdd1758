// The replay lag of standbys, and its limit while a sweep runs: the query, the limit, the setting.
// Invariant: a standby that is hidden from the role is reported, and never counts as caught up.

import Reactor

/// How far the connected standbys are behind.
struct ReplicationLag: Equatable, Sendable {
  /// The most WAL that any of them has not replayed, in bytes.
  var bytes: Int64 = 0
  /// The longest time since the last replayed WAL was written.
  var time = Duration.zero
  /// Whether one has just connected and is catching up, so that its time lag is unknown.
  var isCatchingUp = false
  /// Whether there are standbys whose lag the role may not read.
  var isHidden = false

  /// Answers how many standbys are hidden, how many are catching up, the most bytes, and the longest ms.
  ///
  /// The lag is that of replay, because that is what a standby's readers see. A receiver such as pg_receivewal has no
  /// replay position. The time is stale once everything is replayed.
  static let query = CatalogSQL.qualified(
    """
    SELECT count(*) FILTER (WHERE standby.state IS NULL),
           count(*) FILTER (WHERE (standby.behind > 0) AND (standby.lag IS NULL)),
           coalesce(max(standby.behind), 0)::bigint,
           coalesce(max((extract(epoch FROM standby.lag) * 1000)::bigint) FILTER (WHERE (standby.behind > 0)), 0)
      FROM (SELECT sender.state, sender.replay_lag AS lag,
                   pg_wal_lsn_diff(pg_current_wal_lsn(), sender.replay_lsn) AS behind
              FROM "pg_catalog"."pg_stat_replication" AS sender
             WHERE NOT EXISTS (SELECT FROM "pg_catalog"."pg_replication_slots" AS slot
               WHERE (slot.active_pid = sender.pid) AND (slot.slot_type = 'logical'))) AS standby
    """)

  init() {}

  @EventLoop
  init(_ answer: PostgresResult) {
    isHidden = answer.number(0) > 0
    isCatchingUp = answer.number(1) > 0
    bytes = Int64(answer.number(2))
    time = .milliseconds(Int64(answer.number(3)))
  }
}

/// How far a standby may lag.
enum LagLimit: Equatable, Sendable {
  case time(Duration)
  case bytes(Int64)

  private static let units: [(suffix: String, bytes: Int64)] = [("kB", 1 << 10), ("MB", 1 << 20), ("GB", 1 << 30)]

  init?(_ text: String) {
    for unit in Self.units where text.hasSuffix(unit.suffix) {
      guard let number = Int64(text.dropLast(unit.suffix.count)), (1...(1 << 20)).contains(number) else { return nil }
      self = .bytes(number * unit.bytes)
      return
    }
    guard let time = GoDuration.parse(text), Setting<Duration>.aboveZero.contains(time) else { return nil }
    self = .time(time)
  }

  func isExceeded(by lag: ReplicationLag) -> Bool {
    switch self {
    case .time(let limit): lag.isCatchingUp || lag.time > limit
    case .bytes(let limit): lag.bytes > limit
    }
  }
}

/// What the process has reported about standbys, for all sweepers.
@EventLoop
final class StandbyReports {
  enum Change: Sendable {
    /// Sweeps wait for a standby; they no longer do; the role cannot read the lag of standbys.
    case waiting(ReplicationLag)
    case resumed, hidden
  }

  private var isWaiting = false
  private var hasReportedHidden = false

  /// The change to report; nil if there is none.
  func change(with lag: ReplicationLag, isTooFar: Bool) -> Change? {
    if lag.isHidden, !hasReportedHidden {
      hasReportedHidden = true
      return .hidden
    }
    guard isTooFar != isWaiting else { return nil }
    isWaiting = isTooFar
    return isTooFar ? .waiting(lag) : .resumed
  }
}

extension Setting where Value == LagLimit? {
  static var maximumReplicationLag: Setting {
    let off = "off"
    return Setting(
      name: "SB_WORKER_MAX_REPLICATION_LAG", kind: "off, duration or size", absence: .text(off),
      help: """
        Row sweeps wait while a standby's replay is further behind, such as 10s or 64MB. The role needs \
        pg_read_all_stats.
        """
    ) { text in
      if text == off { return .accepted(nil) }
      guard let limit = LagLimit(text) else { return .mustBe("off, a duration such as 10s, or a size such as 64MB") }
      return .accepted(limit)
    }
  }
}
