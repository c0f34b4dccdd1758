// Slack: an event as a Block Kit message with its severity's colour.

import Reactor

/// Posts to an incoming webhook. The headline is the message's text, which previews show. The rest is an attachment,
/// because only attachments have a colour.
struct SlackSink: Sink {
  let name = "slack"
  let minSeverity: Event.Severity
  let url: String
  let origin: NotificationOrigin

  func request(for event: Event, at time: WallClockTime) -> TransferRequest {
    let style = Style(event)
    var json = JSONWriter()
    json.beginObject()
    json.field("text", "\(style.emoji) *\(SlackText.escaped(event.title))*")
    json.key("attachments")
    json.beginArray()
    json.beginObject()
    json.field("color", style.color)
    json.field("fallback", SlackText.escaped(event.line))
    json.key("blocks")
    json.beginArray()
    if !event.detail.isEmpty { section(&json, SlackText.escaped(event.detail)) }
    if !event.metadata.isEmpty { fields(&json, event.metadata) }
    context(&json, event)
    json.endArray()
    json.endObject()
    json.endArray()
    json.endObject()
    return .json(json, to: url)
  }

  private struct Style {
    let emoji: String
    let color: String

    init(_ event: Event) {
      switch (event.kind, event.severity) {
      case (.recovery, _): (emoji, color) = (":white_check_mark:", "#2eb67d")
      case (_, .info): (emoji, color) = (":information_source:", "#36c5f0")
      case (_, .warn): (emoji, color) = (":warning:", "#ecb22e")
      case (_, .error): (emoji, color) = (":rotating_light:", "#e01e5a")
      }
    }
  }

  private func section(_ json: inout JSONWriter, _ text: String) {
    json.beginObject()
    json.field("type", "section")
    json.key("text")
    markdown(&json, text)
    json.endObject()
  }

  /// Slack shows at most ten fields of a section; an event has two or three counts.
  private func fields(_ json: inout JSONWriter, _ counts: [Event.Count]) {
    json.beginObject()
    json.field("type", "section")
    json.key("fields")
    json.beginArray()
    for count in counts.prefix(10) { markdown(&json, "*\(SlackText.escaped(count.name))*\n\(count.count)") }
    json.endArray()
    json.endObject()
  }

  private func context(_ json: inout JSONWriter, _ event: Event) {
    json.beginObject()
    json.field("type", "context")
    json.key("elements")
    json.beginArray()
    for text in [event.component, origin.replica, origin.namespace, event.time.rfc3339] {
      markdown(&json, SlackText.escaped(text))
    }
    json.endArray()
    json.endObject()
  }

  private func markdown(_ json: inout JSONWriter, _ text: String) {
    json.beginObject()
    json.field("type", "mrkdwn")
    json.field("text", text)
    json.endObject()
  }
}

extension Setting where Value == String? {
  static var slackURL: Setting {
    .optional(
      "SB_WORKER_SLACK_WEBHOOK_URL", kind: "http or https URL", isSecret: true,
      help: "Slack incoming webhook; receives notifications as Block Kit messages.",
      check: { WebURL.expectation($0) })
  }
}

extension Setting where Value == Event.Severity? {
  static var slackMinSeverity: Setting { .minSeverity("SB_WORKER_SLACK_MIN_SEVERITY", of: "Slack") }
}

extension SettingRow {
  static let slack: [SettingRow] = [Setting.slackURL.row, Setting.slackMinSeverity.row]
}
