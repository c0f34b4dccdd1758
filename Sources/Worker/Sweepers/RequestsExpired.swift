// The sweeper requests-expired: expires a request pending for longer than its workflow allows.

import Reactor

extension SweeperDeclaration {
  static let requestsExpired = SweeperDeclaration(
    interval: .requestsExpiredInterval, sweeper: Sweeper.requestsExpired)
}

extension Sweeper {
  static func requestsExpired(_ settings: Settings) -> Sweeper {
    let audit = settings[.auditEvents] ? AuditNote(action: "request.expired", resource: "access_request") : nil
    return Sweeper(
      name: "requests-expired",
      summary: "Expires requests that have been pending for longer than their workflow allows.",
      interval: settings[.requestsExpiredInterval],
      requires: [
        RequiredTable("access_requests", "id", "status", "created_at", "workflow_id"),
        RequiredTable("workflow_definitions", "id", "request_ttl"),
      ] + (audit == nil ? [] : [AuditNote.requirement]),
      work: .rows(
        RowSweep(
          table: "access_requests",
          change: .update(set: "status = 'expired'"),
          // In UTC, so that days and months do not depend on the session's time zone. The year 9999 is in seconds,
          // which no session setting affects.
          due: """
            created_at <= (:cutoff - (:least_seconds * '1 second'::interval)) AND status = 'pending'
              AND (timezone('UTC'::text,
                (timezone('UTC'::text, least(created_at, to_timestamp(253370764800))) + :request_ttl)) <= :cutoff)
            """,
          key: "created_at",
          age: .zero,
          // A request cannot be due before its creation.
          index: .init(reaches: "status = 'pending' AND created_at <= :cutoff"),
          lookup: .init(
            placeholder: ":request_ttl",
            // Limited so that any moment until 9999 plus it is valid. A request without a workflow never expires.
            value: "greatest(least(request_ttl, '1000 years'::interval), '0 seconds'::interval)",
            table: "workflow_definitions", key: "id", foreignKey: "workflow_id",
            // In epoch a month counts for up to three days more than it may have.
            least: .init(
              placeholder: ":least_seconds",
              seconds: """
                extract(epoch FROM value)
                  - (abs((extract(year FROM value) * 12) + extract(month FROM value)) * (3 * 86400))
                """)),
          audit: audit)),
      report: Report(
        severity: .info, title: "pending requests expired", countName: "requests_swept",
        failureTitle: "sweep expired requests failed"))
  }
}

extension Setting where Value == Duration? {
  static var requestsExpiredInterval: Setting {
    .interval(
      "SB_WORKER_REQUESTS_EXPIRED_INTERVAL", default: nil,
      help: "Interval between searches for requests pending for longer than their workflow allows.")
  }
}

extension Setting where Value == Bool {
  static var auditEvents: Setting {
    .boolean(
      "SB_WORKER_AUDIT_EVENTS", default: false,
      help: """
        Record expired reveal sessions, expired requests and failed discoveries in audit_events, in the same \
        transaction.
        """)
  }
}
