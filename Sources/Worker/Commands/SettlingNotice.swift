// Reports why `run --once` waits on a new Redis, where the first sweep starts after one lease. Invariant: it only
// reads, and without an answer it reports nothing: the sweepers report what is wrong.

import Coordination
import Logging
import Reactor

/// Checks once for schedule records that Redis does not have yet.
@EventLoop
struct SettlingNotice {
  /// How long to wait for Redis.
  private static let limit = Duration.seconds(5)

  let redis: any RedisScripts
  let namespace: String
  let lease: Duration
  let sweepers: [String]
  let clock: LoopClock
  let logger: Logger

  func report() async {
    let deadline = clock.now.advanced(by: Self.limit)
    var settling: [Logger.MetadataValue] = []
    var wait = Duration.zero
    do {
      try await redis.waitUntilReady(by: deadline)
      var now: Int64?
      for sweeper in sweepers {
        let record = CoordinationScripts.keys(namespace: namespace, sweeper: sweeper).record
        if now == nil || !redis.isOneServer {
          let time = try await redis.time(near: record, by: deadline).array ?? []
          now = (time.first?.integer ?? 0) * 1_000
        }
        let answer = try await redis.command(
          ["HMGET", record, "epoch", "not_before"], isRepeatable: true, by: deadline)
        guard let left = left(of: answer.array ?? [], at: now ?? 0) else { continue }
        settling.append("\(sweeper)")
        wait = max(wait, left)
      }
    } catch {
      // Each sweeper asks for itself and reports what is wrong.
      return
    }
    guard !settling.isEmpty else { return }
    logger.info(
      "waiting before the first sweep: Redis has no record of earlier runs, and one may still be active",
      metadata: ["wait": "\(GoDuration.text(wholeSecondsOf: wait))", "sweepers": .array(settling)])
  }

  /// How long until a sweeper can run; nil if it can now.
  private func left(of record: [RedisValue], at now: Int64) -> Duration? {
    guard record.count == 2 else { return nil }
    if record[0].isNull { return lease }
    let left = Duration.milliseconds((record[1].integer ?? 0) - now)
    return left > .zero ? min(left, lease) : nil
  }
}
