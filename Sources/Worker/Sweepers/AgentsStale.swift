// The sweeper agents-stale: marks an active agent without a heartbeat as stale. Skips one that was never seen.

import Reactor

extension SweeperDeclaration {
  static let agentsStale = SweeperDeclaration(
    interval: .agentsStaleInterval, settings: [Setting.agentsStaleAfter.row, Setting.agentsStaleMaximumShare.row],
    sweeper: Sweeper.agentsStale)
}

extension Sweeper {
  static func agentsStale(_ settings: Settings) -> Sweeper {
    Sweeper(
      name: "agents-stale",
      summary: "Marks active agents stale whose last heartbeat is too old.",
      interval: settings[.agentsStaleInterval],
      work: .rows(
        RowSweep(
          table: "agents",
          change: .update(set: "status = 'stale'"),
          due: "status = 'active' AND last_seen_at < :cutoff",
          key: "last_seen_at",
          age: settings[.agentsStaleAfter],
          index: .init(reaches: "last_seen_at < :cutoff"),
          shareLimit: ShareLimit(
            percent: settings[.agentsStaleMaximumShare],
            live: "status = 'active' AND last_seen_at IS NOT NULL", changed: "status = 'stale'",
            warning: "agents look silent: is it the api?"))),
      report: Report(
        severity: .warn, title: "agents flagged stale (no heartbeat past cutoff)", countName: "flipped",
        showsCutoff: true, failureTitle: "flag stale agents failed"))
  }
}

extension Setting where Value == Duration? {
  static var agentsStaleInterval: Setting {
    .interval(
      "SB_WORKER_AGENTS_STALE_INTERVAL", default: .seconds(60), help: "Interval between searches for silent agents.")
  }
}

extension Setting where Value == Duration {
  static var agentsStaleAfter: Setting {
    .inheritedDuration(
      "SB_WORKER_AGENTS_STALE_AFTER", default: .seconds(300),
      help: "An agent is marked stale when it has sent no heartbeat for this long.")
  }
}

extension Setting where Value == Int {
  static var agentsStaleMaximumShare: Setting {
    .percentage(
      "SB_WORKER_AGENTS_STALE_MAX_SHARE", default: 100,
      help: """
        Maximum share of the active agents that a run may mark stale. A run that finds a larger share, and more \
        than 20 rows, fails without changes.
        """)
  }
}
