// One replica of the fleet: its successive processes, and what was done to each.
// Invariant: at most one process at a time; every process is kept, with its log. Driven by FaultDriver.

import Foundation
import Synchronization
import TestSupport

/// One process of a replica.
struct Life: Sendable {
  let process: WorkerProcess
  let began: Moment
  /// How the harness ended it; nil if it has not.
  var ended: (by: Int32, at: Moment)?
}

/// A replica.
final class Replica: Sendable {
  let index: Int
  private let executable: String
  private let environment: [String: String]
  private let state = Mutex<[Life]>([])

  init(_ index: Int, executable: String, environment: [String: String]) {
    self.index = index
    self.executable = executable
    self.environment = environment
  }

  var lives: [Life] { state.withLock { $0 } }
  var process: WorkerProcess? { lives.last?.process }

  func start() async throws {
    let process = try await WorkerProcess.start(environment: environment, executable: executable)
    state.withLock { $0.append(Life(process: process, began: .now)) }
  }

  /// Sends a signal to end it.
  func end(by signal: Int32) {
    state.withLock { lives in
      guard !lives.isEmpty else { return }
      lives[lives.count - 1].ended = (signal, .now)
      lives[lives.count - 1].process.signal(signal)
    }
  }

  /// Waits until a probe returns 200.
  func waitUntilReady(within limit: Duration) async throws {
    let deadline = ContinuousClock.now.advanced(by: limit)
    while await process?.status(of: "/readyz") != 200 {
      guard ContinuousClock.now < deadline else { throw HarnessFault("replica \(index) was not ready in \(limit)") }
      try await Task.sleep(for: .milliseconds(20))
    }
  }
}

/// A process's resource usage at a moment.
struct Footprint: Sendable, CustomStringConvertible {
  var threads = 0
  var descriptors = 0
  var dirtyKilobytes = 0

  var description: String { "\(descriptors) descriptors, \(dirtyKilobytes) kB dirty, \(threads) thread" }
}

extension Footprint {
  /// - Throws: if the process has exited.
  init(of process: WorkerProcess) throws {
    self.init()
    threads = process.threadCount ?? 0
    descriptors = process.descriptorCount ?? 0
    let rollup = try String(contentsOfFile: "/proc/\(process.id)/smaps_rollup", encoding: .utf8)
    for line in rollup.split(separator: "\n") where line.hasPrefix("Private_Dirty:") {
      dirtyKilobytes = line.split(separator: " ").compactMap { Int($0) }.first ?? 0
    }
  }
}
