// Takes for tests of what follows a take, and results of runs.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

extension Coordinator {
  /// Takes the lock, due or not, as soon as it is free.
  func takeInAnyCase() async throws -> Run {
    let token = Token.random(.system)
    var taken: Run?
    try await eventually("the lock is free") {
      if case .taken(let run) = try await self.take(token: token, mode: .force).answer { taken = run }
      return taken != nil
    }
    return try #require(taken)
  }
}

extension EndedRun {
  init(_ run: Run, _ result: RunResult) {
    self.init(
      run: run, result: result, duration: .zero, endedAt: WallClockTime(seconds: 1_700_000_000, nanoseconds: 0))
  }
}

extension RunResult {
  static let failed = RunResult.failure(RunFailure(reason: "failed", isPermanent: false))
  static let permanentlyFailed = RunResult.failure(RunFailure(reason: "failed", isPermanent: true))
  static let outage = RunResult.failure(RunFailure(reason: "outage", isPermanent: false, isOutage: true))
  /// Other sessions had locked all due rows.
  static let locked = RunResult.success(SweepCount(isLocked: true))
}
