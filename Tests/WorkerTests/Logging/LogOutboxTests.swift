// What happens to log lines whose reader is slow or hangs.

import Foundation
import Reactor
import Synchronization
import TestSupport
import Testing

@testable import Worker

@Suite struct LogOutboxTests {
  /// A stream that takes `room` more bytes.
  private struct Stream {
    var room = Int.max
    var taken: [UInt8] = []
    var patience: [Duration] = []

    var lines: [String] { String(decoding: taken, as: UTF8.self).split(separator: "\n").map(String.init) }

    mutating func write(_ bytes: ArraySlice<UInt8>, _ patience: Duration) -> Int {
      let count = min(room, bytes.count)
      room -= count
      taken += bytes.prefix(count)
      self.patience.append(patience)
      return count
    }
  }

  private static func send(_ line: String, _ outbox: inout LogOutbox, _ stream: inout Stream) {
    outbox.send(
      Array((line + "\n").utf8), notice: { Array("dropped \($0)\n".utf8) }, write: { stream.write($0, $1) })
  }

  @Test func aLineIsOneWrite() {
    var outbox = LogOutbox()
    var stream = Stream()
    for line in ["a", "b"] { Self.send(line, &outbox, &stream) }
    #expect(stream.lines == ["a", "b"])
    #expect(stream.patience.count == 2)
  }

  @Test func onlyTheFirstLineWaitsForAReaderThatHangs() {
    var outbox = LogOutbox()
    var stream = Stream(room: 0)
    for line in ["a", "b", "c"] { Self.send(line, &outbox, &stream) }
    #expect(stream.patience == [LogOutbox.patience, .zero, .zero])
    #expect(outbox.droppedLines == 3)
  }

  @Test func theDroppedLinesAreReportedWhenTheReaderReadsAgain() {
    var outbox = LogOutbox()
    var stream = Stream(room: 0)
    for line in ["a", "b", "c"] { Self.send(line, &outbox, &stream) }
    stream.room = .max
    for line in ["d", "e"] { Self.send(line, &outbox, &stream) }
    #expect(stream.lines == ["dropped 3", "d", "e"])
    #expect(outbox.droppedLines == 0)
    #expect(stream.patience.last == LogOutbox.patience)
  }

  @Test func aBegunLineIsFinishedBeforeAnythingElse() {
    var outbox = LogOutbox()
    var stream = Stream(room: 3)
    for line in ["abcdef", "lost"] { Self.send(line, &outbox, &stream) }
    stream.room = .max
    Self.send("next", &outbox, &stream)
    #expect(stream.lines == ["abcdef", "dropped 1", "next"])
  }

  @Test func everyLineArrivesWholeOrIsCountedWhateverTheReaderTakes() {
    let seed = UInt64.random(in: .min ... .max)
    var random = SeededRandom(seed: seed)
    for _ in 0..<2_000 {
      var outbox = LogOutbox()
      var stream = Stream(room: 0)
      let count = Int.random(in: 1...20, using: &random)
      for index in 0..<count {
        if Bool.random(using: &random) { stream.room = Int.random(in: 0...12, using: &random) }
        Self.send("line \(index)", &outbox, &stream)
      }
      stream.room = .max
      Self.send("end", &outbox, &stream)
      var seen = 0
      var dropped = 0
      for line in stream.lines {
        if line.hasPrefix("dropped ") { dropped += Int(line.dropFirst(8))! } else { seen += 1 }
      }
      #expect(seen + dropped == count + 1 && outbox.droppedLines == 0, "seed \(seed): \(stream.lines)")
      #expect(
        stream.lines.allSatisfy { $0.hasPrefix("line ") || $0.hasPrefix("dropped ") || $0 == "end" }, "seed \(seed)")
    }
  }
}

/// Log lines of a test.
final class Collected: Sendable {
  private let bytes = Mutex<[UInt8]>([])

  var output: LogOutput {
    LogOutput(.system) { line, _ in
      self.bytes.withLock { $0 += line }
      return line.count
    }
  }

  var lines: [String] {
    bytes.withLock { String(decoding: $0, as: UTF8.self) }.split(separator: "\n").map(String.init)
  }
}
