// The sweeper wraps-expired: values in flight do not outlive their expiry.

import Reactor

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
          age: .zero,
          // No index has the consumed ones' expiry.
          index: .init(
            column: "expires_at", reaches: "consumed_at IS NULL AND expires_at <= :cutoff",
            fullPassWithin: settings[.wrapsFullSweep]))),
      report: Report(
        severity: .info, title: "expired wraps purged", countName: "deleted",
        failureTitle: "delete expired wraps failed"))
  }
}
