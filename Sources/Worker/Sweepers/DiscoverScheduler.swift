// The sweeper discover-scheduler: enqueues one discover job per configured target and slot.

import Reactor

extension SweeperDeclaration {
  static let discoverScheduler = SweeperDeclaration(
    interval: .discoverInterval, settings: [Setting.discoverTargets.row, Setting.discoverPileUp.row],
    sweeper: Sweeper.discoverScheduler, absence: "SB_DISCOVER_TARGETS_JSON has no target")
}

extension Sweeper {
  /// Off if no target is configured.
  static func discoverScheduler(_ settings: Settings) -> Sweeper {
    let targets = settings[.discoverTargets]
    return Sweeper(
      name: "discover-scheduler",
      summary: "Queues one discover job for each configured target.",
      interval: targets.targets.isEmpty ? nil : settings[.discoverInterval],
      work: .discovery(Discovery(targets: targets, pilesUp: settings[.discoverPileUp])),
      report: Report(
        severity: .info, title: "discover jobs enqueued", countName: "enqueued",
        failureTitle: "some discover targets failed to enqueue"))
  }
}

extension Setting where Value == Duration? {
  static var discoverInterval: Setting {
    .interval(
      "SB_WORKER_DISCOVER_INTERVAL", default: .seconds(3_600), help: "Interval between discover jobs for each target.")
  }
}

extension Setting where Value == DiscoverTargets {
  static var discoverTargets: Setting {
    Setting(
      name: "SB_DISCOVER_TARGETS_JSON", kind: "JSON array", absence: .value(DiscoverTargets()),
      help: """
        Discovery targets: [{"name", "cluster", "provider_type", "provider_config", "scope"}, …]. provider_config \
        is an optional object, scope an optional string. Without targets discover-scheduler is off.
        """,
      // A provider's configuration should hold no credential; if one does, it must not be logged.
      isSecret: true, read: DiscoverTargets.read)
  }
}

extension Setting where Value == Bool {
  static var discoverPileUp: Setting {
    .boolean(
      "SB_WORKER_DISCOVER_PILE_UP", default: false,
      help: "Enqueue a discover job even if an earlier one for the same target or connection is still queued.")
  }
}
