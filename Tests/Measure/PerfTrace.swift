// scripts/perf-record, perf-stat and perf-syscalls: a program that watches the worker in a scenario, and what it saw.

import Foundation
import TestSupport

extension Scenario {
  /// Drives the scenario while a program watches the worker; `isWatching`: whether it has begun.
  func drive(
    _ worker: WorkerProcess, seconds: Int, watchedBy program: [String], _ instruments: Instruments,
    isWatching: (WorkerProcess) throws -> Bool
  ) async throws {
    let watcher = try await instruments.start(program)
    try await wait("\(program[0]) watches", watcher) { try isWatching(watcher) }
    try await drive(worker, seconds: seconds, instruments)
    guard watcher.ending == nil else {
      throw Failure("\(program[0]) ended early: \(Instruments.tail(watcher))")
    }
    watcher.signal(SIGINT)
    try await watcher.waitForExit(within: .seconds(60))
  }
}

struct PerfRecord: Command {
  private let options: ScenarioArguments

  init(_ arguments: inout Arguments) throws {
    options = try ScenarioArguments(&arguments, scenario: .probes, valued: ["--output": "a file"])
  }

  func perform() async throws -> Bool {
    let scenario = options.scenario
    let seconds = options.seconds ?? (scenario == .idle ? 60 : 20)
    let output = options.options["--output"] ?? "\(scenario.rawValue).svg"
    let stacks = try await Instruments.use { instruments in
      let worker = try await scenario.start(instruments, settling: .seconds(5))
      say("recording \(seconds) s of \(scenario.rawValue)")
      let frequency = scenario == .idle ? "max" : "1999"
      let data = instruments.file("perf.data")
      try await scenario.drive(
        worker, seconds: seconds,
        watchedBy: ["perf", "record", "-q", "-F", frequency, "-g", "-o", data, "-p", "\(worker.id)"], instruments,
        isWatching: { _ in FileManager.default.fileExists(atPath: data) })
      try await worker.stop()
      let demangled = #"perf script -i "$1" -F comm,ip,sym | swift demangle --simplified"#
      return FoldedStacks(perfScript: try await instruments.run(["sh", "-c", demangled, "sh", data]))
    }
    guard stacks.samples > 0 else { throw Failure("no samples in \(seconds) s") }
    let graph = FlameGraph(stacks, title: "secrets-bridge-worker: \(scenario.rawValue)")
    try graph.svg.write(toFile: output, atomically: false, encoding: .utf8)
    show(output)
    return true
  }
}

struct PerfStat: Command {
  private let options: ScenarioArguments

  init(_ arguments: inout Arguments) throws { options = try ScenarioArguments(&arguments, scenario: .idle) }

  func perform() async throws -> Bool {
    let (scenario, seconds) = (options.scenario, options.seconds ?? 60)
    let report = try await Instruments.use { instruments in
      let worker = try await scenario.start(instruments)
      say("\(seconds) s of \(scenario.rawValue)")
      let program = [
        "perf", "stat", "-x", ",", "-o", instruments.file("stat"), "-p", "\(worker.id)", "-e",
        "instructions,cycles,branch-misses,cache-misses",
      ]
      let started = ContinuousClock.now
      var before: ProcessCounts?
      try await scenario.drive(worker, seconds: seconds, watchedBy: program, instruments) { _ in
        // Nothing tells when the kernel has begun to count.
        guard ContinuousClock.now >= started.advanced(by: .milliseconds(500)) else { return false }
        before = try ProcessCounts(worker.figures)
        return true
      }
      let after = try ProcessCounts(worker.figures)
      try await worker.stop()
      return ProcessCounts.report(before!, after, perfStat: try instruments.text(of: "stat"), seconds: seconds)
    }
    show(report)
    return true
  }
}

/// What the kernel has noted of a process so far.
struct ProcessCounts {
  var cpuNanoseconds = 0
  var voluntarySwitches = 0
  var involuntarySwitches = 0
  var minorFaults = 0
  var majorFaults = 0
}

extension ProcessCounts {
  init(_ figures: KernelFigures) throws {
    cpuNanoseconds = try figures.cpuNanoseconds
    voluntarySwitches = try figures.voluntarySwitches
    involuntarySwitches = try figures.status("nonvoluntary_ctxt_switches")
    (minorFaults, majorFaults) = try figures.pageFaults
  }

  /// What has come between two times, beside what perf stat -x , counted meanwhile.
  static func report(_ before: ProcessCounts, _ after: ProcessCounts, perfStat: String, seconds: Int) -> String {
    func line(_ value: Double, _ decimals: Int, _ name: String) -> String {
      let minute = Figure(value * 60 / Double(seconds), decimals: decimals)
      return "\(Figure(value, decimals: decimals).description.right(14)) \(minute.description.right(14))  \(name)"
    }
    func more(_ path: KeyPath<ProcessCounts, Int>) -> Double { Double(after[keyPath: path] - before[keyPath: path]) }
    var lines = [
      "\("in \(seconds) s".right(14)) \("a minute".right(14))",
      line(more(\.cpuNanoseconds) / 1e6, 2, "ms of CPU"),
      line(more(\.voluntarySwitches), 2, "waits (voluntary context switches)"),
      line(more(\.involuntarySwitches), 2, "preemptions (involuntary ones)"),
      line(more(\.minorFaults), 2, "page faults"),
      line(more(\.majorFaults), 2, "of them read from the disk"),
    ]
    // A line: value, unit, event, …; what the kernel does not count has words in the place of the value.
    let counted = perfStat.split(separator: "\n").compactMap { text -> String? in
      let columns = text.split(separator: ",", omittingEmptySubsequences: false)
      guard columns.count > 2, let value = Int(columns[0]) else { return nil }
      return line(Double(value), 0, String(columns[2]))
    }
    lines += counted
    if perfStat.contains("not supported") {
      lines += ["", "This kernel gives no hardware counters here: no instructions, no cycles."]
    } else if counted.isEmpty {
      lines += ["", "It did not run while the hardware counted."]
    }
    return lines.joined(separator: "\n")
  }
}

struct PerfSyscalls: Command {
  private let options: ScenarioArguments

  init(_ arguments: inout Arguments) throws { options = try ScenarioArguments(&arguments, scenario: .idle) }

  func perform() async throws -> Bool {
    let (scenario, seconds) = (options.scenario, options.seconds ?? 60)
    let log = try await Instruments.use { instruments in
      let worker = try await scenario.start(instruments)
      let calls = instruments.file("calls")
      say("\(seconds) s of \(scenario.rawValue)")
      try await scenario.drive(
        worker, seconds: seconds,
        watchedBy: ["strace", "-f", "-qq", "-yy", "-o", calls, "-p", "\(worker.id)"], instruments,
        isWatching: { _ in try worker.figures.status("TracerPid") != 0 })
      try await worker.stop()
      let peers = [
        ("->127.0.0.1:\(instruments.postgres.port)]", "PostgreSQL"),
        ("->127.0.0.1:\(instruments.redis.port)]", "Redis"), ("127.0.0.1:\(worker.probePort)", "a probe"),
      ]
      return SystemCallLog(try instruments.text(of: "calls"), peers: peers)
    }
    let lines =
      ["system calls in \(seconds) s", "\(String(log.all).right(8))  all"] + SystemCallLog.lines(log.calls)
      + ["", "what woke the loop"] + SystemCallLog.lines(log.wakeups)
    show(lines.joined(separator: "\n"))
    return true
  }
}
