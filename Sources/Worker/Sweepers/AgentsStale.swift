// The sweeper agents-stale: an active agent without a heartbeat is marked stale. One that was never seen is left alone.

import Reactor

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
          age: settings[.agentsStaleAfter],
          index: .init(column: "last_seen_at", reaches: "last_seen_at < :cutoff"))),
      report: Report(
        severity: .warn, title: "agents flagged stale (no heartbeat past cutoff)", countName: "flipped",
        showsCutoff: true, failureTitle: "flag stale agents failed"))
  }
}
