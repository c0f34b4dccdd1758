// The webhook in Slack's format, as the existing worker sends it: an event as one line.

import Reactor

/// Posts `{"text": "[severity] title — detail"}`.
struct SlackFormatSink: Sink {
  let name = "webhook"
  let minSeverity: Event.Severity
  let url: String

  func request(for event: Event, at time: WallClockTime) -> TransferRequest {
    var json = JSONWriter()
    json.beginObject()
    // The dash is sent even without a detail: filters in Slack match the existing worker's text.
    json.field("text", SlackText.escaped("[\(event.severity.rawValue)] \(event.title) — \(event.detail)"))
    json.endObject()
    return .json(json, to: url)
  }
}

/// Text for Slack: escapes three characters, and limits the length.
enum SlackText {
  /// The limit of a block's text as sent, in UTF-16 units, with room for what surrounds it. Slack's limit is 3,000.
  static let limit = 2_900

  static func escaped(_ text: String) -> String {
    var escaped = ""
    var length = 0
    for scalar in text.unicodeScalars {
      let piece =
        switch scalar {
        case "&": "&amp;"
        case "<": "&lt;"
        case ">": "&gt;"
        default: String(scalar)
        }
      length += piece.utf16.count
      guard length <= limit else { break }
      escaped += piece
    }
    return escaped
  }
}
