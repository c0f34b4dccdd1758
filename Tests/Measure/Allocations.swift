// A worker that counts its allocations, by scripts/dev/allocations.c, and what it counted.

import Foundation
import TestSupport

/// Allocations of a process so far.
struct Allocations: Equatable {
  var count = 0
  var bytes = 0

  init(count: Int = 0, bytes: Int = 0) {
    self.count = count
    self.bytes = bytes
  }

  /// "allocations bytes frees"; nil unless the line is whole.
  init?(_ line: String) {
    let words = line.split(whereSeparator: \.isWhitespace).compactMap { Int($0) }
    guard line.hasSuffix("\n"), words.count == 3 else { return nil }
    self.init(count: words[0], bytes: words[1])
  }

  static func - (one: Allocations, other: Allocations) -> Allocations {
    Allocations(count: one.count - other.count, bytes: one.bytes - other.bytes)
  }

  /// What is left of them without what `parts` of `whole` parts of `other` cost.
  func without(_ other: Allocations, parts: Int, of whole: Int) -> Allocations {
    guard whole > 0 else { return self }
    return Allocations(count: count - other.count * parts / whole, bytes: bytes - other.bytes * parts / whole)
  }
}

/// A running worker whose allocations are counted.
struct CountedWorker {
  let process: WorkerProcess
  private let report: String

  /// Starts it and waits until it is ready. `library`: of `Instruments.compileAllocations`.
  init(_ instruments: Instruments, _ library: String, _ settings: [String: String] = [:]) async throws {
    report = instruments.file("allocations.report")
    // The counter writes its report from within the worker, which the sandbox refuses.
    let counting = ["LD_PRELOAD": library, "ALLOCATIONS": report, "SB_WORKER_SANDBOX": "off"]
    process = try await instruments.startWorker(settings.merging(counting) { $1 })
  }

  func allocations() async throws -> Allocations {
    // One of before would look like the answer.
    if FileManager.default.fileExists(atPath: report) { try FileManager.default.removeItem(atPath: report) }
    process.signal(SIGUSR1)
    var counted: Allocations?
    try await wait("the worker reports its allocations", step: .milliseconds(20), process) {
      counted = (try? String(contentsOfFile: report, encoding: .utf8)).flatMap(Allocations.init)
      return counted != nil
    }
    return counted!
  }

  /// What happened within `body` cost.
  func allocations(of body: () async throws -> Void) async throws -> Allocations {
    let before = try await allocations()
    try await body()
    return try await allocations() - before
  }
}
