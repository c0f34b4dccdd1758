// What a mail server replied, command after command. Pure. Invariant: only the numbers of a reply are kept, because its
// words may name hosts and people. Fed by Transfer, which libcurl hands each line; read when a transfer has ended.

/// The replies of one mail's transfer, in their order.
struct MailReplies: Sendable {
  /// A server says a dozen lines for each mail, and one a recipient.
  static let countLimit = 256

  private(set) var replies: [MailReply] = []

  /// Takes a line in; of a reply of several lines the last one counts.
  mutating func add(_ line: some Collection<UInt8>) {
    let start = Array(line.prefix(16))
    guard replies.count < Self.countLimit, start.count >= 3, let status = Self.number(start[..<3]) else { return }
    guard start.count == 3 || start[3] == UInt8(ascii: " ") || start[3] < 0x20 else { return }
    // The answer to QUIT is none about the mail.
    guard status != 221 else { return }
    replies.append(MailReply(status: status, enhancedStatus: Self.enhancedStatus(start.dropFirst(4))))
  }

  /// Where the conversation ended, and the replies to the recipients as far as they were asked for.
  ///
  /// - Parameter isNew: whether the connection was opened for this mail: then it begins with a greeting.
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
      // AUTH, which is over with 235.
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

  /// RFC 3463's three numbers, such as 5.7.1.
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
