// The sweeper discover-scheduler: one queued discover job a configured target and slot.

import Reactor

extension Sweeper {
  /// Off (nil) where no target is configured.
  static func discoverScheduler(_ settings: Settings) -> Sweeper? {
    let targets = settings[.discoverTargets]
    guard !targets.targets.isEmpty else { return nil }
    return Sweeper(
      name: "discover-scheduler",
      summary: "Queues one discover job for each configured target.",
      interval: settings[.discoverInterval],
      work: .discovery(Discovery(targets: targets, pilesUp: settings[.discoverPileUp])),
      report: Report(
        severity: .info, title: "discover jobs enqueued", countName: "enqueued",
        failureTitle: "some discover targets failed to enqueue"))
  }
}
