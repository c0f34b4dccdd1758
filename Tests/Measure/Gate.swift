// scripts/gate: counts what fixed scenarios cost, and compares the counts with scripts/dev/gate.figures.

import Foundation
import TestSupport

struct Gate: Command {
  private enum Mode { case compare, update, json }

  private static let figures = URL(fileURLWithPath: Instruments.script("gate.figures"))
  /// Requests are counted in this many windows, and the least counts, because other work of the loop can fall into one.
  private static let windows = 5
  /// Excludes calls of the start and those that depend on when the peers' bytes arrive.
  private static let steadyCalls = "sendto,write,writev,getrandom,madvise,epoll_ctl,socket,connect,clock_gettime"
  /// The median of this many runs counts: the number of batches and of changed socket interests depends on the peers'
  /// pace.
  private static let tracedRuns = 7

  private var mode = Mode.compare

  init(_ arguments: inout Arguments) throws {
    while let argument = arguments.next() {
      switch argument {
      case "--update": mode = .update
      case "--json": mode = .json
      default: throw Arguments.unknown(argument)
      }
    }
  }

  func perform() async throws -> Bool {
    let counts = try await Instruments.use { instruments in
      let measure = try await instruments.compile("measure")
      var counts = try await allocations(instruments, measure)
      // Debian 12's valgrind cannot read all of DWARF 5 and does not need it: symbols suffice to attribute
      // instructions.
      let stripped = instruments.file(CallgrindWorker.name)
      try await instruments.run(["objcopy", "--strip-debug", Instruments.worker, stripped])
      counts += try await instructions(instruments, measure, stripped)
      counts += try await runs(instruments, stripped)
      return counts
    }
    if mode == .update {
      try GateReport.file(of: counts).write(to: Self.figures, atomically: true, encoding: .utf8)
      say("\(Self.figures.path) has the new figures")
    }
    let report = GateReport(counts, figures: try String(contentsOf: Self.figures, encoding: .utf8))
    show(mode == .json ? report.json : report.table)
    return report.isWithinBounds
  }

  private func allocations(_ instruments: Instruments, _ measure: String) async throws -> [GateCount] {
    say("allocations a request")
    let library = try await instruments.compileAllocations()
    let worker = try await CountedWorker(instruments, library, ["SB_WORKER_LEASE": "5m"])
    let requests = 4000
    var counts: [GateCount] = []
    // Not /metrics: numbers with many digits allocate, and the number of digits varies.
    for path in ["/healthz", "/readyz"] {
      try await worker.process.request(path, 100, measure, instruments)
      var least = Int.max
      for _ in 0..<Self.windows {
        let more = try await worker.allocations {
          try await worker.process.request(path, requests, measure, instruments)
        }
        least = min(least, more.count)
      }
      // Per 100 requests, so that a health check within the window counts as less than one per request.
      let value = Statistics.rounded(least * 100, per: requests)
      counts.append(GateCount(name: "allocations of 100 requests to \(path)", value: value))
    }
    try await worker.process.stop()
    return counts
  }

  /// Sweepers may run meanwhile; that is little compared with so many requests.
  private func instructions(
    _ instruments: Instruments, _ measure: String, _ stripped: String
  ) async throws -> [GateCount] {
    say("instructions a request")
    let worker = try await CallgrindWorker(instruments, stripped, ["SB_WORKER_LEASE": "5m"])
    var counts: [GateCount] = []
    for (path, requests) in [("/healthz", 1000), ("/metrics", 4000), ("/readyz", 4000)] {
      try await worker.process.request(path, 100, measure, instruments)
      let instructions = try await worker.instructions(dump: counts.count + 1) {
        try await worker.process.request(path, requests, measure, instruments)
      }
      counts.append(GateCount(name: "instructions a request to \(path)", value: instructions / requests))
    }
    try await worker.process.stop()
    return counts
  }

  private func runs(_ instruments: Instruments, _ stripped: String) async throws -> [GateCount] {
    // Earlier workers had a long lease so that nothing was swept. On a new Redis a run waits for one lease.
    try instruments.emptyRedis()
    try await instruments.runOnce(["SB_WORKER_LEASE": "3s"])
    say("a run of every sweeper, nothing due")
    try await instruments.fill()
    var counts = try await once("a start and a run with nothing due", instruments, stripped) {}
    say("a sweep of 20,000 expired wraps")
    counts += try await once("a start and a sweep of 20,000 wraps", instruments, stripped) {
      try await instruments.fill(["wraps": 20_000, "due": 100])
    }
    return counts
  }

  /// One run of every sweeper, due or not: its instructions and its system calls. `prepare` comes before each run.
  private func once(
    _ name: String, _ instruments: Instruments, _ stripped: String, _ prepare: () async throws -> Void
  ) async throws -> [GateCount] {
    try await prepare()
    let profile = "run.profile"
    try await instruments.runOnce(
      CallgrindWorker.unconfined,
      under: ["valgrind", "-q", "--tool=callgrind", "--callgrind-out-file=\(instruments.file(profile))"],
      worker: stripped)
    let instructions = CallgrindProfile.instructions(
      of: CallgrindWorker.name, in: try instruments.text(of: profile))
    var totals: [Int] = []
    for _ in 0..<Self.tracedRuns {
      try await prepare()
      try await instruments.runOnce(under: [
        "strace", "-f", "-qq", "-c", "-U", "calls,name", "-e", "trace=\(Self.steadyCalls)", "-o",
        instruments.file("calls"),
      ])
      guard let total = SystemCallSummary.total(try instruments.text(of: "calls")) else {
        throw Failure("strace counted nothing")
      }
      totals.append(total)
    }
    return [
      GateCount(name: "instructions of \(name)", value: instructions),
      GateCount(name: "system calls of \(name)", value: Statistics.median(totals)!),
    ]
  }
}

/// A worker under callgrind, which counts when it is told to.
struct CallgrindWorker {
  /// Its program's name, by which the profile tells its functions from those of its libraries. Of instructions only
  /// those of the program itself count: the C libraries choose their code by the processor.
  static let name = "secrets-bridge-worker"

  /// valgrind needs more system calls than the worker, and writes files from within it.
  static let unconfined = ["SB_WORKER_SANDBOX": "off"]

  let process: WorkerProcess
  private let instruments: Instruments

  init(_ instruments: Instruments, _ worker: String, _ settings: [String: String]) async throws {
    self.instruments = instruments
    process = try await instruments.startWorker(
      settings.merging(Self.unconfined) { $1 },
      under: [
        "valgrind", "-q", "--tool=callgrind", "--instr-atstart=no",
        "--callgrind-out-file=\(instruments.file("profile"))",
      ],
      worker: worker)
  }

  /// The program's own instructions while `body` runs; `dump`: how many have been counted so, with this one.
  func instructions(dump: Int, _ body: () async throws -> Void) async throws -> Int {
    try await control("-z")
    try await control("-i", "on")
    try await body()
    try await control("-d")
    try await control("-i", "off")
    return CallgrindProfile.instructions(of: Self.name, in: try instruments.text(of: "profile.\(dump)"))
  }

  private func control(_ words: String...) async throws {
    try await instruments.run(["callgrind_control"] + words + ["\(process.id)"])
  }
}

extension WorkerProcess {
  /// Sends so many requests to one of its probes, each after the last one's answer. `measure`: scripts/dev/measure.c.
  func request(_ path: String, _ count: Int, _ measure: String, _ instruments: Instruments) async throws {
    try await instruments.run([measure, "requests", "\(probePort)", path, "\(count)"])
  }
}
