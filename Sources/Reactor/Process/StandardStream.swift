// Unbuffered writes to stdout and stderr. Invariant: a reader that hangs delays the caller no longer than its limit.
// Used for log lines and for the output of commands.

import CReactor

/// The process's output streams, written directly.
public enum StandardStream: Int32, Sendable {
  case output = 1
  case error = 2

  /// Whether a person reads it: the stream is a terminal.
  public var isTerminal: Bool { isatty(rawValue) == 1 }

  /// The maximum number of bytes that a pipe accepts atomically (PIPE_BUF).
  public static let atomicByteCount = 4096

  /// Writes `bytes`, waiting for the reader at most `patience` in all, and returns how many were written. The wait
  /// blocks, so `clock` must advance by itself.
  ///
  /// Up to `atomicByteCount` bytes are one write(2), more are several: the stream may be a blocking pipe, which cannot
  /// be made non-blocking without affecting other processes, and on which a longer write could block forever. Fewer
  /// bytes are written if the patience ended or the stream failed.
  public func write(_ bytes: ArraySlice<UInt8>, patience: Duration, on clock: LoopClock) -> Int {
    // Writing to a closed pipe must fail, not end the process.
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
        // A stream that claims to be writable but accepts nothing must not exceed the limit either.
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
      // Interrupted by a signal: poll again, unless the time is over.
      if ready != -EINTR || remaining <= 0 { return false }
    }
  }
}
