// The sweeper secrets-stale: marks a secret that no discovery has seen for long as missing.

import Reactor

extension SweeperDeclaration {
  static let secretsStale = SweeperDeclaration(
    interval: .secretsStaleInterval, settings: [Setting.secretsStaleAfter.row, Setting.secretsStaleMaximumShare.row],
    sweeper: Sweeper.secretsStale)
}

extension Sweeper {
  static func secretsStale(_ settings: Settings) -> Sweeper {
    Sweeper(
      name: "secrets-stale",
      summary: "Marks present secrets missing that no discovery has seen for long.",
      interval: settings[.secretsStaleInterval],
      work: .rows(
        RowSweep(
          table: "secrets",
          change: .update(set: "status = 'missing'"),
          due: "status = 'present' AND last_seen_at < :cutoff",
          key: "last_seen_at",
          age: settings[.secretsStaleAfter],
          index: .init(reaches: "last_seen_at < :cutoff"),
          shareLimit: ShareLimit(
            percent: settings[.secretsStaleMaximumShare],
            live: "status = 'present'", changed: "status = 'missing'",
            warning: "secrets look missing: has discovery stopped?"))),
      report: Report(
        severity: .warn, title: "discovered secrets marked missing", countName: "flipped", showsCutoff: true,
        failureTitle: "mark stale secrets failed"))
  }
}

extension Setting where Value == Duration? {
  static var secretsStaleInterval: Setting {
    .interval(
      "SB_WORKER_SECRETS_STALE_INTERVAL", default: .seconds(300), help: "Interval between searches for stale secrets.")
  }
}

extension Setting where Value == Duration {
  static var secretsStaleAfter: Setting {
    .inheritedDuration(
      "SB_WORKER_SECRETS_STALE_AFTER", default: .seconds(24 * 3_600),
      help: "A secret is marked missing when no discovery has seen it for this long.")
  }
}

extension Setting where Value == Int {
  static var secretsStaleMaximumShare: Setting {
    .percentage(
      "SB_WORKER_SECRETS_STALE_MAX_SHARE", default: 100,
      help: """
        Maximum share of the present secrets that a run may mark missing. A run that finds a larger share, and more \
        than 20 rows, fails without changes.
        """)
  }
}
