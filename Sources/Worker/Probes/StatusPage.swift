// The page at /: the fleet in a browser. Pure.
// Invariants: one document without scripts or external resources; everything from Redis is escaped; whatever a colour
// shows, a word says too.

import Coordination
import Reactor

/// Writes the page.
struct StatusPage {
  /// How often a browser reloads it.
  static let refreshSeconds = 10
  /// The most replicas listed.
  private static let replicaLimit = 50

  let status: FleetStatus
  /// The last runs of each sweeper in `status`, the oldest first.
  let runs: [[RunMark]]
  let namespace: String
  /// When it was made.
  let time: WallClockTime

  var html: [UInt8] {
    var html = HTMLWriter()
    html.markup(
      """
      <!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Secrets Bridge worker</title>\
      <meta name="viewport" content="width=device-width, initial-scale=1">\
      <meta name="color-scheme" content="light dark"><meta http-equiv="refresh" content="
      """)
    html.number(Self.refreshSeconds)
    html.markup("\"><style>")
    html.markup(StatusPageStyle.css)
    html.markup("</style></head><body>")
    writeHead(to: &html)
    writeAttention(to: &html)
    html.markup("<main>")
    for (sweeper, runs) in zip(status.sweepers, runs) where sweeper.state != .off {
      write(sweeper, runs, to: &html)
    }
    html.markup("</main>")
    writeOff(to: &html)
    writeReplicas(to: &html)
    html.markup("</body></html>\n")
    return html.bytes
  }

  private func writeHead(to html: inout HTMLWriter) {
    html.markup("<header><h1>Secrets Bridge worker</h1><p>As of <time>")
    html.text(time.rfc3339Seconds)
    html.markup("</time>, refreshed every ")
    html.number(Self.refreshSeconds)
    html.markup(" s. Namespace <b>")
    html.isolated(namespace)
    html.markup("</b>.</p><ul class=\"servers\">")
    for server in status.servers {
      html.markup(server.fault == nil ? "<li class=\"good\">✓ " : "<li class=\"bad\">✗ ")
      html.text(server.name)
      html.markup(": ")
      html.isolated(server.fault ?? "ok")
      html.markup("</li>")
    }
    html.markup("</ul></header>")
  }

  /// What needs attention, each with its notes.
  private func writeAttention(to html: inout HTMLWriter) {
    html.markup("<section class=\"attention\"><h2>Needs attention</h2>")
    let sweepers = status.sweepers.filter(\.needsAttention)
    let differing = status.replicas.prefix(Self.replicaLimit).filter { !(status.differences(of: $0)?.isEmpty ?? false) }
    guard status.redisTime != nil else {
      return html.markup("<p>Redis does not answer, so nothing is known of the sweepers.</p></section>")
    }
    if sweepers.isEmpty, differing.isEmpty { html.markup("<p>Nothing.</p>") }
    html.markup("<ul>")
    for sweeper in sweepers {
      html.markup("<li><b>")
      html.text(sweeper.record.sweeper)
      html.markup("</b> ")
      if sweeper.notes.isEmpty { html.text(sweeper.state.rawValue) }
      for (index, note) in sweeper.notes.enumerated() {
        if index > 0 { html.markup("; ") }
        html.isolated(note)
      }
      html.markup("</li>")
    }
    for replica in differing {
      html.markup("<li><b>")
      html.isolated(replica.name)
      html.markup("</b> ")
      html.text(settings(of: replica))
      html.markup("</li>")
    }
    html.markup("</ul></section>")
  }

  private func write(_ sweeper: SweeperStatus, _ runs: [RunMark], to html: inout HTMLWriter) {
    let record = sweeper.record
    html.markup("<section class=\"sweeper\"><h2>")
    html.text(record.sweeper)
    html.markup(sweeper.needsAttention ? " <span class=\"bad\">▲ " : " <span class=\"good\">")
    html.text(sweeper.state.rawValue)
    html.markup("</span></h2><p>")
    html.text(lastRun(record))
    if let by = record.text("by") {
      html.markup(" on ")
      html.isolated(by)
    }
    html.markup("</p><p>")
    html.text(sweeper.interval.map { "Every \(FleetStatus.duration($0))" } ?? "No interval known")
    if let due = sweeper.due {
      html.text(
        due <= (status.redisTime ?? due) ? ", due now" : ", next in \(span(due - (status.redisTime ?? due) + 999))")
    }
    html.markup("</p>")
    RunPlots(runs: runs).write(to: &html)
    for note in sweeper.notes {
      html.markup("<p class=\"note\">")
      html.isolated(note)
      html.markup("</p>")
    }
    html.markup("</section>")
  }

  private func lastRun(_ record: SweeperRecord) -> String {
    guard let ended = record.number("ended"), let now = status.redisTime else { return "No run yet" }
    let (found, changed) = (record.number("found") ?? 0, record.number("rows") ?? 0)
    let took = record.number("duration").map { " in \(FleetStatus.duration($0))" } ?? ""
    return
      "Last run \(span(now - ended)) ago: \(record.text("outcome") ?? "unknown"), \(changed) of \(found) rows\(took)"
  }

  private func writeOff(to html: inout HTMLWriter) {
    let off = status.sweepers.filter { $0.state == .off }
    guard !off.isEmpty else { return }
    html.markup("<section><h2>Off</h2><ul>")
    for sweeper in off {
      html.markup("<li><b>")
      html.text(sweeper.record.sweeper)
      html.markup("</b> ")
      for note in sweeper.notes { html.isolated(note) }
      html.markup("</li>")
    }
    html.markup("</ul></section>")
  }

  private func writeReplicas(to html: inout HTMLWriter) {
    guard status.redisTime != nil else { return }
    html.markup("<section><h2>Replicas</h2>")
    let replicas = status.replicas
    if replicas.isEmpty { html.markup("<p>No replica is known to run.</p>") }
    html.markup("<ul>")
    for replica in replicas.prefix(Self.replicaLimit) {
      html.markup("<li><b>")
      html.isolated(replica.name)
      html.markup("</b> seen ")
      html.text(span((status.redisTime ?? 0) - replica.seenAt))
      html.markup(" ago, version ")
      html.isolated(replica.version)
      html.markup(", ")
      html.text(settings(of: replica))
      html.markup("</li>")
    }
    if replicas.count > Self.replicaLimit {
      html.markup("<li>and ")
      html.number(replicas.count - Self.replicaLimit)
      html.markup(" more</li>")
    }
    html.markup("</ul></section>")
  }

  private func settings(of replica: SweeperRecord.Replica) -> String {
    guard let differences = status.differences(of: replica) else {
      return "settings cannot be compared: another version"
    }
    if differences.isEmpty { return "settings as the others" }
    var text = "differs in"
    for (index, name) in differences.enumerated() { text += (index == 0 ? " " : ", ") + name }
    return text
  }

  private func span(_ milliseconds: Int64) -> String {
    GoDuration.text(wholeSecondsOf: .milliseconds(max(0, milliseconds)))
  }
}
