// Where a server can listen, and what an operator sees if it cannot.

import Foundation
import TestSupport
import Testing

@testable import Reactor

@Suite struct ListenAddressTests {
  @Test(arguments: [
    ("127.0.0.1:8091", ListenAddress.Host.ipv4([127, 0, 0, 1]), UInt16(8091)), (":0", .any, 0),
    ("localhost:65535", .ipv4([127, 0, 0, 1]), 65535), ("0.0.0.0:80", .ipv4([0, 0, 0, 0]), 80),
    ("[::1]:8091", .ipv6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]), 8091),
    ("example.org:80", .name("example.org"), 80), ("pod-0.svc.:1", .name("pod-0.svc."), 1), ("a_b:1", .name("a_b"), 1),
  ])
  func anAddressIsHostAndPort(text: String, host: ListenAddress.Host, port: UInt16) throws {
    let address = try ListenAddress(text)
    #expect(address.host == host)
    #expect(address.port == port)
  }

  @Test(arguments: [
    "", "8091", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:+1", "127.0.0.1:http",
    "127.0.0.1: 80", "256.0.0.1:80", "::1:80", "[::1:80", "[::1]80", "[127.0.0.1]:80", "a..b:80", ".:80",
    "127.0.0.1\0:80", "http://127.0.0.1:80", "127.1:80", "[localhost]:80", "127.0.0.1:00080000",
    "a/b:80", "größe:80", "[example.org]:80", "1.2.3:80",
  ])
  func anythingElseIsMalformed(text: String) {
    #expect(throws: ListenError.malformed(text)) { try ListenAddress(text) }
  }

  @Test func anAddressInUseOrNotOursIsAnErrorThatSaysSo() async throws {
    try await onLoop {
      let first = HTTPServer(clock: .system) { _ in .now(.notFound) }
      try first.listen(on: "127.0.0.1:0")
      let taken = "127.0.0.1:\(first.boundPort)"
      let second = HTTPServer(clock: .system) { _ in .now(.notFound) }
      #expect(throws: ListenError.addressInUse(taken)) { try second.listen(on: taken) }
      #expect(throws: ListenError.addressNotOurs("192.0.2.1:0")) { try second.listen(on: "192.0.2.1:0") }
      #expect(ListenError.addressInUse(taken).description.contains("another process listens there"))
    }
  }

  @Test func aHostNameIsResolvedBeforeListening() async throws {
    let soon = Duration.seconds(5)
    let address = try await onLoop {
      try await ListenAddress("localhost.:0").resolved(by: LoopClock.system.now.advanced(by: soon), on: .system)
    }
    #expect(address.host == .ipv4([127, 0, 0, 1]) && address.description == "localhost.:0")
    await #expect(throws: ListenError.self) {
      try await onLoop {
        try await ListenAddress("no-such-host.invalid:0").resolved(
          by: LoopClock.system.now.advanced(by: soon), on: .system)
      }
    }
  }

  /// As in Go: on a cluster whose pods have only IPv6 addresses, the kubelet comes by IPv6.
  @Test(.enabled(if: hasLoopbackIPv6()), arguments: ["0.0.0.0:0", "[::]:0", ":0"])
  func theUnspecifiedAddressIsEveryInterfaceOfBothFamilies(text: String) async throws {
    try await onLoop {
      let server = HTTPServer(clock: .system) { _ in .now(.notFound) }
      try server.listen(on: text)
      for host in ["127.0.0.1", "[::1]"] {
        let address = try ListenAddress("\(host):\(server.boundPort)")
        #expect(throws: ListenError.addressInUse(address.description)) {
          try HTTPServer(clock: .system) { _ in .now(.notFound) }.listen(on: address)
        }
      }
    }
  }

  @Test func everyInterfaceIsServedByItsPortAlone() async throws {
    let server = try await onLoop {
      let server = HTTPServer(clock: .system) { _ in .now(HTTPResponse(text: "here")) }
      try server.listen(on: ":0")
      return server
    }
    let port = await server.boundPort
    async let running: Void = onLoop { await server.run() }
    try await onLoop { try await eventually("the server runs") { server.isRunning } }
    #expect(try HTTPTestClient(port: port).get("/").body == "here")
    await server.drain(within: .seconds(5))
    try await running
    #expect(await server.boundPort == 0)
  }

  @Test func theDateIsThatOfTheCalendar() {
    let format = DateFormatter()
    format.locale = Locale(identifier: "en_US_POSIX")
    format.timeZone = TimeZone(identifier: "GMT")
    format.dateFormat = "EEE, dd MMM yyyy HH:mm:ss 'GMT'"
    var text = [UInt8](repeating: 0, count: HTTPDate.byteCount)
    for seconds in stride(from: Int64(0), to: 253_402_300_799, by: 86_400 * 61 + 3_607) {
      HTTPDate.render(secondsSince1970: seconds, into: &text)
      let expected = format.string(from: Date(timeIntervalSince1970: Double(seconds)))
      if String(decoding: text, as: UTF8.self) != expected { Issue.record("\(seconds)") }
    }
  }
}
