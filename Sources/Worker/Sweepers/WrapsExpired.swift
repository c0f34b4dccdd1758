// The sweeper wraps-expired: deletes wrapped values that have expired.

import Reactor

extension SweeperDeclaration {
  static let wrapsExpired = SweeperDeclaration(
    interval: .wrapsExpiredInterval, settings: [Setting.wrapsFullSweep.row],
    sweeper: Sweeper.wrapsExpired)
}

extension Sweeper {
  static func wrapsExpired(_ settings: Settings) -> Sweeper {
    Sweeper(
      name: "wraps-expired",
      summary: "Deletes secret wraps past their expiry, consumed or not.",
      interval: settings[.wrapsExpiredInterval],
      work: .rows(
        RowSweep(
          table: "secret_wraps",
          change: .delete,
          due: "expires_at <= :cutoff",
          key: "expires_at",
          age: .zero,
          // No index covers consumed wraps.
          index: .init(
            reaches: "consumed_at IS NULL AND expires_at <= :cutoff",
            fullPassWithin: settings[.wrapsFullSweep]))),
      report: Report(
        severity: .info, title: "expired wraps purged", countName: "deleted",
        failureTitle: "delete expired wraps failed"))
  }
}

extension Setting where Value == Duration? {
  static var wrapsExpiredInterval: Setting {
    .interval(
      "SB_WORKER_WRAPS_EXPIRED_INTERVAL", default: .seconds(60), help: "Interval between purges of expired wraps.")
  }
}

extension Setting where Value == Duration {
  static var wrapsFullSweep: Setting {
    .duration(
      "SB_WORKER_WRAPS_FULL_SWEEP", default: .seconds(900),
      help: """
        Maximum time from a consumed wrap's expiry to its deletion. No index finds consumed wraps, so a large table \
        is read whole this often.
        """)
  }
}
