// The harness's own knowledge of the sweepers: names, tables, intervals, grids, job ids.
// Invariant: it is written from the design, not from the worker's code, so that the two can disagree.

import Foundation
import Reactor

/// A sweeper as seen from outside.
enum Sweep: String, CaseIterable, Sendable {
  case wraps = "wraps-expired"
  case secrets = "secrets-stale"
  case agents = "agents-stale"
  case jobs = "jobs-recovery"
  case discover = "discover-scheduler"
  case connections = "discover-connections"
  case reveal = "reveal-sessions-expired"
  case fillWindows = "cross-team-fill-window-expired"
  case stuck = "connections-stuck"
  case requests = "requests-expired"
  case queue = "queue-watch"

  /// The table that it writes to, inserts jobs into, or watches.
  var table: String {
    switch self {
    case .wraps: "secret_wraps"
    case .secrets: "secrets"
    case .agents: "agents"
    case .jobs, .discover, .connections, .queue: "sync_jobs"
    case .reveal: "reveal_sessions"
    case .fillWindows, .requests: "access_requests"
    case .stuck: "provider_connections"
    }
  }

  /// The table with its due rows.
  var dueTable: String { self == .connections ? "provider_connections" : table }

  /// Whether each of its slots has a run, and each run writes. One that asks PostgreSQL first does not run if nothing
  /// is due, and one that watches changes nothing.
  var runsInEachSlot: Bool { self != .reveal }
  var writes: Bool { self != .queue }

  /// The tables whose faults affect a sweeper, by its name.
  static func tables(of sweeper: String) -> [String] {
    guard let sweep = Sweep(rawValue: sweeper) else {
      return Retained.all.first { $0.sweeper == sweeper }.map { [$0.table] + $0.referring } ?? []
    }
    return switch sweep {
    case .reveal: [sweep.table, Sweep.wraps.table]
    // An inserted job locks the tables that its foreign keys refer to, even where they are null.
    case .discover, .connections: [sweep.table, Sweep.agents.table, Sweep.requests.table]
    default: [sweep.table]
    }
  }

  /// Its interval in the chaos: short, so that much happens.
  var interval: Duration {
    switch self {
    case .wraps, .jobs, .connections, .reveal, .queue: .seconds(2)
    case .agents: .milliseconds(2_500)
    case .secrets, .fillWindows, .stuck, .requests: .seconds(3)
    case .discover: .seconds(4)
    }
  }

  var intervalVariable: String {
    switch self {
    case .wraps: "SB_WORKER_WRAPS_EXPIRED_INTERVAL"
    case .secrets: "SB_WORKER_SECRETS_STALE_INTERVAL"
    case .agents: "SB_WORKER_AGENTS_STALE_INTERVAL"
    case .jobs: "SB_WORKER_JOBS_RECOVERY_INTERVAL"
    case .discover: "SB_WORKER_DISCOVER_INTERVAL"
    case .connections: "SB_WORKER_DISCOVER_CONNECTIONS_INTERVAL"
    case .reveal: "SB_WORKER_REVEAL_SESSIONS_EXPIRED_INTERVAL"
    case .fillWindows: "SB_WORKER_CROSS_TEAM_FILL_EXPIRED_INTERVAL"
    case .stuck: "SB_WORKER_CONNECTIONS_STUCK_INTERVAL"
    case .requests: "SB_WORKER_REQUESTS_EXPIRED_INTERVAL"
    case .queue: "SB_WORKER_QUEUE_ALERT_AFTER"
    }
  }

  /// The setting's value for an interval. The queue is checked after half of a job's allowed wait.
  func setting(for interval: Duration) -> String { "\((self == .queue ? interval * 2 : interval).milliseconds)ms" }

