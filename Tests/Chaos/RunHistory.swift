// The workers' reports of their runs, from their logs.
// Invariant: pure; a line that is not a JSON object is kept for a check to report.

import Foundation
import Reactor
import TestSupport

/// A run, as its replica logged its end.
struct Run: Sendable {
  enum Outcome: Sendable { case success, failure, drained }

  let sweeper: String
  let epoch: Int64
  let outcome: Outcome
  let ended: Moment
  let duration: Duration
  let error: String?
  let replica: Int

  var began: Moment { ended.advanced(by: .zero - duration) }
  var span: ClosedRange<Moment> { min(began, ended)...ended }
}

/// One process's log.
struct LogHistory: Sendable {
  let replica: Int
  private(set) var runs: [Run] = []
  private(set) var lines = 0
  /// Lines that are not JSON objects with a time, a level and a message.
  private(set) var broken: [String] = []

  init(_ log: [WorkerProcess.LogLine], replica: Int) {
    self.replica = replica
    for line in log {
      lines += 1
      guard let fields = line.fields, let level = fields["level"] as? String, fields["msg"] is String,
        ["DEBUG", "INFO", "WARN", "ERROR"].contains(level),
        let time = (fields["time"] as? String).flatMap(Self.moment)
      else {
        broken.append(line.text)
        continue
      }
      if let run = Self.run(fields, at: time, replica) { runs.append(run) }
    }
  }

  /// A line with a task, an epoch and a duration reports the end of a run.
  private static func run(_ fields: [String: Any], at time: Moment, _ replica: Int) -> Run? {
    func number(_ name: String) -> Int64? {
      (fields[name] as? Int64) ?? (fields[name] as? String).flatMap { Int64($0) }
    }
    guard let task = fields["task"] as? String, let epoch = number("epoch"), let duration = number("duration_ms") else {
      return nil
    }
    let error = fields["error"] as? String
    let outcome: Run.Outcome =
      error != nil ? .failure : fields["msg"] as? String == "swept" ? .success : .drained
    return Run(
      sweeper: task, epoch: epoch, outcome: outcome, ended: time, duration: .milliseconds(duration), error: error,
      replica: replica)
  }

  /// Parses RFC 3339 in UTC with a fraction: "2026-01-31T12:34:56.123456Z".
  static func moment(_ text: String) -> Moment? {
    guard text.hasSuffix("Z"), let dot = text.firstIndex(of: ".") else { return nil }
    let numbers = text[..<dot].split { "-T:".contains($0) }.compactMap { Int32($0) }
    guard numbers.count == 6 else { return nil }
    var parts = tm()
    (parts.tm_year, parts.tm_mon, parts.tm_mday) = (numbers[0] - 1_900, numbers[1] - 1, numbers[2])
    (parts.tm_hour, parts.tm_min, parts.tm_sec) = (numbers[3], numbers[4], numbers[5])
    let digits = text[text.index(after: dot)...].dropLast().prefix(6)
    guard !digits.isEmpty, let fraction = Int64(digits) else { return nil }
    let scale = (digits.count..<6).reduce(Int64(1)) { scale, _ in scale * 10 }
    return Moment(microseconds: Int64(timegm(&parts)) * 1_000_000 + fraction * scale)
  }
}
