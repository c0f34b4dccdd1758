// The sweeper discover-scheduler: one queued discover job a configured target and slot.

import Reactor

extension SweeperDeclaration {
  static let discoverScheduler = SweeperDeclaration(
    settings: [Setting.discoverInterval.row, Setting.discoverTargets.row, Setting.discoverPileUp.row],
    sweeper: Sweeper.discoverScheduler)
}

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

extension Setting where Value == Duration {
  static var discoverInterval: Setting {
    .inheritedDuration(
      "SB_WORKER_DISCOVER_INTERVAL", default: .seconds(3_600), help: "How often discovery is enqueued for each target.")
  }
}

extension Setting where Value == DiscoverTargets {
  static var discoverTargets: Setting {
    Setting(
      name: "SB_DISCOVER_TARGETS_JSON", kind: "JSON array", absence: .value(DiscoverTargets()),
      help: """
        Where discovery looks: [{"name", "cluster", "provider_type", "provider_config", "scope"}, …]; \
        the last two are optional objects. Unset: the discover scheduler is off.
        """,
      // A provider's configuration should hold no credential; where one does, it is not for the log.
      isSecret: true, read: DiscoverTargets.read)
  }
}

extension Setting where Value == Bool {
  static var discoverPileUp: Setting {
    .boolean(
      "SB_WORKER_DISCOVER_PILE_UP", default: false,
      help: "Whether a target gets another discover job while an equal one is still queued, its agent being away.")
  }
}
