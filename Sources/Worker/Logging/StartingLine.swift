// The first line of the log: which worker this is, and what it was told to do. Pure.
// Invariant: no secret, no URL of a sink; what is off is there with its reason.

import Logging
import Reactor

/// The fields of the line "starting".
enum StartingLine {
  /// - Parameter sandbox: what of it is in effect.
  static func fields(_ settings: Settings, sandbox: String) -> Logger.Metadata {
    var sweepers: [String: Logger.MetadataValue] = [:]
    for sweeper in Sweepers.all(settings) {
      sweepers[sweeper.name] = sweeper.interval.map { "every \(GoDuration.text($0))" }
    }
    for absence in Sweepers.absent(settings) { sweepers[absence.name] = "off: \(absence.reason)" }
    let sinks = SinkSet(settings, origin: NotificationOrigin(replica: "", namespace: "")).sinks
    return [
      "version": "\(Version.number)", "address": "\(settings[.localAddress])",
      "postgres": "\(settings[.databaseURL].redactedURL)", "redis": "\(settings[.redisURL].redactedURL)",
      "sandbox": "\(sandbox)",
      "namespace": "\(settings[.redisNamespace])", "lease": "\(GoDuration.text(settings[.lease]))",
      "sweepers": .dictionary(sweepers), "sinks": .array(sinks.map { "\($0.name)" }),
    ]
  }
}
