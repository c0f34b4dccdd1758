// The exact bytes that each sink sends. docs/notifications.md shows the same bodies.

import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct SinkBodyTests {
  static let origin = NotificationOrigin(replica: "worker-7d9f", namespace: "secrets-bridge")
  static let time = WallClockTime(seconds: 1_795_000_000, nanoseconds: 123_456_000)
  static let url = "https://hooks.example.com/planted"

  static let report = Event(
    id: "0123456789abcdef0123456789abcdef", time: time, severity: .warn, component: "secrets-stale",
    title: "discovered secrets marked missing", detail: "cutoff=2026-11-17T11:06:40Z",
    metadata: [Event.Count("flipped", 12)])
  static let failure = Event(
    id: "1123456789abcdef0123456789abcdef", kind: .failure, time: time, severity: .error, component: "wraps-expired",
    title: "delete expired wraps failed", detail: "permission denied (SQLSTATE 42501)")
  static let recovery = Event(
    id: "2123456789abcdef0123456789abcdef", kind: .recovery, time: time, severity: .info, component: "wraps-expired",
    title: "wraps-expired recovered", detail: "it was failing for 12m30s", metadata: [Event.Count("failures", 9)])

  static let webhook = WebhookSink(minSeverity: .info, url: url, key: nil)
  static let slackFormat = SlackFormatSink(minSeverity: .info, url: url)
  static let slack = SlackSink(minSeverity: .info, url: url, origin: origin)
  static let pagerDuty = PagerDutySink(minSeverity: .error, url: url, routingKey: "routing-key", origin: origin)
  static let mail = MailSink(
    minSeverity: .info, url: "smtp://mail.example.com", encryption: .required, sender: "worker@example.com",
    recipients: ["ops@example.com", "dba@example.com"], clientName: nil, origin: origin)

  static func body(_ sink: any Sink, _ event: Event) -> String {
    switch sink.request(for: event, at: time).content {
    case .post(_, let body): String(decoding: body, as: UTF8.self)
    case .mail(_, _, let message, _, _): String(decoding: message, as: UTF8.self)
    }
  }

  /// The block of docs/notifications.md behind `<!-- NAME -->`.
  static func documented(_ name: String) throws -> String {
    let url = Repository.root.appending(path: "docs/notifications.md")
    let text = try String(contentsOf: url, encoding: .utf8)
    let behind = text.components(separatedBy: "<!-- \(name) -->\n")
    try #require(behind.count == 2, "docs/notifications.md has one block named \(name)")
    let lines = behind[1].components(separatedBy: "\n")
    let end = try #require(lines.dropFirst().firstIndex(of: "```"))
    return lines[1..<end].joined(separator: "\n")
  }

  /// JSON as the documents show it: indented, its members in their order.
  static func pretty(_ json: String) async throws -> String {
    try await offLoop {
      let process = Process()
      process.executableURL = URL(fileURLWithPath: "/usr/bin/python3")
      process.arguments = [
        "-c", "import json,sys; print(json.dumps(json.loads(sys.argv[1]), indent=2, ensure_ascii=False))", json,
      ]
      let output = Pipe()
      process.standardOutput = output
      try process.run()
      let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
      process.waitUntilExit()
      return text.trimmingCharacters(in: .newlines)
    }
  }

  @Test func theWebhooksBodyEqualsTheExistingWorkers() {
    #expect(
      Self.body(Self.webhook, Self.report) == """
        {"time":"2026-11-18T11:06:40.123456Z","severity":"warn","component":"secrets-stale",\
        "title":"discovered secrets marked missing","detail":"cutoff=2026-11-17T11:06:40Z",\
        "metadata":{"flipped":12}}
        """)
    let bare = Event(id: "id", time: Self.time, severity: .info, component: "c", title: "t")
    #expect(
      Self.body(Self.webhook, bare)
        == #"{"time":"2026-11-18T11:06:40.123456Z","severity":"info","component":"c","title":"t"}"#)
  }

  @Test func slacksFormatIsOneEscapedLine() {
    #expect(
      Self.body(Self.slackFormat, Self.failure)
        == #"{"text":"[error] delete expired wraps failed — permission denied (SQLSTATE 42501)"}"#)
    // The dash is sent even without a detail, so filters for the existing worker's text match.
    let bare = Event(id: "id", time: Self.time, severity: .info, component: "c", title: "expired wraps purged")
    #expect(Self.body(Self.slackFormat, bare) == #"{"text":"[info] expired wraps purged — "}"#)
    let odd = Event(id: "id", time: Self.time, severity: .warn, component: "c", title: "<!channel> & \"quotes\"")
    #expect(Self.body(Self.slackFormat, odd) == #"{"text":"[warn] &lt;!channel&gt; &amp; \"quotes\" — "}"#)
  }

  @Test(arguments: [
    ("webhook", webhook as any Sink, report), ("slack-format", slackFormat, report), ("slack", slack, failure),
    ("slack-recovery", slack, recovery), ("pagerduty-trigger", pagerDuty, failure),
    ("pagerduty-resolve", pagerDuty, recovery), ("pagerduty-change", pagerDuty, report),
  ])
  func theDocumentShowsTheBody(name: String, sink: any Sink, event: Event) async throws {
    let pretty = try await Self.pretty(Self.body(sink, event))
    #expect(try Self.documented(name) == pretty)
  }

  @Test func theDocumentShowsTheMail() throws {
    let mail = Self.body(Self.mail, Self.failure).replacingOccurrences(of: "\r\n", with: "\n")
    #expect(try Self.documented("email") == mail.trimmingCharacters(in: .newlines))
  }

  @Test func aReportOpensNoIncidentAndATestHasItsOwn() {
    let sink = PagerDutySink(
      minSeverity: .warn, url: "https://events.example.com/v2/enqueue", routingKey: "k", origin: Self.origin)
    let report = sink.request(for: Self.report, at: Self.time)
    #expect(report.url == "https://events.example.com/v2/change/enqueue")
    #expect(!Self.body(sink, Self.report).contains("dedup_key") && !Self.body(sink, Self.report).contains("trigger"))
    #expect(sink.request(for: Self.failure, at: Self.time).url == "https://events.example.com/v2/enqueue")
    let test = Event(id: "1", kind: .test, time: Self.time, severity: .info, component: "notify-test", title: "t")
    #expect(Self.body(sink, test).contains(#""dedup_key":"secrets-bridge/notify-test/1""#))
    guard case .post(_, let body) = sink.requestAfterTest(test)?.content else {
      Issue.record("the test is not resolved")
      return
    }
    #expect(
      String(decoding: body, as: UTF8.self)
        == #"{"routing_key":"k","event_action":"resolve","dedup_key":"secrets-bridge/notify-test/1"}"#)
  }

  @Test func aDedupKeyThatIsTooLongForPagerDutyIsHashed() {
    func key(_ namespace: String) -> String {
      let origin = NotificationOrigin(replica: "r", namespace: namespace)
      let sink = PagerDutySink(minSeverity: .warn, url: Self.url, routingKey: "k", origin: origin)
      let behind = Self.body(sink, Self.failure).components(separatedBy: #""dedup_key":""#)
      return behind.count == 2 ? String(behind[1].prefix { $0 != "\"" }) : ""
    }
    let long = String(repeating: "n", count: 300)
    #expect(key("n") == "n/wraps-expired")
    #expect(key(long).count == 40 && key(long) == key(long) && key(long) != key(long + "n"))
  }

  @Test(arguments: [
    ("plain", "plain"), ("two\nlines\r\n", "two lines  "), ("nul\u{0}bell\u{7}", "nul bell "), ("\u{85}\u{2028}", "  "),
    ("é ✓", "é ✓"),
  ])
  func anEventsTextIsOneLine(text: String, line: String) {
    let event = Event(id: "id", time: Self.time, severity: .info, component: "c", title: text, detail: text)
    #expect(event.title == line && event.detail == line)
  }

  @Test(arguments: ["x", "<", "é", "✓", "👩‍👩‍👧‍👦", "\u{7}", "\"", "&"])
  func whateverTheTextEverySinksMessageHasItsBound(piece: String) {
    let text = String(repeating: piece, count: 100_000)
    let event = Event(
      id: "id", kind: .failure, time: Self.time, severity: .error, component: "c", title: text, detail: text)
    #expect(event.title.utf8.count <= Event.titleLimit && event.detail.utf8.count <= Event.detailLimit)
    #expect(event.title.hasSuffix("…"))
    for sink in [Self.webhook, Self.slackFormat, Self.slack, Self.pagerDuty, Self.mail] as [any Sink] {
      #expect(Self.body(sink, event).utf8.count < 20_000, "\(sink.name)")
    }
    #expect(SlackText.escaped(text).utf16.count <= 3_000)
    for line in Self.body(Self.mail, event).components(separatedBy: "\r\n") { #expect(line.utf8.count <= 78) }
  }

  // MARK: Thresholds

  @Test func aRecoveryIsSentWhereverItsFailureWasSent() {
    let pager = Self.pagerDuty
    #expect(pager.accepts(Self.failure) && pager.accepts(Self.recovery) && !pager.accepts(Self.report))
    #expect(Self.webhook.accepts(Self.report))
    let test = Event(id: "id", kind: .test, time: Self.time, severity: .info, component: "c", title: "t")
    #expect(pager.accepts(test))
  }

  @Test(arguments: [
    (200, SinkQueue.Outcome.delivered), (202, .delivered), (204, .delivered), (301, .rejected), (307, .rejected),
    (400, .rejected), (401, .rejected), (404, .rejected), (408, .failed(retryAfter: .seconds(3))), (410, .rejected),
    (425, .failed(retryAfter: .seconds(3))),
    (429, .failed(retryAfter: .seconds(3))), (500, .failed(retryAfter: .seconds(3))),
    (503, .failed(retryAfter: .seconds(3))),
  ])
  func whatAStatusMeans(status: Int, outcome: SinkQueue.Outcome) {
    let request = Self.webhook.request(for: Self.report, at: Self.time)
    let answer = TransferAnswer(status: status, retryAfter: .seconds(3), body: [])
    #expect(SinkQueue.Outcome(.success(answer), of: request) == outcome)
  }

  @Test func anErrorWithoutAnAnswerIsTemporaryOrPermanent() {
    let post = Self.webhook.request(for: Self.report, at: Self.time)
    let mail = Self.mail.request(for: Self.report, at: Self.time)
    func outcome(_ error: TransferError, _ request: TransferRequest) -> SinkQueue.Outcome {
      SinkQueue.Outcome(.failure(error), of: request)
    }
    let again = SinkQueue.Outcome.failed(retryAfter: nil)
    for error in [TransferError.timedOut, .unresolved(.notFound), .failed(code: 7, reason: "", status: 0)] {
      #expect(outcome(error, post) == again && outcome(error, mail) == again)
    }
    #expect(outcome(.failed(code: 18, reason: "", status: 200), post) == again)
    #expect(outcome(.failed(code: 55, reason: "", status: 451), mail) == again)
    #expect(outcome(.failed(code: 55, reason: "", status: 550), mail) == .rejected)
    #expect(outcome(.malformedURL, post) == .rejected)
    #expect(outcome(.redirected(status: 307, .otherHost), post) == .rejected)
    #expect(outcome(.mailRefused(at: .recipients, MailReply(status: 450)), mail) == again)
    #expect(outcome(.mailRefused(at: .recipients, MailReply(status: 550)), mail) == .rejected)
    #expect(outcome(.noCommonLogin(tried: "AUTH=PLAIN"), mail) == .rejected)
  }
}
