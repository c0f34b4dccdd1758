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
