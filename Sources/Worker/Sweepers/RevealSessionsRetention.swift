// The sweeper reveal-sessions-retention: deletes reveal sessions closed long ago.

import Reactor

extension SweeperDeclaration {
  static let revealSessionsRetention = SweeperDeclaration(
    interval: .retainRevealSessions, sweeper: Sweeper.revealSessionsRetention)
}

extension Sweeper {
  /// A reveal session ends when its user or reveal-sessions-expired closes it. One that has run out but is not closed
  /// still has readable wraps: it stays.
  static func revealSessionsRetention(_ settings: Settings) -> Sweeper {
    .retention(
      "reveal-sessions-retention", of: "closed reveal sessions", in: "reveal_sessions",
      retained: settings[.retainRevealSessions],
      requires: [RequiredTable("reveal_sessions", "id", "expired_at")],
      ended: "expired_at <= :cutoff",
      key: "expired_at", reaches: "expired_at <= :cutoff")
  }
}

extension Setting where Value == Duration? {
  static var retainRevealSessions: Setting {
    .retention("SB_WORKER_RETAIN_REVEAL_SESSIONS", of: "closed reveal sessions")
  }
}