  /// A SQL condition for its due rows, `lag` after they became due. Target discovery and the queue watch have none.
  func due(lag: Duration) -> String? {
    let before = "clock_timestamp() - interval '\(lag.milliseconds) milliseconds'"
    switch self {
    case .wraps: return "expires_at <= \(before)"
    case .secrets: return "status = 'present' AND last_seen_at < \(before) - interval '24 hours'"
    case .agents: return "status = 'active' AND last_seen_at < \(before) - interval '5 minutes'"
    case .jobs: return "status = 'claimed' AND claim_expires_at < \(before)"
    case .connections:
      return "last_discover_status IS DISTINCT FROM 'running' AND last_discover_at + interval '60 s' < \(before)"
    case .reveal: return "expired_at IS NULL AND expires_at < \(before)"
    case .fillWindows:
      return "type = 'cross_team' AND status = 'pending_values' AND fill_expires_at < \(before)"
    // Their interval is 60 s: a discovery is allowed at least ten minutes.
    case .stuck: return "last_discover_status = 'running' AND last_discover_started_at < \(before) - interval '10 min'"
    case .requests:
      return "status = 'pending' AND workflow_id IS NOT NULL AND created_at < \(before) - interval '1 hour'"
    case .discover, .queue: return nil
    }
  }

  /// The lock's key without the namespace.
  static func lockKey(_ name: String) -> String { "lock:worker:sweeper:\(name)" }

  var grid: Grid { Grid(name: rawValue, interval: interval) }

  /// The slot that a run was for. If the take's first answer was lost, that of the second attempt, which the completion
  /// names.
  func slot(of hold: Hold) -> Int64 {
    let possible = grid.slot(at: hold.taken)...grid.slot(at: hold.completed ?? hold.taken)
    guard let slot = hold.slot, possible.contains(slot), (slot - possible.lowerBound) % grid.interval == 0 else {
      return possible.lowerBound
    }
    return slot
  }
}

/// The fixed grid of one sweeper's slots: n × interval + an offset hashed (FNV-1a, 32 bit) from its name, in ms.
struct Grid: Sendable {
  let interval: Int64
  let offset: Int64

  init(name: String, interval: Duration) {
    self.interval = interval.milliseconds
    var hash: UInt32 = 2_166_136_261
    for byte in name.utf8 { hash = (hash ^ UInt32(byte)) &* 16_777_619 }
    offset = Int64(hash) % self.interval
  }

  /// The start of the slot that a moment lies in, in ms.
  func slot(at moment: Moment) -> Int64 {
    let time = moment.milliseconds
    let phase = (time - offset) % interval
    return time - (phase < 0 ? phase + interval : phase)
  }

  /// The starts of all slots that begin in a span of time.
  func slots(in span: ClosedRange<Moment>) -> [Int64] {
    let first = slot(at: Moment(microseconds: span.lowerBound.microseconds - 1)) + interval
    return Array(stride(from: first, through: span.upperBound.milliseconds, by: Int(interval)))
  }
}

/// The harness's discover targets, with values that must not appear elsewhere.
enum Targets {
  static let names = ["alpha", "beta", "gamma"]

  static let json: String = {
    let targets = names.map { name in
      """
      {"name":"\(name)","cluster":"cluster-\(name)","provider_type":"vault",\
      "provider_config":{"token":"\(Planted.mark)provider-\(name)","big":12345678901234567890},\
      "scope":{"path":"\(Planted.mark)scope"}}
      """
    }
    return "[" + targets.joined(separator: ",") + "]"
  }()

  /// The version 5 UUID (RFC 9562) of a target's slot, in the namespace that the worker's docs specify.
  static func jobID(_ target: String, slot: Int64) -> String {
    let namespace: [UInt8] = [
      0x5e, 0x0c, 0x9a, 0x1e, 0x2d, 0x7b, 0x4f, 0x43, 0x9b, 0x61, 0x3c, 0x8d, 0x4e, 0x12, 0x70, 0xa5,
    ]
    var bytes = Array(SHA1.digest(namespace + Array("\(target)\n\(slot)".utf8)).prefix(16))
    bytes[6] = 0x50 | (bytes[6] & 0x0f)
    bytes[8] = 0x80 | (bytes[8] & 0x3f)
    let pairs = bytes.map { String(format: "%02x", $0) }
    return [0..<4, 4..<6, 6..<8, 8..<10, 10..<16].map { pairs[$0].joined() }.joined(separator: "-")
  }
}

/// Secret values planted wherever the worker could encounter one.
enum Planted {
  /// The text that each of them contains.
  static let mark = "PLANTED-7f3a9c-"
  static let redisPassword = "\(mark)redis-password"
}
