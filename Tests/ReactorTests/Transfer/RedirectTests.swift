// Which redirects are followed, in isolation and at real endpoints.

import TestSupport
import Testing

@testable import Reactor

@Suite struct RedirectTests {
  private static func address(_ url: String) async throws -> TransferLibrary.Address {
    try await onLoop { try #require(try TransferLibrary().address(of: url)) }
  }

  @Test(
    arguments: [
      (307, "https://a.test/x", "https://a.test/y", nil), (308, "https://a.test/x", "https://A.test:8443/y", nil),
      (307, "http://a.test/", "https://a.test/", nil), (307, "http://a.test/", "http://a.test/y", nil),
      (307, "https://a.test/", "http://a.test/", .unencrypted), (307, "https://a.test/", "https://b.test/", .otherHost),
      (307, "https://a.test/", "https://a.test.evil.test/", .otherHost),
      (301, "https://a.test/", "https://a.test/", .otherMethod),
      (302, "https://a.test/", "https://a.test/", .otherMethod),
      (303, "https://a.test/", "https://a.test/", .otherMethod),
      (307, "https://a.test/", "ftp://a.test/", .otherProtocol), (308, "https://a.test/", nil, .noTarget),
    ] as [(Int, String, String?, RedirectRefusal?)])
  func aRedirectIsFollowedWhereNothingIsLost(
    status: Int, from: String, to: String?, refusal: RedirectRefusal?
  ) async throws {
    let origin = try await Self.address(from)
    let target: TransferLibrary.Address? = if let to { try await Self.address(to) } else { nil }
    var redirects = Redirects()
    do {
      try redirects.follow(status: status, from: origin, to: target)
      #expect(refusal == nil)
    } catch {
      #expect(error == refusal.map { .redirected(status: status, $0) })
    }
  }

  @Test(arguments: [307, 308])
  func theSameRequestGoesToTheNextPath(status: Int) async throws {
    let endpoint = try await Endpoint.start(.https)
    try endpoint.behave("redirect \(status) /elsewhere?token=a", "status 202")
    #expect(try await TransferClientTests.send(endpoint.url("/hook", user: "u:p@")).status == 202)
    let received = endpoint.received
    #expect(received.map { $0["path"] } == ["/hook", "/elsewhere?token=a"])
    for name in ["content-type", "user-agent", "authorization", "content-length"] {
      #expect(received[0].header(name) == received[1].header(name), "\(name)")
    }
    #expect(received[1]["body"] == "{}" && received[1]["method"] == "POST")
    #expect(received[1].header("authorization") != nil)
  }

  @Test func anotherSchemeOnTheSameHostIsConnectedToAnew() async throws {
    let secure = try await Endpoint.start(.https)
    let plain = try await Endpoint.start(.http)
    try plain.behave("redirect 308 \(secure.url("/secure"))")
    #expect(try await TransferClientTests.send(plain.url("/hook")).status == 200)
    #expect(secure.received.map { $0["path"] } == ["/secure"])
    try secure.behave("redirect 308 \(plain.url("/plain"))")
    let error = await TransferClientTests.failure { try await TransferClientTests.send(secure.url("/hook")) }
    #expect(error == .redirected(status: 308, .unencrypted))
    #expect(plain.received.count == 1)
  }

  @Test func anotherHostGetsNothing() async throws {
    let endpoint = try await Endpoint.start(.https)
    let other = try await Endpoint.start(.https)
    try endpoint.behave("redirect 307 \(other.url("/hook", host: "127.0.0.1"))")
    let error = await TransferClientTests.failure { try await TransferClientTests.send(endpoint.url()) }
    #expect(error == .redirected(status: 307, .otherHost))
    #expect(other.received.isEmpty)
  }

  @Test func aLoginThatTheRedirectBringsIsNotUsed() async throws {
    let endpoint = try await Endpoint.start(.https)
    try endpoint.behave("redirect 307 \(endpoint.url("/next", user: "planted:secret@"))", "status 200")
    #expect(try await TransferClientTests.send(endpoint.url("/hook")).status == 200)
    #expect(endpoint.received.last?.header("authorization") == nil)
  }

  @Test func aCircleEndsAfterThreeHops() async throws {
    let endpoint = try await Endpoint.start(.https)
    try endpoint.behave("redirect 307 /again")
    let error = await TransferClientTests.failure { try await TransferClientTests.send(endpoint.url()) }
    #expect(error == .redirected(status: 307, .tooMany))
    #expect(endpoint.received.count == 1 + Redirects.limit)
  }

  @Test(arguments: ["redirect 307", "redirect 302 /x", "redirect 301 https://localhost/"])
  func anyOtherRedirectIsRefused(behaviour: String) async throws {
    let endpoint = try await Endpoint.start(.https)
    try endpoint.behave(behaviour)
    let error = await TransferClientTests.failure { try await TransferClientTests.send(endpoint.url()) }
    guard case .redirected = error else {
      Issue.record("\(error as Any)")
      return
    }
    #expect(endpoint.received.count == 1)
  }
}
