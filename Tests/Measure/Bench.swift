// scripts/bench: the release build against its competitors and its floor, interleaved on the same servers.
// Invariant: what was measured is reported even if a group fails: half an hour of figures must not be lost.

import Foundation
import TestSupport

struct BenchOptions {
  enum Group: String, CaseIterable {
    case size, start, probes, lock, idle, load, cgroup, wraps, secrets, agents, jobs, reveal, nothing, writers, growth
    case fleet
  }

  private static let quick: [Group] = [.size, .start, .probes, .lock, .nothing]

  private(set) var groups: [Group] = []
  private(set) var isQuick = false
  private(set) var json: String?
  private(set) var markdown: String?
  private(set) var plots = Repository.root.appendingPathComponent("docs/plots")

  init(_ arguments: inout Arguments) throws {
    while let argument = arguments.next() {
      switch argument {
      case "--quick": isQuick = true
      case "--json": json = try arguments.value(of: argument, "a file")
      case "--markdown": markdown = try arguments.value(of: argument, "a file")
      case "--plots": plots = URL(fileURLWithPath: try arguments.value(of: argument, "a directory"))
      case "--only":
        guard let name = arguments.next(), let group = Group(rawValue: name) else {
          let names = Group.allCases.map(\.rawValue).joined(separator: " ")
          throw Misuse(description: "--only needs one of: \(names)")
        }
        groups.append(group)
      default: throw Arguments.unknown(argument)
      }
    }
    if groups.isEmpty { groups = isQuick ? Self.quick : Group.allCases }
  }
}

struct Bench: Command {
  private let options: BenchOptions

  init(_ arguments: inout Arguments) throws { options = try BenchOptions(&arguments) }

  func perform() async throws -> Bool {
    try await Instruments.use { instruments in
      let bench = BenchRun(
        instruments, options, floor: try await instruments.compileFloor(),
        measure: try await instruments.compile("measure"),
        machine: try await Self.machine(instruments))
      do {
        for group in options.groups {
          say("measuring: \(group.rawValue)")
          try await bench.measure(group)
        }
      } catch {
        try report(bench.table)
        throw error
      }
      try report(bench.table)
      return true
    }
  }

  private func report(_ table: BenchTable) throws {
    guard !table.rows.isEmpty else { return }
    show(table.text)
    if let json = options.json { try table.json.write(toFile: json, atomically: false, encoding: .utf8) }
    if let markdown = options.markdown {
      try table.markdown.write(toFile: markdown, atomically: false, encoding: .utf8)
    }
  }

  /// What it is measured on, in a line.
  private static func machine(_ instruments: Instruments) async throws -> String {
    let script = #"""
      printf '%s, %s cores, Linux %s, PostgreSQL %s, Redis %s, load %s at the start, %s, commit %s\n' \
        "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" "$(nproc)" "$(uname -r)" "${1%% *}" \
        "$(redis-server --version | sed 's/.*v=\([^ ]*\).*/\1/')" "$(cut -d ' ' -f 1 /proc/loadavg)" "$(date -u +%F)" \
        "$(git -C "$2" rev-parse --short HEAD 2>/dev/null || printf unknown)"
      """#
    let version = try await instruments.sql("SHOW server_version")
    return try await instruments.run(["sh", "-c", script, "sh", version, Repository.root.path])
      .trimmingCharacters(in: .newlines)
  }
}

/// What the groups share. The process itself is measured in BenchProcess.swift, the sweeps in BenchSweeps.swift.
final class BenchRun {
  let instruments: Instruments
  let options: BenchOptions
  let floor: String
  let measure: String
  private(set) var table: BenchTable

  init(_ instruments: Instruments, _ options: BenchOptions, floor: String, measure: String, machine: String) {
    self.instruments = instruments
    self.options = options
    self.floor = floor
    self.measure = measure
    table = BenchTable(machine: machine)
  }

  /// The one that this run uses.
  func pick<Value>(_ quick: Value, _ full: Value) -> Value { options.isQuick ? quick : full }

  func add(_ row: BenchRow) {
    table.append(row)
    complain(row.line)
  }

  func measure(_ group: BenchOptions.Group) async throws {
    switch group {
    case .size: try await size()
    case .start: try await start()
    case .probes: try await probes()
    case .lock: try await lock()
    case .idle: try await idle()
    case .load: try await load()
    case .cgroup: try await cgroup()
    case .wraps: try await sweep(.wraps, rows: pick(200_000, 2_000_000), ratio: "1", longest: "50", pick(3, 5))
    case .secrets: try await sweep(.secrets, rows: pick(100_000, 1_000_000), ratio: "1.1", longest: "100", 3)
    case .agents: try await sweep(.agents, rows: pick(100_000, 1_000_000), ratio: "1.1", longest: "100", pick(3, 5))
    case .jobs: try await sweep(.jobs, rows: pick(100_000, 1_000_000), ratio: "1.1", longest: "100", pick(3, 5))
    case .reveal: try await sweep(.reveal, rows: pick(20_000, 1_000_000), ratio: "1.2", longest: "100", 3)
    case .nothing: try await nothing()
    case .writers: try await writers()
    case .growth: try await growth()
    case .fleet: try await fleet()
    }
  }

  func median(_ values: [Figure], _ what: String) throws -> Figure {
    guard let median = Statistics.median(values) else { throw Failure("nothing was measured: \(what)") }
    return median
  }

  /// Writes a plot as NAME.svg, both axes logarithmic.
  func plot(_ name: String, _ title: String, _ points: [(x: Figure, y: Figure)]) throws {
    guard let svg = Plot(title: title, points: points).svg else { throw Failure("no point to plot: \(title)") }
    try FileManager.default.createDirectory(at: options.plots, withIntermediateDirectories: true)
    try svg.write(to: options.plots.appendingPathComponent("\(name).svg"), atomically: true, encoding: .utf8)
  }
}
