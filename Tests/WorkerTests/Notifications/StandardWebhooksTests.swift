// Signatures of Standard Webhooks: the published example, and a verifier written from the specification.

import Foundation
import Reactor
import Testing

@testable import Worker

/// What a receiver does (https://github.com/standard-webhooks/standard-webhooks, "Verifying webhook authenticity").
struct WebhookVerifier {
  let key: [UInt8]
  /// The tolerance for the sender's clock, which limits replays, in seconds.
  var tolerance: Int64 = 300

  func accepts(headers: [String: String], body: [UInt8], now: Int64) -> Bool {
    guard let id = headers["webhook-id"], let stamp = headers["webhook-timestamp"], let time = Int64(stamp),
      let signatures = headers["webhook-signature"], abs(now - time) <= tolerance
    else { return false }
    let expected = HMACSHA256.signature(of: Array("\(id).\(stamp).".utf8) + body, key: key)
    // There may be several signatures, separated by blanks, while keys are rotated.
    return signatures.split(separator: " ").contains { signature in
      let parts = signature.split(separator: ",", maxSplits: 1)
      return parts.count == 2 && parts[0] == "v1" && Base64.bytes(String(parts[1])) == expected
    }
  }
}

@Suite struct StandardWebhooksTests {
  static let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

  static func key() throws -> [UInt8] {
    try #require(try NotificationSettingsTests.load(["SB_WORKER_WEBHOOK_SECRET": secret])[.webhookSecret])
  }

  static func fields(_ headers: [String]) -> [String: String] {
    var fields: [String: String] = [:]
    for header in headers {
      let parts = header.components(separatedBy: ": ")
      fields[parts[0]] = parts[1]
    }
    return fields
  }

  @Test func thePublishedExampleHasThePublishedSignature() throws {
    let headers = WebhookSink.headers(
      id: "msg_p5jXN8AQM9LWM0D4loKWxJek", at: WallClockTime(seconds: 1_614_265_330, nanoseconds: 0),
      body: Array(#"{"test": 2432232314}"#.utf8), key: try Self.key())
    #expect(
      headers == [
        "webhook-id: msg_p5jXN8AQM9LWM0D4loKWxJek", "webhook-timestamp: 1614265330",
        "webhook-signature: v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
      ])
  }

  @Test func aReceiverAcceptsASignedRequestAndRefusesAModifiedOne() throws {
    let sink = WebhookSink(minSeverity: .info, url: "https://h/", key: try Self.key())
    guard case .post(let lines, let body) = sink.request(for: SinkBodyTests.report, at: SinkBodyTests.time).content
    else { return }
    let headers = Self.fields(lines)
    let now = SinkBodyTests.time.seconds
    let verifier = WebhookVerifier(key: try Self.key())
    #expect(headers["webhook-id"] == SinkBodyTests.report.id)
    #expect(verifier.accepts(headers: headers, body: body, now: now))
    #expect(!verifier.accepts(headers: headers, body: body + [0x20], now: now))
    #expect(!verifier.accepts(headers: headers, body: body, now: now + 301))
    #expect(!verifier.accepts(headers: headers.merging(["webhook-id": "x"]) { $1 }, body: body, now: now))
    #expect(!WebhookVerifier(key: [UInt8](0..<24)).accepts(headers: headers, body: body, now: now))
  }

  @Test func aRetryHasTheSameIdAndItsOwnTime() {
    let sink = WebhookSink(minSeverity: .info, url: "https://h/", key: nil)
    let times = [0, 90].map { WallClockTime(seconds: SinkBodyTests.time.seconds + $0, nanoseconds: 0) }
    let tries = times.map { time -> [String: String] in
      guard case .post(let lines, _) = sink.request(for: SinkBodyTests.report, at: time).content else { return [:] }
      return Self.fields(lines)
    }
    #expect(tries[0]["webhook-id"] == tries[1]["webhook-id"] && tries[0]["webhook-id"] != nil)
    #expect(tries[0]["webhook-timestamp"] == "1795000000" && tries[1]["webhook-timestamp"] == "1795000090")
    #expect(tries[0]["webhook-signature"] == nil)
  }
}
