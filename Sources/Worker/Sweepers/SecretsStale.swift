// The sweeper secrets-stale: a secret that no discovery has seen for long is marked missing.

import Reactor

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
          age: settings[.secretsStaleAfter],
          probe: .init(indexed: "last_seen_at < :cutoff", order: "last_seen_at DESC"))),
      report: Report(
        severity: .warn, title: "discovered secrets marked missing", countName: "flipped", showsCutoff: true,
        failureTitle: "mark stale secrets failed"))
  }
}
