// Handles log lines whose reader is slow, gone or hung. Pure: the write is passed in.
// Invariant: the reader gets whole lines; dropped lines are counted, and the count is logged.

import Reactor

/// Writes lines to a stream that may not accept them.
///
///     flowing ──(the reader took less than the line within `patience`)──▶ stalled
///     stalled ──(the rest of the begun line and the count of dropped ones went out)──▶ flowing
///
/// While it is stalled no line waits: the loop must not wait for a reader that hangs.
struct LogOutbox {
  /// How long the loop may block, once, for a reader that does not read.
  static let patience: Duration = .milliseconds(100)

  /// Writes as many leading bytes as the stream accepts within a time, and returns how many.
  typealias Write = (_ bytes: ArraySlice<UInt8>, _ patience: Duration) -> Int

  /// The rest of a partly written line.
  private var rest: ArraySlice<UInt8> = []
  private(set) var droppedLines = 0
  private var isStalled = false

  /// Writes `line`, or counts it as dropped.
  ///
  /// - Parameter notice: the line that reports how many were dropped before it.
  mutating func send(_ line: [UInt8], notice: (_ droppedLines: Int) -> [UInt8], write: Write) {
    guard flush(write) else {
      droppedLines += 1
      return
    }
    if droppedLines > 0 {
      guard begin(notice(droppedLines), write) else {
        droppedLines += 1
        return
      }
      droppedLines = 0
      guard rest.isEmpty else {
        droppedLines = 1
        return
      }
    }
    if !begin(line, write) { droppedLines += 1 }
  }

  /// Writes the rest of a partly written line; false if some of it remains.
  private mutating func flush(_ write: Write) -> Bool {
    guard !rest.isEmpty else { return true }
    rest = rest.dropFirst(write(rest, isStalled ? .zero : Self.patience))
    isStalled = !rest.isEmpty
    return rest.isEmpty
  }

  /// Starts a line; false if the stream accepted none of it. A rest is kept.
  private mutating func begin(_ line: [UInt8], _ write: Write) -> Bool {
    let count = write(line[...], isStalled ? .zero : Self.patience)
    isStalled = count < line.count
    guard count > 0 else { return false }
    rest = line[count...]
    return true
  }
}
