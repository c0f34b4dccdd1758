// The evidence about one control plane, read by the checks.
// Invariant: it is gathered once, after the fleet has stopped, so nothing changes while it is checked.

import Foundation
import Reactor
import TestSupport

/// A replica's metrics and footprint at a moment.
struct Sample: Sendable {
  let replica: Int
  let at: Moment
  let metrics: String
  let footprint: Footprint

  /// The value of a metric series, such as `worker_scheduler_runs_total{outcome="success",task="x"}`.
  func value(_ name: String, _ labels: [String: String]) -> Int? {
    for line in metrics.split(separator: "\n") where line.hasPrefix(name + "{") {
      let isMeant = labels.allSatisfy { line.contains("\($0.key)=\"\($0.value)\"") }
      if isMeant { return line.split(separator: " ").last.flatMap { Double($0) }.map { Int($0) } }
    }
    return nil
  }

  /// Finished slots: failed runs are retried within their slot.
  func slots(of sweep: Sweep) -> Int {
    ["success", "skipped_lock"].reduce(0) { sum, outcome in
      sum + (value("worker_scheduler_runs_total", ["task": sweep.rawValue, "outcome": outcome]) ?? 0)
    }
  }
}

/// Observations of a control plane.
struct PlaneWatch: Sendable {
  var first: [Sample] = []
  var quietBegin: [Sample] = []
  var quietEnd: [Sample] = []
  var left: [String: Int] = [:]
  var unready: [Int] = []
  var nows: [ConnectionHistory.Now] = []
  var reveals = RevealHistory()
  var trail = AuditTrail()
}

/// The recorders' histories.
struct Evidence: Sendable {
  var kind = Plane.Kind.first
  let plan: FaultPlan
  let lease: Duration
  let span: ClosedRange<Moment>
  let disturbances: Disturbances
  let longestStall: Duration
  let locks: LockHistory
  /// Gaps in the record of Redis commands beyond those from restarts and failovers.
  let unexpectedGaps: Int
  let writes: WriteHistory
  let statements: StatementLog
  let logs: [(life: Life, log: LogHistory)]
  /// For each replica: after the start, and at the beginning and end of the final quiet time.
  let first: [Sample]
  let quietBegin: [Sample]
  let quietEnd: [Sample]
  /// Number of discover jobs by correlation id.
  let jobs: [String: Int]
  /// Remaining due rows by sweeper, and rows of each table that had to be left alone.
  let left: [String: Int]
  /// Replicas still not ready long after the last fault.
  let unready: [Int]
  /// Every text that a worker sent or that reached Redis, with its source.
  let texts: [(place: String, text: String)]
  var connections = ConnectionHistory()
  var reveals = RevealHistory()
  var trail = AuditTrail()

  var runs: [Run] { logs.flatMap(\.log.runs) }

  /// - Parameter disturbances: those that affected the first control plane.
  static func collect(
    _ plane: Plane, of cluster: Cluster, _ plan: FaultPlan, _ disturbances: Disturbances, _ watch: PlaneWatch,
    span: ClosedRange<Moment>, stalls: StallWatch, statements: StatementLog, in directory: URL
  ) async throws -> Evidence {
    let lines = cluster.monitor.lines
    let restarts = disturbances.incidents.filter { $0.fault.kind == .restartRedis }
    let failovers = disturbances.incidents.count { $0.fault.kind == .failOverRedis }
    let locks = LockHistory(
      lines.lazy.compactMap { RedisCommand(line: $0[...]) }, namespace: plane.namespace,
      restarts: restarts.map(\.ended))
    let rows = try await cluster.sql(WriteHistory.query(schema: plane.schema))
    let jobs = try await cluster.sql(
      """
      SELECT correlation_id, count(*) FROM sync_jobs
       WHERE job_type = 'discover' AND NOT payload ? 'connection_id' GROUP BY 1
      """, schema: plane.schema)
    let lives = plane.replicas.flatMap { replica in replica.lives.map { (replica.index, $0) } }
    let logs = lives.map { ($0.1, LogHistory($0.1.process.log, replica: $0.0)) }
    let samples = [watch.first, watch.quietBegin, watch.quietEnd]
    var texts = [(place: "Redis", text: lines.joined(separator: "\n"))]
    for life in lives { texts.append(("the log of replica \(life.0)", life.1.process.everything)) }
    for sample in samples.joined() { texts.append(("the metrics of replica \(sample.replica)", sample.metrics)) }
    try Data((rows + "\n").utf8).write(to: directory.appendingPathComponent("writes-\(plane.kind.rawValue).txt"))
    return Evidence(
      kind: plane.kind, plan: plan, lease: cluster.options.lease, span: span,
      disturbances: plane.kind == .first ? disturbances : disturbances.ofServers(replicas: plane.replicas.count),
      longestStall: stalls.longest, locks: locks,
      unexpectedGaps: max(0, cluster.monitor.gaps - restarts.count - failovers),
      writes: try WriteHistory(rows: rows), statements: statements, logs: logs, first: watch.first,
      quietBegin: watch.quietBegin, quietEnd: watch.quietEnd, jobs: Self.counts(jobs), left: watch.left,
      unready: watch.unready, texts: texts,
      connections: try await ConnectionHistory.collect(plane, of: cluster, nows: watch.nows),
      reveals: watch.reveals, trail: watch.trail)
  }

  /// All checks of this control plane, prefixed with its name unless it is the first.
  var checks: [Check] {
    let all = lockChecks + writeChecks + connectionChecks + laterChecks + runChecks
    if kind == .first { return all + surroundingChecks + [witnesses] }
    return all.map {
      Check(name: "\(kind.rawValue)-\($0.name)", claim: $0.claim, figures: $0.figures, faults: $0.faults)
    }
  }

  static func counts(_ rows: String) -> [String: Int] {
    var counts: [String: Int] = [:]
    for line in rows.split(separator: "\n") {
      let columns = line.split(separator: "|")
      if columns.count == 2 { counts[String(columns[0])] = Int(columns[1]) }
    }
    return counts
  }
}
