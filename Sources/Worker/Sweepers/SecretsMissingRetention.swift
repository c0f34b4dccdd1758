// The sweeper secrets-missing-retention: deletes secrets that have long been missing, except those that a project is
// bound to.

import Reactor

extension SweeperDeclaration {
  static let secretsMissingRetention = SweeperDeclaration(
    interval: .retainSecretsMissing, sweeper: Sweeper.secretsMissingRetention)
}

extension Sweeper {
  /// A secret ends when it becomes missing, which sets updated_at. A later change of another column keeps it longer.
  static func secretsMissingRetention(_ settings: Settings) -> Sweeper {
    .retention(
      "secrets-missing-retention", of: "missing secrets", in: "secrets", retained: settings[.retainSecretsMissing],
      ended: "status = 'missing' AND greatest(last_seen_at, updated_at) <= :cutoff",
      // last_seen_at has an index. If a secret was seen, both columns are before the cutoff.
      key: "last_seen_at", otherMoments: ["updated_at"],
      reaches: "status = 'missing' AND last_seen_at <= :cutoff")
  }
}

extension Setting where Value == Duration? {
  static var retainSecretsMissing: Setting {
    .retention(
      "SB_WORKER_RETAIN_SECRETS_MISSING", of: "missing secrets",
      note: " Secrets that a project is bound to stay.")
  }
}
