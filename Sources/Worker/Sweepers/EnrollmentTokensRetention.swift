// The sweeper enrollment-tokens-retention: deletes agents' ended enrollment tokens.

import Reactor

extension SweeperDeclaration {
  static let enrollmentTokensRetention = SweeperDeclaration(
    interval: .retainEnrollmentTokens, sweeper: Sweeper.enrollmentTokensRetention)
}

extension Sweeper {
  /// A token ends when it is consumed, revoked, or expires, whichever comes first.
  static func enrollmentTokensRetention(_ settings: Settings) -> Sweeper {
    .retention(
      "enrollment-tokens-retention", of: "ended enrollment tokens", in: "agent_enrollment_tokens",
      retained: settings[.retainEnrollmentTokens],
      requires: [RequiredTable("agent_enrollment_tokens", "id", "expires_at", "consumed_at", "revoked_at")],
      ended: "least(expires_at, consumed_at, revoked_at) <= :cutoff",
      // A full pass finds tokens consumed or revoked before their expiry.
      key: "expires_at", otherMoments: ["consumed_at", "revoked_at"], reaches: "expires_at <= :cutoff")
  }
}

extension Setting where Value == Duration? {
  static var retainEnrollmentTokens: Setting {
    .retention("SB_WORKER_RETAIN_ENROLLMENT_TOKENS", of: "ended enrollment tokens")
  }
}
