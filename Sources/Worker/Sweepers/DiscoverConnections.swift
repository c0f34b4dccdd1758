// The sweeper discover-connections: enqueues one discover job for each provider connection due for discovery.

import Reactor

extension SweeperDeclaration {
  static let discoverConnections = SweeperDeclaration(
    interval: .discoverConnectionsInterval, sweeper: Sweeper.discoverConnections)
}

extension Sweeper {
  static let discoverConnectionsName = "discover-connections"

  static func discoverConnections(_ settings: Settings) -> Sweeper {
    Sweeper(
      name: discoverConnectionsName,
      summary: "Queues one discover job for each provider connection that is due.",
      interval: settings[.discoverConnectionsInterval],
      requires: [
        RequiredTable(
          "provider_connections", "cluster_name", "discover_enabled", "discover_interval_seconds", "last_discover_at",
          "last_discover_status", "last_discover_error", "last_discover_started_at")
      ],
      work: .connections(
        ConnectionDiscovery(
          targets: settings[.discoverTargets], pilesUp: settings[.discoverPileUp],
          // connections-stuck gives up a discovery first, and notifies.
          patience: settings[.connectionsStuckInterval].map { $0 * 2 } ?? .zero)),
      report: Report(
        severity: .info, title: "discover jobs enqueued", countName: "enqueued",
        failureTitle: "some discover targets failed to enqueue"))
  }
}

extension Setting where Value == Duration? {
  static var discoverConnectionsInterval: Setting {
    .interval(
      "SB_WORKER_DISCOVER_CONNECTIONS_INTERVAL", default: .seconds(30),
      help: "Interval between searches for connections that are due for discovery.")
  }
}
