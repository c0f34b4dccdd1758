// PagerDuty: a failure triggers an incident, the recovery resolves it (Events API v2).

import Reactor

/// Posts events. One incident a component and control plane: replicas and reminders meet in it by its dedup_key.
struct PagerDutySink: Sink {
  /// Of a summary, in characters: PagerDuty's own.
  private static let summaryLimit = 1_024

  let name = "pagerduty"
  let minSeverity: Event.Severity
  let url: String
  let routingKey: String
  let origin: NotificationOrigin

  func request(for event: Event, at time: WallClockTime) -> TransferRequest {
    var json = JSONWriter()
    json.beginObject()
    json.field("routing_key", routingKey)
    json.field("event_action", event.kind == .recovery ? "resolve" : "trigger")
    json.field("dedup_key", "\(origin.namespace)/\(event.component)")
    json.field("client", Version.program)
    json.key("payload")
    payload(&json, event)
    json.endObject()
    return .json(json, to: url)
  }

  private func payload(_ json: inout JSONWriter, _ event: Event) {
    json.beginObject()
    json.field("summary", String("\(event.component): \(event.title)".prefix(Self.summaryLimit)))
    json.field("source", origin.replica)
    json.field("severity", event.severity == .warn ? "warning" : event.severity.rawValue)
    json.field("timestamp", event.time.rfc3339)
    json.field("component", event.component)
    json.field("group", origin.namespace)
    json.key("custom_details")
    json.beginObject()
    if !event.detail.isEmpty { json.field("detail", event.detail) }
    for count in event.metadata { json.field(count.name, count.count) }
    json.endObject()
    json.endObject()
  }
}
