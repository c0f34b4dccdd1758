// Discovery by connection as the harness saw it: each claim, each job, and each "discover now" in between.
// Invariant: the database, not the worker, computed the expected name of a claim's job, in the claim's transaction
// from the previous row.

import Foundation
import Reactor
import Synchronization
import TestSupport

/// The observed connections of one control plane.
struct ConnectionHistory: Sendable {
  struct Claim: Sendable {
    let connection: String
    let job: String
    let at: Moment
    /// The connection was not due, or did not become running.
    let isWrong: Bool
  }

  /// A lock held by "discover now".
  struct Now: Sendable {
    let connection: String
    /// The time in which Redis surely holds the lock, unless it loses its data.
    let span: ClosedRange<Moment>
  }

  var claims: [Claim] = []
  /// Number of jobs by id, except those of "discover now".
  var jobs: [String: Int] = [:]
  var nows: [Now] = []

  static func collect(_ plane: Plane, of cluster: Cluster, nows: [Now]) async throws -> ConnectionHistory {
    var history = ConnectionHistory(nows: nows)
    let claims = try await cluster.sql(
      """
      SELECT connection, job, (extract(epoch FROM at) * 1000000)::bigint, wrong::int FROM chaos.claims
       WHERE schema = '\(plane.schema)' ORDER BY at
      """)
    for line in claims.split(separator: "\n") {
      let columns = line.split(separator: "|")
      guard columns.count == 4, let at = Int64(columns[2]) else {
        throw HarnessFault("a claim cannot be read: \(line)")
      }
      history.claims.append(
        Claim(
          connection: String(columns[0]), job: String(columns[1]), at: Moment(microseconds: at),
          isWrong: columns[3] != "0"))
    }
    history.jobs = Evidence.counts(
      try await cluster.sql(
        "SELECT id, count(*) FROM sync_jobs WHERE payload ? 'connection_id' AND NOT payload ? 'now' GROUP BY 1",
        schema: plane.schema))
    return history
  }
}

extension Evidence {
  /// Duration of a worker's lock on a connection: a data loss this long before may have lost it.
  private static let lockDuration = Duration.seconds(10)

  var connectionChecks: [Check] {
    let claims = connections.claims
    let counts = Dictionary(grouping: claims, by: \.job).mapValues(\.count)
    var faults = claims.filter(\.isWrong).map { "\($0.at) \($0.connection) was not due" }
    faults += counts.filter { $0.value > 1 }.map { "job \($0.key) was claimed \($0.value) times" }
    faults += connections.jobs.filter { $0.value > 1 }.map { "job \($0.key) is there \($0.value) times" }
    faults += connections.jobs.keys.filter { counts[$0] == nil }.map { "job \($0) is of no claim" }
    faults += counts.keys.filter { connections.jobs[$0] == nil }.map { "the claim of job \($0) has no job" }
    if claims.isEmpty { faults.append("no connection was claimed") }
    return [
      Check(
        name: "connections-once", claim: "each due time of a connection has exactly one job",
        figures: "\(claims.count) claims, \(connections.jobs.count) jobs", faults: faults.sorted()), discoverNow,
    ]
  }

  private var discoverNow: Check {
    var checked = 0
    var faults: [String] = []
    for now in connections.nows {
      let before = now.span.lowerBound.advanced(by: .zero - Self.lockDuration)
      if locks.losses.contains(where: { (before...now.span.upperBound).contains($0) }) { continue }
      checked += 1
      let others = connections.claims.filter { $0.connection == now.connection && now.span.contains($0.at) }
      faults += others.map { "\($0.at) \($0.connection) was claimed under another one's lock" }
    }
    return Check(
      name: "discover-now", claim: "no connection is claimed while \"discover now\" has its lock",
      figures: "\(checked) locks", faults: faults)
  }
}

/// The api's "discover now" on a control plane's connections.
final class DiscoverNow: Sendable {
  private static let period = Duration.milliseconds(700)
  /// Shorter than the api's, because due times are close together here.
  private static let lockLength = Duration.seconds(3)

  private let kept = Mutex<[ConnectionHistory.Now]>([])

  var nows: [ConnectionHistory.Now] { kept.withLock { $0 } }

  /// Requests discoveries until cancelled, skipping those that a faulted server does not accept.
  func run(on cluster: Cluster, _ plane: Plane) async {
    while !Task.isCancelled {
      do {
        try await Task.sleep(for: Self.period)
        try await ask(cluster, plane)
      } catch {
        // The next attempt follows anyway.
      }
    }
  }

  private func ask(_ cluster: Cluster, _ plane: Plane) async throws {
    let connection = try await cluster.sql(
      "SELECT id FROM provider_connections WHERE discover_enabled ORDER BY random() LIMIT 1", schema: plane.schema
    ).trimmingCharacters(in: .whitespacesAndNewlines)
    let (redis, key) = (cluster.redis, "\(plane.namespace):lock:discover:\(connection)")
    let sent = Moment.now
    let answer = try await offLoop {
      try redis.cli("-c", "SET", key, "discover-now", "NX", "PX", "\(Self.lockLength.milliseconds)")
    }
    let end = sent.advanced(by: Self.lockLength - .milliseconds(10))
    guard answer == "OK", Moment.now < end else { return }
    let span = Moment.now...end
    kept.withLock { $0.append(ConnectionHistory.Now(connection: connection, span: span)) }
    try await cluster.sql(
      """
      INSERT INTO sync_jobs (job_type, correlation_id, payload)
      VALUES ('discover', gen_random_uuid(), '{"connection_id": "\(connection)", "now": true}')
      """, schema: plane.schema)
  }
}
