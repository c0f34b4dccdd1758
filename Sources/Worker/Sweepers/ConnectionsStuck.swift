// The sweeper connections-stuck: gives up a discovery that has timed out, so that its connection does not stay
// "running" forever.

import Reactor

extension SweeperDeclaration {
  static let connectionsStuck = SweeperDeclaration(
    interval: .connectionsStuckInterval, sweeper: Sweeper.connectionsStuck)
}

extension Sweeper {
  static func connectionsStuck(_ settings: Settings) -> Sweeper {
    let audit = settings[.auditEvents] ? AuditNote.discoveryGivenUp : nil
    return Sweeper(
      name: "connections-stuck",
      summary: "Marks discoveries of connections failed that have brought no result in time.",
      interval: settings[.connectionsStuckInterval],
      requires: [
        RequiredTable(
          "provider_connections", "discover_interval_seconds", "last_discover_status", "last_discover_error",
          "last_discover_started_at", "last_discover_finished_at")
      ] + (audit == nil ? [] : [AuditNote.requirement]),
      work: .rows(
        RowSweep(
          table: "provider_connections",
          change: .update(
            set: """
              last_discover_status = 'failure', last_discover_finished_at = now(), \
              last_discover_error = concat('no result within ', \(DiscoveryLimit.seconds), ' s')
              """),
          due: "last_discover_status = 'running' AND last_discover_started_at < (:cutoff - \(DiscoveryLimit.interval))",
          key: "last_discover_started_at",
          otherMoments: ["last_discover_finished_at"],
          age: .zero,
          index: .init(reaches: "last_discover_status = 'running' AND last_discover_started_at < :cutoff"),
          audit: audit)),
      report: Report(
        severity: .warn, title: "connection discoveries given up (no result in time)", countName: "given_up",
        detail: "no agent has reported a result within twice the connection's interval, ten minutes at least",
        failureTitle: "give up stuck connection discoveries failed"))
  }
}

extension AuditNote {
  /// As the api records the end of a failed discovery.
  fileprivate static let discoveryGivenUp = AuditNote(
    action: "provider_connection.discover_finished", resource: "provider_connection", status: "failure",
    metadata: "jsonb_build_object('connection_id', changed.id, 'status', 'failure', 'has_error', true)")
}

/// The time limit of a connection's discovery, in SQL over the columns of provider_connections: twice its interval, at
/// least ten minutes.
enum DiscoveryLimit {
  static let seconds = "greatest(((discover_interval_seconds)::bigint * 2), 600)"
  static let interval = "(\(seconds) * '1 second'::interval)"
}

extension Setting where Value == Duration? {
  static var connectionsStuckInterval: Setting {
    .interval(
      "SB_WORKER_CONNECTIONS_STUCK_INTERVAL", default: .seconds(60),
      help: "Interval between searches for connections whose discovery has timed out.")
  }
}
