// How far standbys are behind, and how far they may be while a sweep goes on: the question, the limit, the setting.
// Invariant: a standby that the role may not see is told, and never counts as one that has caught up.

import Reactor

/// How far the standbys are behind that are connected.
struct ReplicationLag: Equatable, Sendable {
  /// The most of WAL that any of them has not replayed, in bytes.
  var bytes: Int64 = 0
  /// The longest time since the last replayed WAL was written.
  var time = Duration.zero
  /// Whether one has just connected and catches up, so that its time is not known yet.
  var isCatchingUp = false
  /// Whether there are standbys about which the role may not know.
  var isHidden = false

  /// Answers how many standbys are hidden, how many catch up, the most bytes, and the longest time in ms.
  ///
  /// What counts is what a standby has replayed: that is what its readers see. A receiver that never replays, such as
  /// pg_receivewal, has no such place. Where all is replayed, the time is an old one.
  static let look = CatalogSQL.qualified(
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

/// How far a standby may be behind.
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

/// What the process has told of standbys, for all sweepers.
@EventLoop
final class StandbyNotes {
  enum News: Sendable {
    /// Sweeps wait for a standby; they no longer do; the role may not see how far standbys are.
    case waiting(ReplicationLag)
    case goingOn, hidden
  }

  private var isWaiting = false
  private var hasToldHidden = false

  /// What is to be told of a look; nil for nothing new.
  func news(of lag: ReplicationLag, isTooFar: Bool) -> News? {
    if lag.isHidden, !hasToldHidden {
      hasToldHidden = true
      return .hidden
    }
    guard isTooFar != isWaiting else { return nil }
    isWaiting = isTooFar
    return isTooFar ? .waiting(lag) : .goingOn
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
