// The sweeper wraps-expired: values in flight do not outlive their expiry.

import Reactor

extension Sweeper {
  /// No index serves the consumed rows' expiry: a look at the partial index could not tell that nothing is due.
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
          age: .zero)),
      report: Report(
        severity: .info, title: "expired wraps purged", countName: "deleted",
        failureTitle: "delete expired wraps failed"))
  }
}
