// Fuzzes what Redis holds and answers of the schedule. Whoever can write to Redis can write anything there, and no
// replica and no command may end of it. What must hold for any bytes: nothing traps, what is read stays bounded, and
// what is shown is valid JSON, has no control characters, and no markup but the page's own.

import Coordination

@testable import Reactor
@testable import Worker

private let sweeper = "wraps-expired"
private let interval = Duration.seconds(3_600)

extension FuzzTarget {
  /// The first byte chooses what is read; what follows are lines.
  static let schedule = FuzzTarget(name: "schedule") { input in
    guard let choice = input.first else { return }
    // No NUL: JSON may have one, and jansson, which checks it, takes none.
    let bytes = input.dropFirst().map { $0 == 0 ? 1 : $0 }
    let lines = bytes.split(separator: ASCII.lineFeed, omittingEmptySubsequences: false).map { Array($0) }
    switch choice % 4 {
    case 0: readAnswers(lines)
    case 1: readRecord(lines)
    case 2: readProgress(String(decoding: input.dropFirst(), as: UTF8.self))
    default: readHistory(lines)
    }
  }

  // MARK: Answers of scripts

  /// Each answer is a few lines, and an empty line follows it: a replica's life.
  private static func readAnswers(_ lines: [[UInt8]]) {
    var accounting = SlotAccounting(grid: SlotGrid(sweeper: sweeper, interval: interval))
    var (pauses, triggers) = (PauseState(), TriggerCounter())
    var now = MonotonicInstant(nanoseconds: 0)
    for group in lines.split(separator: []) {
      let answer: ScriptAnswer
      do {
        answer = try ScriptAnswer(.array(group.map(value)))
        _ = (answer.renewal, try answer.alertDecision())
        let take = try answer.take(token: "t", sentAt: now, isForced: false)
        if case .paused(_, let pause) = take { _ = pause.description }
        if take != .late { _ = triggers.observe(newest: try answer.fleetState().newestTrigger) }
        _ = pauses.answered(take, at: now)
        let (counts, action) = accounting.answered(take, at: answer.now)
        precondition(counts.count <= 2, "more is counted than the slot that ends and the one that begins")
        if case .wait(let milliseconds) = action {
          precondition(milliseconds > 0, "Redis is asked again at once")
          now = now.advanced(by: .milliseconds(milliseconds))
        }
      } catch {
        // The run counts as unanswered.
        _ = accounting.unanswered(estimate: Int64(now.nanoseconds / 1_000_000))
        continue
      }
      let sample = ClockSample(reading: answer.now, arrivedAt: now, unitsPerSecond: 1_000)
      let later = now.advanced(by: interval)
      precondition(sample.earliest(at: later) <= sample.estimate(at: later), "a clock runs ahead of itself")
    }
    _ = accounting.drained()
  }

  /// ":7" is a number, "_" none, anything else a text.
  private static func value(_ line: [UInt8]) -> RedisValue {
    if line == [UInt8(ascii: "_")] { return .null }
    guard line.first == UInt8(ascii: ":"), let number = Int64(String(decoding: line.dropFirst(), as: UTF8.self)) else {
      return .string(line)
    }
    return .integer(number)
  }

  // MARK: The record

