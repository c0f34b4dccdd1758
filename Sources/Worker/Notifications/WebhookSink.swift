// The webhook: an event as one flat JSON object, as the existing worker sends it, signed if there is a secret.

import Reactor

/// Posts JSON; with a key, signed according to Standard Webhooks (https://www.standardwebhooks.com).
struct WebhookSink: Sink {
  let name = "webhook"
  let minSeverity: Event.Severity
  let url: String
  let key: [UInt8]?

  func request(for event: Event, at time: WallClockTime) -> TransferRequest {
    let body = Self.body(of: event)
    return .json(body, to: url, headers: Self.headers(id: event.id, at: time, body: body.bytes, key: key))
  }

  static func body(of event: Event) -> JSONWriter {
    var json = JSONWriter()
    json.beginObject()
    json.field("time", event.time.rfc3339)
    json.field("severity", event.severity.rawValue)
    json.field("component", event.component)
    json.field("title", event.title)
    if !event.detail.isEmpty { json.field("detail", event.detail) }
    if !event.metadata.isEmpty {
      json.key("metadata")
      json.beginObject()
      for count in event.metadata { json.field(count.name, count.count) }
      json.endObject()
    }
    json.endObject()
    return json
  }

  /// The id is the event's, so that a receiver can drop duplicates; the time is the attempt's, so that it can refuse
  /// replays.
  static func headers(id: String, at time: WallClockTime, body: [UInt8], key: [UInt8]?) -> [String] {
    let headers = ["webhook-id: \(id)", "webhook-timestamp: \(time.seconds)"]
    guard let key else { return headers }
    let signed = Array("\(id).\(time.seconds).".utf8) + body
    return headers + ["webhook-signature: v1,\(Base64.text(HMACSHA256.signature(of: signed, key: key)))"]
  }
}

extension Setting where Value == String? {
  static var webhookURL: Setting {
    .optional(
      "SB_WORKER_WEBHOOK_URL", kind: "http or https URL", isSecret: true,
      help: "URL to which notifications are posted as JSON. Without any sink they are only logged.",
      check: { WebURL.expectation($0) })
  }
}

extension Setting where Value == Bool {
  static var webhookSlackFormat: Setting {
    .boolean(
      "SB_WORKER_WEBHOOK_SLACK_FORMAT", default: false,
      help: "Post Slack's {\"text\": …} to the webhook instead of the flat JSON object.")
  }
}

extension Setting where Value == [UInt8]? {
  /// The bytes of the key.
  static var webhookSecret: Setting {
    Setting(
      name: "SB_WORKER_WEBHOOK_SECRET", kind: "whsec_ and base64", absence: .value(nil),
      help: "Key for signing webhook requests (Standard Webhooks).",
      isSecret: true
    ) { text in
      // https://www.standardwebhooks.com: 24 to 64 bytes in base64 after a prefix.
      let prefix = "whsec_"
      let encoded = text.hasPrefix(prefix) ? String(text.dropFirst(prefix.utf8.count)) : text
      guard let key = Base64.bytes(encoded), (24...64).contains(key.count) else {
        return .mustBe("24 to 64 bytes in base64, optionally after \(prefix)")
      }
      return .accepted(key)
    }
  }
}

extension Setting where Value == Event.Severity? {
  static var webhookMinSeverity: Setting { .minSeverity("SB_WORKER_WEBHOOK_MIN_SEVERITY", of: "the webhook") }
}

extension SettingRow {
  static let webhook: [SettingRow] = [
    Setting.webhookURL.row, Setting.webhookSlackFormat.row, Setting.webhookSecret.row, Setting.webhookMinSeverity.row,
  ]
}
