// The log: swift-log loggers that write JSON lines to stderr. Invariant: nothing else is written to stderr.
// All parts of the worker log through a Logger that was created here.

import Logging
import Reactor
import Synchronization

/// The destination of log lines: stderr, or a test's collection. Shared by all loggers of a process.
final class LogOutput: Sendable {
  /// Stderr of this process. All loggers share it, because it remembers the rest of a partly written line.
  static func standardError(_ clock: LoopClock) -> LogOutput {
    LogOutput(clock) { StandardStream.error.write($0, patience: $1, on: clock) }
  }

  private let outbox = Mutex(LogOutbox())
  private let write: @Sendable (ArraySlice<UInt8>, Duration) -> Int
  /// The level of all loggers that have none of their own: it can change while the process runs.
  private let sharedLevel = Mutex(Logger.Level.info)
  /// The clock for the lines' times.
  private let clock: LoopClock

  init(_ clock: LoopClock, write: @escaping @Sendable (ArraySlice<UInt8>, Duration) -> Int) {
    self.clock = clock
    self.write = write
  }

  /// The minimum level that is logged.
  var level: Logger.Level {
    get { sharedLevel.withLock { $0 } }
    set { sharedLevel.withLock { $0 = newValue } }
  }

  fileprivate var time: WallClockTime { clock.wallTime }

  fileprivate func send(_ line: LogLine, time: WallClockTime) {
    outbox.withLock { outbox in
      outbox.send(
        line.bytes,
        notice: { count in
          LogLine(
            time: time, level: .warning, message: "log lines were dropped: stderr was not read",
            fields: [("dropped", .stringConvertible(count))]
          ).bytes
        }, write: write)
    }
  }
}

/// Writes each event as one JSON object: time, level, msg, then the fields sorted by name.
struct JSONLogHandler: LogHandler {
  var metadata: Logger.Metadata = [:]
  /// The output's, unless this handler was given one of its own.
  var logLevel: Logger.Level {
    get { ownLevel ?? output.level }
    set { ownLevel = newValue }
  }
  private var ownLevel: Logger.Level?
  var metadataProvider: Logger.MetadataProvider?
  private let output: LogOutput

  init(output: LogOutput) {
    self.output = output
  }

  subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  func log(event: LogEvent) {
    var fields = metadata
    if let provided = metadataProvider?.get() { fields.merge(provided) { _, provided in provided } }
    if let own = event.metadata { fields.merge(own) { _, own in own } }
    if let error = event.error, fields["error"] == nil { fields["error"] = .string(Self.text(error)) }
    var sorted: [(key: String, value: Logger.MetadataValue)] = []
    for key in fields.keys.sorted() {
      if let value = fields[key] { sorted.append((key, value)) }
    }
    let time = output.time
    output.send(LogLine(time: time, level: event.level, message: event.message.description, fields: sorted), time: time)
  }

  /// An error's own text. Without one only its type is shown, because reflection could reveal secrets.
  private static func text(_ error: any Error) -> String {
    if let convertible = error as? any CustomStringConvertible { return convertible.description }
    return _typeName(type(of: error), qualified: false)
  }
}

extension Logger {
  /// The worker's log at `level` and above, which is the level of all loggers of this output.
  static func worker(level: Logger.Level = .info, output: LogOutput) -> Logger {
    output.level = level
    return Logger(label: Version.program) { _ in JSONLogHandler(output: output) }
  }
}

extension LogLevelSetting {
  var level: Logger.Level {
    switch self {
    case .debug: .debug
    case .info: .info
    case .warn: .warning
    case .error: .error
    }
  }
}
