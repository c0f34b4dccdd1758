// The sweeper reveal-sessions-expired: when a user's time to view values is over, expires the wraps that show them.

import Reactor

extension SweeperDeclaration {
  static let revealSessionsExpired = SweeperDeclaration(
    interval: .revealSessionsExpiredInterval, sweeper: Sweeper.revealSessionsExpired)
}

extension Sweeper {
  static func revealSessionsExpired(_ settings: Settings) -> Sweeper {
    let audit = settings[.auditEvents] ? AuditNote.revealSessionEnded : nil
    return Sweeper(
      name: "reveal-sessions-expired",
      summary: "Ends reveal sessions past their expiry, and with each its unconsumed wraps.",
      interval: settings[.revealSessionsExpiredInterval],
      requires: [
        RequiredTable("reveal_sessions", "id", "expires_at", "expired_at", "expired_reason", "wrap_ids")
      ] + (audit == nil ? [] : [AuditNote.requirement]),
      work: .rows(
        RowSweep(
          table: "reveal_sessions",
          change: .update(set: "expired_at = :cutoff, expired_reason = 'ttl'"),
          due: "expired_at IS NULL AND expires_at <= :cutoff",
          key: "expires_at",
          otherMoments: ["expired_at"],
          age: .zero,
          index: .init(reaches: "expired_at IS NULL AND expires_at <= :cutoff"),
          // The api checks only a wrap's own expiry before it shows the value.
          linked: LinkedRows(
            table: "secret_wraps", references: "wrap_ids", id: "id",
            set: "expires_at = :cutoff",
            due: "consumed_at IS NULL AND expires_at > :cutoff",
            key: "expires_at"),
          audit: audit,
          probesFirst: true)),
      report: Report(
        severity: .info, title: "reveal sessions expired", countName: "sessions_swept",
        linkedCountName: "wraps_expired", failureTitle: "sweep expired reveal sessions failed"))
  }
}

extension AuditNote {
  /// As the api records the end of a session that its user closes.
  fileprivate static let revealSessionEnded = AuditNote(action: "reveal.session.expired", resource: "reveal_session")
}

extension Setting where Value == Duration? {
  static var revealSessionsExpiredInterval: Setting {
    .interval(
      "SB_WORKER_REVEAL_SESSIONS_EXPIRED_INTERVAL", default: .seconds(5),
      help: "Interval between searches for expired reveal sessions. Their wraps stay readable until then.")
  }
}
