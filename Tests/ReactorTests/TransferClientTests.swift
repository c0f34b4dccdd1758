// The transfer client against real endpoints: what is verified, refused, bounded, and how it ends. One thread always.

import CReactor
import Foundation
import TestSupport
import Testing

@testable import Reactor

@Suite struct TransferClientTests {
  static let request = TransferRequest.Content.post(headers: ["Content-Type: application/json"], body: Array("{}".utf8))

  /// Sends to `url` with a client of its own.
  static func send(
    _ url: String, _ content: TransferRequest.Content = request, proxies: ProxyRules = ProxyRules(),
    trusting: Bool = true, within limit: Duration = .seconds(10)
  ) async throws -> TransferAnswer {
    let authority = try await TestAuthority.shared().certificateFile
    return try await onLoop {
      let client = TransferClient(
        try TransferLibrary(), proxies: proxies, authorityFile: trusting ? authority : nil, userAgent: "test/1")
      return try await client.send(
        TransferRequest(url: url, content: content), by: LoopClock.system.now.advanced(by: limit))
    }
  }

  static func failure(_ body: () async throws -> TransferAnswer) async -> TransferError? {
    do {
      _ = try await body()
      return nil
    } catch {
      return error as? TransferError
    }
  }

  @Test func theNumbersOfTheOptionsAreThoseOfTheLibrary() async throws {
    let header = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
      .appendingPathComponent("../../Sources/CReactor/include/Curl.h")
    let text = try String(contentsOf: header, encoding: .utf8)
    let options = text.matches(of: /CREACTOR_CURLOPT_(\w+) = (\d+)/).map { (String($0.1), Int32($0.2)) }
    #expect(options.count > 20)
    try await onLoop {
      let library = try TransferLibrary()
      for (name, number) in options {
        let known = try #require(library.curl.pointee.easy_option_by_name(name), "\(name)")
        #expect(known.pointee.identifier == number, "\(name)")
      }
    }
  }

  @Test func aRequestArrivesWithItsHeadersAndBodyAndTheAnswerComesBack() async throws {
    let endpoint = try await Endpoint.start(.https)
    try endpoint.behave("retry-after 503 7")
    let answer = try await Self.send(endpoint.url("/hook?token=a"))
    #expect(answer.status == 503 && answer.retryAfter == .seconds(7) && answer.body == Array("{}".utf8))
    let received = try #require(endpoint.received.first)
    #expect(received["path"] == "/hook?token=a" && received["body"] == "{}")
    #expect(received.header("content-type") == "application/json" && received.header("user-agent") == "test/1")
  }

  @Test func aRedirectIsAnAnswerAndIsNotFollowed() async throws {
    let endpoint = try await Endpoint.start(.https)
    try endpoint.behave("redirect")
    #expect(try await Self.send(endpoint.url()).status == 307)
    #expect(endpoint.received.count == 1)
  }

  @Test func anAnswersBodyIsReadToItsBound() async throws {
    let endpoint = try await Endpoint.start(.https)
    try endpoint.behave("huge")
    let answer = try await Self.send(endpoint.url())
    #expect(answer.status == 200 && answer.body.count == TransferClient.bodyLimit)
  }

  @Test(arguments: [(Endpoint.Certificate.otherHost, true), (.expired, true), (.good, false)])
  func aCertificateThatIsNotGoodIsRefusedBeforeAnythingIsSent(
    certificate: Endpoint.Certificate, trusting: Bool
  ) async throws {
    let endpoint = try await Endpoint.start(.https, certificate: certificate)
    let error = await Self.failure { try await Self.send(endpoint.url(), trusting: trusting) }
    guard case .failed(60, _, 0) = error else {
      Issue.record("\(error as Any)")
      return
    }
    #expect(endpoint.received.isEmpty)
  }

  @Test(arguments: ["hang", "slow 30"])
  func anEndpointThatHangsEndsAtTheDeadline(behaviour: String) async throws {
    let endpoint = try await Endpoint.start(.https)
    try endpoint.behave(behaviour)
    let start = ContinuousClock.now
    let error = await Self.failure { try await Self.send(endpoint.url(), within: .milliseconds(500)) }
    #expect(error == .timedOut)
    #expect(ContinuousClock.now - start < .seconds(5))
  }

  @Test func aHandshakeThatHangsEndsAtTheDeadline() async throws {
    let endpoint = try await Endpoint.start(.https)
    endpoint.signal(SIGSTOP)
    let error = await Self.failure { try await Self.send(endpoint.url(), within: .milliseconds(300)) }
    #expect(error == .timedOut)
  }

  @Test(arguments: ["close", "vanish"])
  func anAnswerThatBreaksOffIsAFailure(behaviour: String) async throws {
    let endpoint = try await Endpoint.start(.https)
    try endpoint.behave(behaviour)
    let error = await Self.failure { try await Self.send(endpoint.url()) }
    guard case .failed = error else {
      Issue.record("\(error as Any)")
      return
    }
  }

  @Test func nobodyListening() async throws {
    let port = try freePort()
    let error = await Self.failure { try await Self.send("http://127.0.0.1:\(port)/") }
    guard case .failed(7, let reason, 0) = error else {
      Issue.record("\(error as Any)")
      return
    }
    #expect(!reason.contains("\(port)"))
  }

