// The sweeper sessions-retention: deletes users' ended sessions, because they hold personal data.

import Reactor

extension SweeperDeclaration {
  static let sessionsRetention = SweeperDeclaration(interval: .retainSessions, sweeper: Sweeper.sessionsRetention)
}

extension Sweeper {
  /// A session ends when it is revoked, expires, or has been idle for too long, whichever comes first.
  static func sessionsRetention(_ settings: Settings) -> Sweeper {
    .retention(
      "sessions-retention", of: "ended sessions", in: "sessions", retained: settings[.retainSessions],
      requires: [RequiredTable("sessions", "id", "expires_at", "idle_expires_at", "revoked_at")],
      ended: "least(expires_at, idle_expires_at, revoked_at) <= :cutoff",
      // A full pass finds sessions revoked or idle before their expiry.
      key: "expires_at", otherMoments: ["idle_expires_at", "revoked_at"], reaches: "expires_at <= :cutoff")
  }
}

extension Setting where Value == Duration? {
  static var retainSessions: Setting {
    .retention("SB_WORKER_RETAIN_SESSIONS", of: "ended sessions")
  }
}
