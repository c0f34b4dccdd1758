// What becomes of log lines whose reader is slow, gone or hung. Pure: the write is handed in.
// Invariant: what the reader gets are whole lines; lines that were dropped are counted, and the count is told.

import Reactor

/// Takes lines to a stream that may not take them.
///
///     flowing ──(the reader took less than the line within `patience`)──▶ stalled
///     stalled ──(the rest of the begun line and the count of dropped ones went out)──▶ flowing
///
/// While it is stalled no line waits: the loop has better things to do than to wait for a reader that hangs.
struct LogOutbox {
  /// How long the loop may stand still, once, for a reader that does not read.
  static let patience: Duration = .milliseconds(100)

  /// Takes as many bytes off the front as the stream accepts within a time, and says how many.
  typealias Write = (_ bytes: ArraySlice<UInt8>, _ patience: Duration) -> Int

  /// The rest of a line of which the reader has got the beginning.
  private var rest: ArraySlice<UInt8> = []
  private(set) var droppedLines = 0
  private var isStalled = false

  /// Writes `line`, or counts it as dropped.
  ///
  /// - Parameter notice: The line that tells how many were dropped before it.
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

  /// Writes what is left of a begun line; false where some of it still is.
  private mutating func flush(_ write: Write) -> Bool {
    guard !rest.isEmpty else { return true }
    rest = rest.dropFirst(write(rest, isStalled ? .zero : Self.patience))
    isStalled = !rest.isEmpty
    return rest.isEmpty
  }

  /// Begins a line: false where the stream took none of it. What it did not take at once is kept.
  private mutating func begin(_ line: [UInt8], _ write: Write) -> Bool {
    let count = write(line[...], isStalled ? .zero : Self.patience)
    isStalled = count < line.count
    guard count > 0 else { return false }
    rest = line[count...]
    return true
  }
}
