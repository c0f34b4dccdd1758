// What wrk, redis-benchmark, pgbench and psql write, read for the figures in it. Pure.

import Foundation

/// The report of wrk --latency.
struct WrkReport: Equatable {
  let requests: Int
  let requestsPerSecond: Int
  let p99Microseconds: Figure

  init?(_ text: String) {
    guard let requests = text.firstMatch(of: /([0-9]+) requests in/).flatMap({ Int($0.output.1) }),
      let rate = text.firstMatch(of: /Requests\/sec: *([0-9.]+)/).flatMap({ Double($0.output.1) }),
      let latency = text.firstMatch(of: /\n *99% +([0-9.]+)(us|ms|s)\b/), let value = Double(latency.output.1)
    else { return nil }
    self.requests = requests
    requestsPerSecond = Int(rate)
    let scale = ["us": 1.0, "ms": 1e3, "s": 1e6][latency.output.2]!
    p99Microseconds = Figure(Int((value * scale).rounded()))
  }
}

enum BenchOutput {
  /// What one command takes, by redis-benchmark --csv; nil where it names none.
  static func microseconds(of command: String, redisBenchmark text: String) -> Figure? {
    for line in text.split(separator: "\n") {
      let columns = line.split(separator: ",").map { $0.trimmingCharacters(in: ["\""]) }
      if columns.count > 1, columns[0] == command, let rate = Double(columns[1]), rate > 0 {
        return Figure(1e6 / rate, decimals: 2)
      }
    }
    return nil
  }

  /// How long the last statement took, by psql's \timing.
  static func milliseconds(psql text: String) -> Figure? {
    text.split(separator: "\n").last { $0.hasPrefix("Time: ") }.flatMap { line in
      let words = line.split(separator: " ")
      return words.count > 1 ? Figure(words[1]) : nil
    }
  }

  /// The latencies of the transactions that ended between two times, in ms, by a log of pgbench -l.
  static func latencies(pgbench text: String, from begin: Double, to end: Double) -> [Double] {
    text.split(separator: "\n").compactMap { line in
      let columns = line.split(separator: " ")
      guard columns.count >= 6, let latency = Double(columns[2]), let seconds = Double(columns[4]),
        let microseconds = Double(columns[5])
      else { return nil }
      let at = seconds + microseconds / 1e6
      return at >= begin && at <= end ? latency / 1000 : nil
    }
  }

  /// CPU seconds that the server has used, by Redis' INFO cpu.
  static func cpuSeconds(redisInfo text: String) -> Double {
    text.split(whereSeparator: \.isNewline).reduce(0) { sum, line in
      let parts = line.split(separator: ":")
      guard parts.count == 2, parts[0] == "used_cpu_sys" || parts[0] == "used_cpu_user" else { return sum }
      return sum + (Double(parts[1]) ?? 0)
    }
  }
}

/// A sweep, by a line of the worker's log.
struct SweptLine: Equatable {
  let milliseconds: Int
  /// When it ended, in seconds since 1970.
  let ended: Double

  /// nil unless it is about a sweep of this sweeper.
  init?(_ fields: [String: Any], of sweeper: String) {
    guard fields["msg"] as? String == "swept", fields["task"] as? String == sweeper,
      let duration = fields["duration_ms"], let milliseconds = Int("\(duration)"),
      let time = fields["time"] as? String, let ended = Self.seconds(time)
    else { return nil }
    self.milliseconds = milliseconds
    self.ended = ended
  }

  private static func seconds(_ time: String) -> Double? {
    let format = ISO8601DateFormatter()
    format.formatOptions = [.withInternetDateTime, .withFractionalSeconds]
    return format.date(from: time)?.timeIntervalSince1970
  }
}
