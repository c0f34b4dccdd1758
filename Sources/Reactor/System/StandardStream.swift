// Writing to stdout and stderr without buffering. Invariant: a reader that hangs holds nobody up beyond the caller's
// limit. Called for log lines and for what a command prints.

import CReactor

/// The process's own output streams, written to directly.
public enum StandardStream: Int32, Sendable {
  case output = 1
  case error = 2

  /// The most bytes that a pipe takes whole, and at once where it has room at all (PIPE_BUF).
  public static let atomicByteCount = 4096

  /// Writes `bytes`, waiting for the reader for at most `patience` in all, and returns how many were written. The wait
  /// blocks, so `clock` is one that goes on by itself.
  ///
  /// Up to `atomicByteCount` bytes are one write(2). More are several: the stream may be a blocking pipe, which cannot
  /// be made non-blocking without changing it for the other processes that have it, and where a longer write waits for
  /// a reader that may never come. Fewer than all are written where the patience ended or the stream has failed.
  public func write(_ bytes: ArraySlice<UInt8>, patience: Duration, on clock: LoopClock) -> Int {
    // A write to a closed pipe is an error of this write, not the end of the process.
    creactor_ignore_sigpipe()
    let deadline = clock.now.advanced(by: patience)
    return bytes.withUnsafeBytes { buffer in
      var written = 0
      while written < buffer.count {
        guard isWritable(until: deadline, on: clock) else { break }
        let chunk = UnsafeRawBufferPointer(rebasing: buffer[written...].prefix(Self.atomicByteCount))
        let count = creactor_write(rawValue, chunk.baseAddress, chunk.count)
        if count > 0 {
          written += count
          continue
        }
        let isTransient = count == -Int(EINTR) || count == -Int(EAGAIN)
        // A stream that calls itself writable and takes nothing does not keep us beyond the limit either.
        guard isTransient, clock.now < deadline else { break }
      }
      return written
    }
  }

  private func isWritable(until deadline: MonotonicInstant, on clock: LoopClock) -> Bool {
    while true {
      let remaining = clock.now.duration(to: deadline).milliseconds
      let ready = creactor_poll_writable(rawValue, Int32(clamping: max(0, remaining)))
      if ready > 0 { return true }
      // A signal is no answer: ask again, unless the time is over.
      if ready != -EINTR || remaining <= 0 { return false }
    }
  }
}
