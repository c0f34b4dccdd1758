// The sweeper reveal-sessions-retention: closed reveal sessions are not kept for ever.

import Reactor

extension SweeperDeclaration {
  static let revealSessionsRetention = SweeperDeclaration(
    interval: .retainRevealSessions, sweeper: Sweeper.revealSessionsRetention)
}

extension Sweeper {
  /// A reveal session ends when it is closed, by its user or by reveal-sessions-expired. One that has run out and is
  /// not closed still has wraps that can be read: it stays.
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
