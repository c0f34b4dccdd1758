// The outcomes of one control plane's reveal sessions, audit trail and queue watch, and their checks.
// Invariant: gathered once, after the fleet has stopped.

import Foundation
import Reactor

/// Sessions that expired, and what they left.
struct RevealHistory: Sendable {
  /// A session that expired after it was created.
  struct Session: Sendable {
    let expired: Moment
    /// The end as recorded by the worker; nil if it was not ended.
    let ended: Moment?
  }

  var sessions: [Session] = []
  /// How often an ended session's wrap was readable.
  var leaks = 0

  /// How long a session may stay open after it expires: until the next slot, and until a held lock expires.
  static func patience(lease: Duration) -> Duration { Sweep.reveal.interval + lease }

  static func collect(_ plane: Plane, of cluster: Cluster) async throws -> RevealHistory {
    let leaks = try await cluster.sql(
      "\(Workload.leaks); SELECT count(*) FROM chaos.leaks WHERE schema = '\(plane.schema)'", schema: plane.schema)
    let rows = try await cluster.sql(
      """
      SELECT (extract(epoch FROM expires_at) * 1000000)::bigint, (extract(epoch FROM expired_at) * 1000000)::bigint
        FROM reveal_sessions
       WHERE expires_at BETWEEN opened_at AND clock_timestamp() AND expired_reason IS DISTINCT FROM 'user_hide'
      """, schema: plane.schema)
    var history = RevealHistory(leaks: Int(leaks) ?? -1)
    for line in rows.split(separator: "\n") {
      let columns = line.split(separator: "|", omittingEmptySubsequences: false)
      guard columns.count == 2, let expired = Int64(columns[0]) else {
        throw HarnessFault("a reveal session cannot be read: \(line)")
      }
      history.sessions.append(
        Session(
          expired: Moment(microseconds: expired), ended: Int64(columns[1]).map { Moment(microseconds: $0) }))
    }
    return history
  }
}

/// The audit trail's events about changed rows.
struct AuditTrail: Sendable {
  /// Rows that must have one event each, those with another number, and events of other rows.
  var rows = 0
  var wrong = 0
  var strange = 0

  static func collect(_ plane: Plane, of cluster: Cluster) async throws -> AuditTrail {
    let row = try await cluster.sql(
      """
      WITH changed AS (
        SELECT 'reveal_session:' || id AS resource FROM reveal_sessions WHERE expired_reason = 'ttl'
        UNION ALL
        SELECT 'access_request:' || id FROM access_requests WHERE status = 'expired' AND type <> 'cross_team'
        UNION ALL SELECT 'provider_connection:' || id FROM provider_connections WHERE last_discover_status = 'failure'),
      noted AS (SELECT resource, count(*) AS events FROM audit_events WHERE actor = 'worker' GROUP BY resource)
      SELECT count(*) FILTER (WHERE changed.resource IS NOT NULL),
        count(*) FILTER (WHERE changed.resource IS NOT NULL AND events IS DISTINCT FROM 1),
        count(*) FILTER (WHERE changed.resource IS NULL)
        FROM changed FULL JOIN noted USING (resource)
      """, schema: plane.schema)
    let numbers = row.split(separator: "|").compactMap { Int($0) }
    guard numbers.count == 3 else { throw HarnessFault("the audit trail cannot be counted: \(row)") }
    return AuditTrail(rows: numbers[0], wrong: numbers[1], strange: numbers[2])
  }
}

extension Evidence {
  var laterChecks: [Check] { [reveal, retention, audit, watch] }

  /// How long sessions stayed open after expiry without faults; never ended counts as until the end.
  private var reveal: Check {
    let patience = RevealHistory.patience(lease: lease) + disturbances.slack
    var longest = Duration.zero
    var checked = 0
    var faults = reveals.leaks == 0 ? [] : ["\(reveals.leaks) wraps of ended sessions could be read"]
    for session in reveals.sessions {
      let limit = session.expired.advanced(by: patience)
      guard session.expired > span.lowerBound, limit < span.upperBound,
        !disturbances.explain(Sweep.reveal.rawValue, session.expired...limit)
      else { continue }
      checked += 1
      let open = (session.ended ?? span.upperBound).since(session.expired)
      longest = max(longest, open)
      if session.ended ?? span.upperBound > limit {
        faults.append("a session that ran out at \(session.expired) was open for \(open.text) more")
      }
    }
    if checked == 0 { faults.append("no session ran out undisturbed") }
    return Check(
      name: "reveal",
      claim: "sessions end within an interval and a lease after their time, and no wrap of an ended one can be read",
      figures: "\(reveals.sessions.count) sessions, \(checked) undisturbed, open for \(longest.text) at the most",
      faults: faults)
  }

  /// Checks that the retention sweepers deleted anything at all: `untouched` checks what they must not delete, `swept`
  /// what they left.
  private var retention: Check {
    let names = left.keys.filter { $0.hasSuffix("-retention") }
    let deleted = names.map { name in
      (name, writes.transactions.filter { $0.sweeper == name }.reduce(0) { $0 + $1.changed })
    }
    return Check(
      name: "retention", claim: "rows that ended long ago are deleted",
      figures: deleted.sorted { $0.0 < $1.0 }.map { "\($0.1) by \($0.0)" }.joined(separator: ", "),
      faults: deleted.filter { $0.1 == 0 }.map { "\($0.0) deleted nothing" }
        + (names.isEmpty ? ["no such sweeper ran"] : []))
  }

  private var audit: Check {
    Check(
      name: "audit", claim: "each session, request and discovery that was given up has one event in the audit trail",
      figures: "\(trail.rows) rows",
      faults: (trail.wrong > 0 ? ["\(trail.wrong) rows have none, or more than one"] : [])
        + (trail.strange > 0 ? ["\(trail.strange) events are of other rows"] : [])
        + (trail.rows == 0 ? ["no such row was changed"] : []))
  }

  private var watch: Check {
    let ages = quietEnd.compactMap { $0.value("worker_queue_oldest_seconds", ["job_type": "sync"]) }
    let changed = writes.transactions.filter { $0.sweeper == Sweep.queue.rawValue && $0.changed > 0 }
    let limit = Sweep.queue.interval * 2
    return Check(
      name: "watch", claim: "the age of the oldest queued job is shown, and its watch changes no row",
      figures: "\(ages.max() ?? 0) s",
      faults: (Duration.seconds(ages.max() ?? 0) > limit ? [] : ["no replica shows it"])
        + changed.map { "\($0.committed) \($0.changed) rows were changed" })
  }
}
