// The recorders of a Redis or of all masters of a Redis Cluster, as one record.
// Invariant: a script's own commands directly follow it in the record, whatever other nodes executed meanwhile.

import Foundation

/// One recorder a node.
struct RedisMonitors: Sendable {
  private let monitors: [RedisMonitor]

  init(ports: [UInt16], password: String?) {
    monitors = ports.map { RedisMonitor(port: $0, password: password) }
  }

  /// How often a recorder's connection ended.
  var gaps: Int { monitors.reduce(0) { $0 + $1.gaps } }
  /// The record so far, in order of time.
  var lines: [String] { Self.merged(monitors.map(\.lines)) }

  func stop() {
    for monitor in monitors { monitor.stop() }
  }

  func waitUntilRecording() async throws {
    for monitor in monitors { try await monitor.waitUntilRecording() }
  }

  /// Goes on with a single server's replacement.
  func follow(to port: UInt16) async throws {
    for monitor in monitors { try await monitor.follow(to: port) }
  }

  static func merged(_ records: [[String]]) -> [String] {
    if records.count == 1 { return records[0] }
    var calls: [(at: Substring, lines: [String])] = []
    for record in records {
      var isFirst = true
      for line in record {
        if !isFirst, line.prefix(while: { $0 != "]" }).hasSuffix(" lua") {
          calls[calls.count - 1].lines.append(line)
        } else {
          calls.append((line.prefix { $0 != " " }, [line]))
        }
        isFirst = false
      }
    }
    return calls.sorted { $0.at < $1.at }.flatMap(\.lines)
  }
}
