// The request parser: what it takes, what it refuses, and that the way in which bytes are cut changes nothing.

import TestSupport
import Testing

@testable import Reactor

@Suite struct HTTPRequestParserTests {
  // MARK: What it takes

  @Test func aRequestIsTakenWithItsPathAndQueryApart() {
    #expect(outcomes("GET /metrics?name=a%20b HTTP/1.1\r\nHost: a\r\n\r\n") == ["GET /metrics ?name=a%20b 1.1 keep 0"])
  }

  @Test func pipelinedRequestsAreTakenInOrder() {
    let text = "GET /a HTTP/1.1\r\nHost: a\r\n\r\nHEAD /b HTTP/1.1\r\nHost: a\r\n\r\nPUT /c HTTP/1.1\r\nHost: a\r\n\r\n"
    #expect(outcomes(text) == ["GET /a ? 1.1 keep 0", "HEAD /b ? 1.1 keep 0", "other  ? 1.1 keep 0"])
  }

  @Test(arguments: [
    ("1.1", "X: y", "keep"), ("1.1", "Connection: close", "close"), ("1.1", "connection: Upgrade, CLOSE", "close"),
    ("1.1", "Connection: keep-alive", "keep"), ("1.1", "Connection: keep-alive\r\nConnection: close", "close"),
    ("1.0", "X: y", "close"), ("1.0", "Connection: Keep-Alive", "keep"),
    ("1.0", "Connection: keep-alive, close", "close"),
  ])
  func theConnectionIsKeptAsVersionAndFieldSay(version: String, field: String, expected: String) {
    #expect(outcomes("GET / HTTP/\(version)\r\nHost: a\r\n\(field)\r\n\r\n") == ["GET / ? \(version) \(expected) 0"])
  }

  @Test(arguments: [
    ("http://example.org/a?b", "/a ?b"), ("HTTP://example.org:80", " ?"), ("https://[::1]:80?x", " ?x"),
    ("/a%2F..//b", "/a%2F..//b ?"), ("/?", "/ ?"), ("/a?b?c", "/a ?b?c"),
  ])
  func targetsComeInOriginAndInAbsoluteForm(target: String, expected: String) {
    #expect(outcomes("GET \(target) HTTP/1.1\r\nHost: a\r\n\r\n") == ["GET \(expected) 1.1 keep 0"])
  }

  @Test func aBodyWithinTheLimitIsPartOfItsRequest() {
    let text = "GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 005\r\n\r\n\r\n\r\n!GET /b HTTP/1.0\r\n\r\n"
    #expect(outcomes(text) == ["GET /a ? 1.1 keep 5", "GET /b ? 1.0 close 0"])
  }

  @Test func emptyLinesBeforeARequestAreSkipped() {
    #expect(outcomes("\r\n\r\nGET / HTTP/1.0\r\n\r\n") == ["GET / ? 1.0 close 0"])
  }

  @Test func unreadFieldsMayHoldTabsAndBytesAbove127() {
    #expect(outcomes("GET / HTTP/1.0\r\nX:\t\u{e9}\ta \r\nY:\r\n\r\n") == ["GET / ? 1.0 close 0"])
  }

