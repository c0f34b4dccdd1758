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
      let (floor, unit) = (try await instruments.compileFloor(), "% of floor")
      let start = try await timeToReady(instruments, measure, floor: floor)
      let threads = try await threads(instruments, measure)
      let idle = try await idle(instruments, floor: floor)
      return BudgetReport(lines: [
        .init(name: "threads", key: "threads", value: threads, limit: 1, unit: ""),
        .init(name: "private dirty", key: "private_dirty_percent_of_floor", value: idle.dirty, limit: 185, unit: unit),
        .init(name: "resident", key: "resident_percent_of_floor", value: idle.resident, limit: 115, unit: unit),
        .init(name: "wake-ups", key: "wakeups_per_minute", value: idle.wakeups, limit: 95, unit: "/ min"),
        .init(name: "ready", key: "ready_percent_of_floor", value: start, limit: 220, unit: unit),
      ])
    }
    show(showsJSON ? report.json : report.table)
    return report.isWithinBounds
  }

  /// From before the exec to the first 200 of /readyz, in percent of the time in which the bare libraries connect to
  /// the same servers. Of each the fastest start, because other load can only slow one down.
  private func timeToReady(_ instruments: Instruments, _ measure: String, floor: String) async throws -> Figure {
    say("ready: \(Self.starts) starts")
    var (times, floors): ([Figure], [Figure]) = ([], [])
    for _ in 0..<Self.starts {
      let port = try freePort()
      times.append(
        try await instruments.milliseconds(
          [measure, "ready", "\(port)", Instruments.worker, "run"],
          settings: ["SB_WORKER_LOCAL_ADDR": "127.0.0.1:\(port)"]))
      floors.append(try await instruments.milliseconds([measure, "said", "ready", floor]))
    }
    let (time, least) = (times.min()!, floors.min()!)
    say("ready: \(time) ms, floor \(least) ms")
    return time.percent(of: least)
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

  private func idle(_ instruments: Instruments, floor: String) async throws -> (
    wakeups: Figure, dirty: Figure, resident: Figure
  ) {
    say("idle with default settings: a minute")
    let worker = try await instruments.startWorker()
    // On a new Redis the first sweeps come a lease after boot, and have the sample rows to change.
    let floor = try await instruments.start([floor])
    try await Task.sleep(for: .seconds(25))
    let before = try worker.figures.voluntarySwitches
    try await Task.sleep(for: Self.idle)
    let wakeups = try worker.figures.voluntarySwitches - before
    let (dirty, leastDirty) = (Figure(try worker.figures.privateDirtyKB), Figure(try floor.figures.privateDirtyKB))
    let (resident, least) = (Figure(try worker.figures.residentKB), Figure(try floor.figures.residentKB))
    say("private dirty: \(dirty) kB, floor \(leastDirty) kB; resident: \(resident) kB, floor \(least) kB")
    try await floor.stop()
    try await worker.stop()
    return (Figure(wakeups), dirty.percent(of: leastDirty), resident.percent(of: least))
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
