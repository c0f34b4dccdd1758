// Notifications of the worker as a process: four sinks at real endpoints, and sweeps that do not notice any of them.

import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite(.serialized) struct NotificationTests {
  /// The endpoints of all sinks, and the settings that name them.
  struct Sinks {
    static let secret = "whsec_cGxhbnRlZC13ZWJob29rLXNlY3JldC0wMQ=="
    /// What must be seen nowhere but at the sink that it belongs to.
    static let planted = ["planted-hook", "planted-slack", "planted-routing-key", "planted-smtp-password", secret]

    let webhook: Endpoint
    let slack: Endpoint
    let pagerDuty: Endpoint
    let mail: Endpoint
    let environment: [String: String]

    static func start() async throws -> Sinks {
      let webhook = try await Endpoint.start(.https)
      let slack = try await Endpoint.start(.https)
      let pagerDuty = try await Endpoint.start(.https)
      let mail = try await Endpoint.start(.smtp)
      return Sinks(
        webhook: webhook, slack: slack, pagerDuty: pagerDuty, mail: mail,
        environment: [
          "SB_WORKER_NOTIFY_CA_FILE": try await TestAuthority.shared().certificateFile,
          "SB_WORKER_WEBHOOK_URL": webhook.url("/planted-hook"), "SB_WORKER_WEBHOOK_SECRET": secret,
          "SB_WORKER_SLACK_WEBHOOK_URL": slack.url("/services/planted-slack"),
          "SB_WORKER_PAGERDUTY_ROUTING_KEY": "planted-routing-key",
          "SB_WORKER_PAGERDUTY_URL": pagerDuty.url("/v2/enqueue"),
          "SB_WORKER_SMTP_URL": mail.url(user: "mailer:planted-smtp-password@"),
          "SB_WORKER_SMTP_FROM": "worker@example.com", "SB_WORKER_SMTP_TO": "ops@example.com",
        ])
    }

    /// How many messages with this in them each sink got.
    func count(_ text: String) -> [Int] {
      let bodies = [webhook, slack, pagerDuty].map { $0.received.compactMap { $0["body"] } }
      let all = bodies + [mail.received.compactMap { $0["data"] }]
      return all.map { $0.filter { $0.contains(text) }.count }
    }
  }

  @Test func aFailingSweeperIsOneAlertInEachSinkAndOneRecovery() async throws {
    let stage = try await WorkerStage.set()
    let sinks = try await Sinks.start()
    try stage.settle()
    try await stage.addExpiredWrap()
    try await stage.plane.sql("ALTER TABLE secret_wraps RENAME TO elsewhere")
    let worker = try await stage.start(sinks.environment)
    let threads = ThreadWatch(worker)
    try await onLoop {
      try await eventually("it failed several times", within: .seconds(20)) {
        try await worker.runs("wraps-expired", "failure") >= 4
      }
      try await eventually("each sink has the alert") { sinks.count("delete expired wraps failed") == [1, 1, 1, 1] }
      try await stage.plane.sql("ALTER TABLE elsewhere RENAME TO secret_wraps")
      try await eventually("each sink has the recovery") {
        sinks.count("wraps-expired recovered") == [1, 1, 1, 1]
      }
      // The purge that follows is a report, which pages no one.
      try await eventually("and the report") { sinks.count("expired wraps purged") == [1, 1, 0, 1] }
    }
    let metrics = try await worker.get("/metrics").body
    #expect(try await worker.stop() == .exited(0))
    #expect(sinks.count("delete expired wraps failed") == [1, 1, 1, 1], "no reminder within five minutes")
    #expect(sinks.count("wraps-expired recovered") == [1, 1, 1, 1])
    #expect(threads.most == 1 && threads.samples > 100, "\(threads.most) threads in \(threads.samples) samples")

    let key = try #require(
      try NotificationSettingsTests.load(["SB_WORKER_WEBHOOK_SECRET": Sinks.secret])[.webhookSecret])
    for received in sinks.webhook.received {
      var headers: [String: String] = [:]
      for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] { headers[name] = received.header(name) }
      let body = Array((received["body"] ?? "").utf8)
      #expect(WebhookVerifier(key: key).accepts(headers: headers, body: body, now: Int64(received.at)))
    }
    let actions = sinks.pagerDuty.received.map { $0["body"]?.contains(#""event_action":"resolve""#) == true }
    #expect(actions == [false, true])
    #expect(sinks.mail.received.allSatisfy { $0.isEncrypted && $0["user"] == "mailer" })

    for secret in Sinks.planted {
      #expect(!worker.everything.contains(secret) && !metrics.contains(secret), "\(secret) leaked")
      for endpoint in [sinks.webhook, sinks.slack, sinks.pagerDuty, sinks.mail] {
        let bodies = endpoint.received.map { ($0["body"] ?? "") + ($0["data"] ?? "") }.joined()
        #expect(!bodies.contains(secret) || secret == "planted-routing-key", "\(secret) was sent")
      }
    }
    #expect(metrics.contains(#"worker_notifications_total{sink="email",outcome="delivered"}"#))
    #expect(metrics.contains(#"worker_notification_queue_length{sink="pagerduty"} 0"#))
  }

  @Test func askedToEndRightAfterARunItStillDelivers() async throws {
    let stage = try await WorkerStage.set()
    let sinks = try await Sinks.start()
    for endpoint in [sinks.webhook, sinks.slack] { try endpoint.behave("slow 0.3") }
    try stage.settle()
    try await stage.addExpiredWrap()
    let worker = try await stage.start(sinks.environment)
    try await onLoop {
      try await eventually("it swept") { worker.log.contains { $0["title"] == "expired wraps purged" } }
    }
    #expect(try await worker.stop() == .exited(0))
    #expect(sinks.count("expired wraps purged") == [1, 1, 0, 1])
    #expect(!worker.log.contains { $0.message == "a notification was dropped" })
  }

  @Test func anEndpointThatHangsDelaysTheEndByTheGraceAtMostAndTheRestIsLogged() async throws {
    let stage = try await WorkerStage.set()
    let sinks = try await Sinks.start()
    try sinks.webhook.behave("hang")
    try stage.settle()
    try await stage.addExpiredWrap()
    let worker = try await stage.start(sinks.environment.merging(["SB_WORKER_SHUTDOWN_GRACE": "2s"]) { $1 })
    try await onLoop {
      try await eventually("it sends") { sinks.webhook.received.count == 1 }
    }
    let begin = ContinuousClock.now
    worker.signal(SIGTERM)
    #expect(try await worker.waitForExit(within: .seconds(10)) == .exited(0))
    #expect(begin.duration(to: .now) < .seconds(4))
    let dropped = worker.log.filter { $0.message == "a notification was dropped" }
    #expect(dropped.map { $0["sink"] } == ["webhook"])
    #expect(dropped.first?["error"] == "undelivered: the worker ended")
    #expect(sinks.count("expired wraps purged") == [1, 1, 0, 1], "the other sinks have theirs")
  }

  @Test func aSweepTakesAsLongWithASinkThatHangs() async throws {
    let sinks = try await Sinks.start()
    for endpoint in [sinks.webhook, sinks.slack] { try endpoint.behave("hang") }
    sinks.mail.signal(SIGSTOP)
    let stages = [try await WorkerStage.set(), try await WorkerStage.set()]
    for stage in stages { try stage.settle() }
    let grace = ["SB_WORKER_SHUTDOWN_GRACE": "1s"]
    let workers = [
      try await stages[0].start(grace), try await stages[1].start(sinks.environment.merging(grace) { $1 }),
    ]
    try await onLoop {
      for _ in 0..<8 {
        for stage in stages { try await stage.addExpiredWrap() }
        for stage in stages {
          try await eventually("it purged") {
            try await stage.plane.sql("SELECT count(*) FROM secret_wraps") == "0"
          }
        }
      }
    }
    var averages: [Double] = []
    for worker in workers {
      let labels = #"{task="wraps-expired"}"#
      let sum = try await worker.metric("worker_scheduler_run_duration_seconds_sum" + labels) ?? 0
      let count = try await worker.metric("worker_scheduler_run_duration_seconds_count" + labels) ?? 0
      #expect(count >= 5)
      averages.append(sum / count)
      try await worker.stop()
    }
    #expect(averages[1] < averages[0] * 2 + 0.01, "seconds a run without and with sinks that hang: \(averages)")
  }

  // MARK: The verb notify-test

  private func notifyTest(_ environment: [String: String]) async throws -> (
    ending: WorkerProcess.Ending, output: String
  ) {
    // Neither server's setting is needed, nor is it read.
    let process = try await WorkerProcess.start(
      ["notify-test"], environment: environment.merging(["DATABASE_URL": "mysql://h/d"]) { $1 })
    let ending = try await process.waitForExit()
    #expect(!Sinks.planted.contains { process.everything.contains($0) })
    return (ending, process.output + process.log.compactMap { $0["error"] }.joined())
  }

  @Test func theVerbReportsWhatEachSinkAnswered() async throws {
    let sinks = try await Sinks.start()
    let well = try await notifyTest(sinks.environment)
    #expect(well.ending == .exited(0))
    let lines = ["webhook", "slack", "pagerduty"].map { "\($0): delivered, status 200\n" }
    #expect(well.output == lines.joined() + "email: delivered, status 250\n")
    #expect(sinks.count("test notification") == [1, 1, 1, 1])
    let incidents = sinks.pagerDuty.received.compactMap { $0["body"] }
    #expect(incidents.count == 2 && incidents[0].contains("trigger") && incidents[1].contains("resolve"))
    try sinks.slack.behave("status 404")
    try sinks.pagerDuty.behave("status 503")
    try await sinks.mail.stop()
    let ill = try await notifyTest(sinks.environment)
    #expect(ill.ending == .exited(1))
    #expect(ill.output.contains("slack: rejected, status 404\npagerduty: failed, status 503\nemail: failed, "))
  }

  @Test func anIncidentThatTheTestCannotResolveIsSaid() async throws {
    let sinks = try await Sinks.start()
    try sinks.pagerDuty.behave("status 202", "status 500")
    let answer = try await notifyTest(sinks.environment)
    #expect(answer.ending == .exited(1))
    #expect(answer.output.contains("pagerduty: delivered, status 202, but its incident is still open: status 500\n"))
  }

  @Test func aRecipientThatIsRefusedIsNamedAndTheOthersGetTheirMail() async throws {
    let sinks = try await Sinks.start()
    try sinks.mail.behave("status 550", "accept")
    let answer = try await notifyTest(
      sinks.environment.merging(["SB_WORKER_SMTP_TO": "gone@example.com, ops@example.com"]) { $1 })
    #expect(answer.output.contains("email: delivered, status 250, but gone@example.com was refused (status 550)\n"))
    #expect(sinks.mail.received.map(\.recipients) == [["ops@example.com"]])
    let name = try #require(sinks.mail.received.first?["name"])
    #expect(MailAddress.isClientName(name), "a name that mail servers take: \(name)")
  }

  @Test func aMailServerThatRefusesTheNameLeadsToItsSetting() async throws {
    let sinks = try await Sinks.start()
    try sinks.mail.behave("status 504")
    let answer = try await notifyTest(
      sinks.environment.merging(["SB_WORKER_SMTP_HELO": "worker.example.com"]) { $1 })
    #expect(answer.output.contains("the mail server refused every recipient (status 504): the name in EHLO may be"))
    #expect(answer.output.contains("SB_WORKER_SMTP_HELO"))
  }

  @Test func withoutASinkTheVerbSaysSo() async throws {
    let answer = try await notifyTest([:])
    #expect(answer.ending == .exited(1) && answer.output == "no sink is configured\n")
  }

  @Test func withoutTheLibraryASinkIsABootFault() async throws {
    let directory = FileManager.default.temporaryDirectory.appendingPathComponent("broken-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: false)
    // A test's own directory that stays behind is no fault of it.
    defer { try? FileManager.default.removeItem(at: directory) }
    try Data("no library".utf8).write(to: directory.appendingPathComponent("libcurl.so.4"))
    let answer = try await notifyTest(["LD_LIBRARY_PATH": directory.path, "SB_WORKER_WEBHOOK_URL": "https://h/planted"])
    #expect(answer.ending == .exited(78))
    #expect(answer.output.contains("libcurl.so.4"))
  }
}
