// A request whose parts would not stay on their lines is refused by the transfer client, before anything is sent.

import TestSupport
import Testing

@testable import Reactor

@Suite struct TransferLineRulesTests {
  private static func post(_ headers: String...) -> TransferRequest.Content { .post(headers: headers, body: []) }

  private static func mail(
    from: String = "a@example.com", to: [String] = ["b@example.com"], _ message: String = "Subject: s\r\n\r\nt\r\n"
  ) -> TransferRequest.Content {
    .mail(from: from, to: to, message: Array(message.utf8), encryption: .never)
  }

  private static func fault(_ content: TransferRequest.Content) -> String? {
    TransferRequest(url: "http://127.0.0.1/", content: content).fault
  }

  @Test(arguments: [
    "A: b\r\nC: d", "A: b\nC: d", "A: b\rC: d", "A: b\r\n", "A: b\n", "A: b\0", "A: \u{1}", "A: b\u{7f}", "A\r\nB: c",
    "A B: c", "A : b", ": b", "", "no colon", "A\0: b", " A: b", "A;", "\r\n\r\nbody",
  ])
  func aHeaderLineThatIsNotOneFieldIsRefused(line: String) {
    #expect(Self.fault(Self.post("Content-Type: text/plain", line))?.contains("header line") == true)
  }

  @Test(arguments: ["A: b", "A:b", "A:", "X-Note: a\tb \u{fc}", "A: b: c"])
  func aHeaderFieldPasses(line: String) {
    #expect(Self.fault(Self.post(line)) == nil)
  }

  @Test(arguments: [
    "a@example.com\r\nDATA", "a@example.com\n", "a@example.com\r", "a\0@example.com", "a@example.com> SIZE=1 <b",
    "<a@example.com>", "a b@example.com", "a@example.com\t", "a@exam\u{1b}ple.com", "\u{7f}@example.com",
  ])
  func anAddressThatWouldLeaveItsCommandIsRefused(address: String) {
    #expect(Self.fault(Self.mail(from: address))?.contains("sender") == true)
    #expect(Self.fault(Self.mail(to: ["b@example.com", address]))?.contains("recipient") == true)
  }

  @Test func aMailNeedsARecipientAndMayHaveTheEmptySender() {
    #expect(Self.fault(Self.mail(to: [])) == "no recipient")
    #expect(Self.fault(Self.mail(to: [""]))?.contains("recipient") == true)
    #expect(Self.fault(Self.mail(from: "")) == nil)
    #expect(Self.fault(Self.mail(to: ["\u{fc}ser+tag@example.com"])) == nil)
  }

  @Test(arguments: ["a\n.\r\nb", "a\r.\r\n", "a\r", "\n", "a\0b\r\n", "a\r\r\n"])
  func aMessageWithABareLineEndIsRefused(message: String) {
    #expect(Self.fault(Self.mail(message))?.contains("message") == true)
  }

  @Test func nothingOfARefusedRequestIsSent() async throws {
    let endpoint = try await Endpoint.start(.https)
    for content in [Self.post("A: b\r\nInjected: c"), Self.mail(to: ["b@example.com\r\nDATA"])] {
      let error = await TransferClientTests.failure { try await TransferClientTests.send(endpoint.url(), content) }
      guard case .malformedRequest(let fault) = error else {
        Issue.record("\(error as Any)")
        continue
      }
      #expect(!fault.contains("Injected") && !fault.contains("example"))
    }
    #expect(endpoint.received.isEmpty)
  }

  @Test(arguments: ["/a\r\nInjected: b", "/a\nb", "/\0", "/a b", "/a\tb", "/\u{7f}"])
  func aURLWithALineEndInItIsRefused(path: String) async throws {
    let endpoint = try await Endpoint.start(.https)
    let error = await TransferClientTests.failure { try await TransferClientTests.send(endpoint.url(path)) }
    #expect(error == .malformedURL)
    #expect(endpoint.received.isEmpty)
  }

  @Test func theUserAgentIsAHeaderFieldToo() async throws {
    let error = await TransferClientTests.failure {
      try await onLoop {
        let client = TransferClient(
          try TransferLibrary(), proxies: ProxyRules(), userAgent: "a\r\nB: c", clock: .system)
        let request = TransferRequest(url: "http://127.0.0.1:1/", content: Self.post())
        return try await client.send(request, by: LoopClock.system.now.advanced(by: .seconds(5)))
      }
    }
    #expect(error == .malformedRequest("a user agent with a control character"))
  }
}
