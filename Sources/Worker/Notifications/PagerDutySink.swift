// PagerDuty: a failure triggers an incident, the recovery resolves it (Events API v2). A report of changed rows is a
// change event, which never opens an incident.

import Reactor

/// Posts events. Each component of a control plane has one incident; replicas and reminders share it through its
/// dedup_key.
struct PagerDutySink: Sink {
  /// PagerDuty's limit of a summary, in characters.
  private static let summaryLimit = 1_024
  /// PagerDuty's limit of a dedup_key, in characters.
  private static let keyLimit = 255

  let name = "pagerduty"
  let minSeverity: Event.Severity
  let url: String
  let routingKey: String
  let origin: NotificationOrigin

  func request(for event: Event, at time: WallClockTime) -> TransferRequest {
    var json = JSONWriter()
    json.beginObject()
    json.field("routing_key", routingKey)
    guard event.kind != .report else {
      json.key("payload")
      changePayload(&json, event)
      json.endObject()
      return .json(json, to: Self.changeURL(url))
    }
    json.field("event_action", event.kind == .recovery ? "resolve" : "trigger")
    json.field("dedup_key", incident(of: event))
    json.field("client", Version.program)
    json.key("payload")
    payload(&json, event)
    json.endObject()
    return .json(json, to: url)
  }

  /// Resolves the incident of a test.
  func requestAfterTest(_ event: Event) -> TransferRequest? {
    var json = JSONWriter()
    json.beginObject()
    json.field("routing_key", routingKey)
    json.field("event_action", "resolve")
    json.field("dedup_key", incident(of: event))
    json.endObject()
    return .json(json, to: url)
  }

  /// A test has its own incident, so it cannot affect a real one.
  private func incident(of event: Event) -> String {
    let subject = event.kind == .test ? "\(event.component)/\(event.id)" : event.component
    let key = "\(origin.namespace)/\(subject)"
    guard key.utf8.count > Self.keyLimit else { return key }
    return RedisScript(key).sha1
  }

  /// The endpoint for change events, beside the other.
  static func changeURL(_ url: String) -> String {
    let end = "/enqueue"
    return url.hasSuffix(end) ? url.dropLast(end.utf8.count) + "/change" + end : url
  }

  private func payload(_ json: inout JSONWriter, _ event: Event) {
    json.beginObject()
    json.field("summary", summary(event))
    json.field("source", origin.replica)
    json.field("severity", event.severity == .warn ? "warning" : event.severity.rawValue)
    json.field("timestamp", event.time.rfc3339)
    json.field("component", event.component)
    json.field("group", origin.namespace)
    details(&json, event)
    json.endObject()
  }

  private func changePayload(_ json: inout JSONWriter, _ event: Event) {
    json.beginObject()
    json.field("summary", summary(event))
    json.field("source", origin.replica)
    json.field("timestamp", event.time.rfc3339)
    details(&json, event)
    json.endObject()
  }

  private func summary(_ event: Event) -> String {
    String(String.UnicodeScalarView("\(event.component): \(event.title)".unicodeScalars.prefix(Self.summaryLimit)))
  }

  private func details(_ json: inout JSONWriter, _ event: Event) {
    json.key("custom_details")
    json.beginObject()
    if !event.detail.isEmpty { json.field("detail", event.detail) }
    for count in event.metadata { json.field(count.name, count.count) }
    json.endObject()
  }
}

extension Setting where Value == String? {
  static var pagerDutyRoutingKey: Setting {
    .optional(
      "SB_WORKER_PAGERDUTY_ROUTING_KEY", kind: "routing key", isSecret: true,
      help: "Integration key of a PagerDuty service (Events API v2)."
    ) { isVisibleASCII($0) && $0.utf8.count <= 100 ? nil : "at most 100 visible ASCII characters" }
  }

  private static func isVisibleASCII(_ text: String) -> Bool {
    text.utf8.allSatisfy { (0x21...0x7E).contains($0) }
  }
}

extension Setting where Value == String {
  static var pagerDutyURL: Setting {
    Setting(
      name: "SB_WORKER_PAGERDUTY_URL", kind: "http or https URL",
      absence: .text("https://events.pagerduty.com/v2/enqueue"),
      help: "URL of the Events API. The EU service region has its own.", isSecret: true
    ) { text in
      WebURL.expectation(text).map { .mustBe($0) } ?? .accepted(text)
    }
  }
}

extension Setting where Value == Event.Severity? {
  /// A page wakes people, so only failures are sent by default.
  static var pagerDutyMinSeverity: Setting {
    .minSeverity("SB_WORKER_PAGERDUTY_MIN_SEVERITY", of: "PagerDuty", default: .error)
  }
}

extension SettingRow {
  static let pagerDuty: [SettingRow] = [
    Setting.pagerDutyRoutingKey.row, Setting.pagerDutyURL.row, Setting.pagerDutyMinSeverity.row,
  ]
}
