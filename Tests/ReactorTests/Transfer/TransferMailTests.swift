// Mails through the transfer client, to a real SMTP server: encryption, login, the client's name, refused recipients.

import Foundation
import TestSupport
import Testing

@testable import Reactor

@Suite struct TransferMailTests {
  static let mail = Array("Subject: hello\r\n\r\nfirst\r\n.second\r\n".utf8)
  static let login = "mailer:planted-smtp-password@"

  static func mail(
    _ encryption: TransferRequest.MailEncryption = .required, to: [String] = ["a@example.com", "b@example.com"],
    name: String? = nil
  ) -> TransferRequest.Content {
    .mail(from: "worker@example.com", to: to, message: mail, encryption: encryption, clientName: name)
  }

  private static func failure(_ url: String, _ content: TransferRequest.Content = mail()) async -> TransferError? {
    await TransferClientTests.failure { try await TransferClientTests.send(url, content) }
  }

  @Test(arguments: [Endpoint.Kind.smtp, .smtps])
  func aMailArrivesEncryptedWithTheLoginOfTheURL(kind: Endpoint.Kind) async throws {
    let endpoint = try await Endpoint.start(kind)
    let answer = try await TransferClientTests.send(endpoint.url(user: Self.login), Self.mail())
    #expect(answer.status == 250 && answer.refusedRecipients.isEmpty)
    let received = try #require(endpoint.received.first)
    #expect(received.recipients == ["a@example.com", "b@example.com"] && received["sender"] == "worker@example.com")
    #expect(received.isEncrypted && received["user"] == "mailer")
    #expect(received["data"] == "Subject: hello\r\n\r\nfirst\r\n.second\r\n")
  }

  /// The server offers GSSAPI first, for which this client has no ticket.
  @Test(arguments: ["mailer%40example.com", "mailer%40example.com;AUTH=LOGIN"])
  func aUserWithAnAtSignLogsInWithItsPassword(user: String) async throws {
    let endpoint = try await Endpoint.start(.smtp)
    let answer = try await TransferClientTests.send(
      endpoint.url(user: "\(user):planted-smtp-password@"), Self.mail())
    #expect(answer.status == 250)
    #expect(endpoint.received.first?["user"] == "mailer@example.com")
  }

  @Test func aLoginThatTheServerDoesNotOfferIsSaid() async throws {
    let endpoint = try await Endpoint.start(.smtp)
    let error = await Self.failure(endpoint.url(user: "mailer;AUTH=CRAM-MD5:planted-smtp-password@"))
    #expect(error == .noCommonLogin(tried: "AUTH=CRAM-MD5"))
  }

  @Test func aWrongPasswordIsARefusedLogin() async throws {
    let endpoint = try await Endpoint.start(.smtp)
    let error = await Self.failure(endpoint.url(user: "mailer:wrong@"))
    guard case .mailRefused(at: .login, let reply) = error else {
      Issue.record("\(error as Any)")
      return
    }
    #expect(reply.status == 535)
  }

