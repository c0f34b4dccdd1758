// A mail server's replies, command by command. Pure. Invariant: only the numbers of a reply are kept, because its text
// may name hosts and people. Transfer adds each line that libcurl delivers, and reads it after the transfer.

/// The replies to one mail, in order.
struct MailReplies: Sendable {
  /// A server sends a dozen lines per mail, and one per recipient.
  static let countLimit = 256

  private(set) var replies: [MailReply] = []

  /// Adds a line. Of a multi-line reply the last line counts.
  mutating func add(_ line: some Collection<UInt8>) {
    let start = Array(line.prefix(16))
    guard replies.count < Self.countLimit, start.count >= 3, let status = Self.number(start[..<3]) else { return }
    guard start.count == 3 || start[3] == UInt8(ascii: " ") || start[3] < 0x20 else { return }
    // The reply to QUIT says nothing about the mail.
    guard status != 221 else { return }
    replies.append(MailReply(status: status, enhancedStatus: Self.enhancedStatus(start.dropFirst(4))))
  }

  /// The step at which the conversation ended, and the replies to the recipients that were sent.
  ///
  /// - Parameter isNew: whether the connection was opened for this mail, so that it begins with a greeting.
  func progress(isNew: Bool) -> (step: MailStep, recipients: [MailReply]) {
    var rest = replies[...]
    if isNew {
      // The greeting, EHLO (HELO after a refusal), STARTTLS and EHLO once more.
      var wasGreeted = false
      while let greeting = rest.firstIndex(where: { $0.status == 220 }) {
        rest = rest[(greeting + 1)...]
        wasGreeted = true
      }
      while rest.first?.isRefusal == true { rest.removeFirst() }
      guard wasGreeted, !rest.isEmpty else { return (.hello, []) }
      rest.removeFirst()
      // AUTH, which ends with 235.
      if rest.contains(where: { $0.status == 334 || $0.status == 235 }) {
        guard let end = rest.firstIndex(where: { $0.status == 235 }) else { return (.login, []) }
        rest = rest[(end + 1)...]
      }
    }
    guard let sender = rest.popFirst(), !sender.isRefusal else { return (.sender, []) }
    guard let data = rest.firstIndex(where: { $0.status == 354 }) else { return (.recipients, Array(rest)) }
    return (.message, Array(rest[..<data]))
  }

  private static func number(_ digits: ArraySlice<UInt8>) -> Int? {
    var number = 0
    for digit in digits {
      guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(digit) else { return nil }
      number = number * 10 + Int(digit - UInt8(ascii: "0"))
    }
    return digits.isEmpty ? nil : number
  }

  /// An enhanced status code of RFC 3463, such as 5.7.1.
  private static func enhancedStatus(_ text: ArraySlice<UInt8>) -> String? {
    let word = text.prefix { $0 > 0x20 }
    var parts: [ArraySlice<UInt8>] = [[]]
    for byte in word {
      if byte == UInt8(ascii: ".") { parts.append([]) } else { parts[parts.count - 1].append(byte) }
    }
    guard parts.count == 3, parts.allSatisfy({ $0.count <= 3 && number($0[...]) != nil }) else { return nil }
    return String(decoding: word, as: UTF8.self)
  }
}