  @Test(arguments: ["ftp://127.0.0.1/", "file:///etc/passwd", "http://", "no url", "http://a%00b/"])
  func whatIsNoURLOfAKnownKindIsRefused(url: String) async {
    let error = await Self.failure { try await Self.send(url) }
    switch error {
    case .malformedURL, .failed(1, _, _): break
    default: Issue.record("\(error as Any)")
    }
  }

  @Test func aNameThatDoesNotExistIsNotAskedOfTheLibrary() async throws {
    let error = await Self.failure { try await Self.send("http://no-such-host.invalid/", within: .seconds(5)) }
    guard case .unresolved = error else {
      Issue.record("\(error as Any)")
      return
    }
  }

  @Test func aConnectionIsUsedAgain() async throws {
    let endpoint = try await Endpoint.start(.https)
    let authority = try await TestAuthority.shared().certificateFile
    let url = endpoint.url()
    try await onLoop {
      let client = TransferClient(
        try TransferLibrary(), proxies: ProxyRules(), authorityFile: authority, userAgent: "test/1")
      for expected in [1, 0, 0] {
        let answer = try await client.send(
          TransferRequest(url: url, content: Self.request), by: LoopClock.system.now.advanced(by: .seconds(10)))
        #expect(answer.connections == expected)
      }
    }
    #expect(Set(endpoint.received.map(\.peer)).count == 1)
  }

  @Test func aCancelledTaskLeavesAtOnceAndManyAtATimeAllArrive() async throws {
    let endpoint = try await Endpoint.start(.https)
    let url = endpoint.url()
    let authority = try await TestAuthority.shared().certificateFile
    try await onLoop {
      let client = TransferClient(
        try TransferLibrary(), proxies: ProxyRules(), authorityFile: authority, userAgent: "test/1")
      let request = TransferRequest(url: url, content: Self.request)
      let deadline = LoopClock.system.now.advanced(by: .seconds(20))
      try await withThrowingTaskGroup(of: Int.self) { group in
        for _ in 0..<20 { group.addTask { try await client.send(request, by: deadline).status } }
        for try await status in group { #expect(status == 200) }
      }
      try endpoint.behave("hang")
      try await withThrowingTaskGroup(of: TransferAnswer.self) { group in
        group.addTask { try await client.send(request, by: deadline) }
        try await eventually("the request is there") { endpoint.received.count == 21 }
        group.cancelAll()
        await #expect(throws: CancellationError.self) { try await group.next() }
      }
    }
  }

  @Test func aProxyOfTheEnvironmentIsGoneThroughAndNoProxyIsNot() async throws {
    let endpoint = try await Endpoint.start(.https)
    let proxy = try await Endpoint.start(.proxy)
    let environment = ["https_proxy": proxy.url(), "no_proxy": "127.0.0.0/8"]
    let rules = ProxyRules(environment: environment)
    #expect(try await Self.send(endpoint.url(), proxies: rules).status == 200)
    #expect(proxy.received.map { $0["path"] } == ["localhost:\(endpoint.port)"])
    #expect(try await Self.send(endpoint.url(host: "127.0.0.1"), proxies: rules).status == 200)
    #expect(proxy.received.count == 1)
    #expect(endpoint.received.count == 2)
  }

  // MARK: Mail

  static let mail = Array("Subject: hello\r\n\r\nfirst\r\n.second\r\n".utf8)

  static func mail(_ encryption: TransferRequest.MailEncryption = .required) -> TransferRequest.Content {
    .mail(from: "worker@example.com", to: ["a@example.com", "b@example.com"], message: mail, encryption: encryption)
  }

  @Test(arguments: [Endpoint.Kind.smtp, .smtps])
  func aMailArrivesEncryptedWithTheLoginOfTheURL(kind: Endpoint.Kind) async throws {
    let endpoint = try await Endpoint.start(kind)
    let answer = try await Self.send(endpoint.url(user: "mailer:planted-smtp-password@"), Self.mail())
    #expect(answer.status == 250)
    let received = try #require(endpoint.received.first)
    #expect(received.recipients == ["a@example.com", "b@example.com"] && received["sender"] == "worker@example.com")
    #expect(received.isEncrypted && received["user"] == "mailer")
    #expect(received["data"] == "Subject: hello\r\n\r\nfirst\r\n.second\r\n")
  }

  @Test func aServerWithoutStartTLSGetsNothingUnlessThatIsAllowed() async throws {
    let endpoint = try await Endpoint.start(.smtp, certificate: .none)
    guard case .failed(64, _, _) = await Self.failure({ try await Self.send(endpoint.url(), Self.mail()) }) else {
      Issue.record("sent without encryption")
      return
    }
    #expect(endpoint.received.isEmpty)
    #expect(try await Self.send(endpoint.url(), Self.mail(.preferred)).status == 250)
    #expect(endpoint.received.first?.isEncrypted == false)
  }

  @Test(arguments: [451, 550])
  func aRefusedMailSaysTheServersStatus(status: Int) async throws {
    let endpoint = try await Endpoint.start(.smtp)
    try endpoint.behave("status \(status)")
    let error = await Self.failure { try await Self.send(endpoint.url(), Self.mail()) }
    guard case .failed(_, _, status) = error else {
      Issue.record("\(error as Any)")
      return
    }
  }
}