  /// Lines "name=value": the record's fields, and lock, remaining, runs and now.
  private static func readRecord(_ lines: [[UInt8]]) {
    var values: [String: RedisValue] = [:]
    for line in lines {
      guard let equals = line.firstIndex(of: UInt8(ascii: "=")) else { continue }
      values[String(decoding: line[..<equals], as: UTF8.self)] = value(Array(line[(equals + 1)...]))
    }
    let overview = SweeperOverview(
      sweeper: sweeper,
      .array([
        values["lock"] ?? .string([]), values["remaining"] ?? .integer(-2),
        .array(SweeperRecord.fields.map { values[$0] ?? .null }), values["runs"] ?? .string([]),
      ]))
    guard let now = PlausibleNumber.read(values["now"] ?? .integer(1_700_000_000_000)) else { return }
    let (record, runs) = (overview.record, overview.runs)
    precondition(runs.allSatisfy { $0.changed >= 0 && $0.durationMilliseconds >= 0 })
    for own in [nil, interval.milliseconds] {
      let status = SweeperStatus(
        record, at: now, lockKey: "lock", ownInterval: own, absence: nil, isAbsentByDefault: false)
      var fleet = FleetStatus()
      fleet.redisTime = now
      fleet.sweepers = [status]
      checkShown(fleet.text(as: .text), json: fleet.text(as: .json))
      let time = WallClockTime(seconds: 1_700_000_000, nanoseconds: 0)
      checkMarkup(StatusPage(status: fleet, runs: [Array(runs.suffix(60))], namespace: "n", time: time).html)
    }
    let progress = TriggerProgress(of: 1_700_000_000_000, record, at: now)
    checkShown(ReportTable.printable(progress.line ?? ""), json: "{}")
  }

  private static func checkShown(_ text: String, json: String) {
    for scalar in text.unicodeScalars {
      precondition(
        scalar == "\n" || scalar.value >= 0x20 && !(0x7f...0x9f).contains(scalar.value), "a control character is shown")
    }
    do {
      _ = try JSONDocument(json)
    } catch {
      preconditionFailure("what is shown is not JSON: \(error)")
    }
  }

  /// No element of the page begins with an x, so one that does came from Redis.
  private static func checkMarkup(_ html: [UInt8]) {
    for index in html.indices.dropLast() where html[index] == UInt8(ascii: "<") {
      precondition(html[index + 1] != UInt8(ascii: "x"), "what Redis holds became markup")
    }
  }

  // MARK: What runs leave for the next one

  private static func readProgress(_ text: String) {
    let progress = SweepProgress(text)
    precondition(progress.lockedSlots >= 0 && !progress.text.isEmpty)
    for part in [text, progress.pass ?? ""] {
      guard let record = FullPass.Record(part) else { continue }
      precondition(FullPass.Record(record.text) == record, "a pass is another one when it is read again")
      var pass = FullPass(promise: interval * 24, interval: interval, record: part)
      let table = TableSize(pages: 1_000, file: record.file)
      guard let page = pass.start(table, at: 1_700_000_000_000) else { continue }
      precondition(page >= 0, "a pass goes on before the first page")
      pass.reached(page + 1, after: .seconds(1))
      pass.ended(file: table.file)
    }
    for part in [text, progress.attempts ?? ""] {
      var counts = AttemptCounts(limit: 3, part)
      precondition(counts.counts.count <= AttemptCounts.rowLimit, "more rows are counted than the bound")
      precondition(AttemptCounts(limit: 3, counts.text).counts == counts.counts, "counts differ when read again")
      _ = (counts.rows, counts.exhaustedRows)
      counts.changed(part)
      precondition(counts.counts.count <= AttemptCounts.rowLimit, "more rows are counted than the bound")
    }
    var alerts = QueueAlerts(text)
    precondition(QueueAlerts(alerts.text) == alerts, "the types differ when they are read again")
    let ended = alerts.update([])
    precondition(Set(ended.map(\.jobType)).count == ended.count, "people are told twice")
    precondition(ended.allSatisfy { (1...32).contains($0.jobType.utf8.count) }, "no type of a job")
  }

  /// Lines of the history.
  private static func readHistory(_ lines: [[UInt8]]) {
    let runs = lines.compactMap { PastRun(String(decoding: $0, as: UTF8.self)) }
    checkShown(HistoryReport.text(runs, as: .text), json: HistoryReport.text(runs, as: .json))
    for run in runs { checkShown("", json: HistoryReport.lines([run], as: .json, hasTitles: false)) }
  }
}
