// The sweeper enrollment-tokens-retention: agents' enrollment tokens are not kept for ever.

import Reactor

extension SweeperDeclaration {
  static let enrollmentTokensRetention = SweeperDeclaration(
    interval: .retainEnrollmentTokens, sweeper: Sweeper.enrollmentTokensRetention)
}

extension Sweeper {
  /// A token ends when it is consumed, when it is revoked, or when it expires: whatever comes first.
  static func enrollmentTokensRetention(_ settings: Settings) -> Sweeper {
    .retention(
      "enrollment-tokens-retention", of: "ended enrollment tokens", in: "agent_enrollment_tokens",
      retained: settings[.retainEnrollmentTokens],
      requires: [RequiredTable("agent_enrollment_tokens", "id", "expires_at", "consumed_at", "revoked_at")],
      ended: "least(expires_at, consumed_at, revoked_at) <= :cutoff",
      // One that was consumed or revoked before its expiry is left to the pass.
      key: "expires_at", otherMoments: ["consumed_at", "revoked_at"], reaches: "expires_at <= :cutoff")
  }
}

extension Setting where Value == Duration? {
  static var retainEnrollmentTokens: Setting {
    .retention("SB_WORKER_RETAIN_ENROLLMENT_TOKENS", of: "ended enrollment tokens")
  }
}
