// scripts/perf-memory: what the worker's memory is made of, beside the floor of its libraries.

import Foundation
import TestSupport

struct PerfMemory: Command {
  private let options: ScenarioArguments

  init(_ arguments: inout Arguments) throws {
    options = try ScenarioArguments(&arguments, scenario: .idle, flags: ["--cgroup"])
  }

  func perform() async throws -> Bool {
    let (scenario, seconds) = (options.scenario, options.seconds ?? 60)
    try await Instruments.use { instruments in
      if options.options["--cgroup"] != nil { try await showSmallestCgroup(instruments) }
      let floor = try await instruments.keep([try await instruments.compileFloor()])
      let worker = try await instruments.startWorker(try await scenario.prepare(instruments))
      say("\(seconds) s of \(scenario.rawValue)")
      let heap = try await Self.mostDirtyHeap(of: worker.figures) {
        try await scenario.drive(worker, seconds: seconds, instruments)
      }
      try showFigures(of: worker.figures, floor.figures, heap)
      try await worker.stop()
    }
    return true
  }

  private func showSmallestCgroup(_ instruments: Instruments) async throws {
    guard MemoryCgroup.isPermitted else {
      throw Failure("--cgroup needs root and memory cgroups of version 1")
    }
    let smallest = try await MemoryCgroup.smallest(instruments)
    show("smallest memory cgroup: \(smallest.map(String.init) ?? "") kB")
  }

  private func showFigures(of worker: KernelFigures, _ floor: KernelFigures, _ heap: Int) throws {
    var lines = ["\("dirty kB".right(8)) \("resident".right(8))"]
    for (name, figures) in [("the worker", worker), ("the floor", floor)] {
      lines.append(Self.line(try figures.privateDirtyKB, try figures.residentKB, name))
    }
    let peak = try worker.status("VmHWM")
    lines += ["", "maximum: heap \(heap) kB dirty, process \(peak) kB resident"]
    for (name, figures) in [("the worker", worker), ("the floor", floor)] {
      lines += ["", "\(name) by mapping"]
      lines += try figures.mappings.map { Self.line($0.dirtyKB, $0.residentKB, $0.name) }
    }
    show(lines.joined(separator: "\n"))
  }

  private static func line(_ dirty: Int, _ resident: Int, _ name: String) -> String {
    "\(String(dirty).right(8)) \(String(resident).right(8))  \(name)"
  }

  /// The most kB of the heap that were dirty while `body` ran, looked at ten times a second.
  private static func mostDirtyHeap(
    of figures: KernelFigures, while body: () async throws -> Void
  ) async throws -> Int {
    try await withThrowingTaskGroup(of: Int.self) { group in
      group.addTask {
        var most = 0
        repeat {
          most = max(most, try figures.mappings.first { $0.name == "[heap]" }?.dirtyKB ?? 0)
          // Cancelled when the scenario is over; what was seen until then counts.
          try? await Task.sleep(for: .milliseconds(100))
        } while !Task.isCancelled
        return most
      }
      try await body()
      group.cancelAll()
      return try await group.next() ?? 0
    }
  }
}
