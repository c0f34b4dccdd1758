// scripts/budgets: threads, memory, wake-ups and time to ready, and what they may be at most.

import Foundation
import TestSupport

struct Budgets: Command {
  private static let starts = 15
  private static let idle = Duration.seconds(60)

  private var showsJSON = false

  init(_ arguments: inout Arguments) throws {
    while let argument = arguments.next() {
      guard argument == "--json" else { throw Arguments.unknown(argument) }
      guard !showsJSON else { throw Misuse(description: "too many arguments") }
      showsJSON = true
    }
  }

  func perform() async throws -> Bool {
    let report = try await Instruments.use { instruments in
      let measure = try await instruments.compile("measure")
      let ready = try await timeToReady(instruments, measure)
      let threads = try await threads(instruments, measure)
      let idle = try await idle(instruments)
      return BudgetReport(lines: [
        .init(name: "threads", key: "threads", value: threads, limit: 1, unit: ""),
        .init(name: "private dirty", key: "private_dirty_kb", value: idle.dirty, limit: 2560, unit: "kB"),
        .init(name: "resident", key: "resident_kb", value: idle.resident, limit: 10752, unit: "kB"),
        .init(name: "wake-ups", key: "wakeups_per_minute", value: idle.wakeups, limit: 95, unit: "/ min"),
        .init(name: "ready", key: "ready_ms", value: ready, limit: 40, unit: "ms"),
      ])
    }
    show(showsJSON ? report.json : report.table)
    return report.isWithinBounds
  }

  /// From before the exec to the first 200 of /readyz; the fastest start, for others' work on the machine only adds to
  /// it.
  private func timeToReady(_ instruments: Instruments, _ measure: String) async throws -> Figure {
    say("ready: \(Self.starts) starts")
    var times: [Figure] = []
    for _ in 0..<Self.starts {
      let port = try freePort()
      let output = try await instruments.run(
        [measure, "ready", "\(port)", Instruments.worker, "run"],
        settings: ["SB_WORKER_LOCAL_ADDR": "127.0.0.1:\(port)"])
      guard let time = Figure(output.trimmingCharacters(in: .newlines)) else { throw Failure("no time: \(output)") }
      times.append(time)
    }
    return times.min()!
  }

  /// The most that were seen from boot to shutdown.
  private func threads(_ instruments: Instruments, _ measure: String) async throws -> Figure {
    say("threads: boot, sweeps, outages, shutdown")
    let settings = Sweeper.intervals("500ms").merging(["SB_WORKER_LEASE": "3s"]) { $1 }
    let worker = try await instruments.start(
      [measure, "threads", instruments.file("threads"), Instruments.worker, "run"], settings: settings)
    try await worker.until("/readyz", answers: 200)
    try await Task.sleep(for: .seconds(4))
    instruments.redis.stop()
    try await worker.until("/readyz", answers: 503)
    try await Task.sleep(for: .seconds(1))
    try instruments.redis.start()
    try await worker.until("/readyz", answers: 200)
    await instruments.postgres.halt()
    try await worker.until("/readyz", answers: 503)
    try await Task.sleep(for: .seconds(1))
    try await instruments.postgres.startAgain()
    try await worker.until("/readyz", answers: 200)
    try await Task.sleep(for: .seconds(2))
    try await worker.stop()
    guard let most = try instruments.text(of: "threads").split(separator: " ").first.flatMap({ Figure($0) }) else {
      throw Failure("the worker left no samples")
    }
    return most
  }

  private func idle(_ instruments: Instruments) async throws -> (wakeups: Figure, dirty: Figure, resident: Figure) {
    say("idle with default settings: a minute")
    let worker = try await instruments.startWorker()
    // On a new Redis the first sweeps come a lease after boot, and have the sample rows to change.
    try await Task.sleep(for: .seconds(25))
    let before = try worker.figures.voluntarySwitches
    try await Task.sleep(for: Self.idle)
    let wakeups = try worker.figures.voluntarySwitches - before
    let result = (Figure(wakeups), Figure(try worker.figures.privateDirtyKB), Figure(try worker.figures.residentKB))
    try await worker.stop()
    return result
  }
}

/// What was measured beside what it may be. Pure.
struct BudgetReport {
  struct Line {
    let name: String
    let key: String
    let value: Figure
    let limit: Int
    let unit: String
    var isWithinBounds: Bool { value.value <= Double(limit) }
  }

  let lines: [Line]

  var isWithinBounds: Bool { lines.allSatisfy(\.isWithinBounds) }

  var table: String {
    let rows = lines.map {
      "\($0.name.left(16)) \($0.value.description.right(10)) \(String($0.limit).right(10))  \($0.unit.left(8)) "
        + ($0.isWithinBounds ? "ok" : "OVER BUDGET")
    }
    return (["\("".left(16)) \("measured".right(10)) \("budget".right(10))"] + rows).joined(separator: "\n")
  }

  var json: String {
    OrderedJSON.object(
      lines.map { line in
        let members = [
          ("value", line.value.description), ("limit", "\(line.limit)"), ("ok", "\(line.isWithinBounds)"),
        ]
        return (line.key, OrderedJSON.object(members))
      })
  }
}
