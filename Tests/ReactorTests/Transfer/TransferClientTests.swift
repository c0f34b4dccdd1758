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
        try TransferLibrary(), proxies: proxies, authorityFile: trusting ? authority : nil, userAgent: "test/1",
        clock: .system)
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
    let text = try Repository.text("Sources/CReactor/include/Curl.h")
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

  @Test func anAnswersBodyIsReadToItsBound() async throws {
    let endpoint = try await Endpoint.start(.https)
    try endpoint.behave("huge")
    let answer = try await Self.send(endpoint.url())
    #expect(answer.status == 200 && answer.body.count == TransferClient.bodyLimit)
  }

  /// OpenSSL's queue of errors belongs to the thread: who reads it next takes what is in it for its own.
  @Test func neitherSideMeetsTheOthersTLSErrors() async throws {
    let good = try await Endpoint.start(.https)
    let bad = try await Endpoint.start(.https, certificate: .expired)
    let authority = try await TestAuthority.shared().certificateFile
    let urls = (good: good.url(), bad: bad.url())
    try await onLoop {
      let client = TransferClient(
        try TransferLibrary(), proxies: ProxyRules(), authorityFile: authority, userAgent: "test/1",
        clock: .system)
      func send(_ url: String) async throws -> Int {
        let request = TransferRequest(url: url, content: Self.request)
        return try await client.send(request, by: LoopClock.system.now.advanced(by: .seconds(10))).status
      }
      await #expect(throws: TransferError.self) { try await send(urls.bad) }
      #expect(ERR_peek_error() == 0, "left by a refused certificate")
      let context = SSL_CTX_new(TLS_method())
      defer { SSL_CTX_free(context) }
      for _ in 0..<3 {
        #expect(SSL_CTX_load_verify_locations(context, "/nonexistent/file.pem", nil) == 0)
        #expect(ERR_peek_error() != 0)
        #expect(try await send(urls.good) == 200)
      }
    }
  }

  @Test func anAddressOfIPv6IsReachedAsItStands() async throws {
    let endpoint = try await Endpoint.start(.https6)
    #expect(try await Self.send(endpoint.url("/hook", host: "[::1]")).status == 200)
    #expect(endpoint.received.map { $0["path"] } == ["/hook"])
  }

  @Test(arguments: [(Endpoint.Certificate.otherHost, true), (.expired, true), (.good, false)])
  func aCertificateThatIsNotGoodIsRefusedBeforeAnythingIsSent(
    certificate: Endpoint.Certificate, trusting: Bool
  ) async throws {
    let endpoint = try await Endpoint.start(.https, certificate: certificate)
    let error = await Self.failure { try await Self.send(endpoint.url(), trusting: trusting) }
    guard case .failed(60, let reason, 0) = error else {
      Issue.record("\(error as Any)")
      return
    }
    let expected = trusting ? (certificate == .expired ? "expired" : "another host's") : "certificate"
    #expect(reason.hasPrefix("certificate refused: ") && reason.contains(expected), "\(reason)")
    #expect(endpoint.received.isEmpty)
  }

  @Test func aBodyThatNeverEndsDoesNotHideTheStatus() async throws {
    let endpoint = try await Endpoint.start(.https)
    try endpoint.behave("drip 202")
    let answer = try await Self.send(endpoint.url(), within: .seconds(1))
    #expect(answer.status == 202 && endpoint.received.count == 1)
  }

  @Test func aWishToWaitMayBeADateOrANumberOfAnySize() async throws {
    let endpoint = try await Endpoint.start(.https)
    let formatter = DateFormatter()
    formatter.locale = Locale(identifier: "en_US_POSIX")
    formatter.timeZone = TimeZone(identifier: "GMT")
    formatter.dateFormat = "EEE, dd MMM yyyy HH:mm:ss 'GMT'"
    try endpoint.behave("retry-after 503 \(formatter.string(from: Date(timeIntervalSinceNow: 120)))")
    let wait = try #require(try await Self.send(endpoint.url()).retryAfter)
    #expect((100...121).contains(wait.seconds))
    for text in ["99999999999999999999999", "9223372036854775807", "soon", "-5", "Sun, 06 Nov 1994 08:49:37 GMT"] {
      try endpoint.behave("retry-after 503 \(text)")
      let answer = try await Self.send(endpoint.url())
      #expect(answer.status == 503 && (answer.retryAfter ?? .zero) >= .zero, "\(text)")
    }
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
        try TransferLibrary(), proxies: ProxyRules(), authorityFile: authority, userAgent: "test/1",
        clock: .system)
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
        try TransferLibrary(), proxies: ProxyRules(), authorityFile: authority, userAgent: "test/1",
        clock: .system)
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
    let rules = ProxyRules(environment: ["https_proxy": proxy.url()])
    #expect(try await Self.send(endpoint.url(host: "proxied.test"), proxies: rules).status == 200)
    #expect(proxy.received.map { $0["path"] } == ["proxied.test:\(endpoint.port)"])
    // This host itself is reached without a proxy.
    #expect(try await Self.send(endpoint.url(), proxies: rules).status == 200)
    #expect(proxy.received.count == 1)
    #expect(endpoint.received.count == 2)
  }
}
