// One sink's delivery to a real endpoint on a manual clock: outages of minutes take no time here.

import Foundation
import Logging
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct SinkDeliveryTests {
  /// A delivery that runs, with what a test looks at.
  @EventLoop
  final class Stage {
    let delivery: SinkDelivery
    let clock = LoopClock.manual()
    let registry = MetricsRegistry()

    init(_ sink: any Sink, authority: String) throws {
      let client = TransferClient(
        try TransferLibrary(), proxies: ProxyRules(), authorityFile: authority, userAgent: "test/1",
        clock: clock)
      let lines = Written()
      delivery = SinkDelivery(
        sink, client: client, clock: clock, random: .system, registry: registry,
        logger: Logger.worker(output: LogOutput(.system) { bytes, _ in lines.append(bytes) }))
      written = lines
    }

    let written: Written

    func metric(_ outcome: String) -> Int {
      let line = "worker_notifications_total{sink=\"webhook\",outcome=\"\(outcome)\"} "
      return text(registry).components(separatedBy: line).dropFirst().first.flatMap {
        Int($0.prefix { $0.isNumber })
      } ?? -1
    }

    var log: String { String(decoding: written.data, as: UTF8.self) }

    func accept(_ titles: String...) {
      for title in titles {
        delivery.accept(
          Event(
            id: "id-\(title)", kind: .failure, time: LoopClock.system.wallTime, severity: .error, component: title,
            title: title))
      }
    }

    /// Turns the clock in steps until `condition` holds, for at most `limit`.
    func turn(
      upTo limit: Duration, by step: Duration = .seconds(1), until condition: @EventLoop () -> Bool
    ) async throws {
      var turned = Duration.zero
      while !condition() {
        // A request is under way, or all tasks wait for the clock.
        if clock.sleeping > 0, turned < limit {
          clock.advance(by: step)
          turned += step
        }
        try await LoopClock.system.sleep(for: .milliseconds(1))
        if turned >= limit { try await eventually("the condition that the clock was advanced for") { condition() } }
      }
    }
  }

  /// Runs `body` beside the delivery to a webhook at `endpoint`.
  private func deliver(
    to endpoint: Endpoint, _ body: @escaping @EventLoop @Sendable (Stage) async throws -> Void
  ) async throws {
    let authority = try await TestAuthority.shared().certificateFile
    let sink = WebhookSink(minSeverity: .warn, url: endpoint.url("/planted-path"), key: nil)
    try await onLoop {
      let stage = try Stage(sink, authority: authority)
      try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { await stage.delivery.run() }
        try await body(stage)
        group.cancelAll()
      }
      #expect(!stage.log.contains("planted"), "a sink's URL in the log")
    }
  }

  private static func titles(_ endpoint: Endpoint, _ status: String) -> [String] {
    endpoint.received.filter { $0["answer"] == status }.compactMap { received in
      let body = try? JSONSerialization.jsonObject(with: Data((received["body"] ?? "").utf8)) as? [String: Any]
      return body?["title"] as? String
    }
  }

  @Test func anEndpointThatWasDownForFiveMinutesReceivesEveryEventInOrder() async throws {
    let endpoint = try await Endpoint.start(.https)
    try endpoint.behave("status 503")
    try await deliver(to: endpoint) { stage in
      for title in ["a", "b", "c", "d", "e"] {
        stage.accept(title)
        try await stage.turn(upTo: .seconds(60)) { stage.metric("retried") > 0 }
      }
      var minutes = 0
      while minutes < 5 {
        let before = stage.metric("retried")
        try await stage.turn(upTo: .seconds(60)) { stage.metric("retried") > before }
        minutes += 1
      }
      try endpoint.behave("status 200")
      try await stage.turn(upTo: .seconds(61)) { stage.metric("delivered") == 5 }
      #expect(Self.titles(endpoint, "status 200") == ["a", "b", "c", "d", "e"])
      #expect(Set(Self.titles(endpoint, "status 503")) == ["a"], "nothing overtakes the first")
      #expect(Set(endpoint.received.filter { $0.header("webhook-id") == "id-a" }.map { $0["body"] }).count == 1)
      #expect(stage.metric("dropped") == 0)
    }
  }

  @Test(arguments: [("status 404", "rejected"), ("redirect 302 /elsewhere", "rejected"), ("status 410", "rejected")])
  func whatIsRefusedForGoodIsNotTriedAgain(behaviour: String, outcome: String) async throws {
    let endpoint = try await Endpoint.start(.https)
    try endpoint.behave(behaviour, "status 200")
    try await deliver(to: endpoint) { stage in
      stage.accept("a", "b")
      try await eventually("both have left the queue") { stage.metric("delivered") == 1 && stage.metric(outcome) == 1 }
      #expect(endpoint.received.count == 2)
      #expect(stage.log.contains("a notification was rejected"))
    }
  }

  @Test(arguments: ["status 500", "status 429", "status 408", "status 425", "close", "vanish"])
  func whatPassesIsTriedAgain(behaviour: String) async throws {
    let endpoint = try await Endpoint.start(.https)
    try endpoint.behave(behaviour, "status 200")
    try await deliver(to: endpoint) { stage in
      stage.accept("a")
      try await stage.turn(upTo: .seconds(5)) { stage.metric("delivered") == 1 }
      #expect(stage.metric("retried") == 1 && endpoint.received.count == 2)
      #expect(
        stage.log.contains("notification delivery is failing") && stage.log.contains("notification delivery recovered"))
    }
  }

  @Test func aRedirectWithinTheHostDeliversTheSameSignedRequest() async throws {
    let endpoint = try await Endpoint.start(.https)
    try endpoint.behave("redirect 308 /moved", "status 200")
    try await deliver(to: endpoint) { stage in
      stage.accept("a")
      try await eventually("it is delivered") { stage.metric("delivered") == 1 }
      let received = endpoint.received
      #expect(received.map { $0["path"] } == ["/planted-path", "/moved"])
      for name in ["webhook-id", "webhook-timestamp"] { #expect(received[0].header(name) == received[1].header(name)) }
      #expect(received[0]["body"] == received[1]["body"])
    }
  }

  @Test func aRedirectToAnotherHostIsRejectedWithItsReason() async throws {
    let endpoint = try await Endpoint.start(.https)
    let other = try await Endpoint.start(.https)
    try endpoint.behave("redirect 307 \(other.url("/planted", host: "127.0.0.1"))", "status 200")
    try await deliver(to: endpoint) { stage in
      stage.accept("a", "b")
      try await eventually("the next one is delivered") { stage.metric("delivered") == 1 }
      #expect(stage.metric("rejected") == 1 && other.received.isEmpty)
      #expect(stage.log.contains("status 307: a redirect to another host"))
    }
  }

  @Test func retryAfterDelaysTheNextAttempt() async throws {
    let endpoint = try await Endpoint.start(.https)
    try endpoint.behave("retry-after 429 120", "status 200")
    try await deliver(to: endpoint) { stage in
      let begin = stage.clock.now
      stage.accept("a")
      try await stage.turn(upTo: .seconds(130)) { stage.metric("delivered") == 1 }
      #expect((120..<125).contains(begin.duration(to: stage.clock.now).seconds))
    }
  }

  @Test func anEventThatFailsForAnHourIsDroppedLoggedAndCounted() async throws {
    let endpoint = try await Endpoint.start(.https)
    try await endpoint.stop()
    try await deliver(to: endpoint) { stage in
      stage.accept("a")
      try await stage.turn(upTo: .seconds(3_700), by: .seconds(10)) { stage.metric("dropped") == 1 }
      #expect(stage.log.contains("not delivered for 1h"))
      // About one attempt a minute.
      #expect((60..<90).contains(stage.metric("retried")))
    }
  }

  @Test func aSinkReceivesNoEventBelowItsMinimumSeverity() async throws {
    let endpoint = try await Endpoint.start(.https)
    try await deliver(to: endpoint) { stage in
      let time = stage.clock.wallTime
      stage.delivery.accept(Event(id: "id", time: time, severity: .info, component: "c", title: "info"))
      stage.delivery.accept(Event(id: "id", time: time, severity: .warn, component: "c", title: "warn"))
      try await eventually("one arrives") { stage.metric("delivered") == 1 }
      #expect(Self.titles(endpoint, "status 200") == ["warn"])
    }
  }

  @Test func aShutdownDeliversQueuedEventsAndLogsTheRest() async throws {
    let endpoint = try await Endpoint.start(.https)
    try endpoint.behave("status 503", "status 200", "hang")
    try await deliver(to: endpoint) { stage in
      stage.accept("a", "b", "c")
      try await eventually("the first one waits for a retry") { stage.metric("retried") == 1 }
      async let finished: Void = stage.delivery.finish(by: stage.clock.now.advanced(by: .seconds(3)))
      try await eventually("the second one hangs") { endpoint.received.count == 3 }
      stage.clock.advance(by: .seconds(3))
      await finished
    }
    #expect(Self.titles(endpoint, "status 200") == ["a"])
  }
}
