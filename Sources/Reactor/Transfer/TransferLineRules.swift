// What the lines of a request may contain: libcurl sends header lines, envelope addresses and the URL as they are.
// Invariant: no part of a request can start a new line, and no refusal repeats the part. Pure; used by TransferClient
// before a request touches the network.

extension TransferRequest {
  /// Why this request must not be sent, as the end of "the request has …"; nil if it may.
  var fault: String? {
    switch content {
    case .post(let headers, _):
      for line in headers where !LineRules.isHeaderLine(line) {
        return "a header line that is not NAME: VALUE on one line"
      }
    case .mail(let sender, let recipients, let message, _, let clientName):
      // RFC 5321, 4.5.5: delivery status notifications have an empty sender.
      guard sender.isEmpty || LineRules.isEnvelopeAddress(sender) else { return "an unusable sender address" }
      guard !recipients.isEmpty else { return "no recipient" }
      for address in recipients where !LineRules.isEnvelopeAddress(address) { return "an unusable recipient address" }
      if let clientName, !LineRules.isEnvelopeAddress(clientName) { return "an unusable client name" }
      guard LineRules.endsLinesAlike(message) else { return "a message with a bare CR or LF, or a NUL" }
    }
    return nil
  }
}

/// Rules for single parts of a request.
enum LineRules {
  /// RFC 9112, 5: a token, a colon directly after it, and a value without control characters other than the tab.
  static func isHeaderLine(_ line: String) -> Bool {
    let bytes = Array(line.utf8)
    guard let colon = bytes.firstIndex(of: ASCII.colon), colon > 0 else { return false }
    return bytes[..<colon].allSatisfy(ASCII.isToken) && bytes[(colon + 1)...].allSatisfy(ASCII.isFieldValue)
  }

  /// Whether an address is allowed between the angle brackets of MAIL FROM and RCPT TO (RFC 5321, 4.1.2). A bracket
  /// would end it there, and what follows would be parameters of the command.
  static func isEnvelopeAddress(_ address: String) -> Bool {
    let bytes = Array(address.utf8)
    return !bytes.isEmpty && bytes.allSatisfy { $0 > ASCII.space && $0 != 0x7f && $0 != 0x3c && $0 != 0x3e }
  }

  /// Whether libcurl accepts a URL: no whitespace, no control characters, and no NUL, which would end it early.
  static func isURL(_ text: String) -> Bool {
    text.utf8.allSatisfy { $0 > ASCII.space && $0 != 0x7f }
  }

  /// Whether CR and LF occur only together, and NUL not at all (RFC 5321, 2.3.8): some servers take a bare one for the
  /// end of a line, and a dot on such a line for the end of the message.
  static func endsLinesAlike(_ message: [UInt8]) -> Bool {
    var previous: UInt8 = 0
    for byte in message {
      guard byte != 0, (previous == ASCII.carriageReturn) == (byte == ASCII.lineFeed) else { return false }
      previous = byte
    }
    return previous != ASCII.carriageReturn
  }
}
