// A mail's bytes: headers that cannot be forged, words and texts that Python's mail library reads back.

import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct MailMessageTests {
  static func lines(_ mail: MailMessage, _ text: String) -> [String] {
    String(decoding: mail.bytes(text: text), as: UTF8.self).components(separatedBy: "\r\n")
  }

  /// The subject and the text as Python's standard library reads them.
  static func read(_ mail: [UInt8]) async throws -> [String] {
    let program = """
      import email, email.policy, json, sys
      mail = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.default)
      text = mail.get_content().replace("\\r\\n", "\\n")
      print(json.dumps([str(mail["Subject"]), text] + [str(defect) for defect in mail.defects]))
      """
    return try await offLoop {
      let process = Process()
      process.executableURL = URL(fileURLWithPath: "/usr/bin/python3")
      process.arguments = ["-c", program]
      let input = Pipe()
      let output = Pipe()
      process.standardInput = input
      process.standardOutput = output
      try process.run()
      input.fileHandleForWriting.write(Data(mail))
      try input.fileHandleForWriting.close()
      let answer = output.fileHandleForReading.readDataToEndOfFile()
      process.waitUntilExit()
      return try JSONSerialization.jsonObject(with: answer) as? [String] ?? []
    }
  }

  @Test func plainTextIsNotEncoded() {
    var mail = MailMessage()
    mail.header("Subject", "all is well")
    #expect(
      Self.lines(mail, "one\ntwo\n") == [
        "Subject: all is well", "MIME-Version: 1.0", "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 7bit", "", "one", "two", "",
      ])
  }

  @Test(arguments: [
    ("naïve — text", "Zeile mit Umlauten: äöü\n"), ("plain", "trailing blank \nand = signs, ä\n"),
    (String(repeating: "long — ", count: 40), String(repeating: "x", count: 500) + "\n"),
    ("emoji 🚨🚨🚨🚨🚨🚨🚨🚨🚨🚨🚨🚨🚨🚨🚨", "tab\tand\u{1}control\n"),
  ])
  func whateverTextComesInIsReadBack(subject: String, text: String) async throws {
    var mail = MailMessage()
    mail.header("Subject", subject)
    let bytes = mail.bytes(text: text)
    let read = try await Self.read(bytes)
    #expect(read == [subject, text])
    #expect(bytes.allSatisfy { $0 < 0x80 })
    for line in Self.lines(mail, text) { #expect(line.utf8.count <= 78, "\(line)") }
  }

  @Test func aLineBreakInAHeaderCannotForgeAnotherHeader() {
    var mail = MailMessage()
    mail.header("Subject", "a\r\nBcc: victim@example.com\r\n\r\nbody")
    let lines = Self.lines(mail, "text\n")
    #expect(!lines.contains { $0.hasPrefix("Bcc") })
    #expect(lines.firstIndex(of: "") == lines.firstIndex(of: "Content-Transfer-Encoding: 7bit").map { $0 + 1 })
  }

  @Test func theHeadersOfANotification() {
    let mail = SinkBodyTests.body(SinkBodyTests.mail, SinkBodyTests.failure).components(separatedBy: "\r\n")
    #expect(mail.contains("Date: Wed, 18 Nov 2026 11:06:40 +0000"))
    #expect(mail.contains("Message-ID: <1123456789abcdef0123456789abcdef@example.com>"))
    #expect(mail.contains("Subject: [secrets-bridge] error: delete expired wraps failed"))
    #expect(mail.contains("To: ops@example.com,") && mail.contains(" dba@example.com"))
  }
}