  @Test func aWaitingClientGetsOneContinue() {
    var parser = HTTPRequestParser(headByteLimit: 512, bodyByteLimit: 64)
    var bytes = Array("GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n".utf8)
    #expect(parser.next(bytes.span) == .wantsContinue)
    #expect(parser.next(bytes.span) == .needsMore)
    bytes += [1, 2]
    guard case .request(let head) = parser.next(bytes.span) else { return #expect(Bool(false)) }
    #expect(head.bodyByteCount == 2)
  }

  // MARK: What it refuses

  private static let refusedFields: [(fields: String, status: HTTPStatus)] = [
    ("", .badRequest),  // no Host
    ("Host: a\r\nHost: a\r\n", .badRequest), ("Host: a/b\r\n", .badRequest), ("Host: u@a\r\n", .badRequest),
    ("Host : a\r\n", .badRequest), ("Host: a\r\n folded\r\n", .badRequest), (" Host: a\r\n", .badRequest),
    ("Host: a\r\nX\r\n", .badRequest), ("Host: a\r\n: x\r\n", .badRequest), ("Host: a\r\nX: \0\r\n", .badRequest),
    ("Host: a\r\nX: a\rb\r\n", .badRequest), ("Host: a\nX: b\r\n", .badRequest),
    ("Host: a\r\nX\u{e9}: b\r\n", .badRequest),
    ("Host: a\r\nX: \u{7f}\r\n", .badRequest),
    ("Host: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n", .badRequest),
    ("Host: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n", .badRequest),
    ("Host: a\r\nContent-Length: 5, 5\r\n", .badRequest), ("Host: a\r\nContent-Length: +5\r\n", .badRequest),
    ("Host: a\r\nContent-Length: -1\r\n", .badRequest), ("Host: a\r\nContent-Length: 0x5\r\n", .badRequest),
    ("Host: a\r\nContent-Length:\r\n", .badRequest), ("Host: a\r\nContent-Length: 65\r\n", .contentTooLarge),
    ("Host: a\r\nContent-Length: 99999999999999999999999999\r\n", .contentTooLarge),
    ("Host: a\r\nTransfer-Encoding: chunked\r\n", .lengthRequired),
    ("Host: a\r\nTransfer-Encoding: gzip, chunked\r\n", .notImplemented),
    ("Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", .notImplemented),
    ("Host: a\r\nTransfer-Encoding: chunked, identity\r\n", .badRequest),
    ("Host: a\r\nTransfer-Encoding: xchunked\r\n", .badRequest), ("Host: a\r\nTransfer-Encoding:\r\n", .badRequest),
    ("Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n", .badRequest),
    ("Host: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n", .badRequest),
    ("Host: a\r\nExpect: 200-ok\r\n", .expectationFailed),
  ]

  @Test(arguments: refusedFields.indices)
  func fieldsThatCanBeReadInTwoWaysAreRefused(index: Int) {
    let (fields, status) = Self.refusedFields[index]
    #expect(outcomes("GET / HTTP/1.1\r\n\(fields)\r\n") == ["refused \(status.rawValue)"], "\(fields)")
  }

  @Test(arguments: [
    ("GET / HTTP/2.0", HTTPStatus.versionNotSupported), ("PRI * HTTP/2.0", .versionNotSupported),
    ("GET / HTTP/1.2", .versionNotSupported), ("GET / HTTP/0.9", .versionNotSupported), ("GET /", .badRequest),
    ("GET / http/1.1", .badRequest), ("GET / HTTP/11", .badRequest), ("GET / HTTP/1.1 ", .badRequest),
    ("GET  / HTTP/1.1", .badRequest), ("GET /  HTTP/1.1", .badRequest), (" GET / HTTP/1.1", .badRequest),
    ("GET /\u{1} HTTP/1.1", .badRequest), ("GET /\u{e9} HTTP/1.1", .badRequest), ("GET /a#b HTTP/1.1", .badRequest),
    ("GET a HTTP/1.1", .badRequest), ("GET * HTTP/1.1", .badRequest), ("GET http:// HTTP/1.1", .badRequest),
    ("GET http://u@h/ HTTP/1.1", .badRequest), ("GET ftp://h/ HTTP/1.1", .badRequest), ("G(T / HTTP/1.1", .badRequest),
    ("\u{16}\u{3}\u{1}", .badRequest), ("GET\t/ HTTP/1.1", .badRequest),
  ])
  func aMalformedRequestLineIsRefused(line: String, status: HTTPStatus) {
    #expect(outcomes("\(line)\r\nHost: a\r\n\r\n") == ["refused \(status.rawValue)"])
  }

  @Test func aHeadOfExactlyTheLimitIsTakenAndOneByteMoreIsNot() {
    let frame = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".utf8.count
    for (excess, expected) in [(0, "GET / ? 1.1 keep 0"), (1, "refused 431")] {
      let value = String(repeating: "x", count: Self.headByteLimit - frame + excess)
      #expect(outcomes("GET / HTTP/1.1\r\nHost: a\r\nX: \(value)\r\n\r\n") == [expected])
    }
    #expect(outcomes("GET /" + String(repeating: "x", count: Self.headByteLimit)) == ["refused 414"])
    let fields = String(repeating: "X: y\r\n", count: Self.headByteLimit)
    #expect(outcomes("GET / HTTP/1.1\r\n" + fields) == ["refused 431"])
  }

  // MARK: However it is cut

  @Test func cuttingAtEveryPositionChangesNothing() {
    for text in Self.corpus {
      let bytes = Array(text.utf8)
      let whole = outcomes(bytes, cuts: [])
      #expect(outcomes(bytes, cuts: Array(0..<bytes.count)) == whole, "byte by byte: \(text)")
      for cut in 0...bytes.count where outcomes(bytes, cuts: [cut]) != whole {
        Issue.record("cut at \(cut): \(text)")
      }
    }
  }

  @Test func randomCutsOfRandomlyChangedRequestsChangeNothing() {
    let seed = UInt64.random(in: 0 ... .max)
    var random = SeededRandom(seed: seed)
    for round in 0..<20_000 {
      var bytes: [UInt8] = []
      for _ in 0...Int.random(in: 0...2, using: &random) { bytes += Self.corpus.randomElement(using: &random)!.utf8 }
      for _ in 0..<Int.random(in: 0...4, using: &random) {
        let place = Int.random(in: 0..<bytes.count, using: &random)
        switch Int.random(in: 0...2, using: &random) {
        case 0: bytes[place] = Array("\r\n :,\0AG/?1\u{7f}".utf8).randomElement(using: &random)!
        case 1: bytes.remove(at: place)
        default: bytes.insert(bytes.randomElement(using: &random)!, at: place)
        }
        if bytes.isEmpty { bytes = [0] }
      }
      var cuts: [Int] = []
      for _ in 0..<Int.random(in: 1...8, using: &random) {
        cuts.append(Int.random(in: 0...bytes.count, using: &random))
      }
      let whole = outcomes(bytes, cuts: [])
      if outcomes(bytes, cuts: cuts.sorted()) != whole {
        Issue.record("seed \(seed), round \(round), cuts \(cuts): \(String(decoding: bytes, as: UTF8.self))")
        return
      }
    }
  }

  // MARK: Instruments

  private static let headByteLimit = 512
  private static let bodyByteLimit = 64

  private static let corpus: [String] =
    refusedFields.map { "GET / HTTP/1.1\r\n\($0.fields)\r\n" } + [
      "GET /metrics?name=a%20b HTTP/1.1\r\nHost: a\r\n\r\n",
      "GET /a HTTP/1.1\r\nHost: a\r\n\r\nHEAD /b HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        + "GET http://a HTTP/1.0\r\n\r\n",
      "GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n\r\n\r\n!GET /b HTTP/1.0\r\n\r\n",
      "\r\nPOST /a HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 64\r\n\r\n"
        + String(repeating: "GET / H\r\n", count: 8),
      "GET / HTTP/1.1\r\nHost: a\r\nX: \(String(repeating: "x", count: 600))\r\n\r\n",
      "GET /\(String(repeating: "x", count: 600)) HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/3.0\r\n\r\n", "\u{16}\u{3}",
    ]

  private func outcomes(_ text: String) -> [String] {
    outcomes(Array(text.utf8), cuts: [])
  }

  /// What comes out of `bytes`, handed over in the pieces that `cuts` make of them, as a connection would.
  private func outcomes(_ bytes: [UInt8], cuts: [Int]) -> [String] {
    var parser = HTTPRequestParser(headByteLimit: Self.headByteLimit, bodyByteLimit: Self.bodyByteLimit)
    var result: [String] = []
    var held: [UInt8] = []
    var start = 0
    for end in cuts + [bytes.count] {
      held += bytes[start..<end]
      start = end
      pieces: while true {
        switch parser.next(held.span) {
        case .needsMore, .wantsContinue:
          #expect(held.count < parser.byteLimit + 1)
          break pieces
        case .request(let head):
          result.append(describe(head, in: held))
          held.removeFirst(head.byteCount)
        case .refused(let status):
          return result + ["refused \(status.rawValue)"]
        }
      }
    }
    return result
  }

  private func describe(_ head: HTTPRequestHead, in bytes: [UInt8]) -> String {
    let method = head.method == .get ? "GET" : head.method == .head ? "HEAD" : "other"
    let path = String(decoding: bytes[head.path], as: UTF8.self)
    let query = String(decoding: bytes[head.query], as: UTF8.self)
    let connection = head.keepsAlive ? "keep" : "close"
    return "\(method) \(path) ?\(query) 1.\(head.minorVersion) \(connection) \(head.bodyByteCount)"
  }
}
