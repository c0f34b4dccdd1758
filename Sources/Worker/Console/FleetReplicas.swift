// The replicas that Redis lists, and the settings in which they differ. Pure, but for the reading.
// Invariant: settings are compared by digests, so no value is known here. Used by `status`, `config` and the page.

import Coordination
import Reactor

/// The fleet's replicas.
struct FleetReplicas: Sendable {
  /// Each as last seen by any sweeper, by name.
  let all: [SweeperRecord.Replica]
  /// The settings that most replicas have; several if as many have others.
  private let commonSettings: [String]

  /// - Parameter listed: those of every sweeper.
  init(_ listed: [SweeperRecord.Replica] = []) {
    var latest: [String: SweeperRecord.Replica] = [:]
    for replica in listed where (latest[replica.name]?.seenAt ?? .min) < replica.seenAt {
      latest[replica.name] = replica
    }
    all = latest.values.sorted { $0.name < $1.name }
    let groups = Dictionary(grouping: all) { SettingDigest.shared($0.settings) }
    let most = groups.values.map(\.count).max() ?? 0
    commonSettings = groups.values.filter { $0.count == most }.map { $0[0].settings }.sorted()
  }

  /// How a replica's settings differ from those that most replicas have; nil if they cannot be compared. Of two that
  /// differ, neither has the common ones.
  func differences(of replica: SweeperRecord.Replica) -> [String]? {
    let own = SettingDigest.shared(replica.settings)
    guard let other = commonSettings.first(where: { SettingDigest.shared($0) != own }) else { return [] }
    return SettingDigest.differences(replica.settings, other)
  }

  /// Whether they differ in settings or version.
  var differ: Bool { all.contains { differences(of: $0) != [] || $0.version != all[0].version } }

  static let none = "No replica is known to run"

  /// - Parameter now: Redis's time in ms.
  func table(at now: Int64) -> ReportTable {
    var table = ReportTable(["replica", "seen", "version", "settings"])
    for replica in all {
      let age = GoDuration.text(wholeSecondsOf: .milliseconds(max(0, now - replica.seenAt)))
      let settings: ReportTable.Cell =
        switch differences(of: replica) {
        case nil: .text("cannot be compared: another version")
        case []?: .text("as the others")
        case let names?: .list(names.map { "differs: \($0)" })
        }
      table.rows.append([.text(replica.name), .text("\(age) ago"), .text(replica.version), settings])
    }
    return table
  }

  /// The table for JSON.
  var jsonTable: ReportTable {
    var table = ReportTable(["replica", "seen", "version", "differing_settings"])
    for replica in all {
      table.rows.append([
        .text(replica.name), .text(FleetStatus.time(replica.seenAt)), .text(replica.version),
        differences(of: replica).map { .list($0) } ?? .missing,
      ])
    }
    return table
  }
}

extension RedisScripts {
  /// Every sweeper's record, and Redis's time in ms.
  func readRecords(namespace: String, clock: LoopClock) async throws -> (time: Int64, records: [SweeperRecord]) {
    let names = Sweepers.names
    let keys = names.map { CoordinationScripts.keys(namespace: namespace, sweeper: $0) }
    let (time, parts) = try await readAll(
      CoordinationScripts.records, keys: keys.map { [$0.lock, $0.record] }, arguments: SweeperRecord.fields,
      by: clock.now.advanced(by: Coordinator.commandLimit))
    return (time, zip(names, parts).map { SweeperRecord(sweeper: $0, $1) })
  }
}
