// Fuzzes the HTTP request parser. What must hold for any bytes: however they are cut the outcome is the same, and no
// more is kept than the parser's bound.

@testable import Reactor

/// What came out of the parser, comparable.
private enum Outcome: Equatable {
  case request(HTTPRequestHead)
  case refused(HTTPStatus)
  case incomplete
}

private let headByteLimit = 256
private let bodyByteLimit = 32

extension FuzzTarget {
  /// The first byte draws the cuts, so the fuzzer can search for them too.
  static let http = FuzzTarget(name: "http") { input in
    guard let cuts = input.first, input.count > 1 else { return }
    let bytes = Array(input.dropFirst())
    let whole = outcomes(of: bytes) { $0 }
    let single = outcomes(of: bytes) { _ in 1 }
    var state = UInt64(cuts)
    let drawn = outcomes(of: bytes) { rest in
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return 1 + Int(state >> 33) % rest
    }
    precondition(whole == single, "byte by byte the outcome differs")
    precondition(whole == drawn, "in pieces the outcome differs")
  }
}

/// Hands `bytes` over in pieces, each as long as `piece` says of how many are left.
private func outcomes(of bytes: [UInt8], inPiecesOf piece: (Int) -> Int) -> [Outcome] {
  var parser = HTTPRequestParser(headByteLimit: headByteLimit, bodyByteLimit: bodyByteLimit)
  var outcomes: [Outcome] = []
  var held: [UInt8] = []
  var start = 0
  while start < bytes.count {
    let end = start + piece(bytes.count - start)
    held += bytes[start..<end]
    start = end
    pieces: while true {
      switch parser.next(held.span) {
      case .needsMore, .wantsContinue:
        precondition(held.count <= parser.byteLimit, "more is kept than the bound")
        break pieces
      case .request(let head):
        check(head, in: held)
        outcomes.append(.request(head))
        held.removeFirst(head.byteCount)
      case .refused(let status):
        precondition(parser.next(held.span) == .refused(status), "a refusal is not for ever")
        return outcomes + [.refused(status)]
      }
    }
  }
  return held.isEmpty ? outcomes : outcomes + [.incomplete]
}

private func check(_ head: HTTPRequestHead, in bytes: [UInt8]) {
  precondition(head.headByteCount <= headByteLimit && head.bodyByteCount <= bodyByteLimit)
  precondition(head.byteCount <= bytes.count && head.path.upperBound <= head.headByteCount)
  precondition(head.query.upperBound <= head.headByteCount)
  if head.method != .other { precondition(head.path.isEmpty || bytes[head.path.lowerBound] == 0x2f) }
  for byte in bytes[head.path] { precondition(byte > 0x20 && byte < 0x7f && byte != 0x3f) }
}