  @Test func theClientNamesItselfAsConfigured() async throws {
    let endpoint = try await Endpoint.start(.smtp)
    for (path, name, expected) in [
      ("/path.example.com", nil, "path.example.com"), ("", "worker.example.com", "worker.example.com"),
      ("/path.example.com", "[192.0.2.1]", "[192.0.2.1]"), ("", "[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
    ] {
      _ = try await TransferClientTests.send(endpoint.url(path, user: Self.login), Self.mail(name: name))
      #expect(endpoint.received.last?["name"] == expected)
    }
  }

  @Test func aServerWithoutStartTLSGetsNothingUnlessThatIsAllowed() async throws {
    let endpoint = try await Endpoint.start(.smtp, certificate: .none)
    guard case .failed(64, _, _) = await Self.failure(endpoint.url()) else {
      Issue.record("sent without encryption")
      return
    }
    #expect(endpoint.received.isEmpty)
    #expect(try await TransferClientTests.send(endpoint.url(), Self.mail(.preferred)).status == 250)
    #expect(endpoint.received.first?.isEncrypted == false)
  }

  @Test(arguments: [451, 504, 550])
  func aMailThatNoRecipientTakesSaysWhereItStoppedAndTheStatus(status: Int) async throws {
    let endpoint = try await Endpoint.start(.smtp)
    try endpoint.behave("status \(status)")
    for user in ["", Self.login] {
      let error = await Self.failure(endpoint.url(user: user))
      #expect(error == .mailRefused(at: .recipients, MailReply(status: status)))
    }
  }

  @Test func aRefusedRecipientKeepsNoOtherOneFromTheMailAndIsNamed() async throws {
    let endpoint = try await Endpoint.start(.smtp)
    for place in 0..<3 {
      try endpoint.behave(((0..<3).map { $0 == place ? "status 550" : "accept" } + ["accept"]).joined(separator: "\n"))
      let people = ["a@example.com", "b@example.com", "c@example.com"]
      let answer = try await TransferClientTests.send(endpoint.url(user: Self.login), Self.mail(to: people))
      #expect(answer.status == 250)
      let refused = RefusedRecipient(address: people[place], reply: MailReply(status: 550))
      #expect(answer.refusedRecipients == [refused])
      #expect(endpoint.received.last?.recipients == people.filter { $0 != people[place] })
    }
  }

  @Test func aSecondMailOnTheSameConnectionReportsItsRecipientsToo() async throws {
    let endpoint = try await Endpoint.start(.smtp)
    let authority = try await TestAuthority.shared().certificateFile
    let url = endpoint.url(user: Self.login)
    try await onLoop {
      let client = TransferClient(
        try TransferLibrary(), proxies: ProxyRules(), authorityFile: authority, userAgent: "test/1",
        clock: .system)
      for (behaviour, refused) in [("accept", 0), ("status 550\naccept", 1), ("accept\nstatus 451\naccept", 1)] {
        try endpoint.behave(behaviour)
        let request = TransferRequest(url: url, content: Self.mail())
        let answer = try await client.send(request, by: LoopClock.system.now.advanced(by: .seconds(10)))
        #expect(answer.refusedRecipients.count == refused, "\(behaviour)")
      }
    }
  }
}

@Suite struct MailRepliesTests {
  private static func replies(_ lines: [String]) -> MailReplies {
    var replies = MailReplies()
    for line in lines { replies.add(Array((line + "\r\n").utf8)) }
    return replies
  }

  private static let start = ["220 mail.example.com", "250-mail", "250 SIZE"]
  private static let encrypted = start + ["220 go", "250-mail", "250 AUTH"]
  private static let loggedIn = encrypted + ["334 ", "235 2.7.0 welcome"]

  @Test(
    arguments: [
      ([], .hello), (["220 hi"], .hello), (["220 hi", "504 no", "504 no"], .hello),
      (["220 hi", "502 no", "250 HELO then", "550 no"], .sender), (start + ["550 5.7.1 no"], .sender),
      (encrypted + ["550 no"], .sender), (encrypted + ["334 ", "535 no"], .login), (loggedIn + ["550 no"], .sender),
      (loggedIn + ["250 ok", "550 no"], .recipients), (loggedIn + ["250 ok", "250 ok", "354 go", "552 no"], .message),
    ] as [([String], MailStep)])
  func theStepIsTheOneAfterTheLastConsent(lines: [String], step: MailStep) {
    #expect(Self.replies(lines).progress(isNew: true).step == step, "\(lines)")
  }

  @Test func onlyNumbersAreKept() {
    let reply = Self.replies(["550 5.7.1 <ops@example.com>: Relay access denied"]).replies.first
    #expect(reply == MailReply(status: 550, enhancedStatus: "5.7.1"))
    #expect(reply?.text == "status 550 5.7.1")
    for line in ["", "5", "abc def", "5x0 no", "250-more", "\u{1F600}"] {
      #expect(Self.replies([line]).replies.isEmpty)
    }
    #expect(Self.replies(["550 planted.words.here"]).replies == [MailReply(status: 550)])
    #expect(Self.replies(["421"]).replies == [MailReply(status: 421)])
  }

  @Test func aServerThatTalksWithoutEndIsCutOff() {
    #expect(Self.replies((0..<5_000).map { _ in "250 ok" }).replies.count == MailReplies.countLimit)
  }
}
