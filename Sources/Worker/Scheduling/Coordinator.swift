// How one sweeper coordinates with the other replicas through Redis: take, renew, release, complete, leave.
// Invariant: a call without an answer throws, because its outcome is unknown; nothing is assumed.

import Coordination
import Reactor

/// Redis's clock as this process knows it; in a cluster, the clock of the node with a sweeper's keys. The sweepers of
/// one server share it. A sweeper's own sample could drift so far in an hour that Redis would refuse its next take as
/// late.
@EventLoop
final class RedisClock {
  var sample: ClockSample?
}

/// Runs the Redis scripts for one sweeper of this replica.
@EventLoop
final class Coordinator {
  /// An answer that the scripts do not give.
  struct UnexpectedAnswer: Error {}

  /// How long one command may take.
  static let commandLimit = Duration.seconds(2)

  let grid: SlotGrid
  let leaseDuration: Duration
  private let redis: any RedisScripts
  private let clock: LoopClock
  let lockKey: String
  let recordKey: String
  private let historyKey: String
  private let replica: String
  /// This replica's interval, version and settings, as a take puts them into the record.
  private let presence: String
  private let redisClock: RedisClock

  init(
    redis: any RedisScripts, redisClock: RedisClock, clock: LoopClock, namespace: String, sweeper name: String,
    interval: Duration, leaseDuration: Duration, replica: String, settings digest: String = "-"
  ) {
    self.redis = redis
    self.redisClock = redisClock
    self.clock = clock
    self.leaseDuration = leaseDuration
    self.replica = ReplicaName.text(replica)
    presence = "\(max(1, interval.milliseconds)) \(Version.number) \(digest.isEmpty ? "-" : digest)"
    grid = SlotGrid(sweeper: name, interval: interval)
    (lockKey, recordKey, historyKey) = CoordinationScripts.keys(namespace: namespace, sweeper: name)
  }

  /// Redis's time in ms, estimated; this machine's before the first answer. Used only for counting failures.
  var redisTimeEstimate: Int64 {
    if let sample = redisClock.sample { return sample.estimate(at: clock.now) }
    let time = clock.wallTime
    return time.seconds * 1_000 + time.nanoseconds / 1_000_000
  }

  /// Asks whether this replica may run now. If it may, the lock is set to `token`.
  ///
  /// - Parameters:
  ///   - pause: the pause that this replica remembers.
  ///   - isListed: whether the record lists this replica among those that attend the sweeper.
  ///   - deadline: when the call times out. Redis refuses a take that arrives later. `commandLimit` by default.
  /// - Returns: the answer, the state of the fleet, and Redis's time in ms.
  /// - Throws: `RedisError`. If the outcome is unknown, the lock may be ours; release the token.
  func take(
    token: String, mode: TakeMode, knowing pause: Pause? = nil, isListed: Bool = true,
    by deadline: MonotonicInstant? = nil
  ) async throws -> (answer: TakeAnswer, fleet: FleetState?, now: Int64) {
    let deadline = deadline ?? clock.now.advanced(by: Self.commandLimit)
    let notAfter = try await notAfter(deadline)
    let sentAt = clock.now
    let answer = try await evaluate(
      CoordinationScripts.take, keys: [lockKey, recordKey],
      [
        token, "\(leaseDuration.milliseconds)", "\(grid.intervalMilliseconds)", "\(grid.offsetMilliseconds)",
        "\(notAfter)", mode.rawValue, pause?.origin ?? "", pause?.text ?? "", replica,
        isListed ? presence : "",
      ], by: deadline)
    let taken = try answer.take(token: token, sentAt: sentAt, isForced: mode == .force)
    return (taken, taken == .late ? nil : try answer.fleetState(), answer.now)
  }

  /// Renews the lock.
  ///
  /// - Parameter changed: how many rows the run has changed so far.
  /// - Returns: whether the token still holds it.
  /// - Throws: `RedisError` if the outcome is unknown.
  func renew(token: String, changed: Int = 0, by deadline: MonotonicInstant) async throws -> Bool {
    try await renewal(token: token, changed: changed, by: deadline) != .refused
  }

  /// Renews the lock, and returns whether the run has to stop after its batch.
  ///
  /// - Throws: `RedisError` if the outcome is unknown.
  func renewal(token: String, changed: Int = 0, by deadline: MonotonicInstant) async throws -> Renewal {
    let limit = min(deadline, clock.now.advanced(by: Self.commandLimit))
    let notAfter = try await notAfter(limit)
    let answer = try await evaluate(
      CoordinationScripts.renew, keys: [lockKey, recordKey],
      [token, "\(leaseDuration.milliseconds)", "\(notAfter)", "\(changed)"], by: limit)
    return answer.renewal
  }

  /// Deletes the lock if the token holds it.
  func release(token: String) async throws {
    _ = try await evaluate(CoordinationScripts.release, keys: [lockKey], [token])
  }

  /// Ends a run: writes the record and releases the lock.
  ///
  /// - Returns: whether to notify, which is never the case for a run that was superseded, and Redis's time in ms.
  /// - Throws: `RedisError`. The call may be repeated: a completion counts once per epoch.
  func complete(_ ended: EndedRun) async throws -> (decision: AlertDecision, now: Int64) {
    let (run, count) = (ended.run, ended.result.count)
    let answer = try await evaluate(
      CoordinationScripts.complete, keys: [lockKey, recordKey, historyKey],
      [
        run.token, "\(run.epoch)", "\(leaseDuration.milliseconds)", "\(run.slot)", ended.result.name,
        "\(ended.retryDelay.milliseconds)", "\(count.changed)", "\(ended.duration.milliseconds)",
        replica, count.progress ?? "", "\(grid.intervalMilliseconds)",
        ended.result.isInconclusive ? "1" : "0", "\(count.found)", "\(count.skipped)", "\(count.refused)",
        ended.result.failure?.errorClass ?? "",
      ])
    return (try answer.alertDecision(), answer.now)
  }

  /// Removes this replica from those that attend the sweeper, unless another process of its name has asked since.
  ///
  /// - Parameter listedAt: Redis's time of the last take that was answered.
  func leave(listedAt: Int64) async throws {
    _ = try await evaluate(CoordinationScripts.leave, keys: [lockKey, recordKey], [replica, "\(listedAt)"])
  }

  /// The sweeper's key that holds a value of another type than the scripts use; nil if that cannot be determined.
  func keyOfAnotherType() async -> String? {
    do {
      for (key, type) in [(lockKey, "string"), (recordKey, "hash"), (historyKey, "list")] {
        let deadline = clock.now.advanced(by: Self.commandLimit)
        let found = try await redis.command(["TYPE", key], isRepeatable: true, by: deadline).text
        if let found, found != "none", found != type { return key }
      }
    } catch {
      // The user may lack the right to TYPE. The log line then names no key.
    }
    return nil
  }

  /// `deadline` on Redis's clock, in ms: a command that arrives later has timed out here.
  private func notAfter(_ deadline: MonotonicInstant) async throws -> Int64 {
    if redisClock.sample == nil {
      let time = try await redis.time(near: lockKey, by: deadline)
      guard let parts = time.array, parts.count == 2, let seconds = PlausibleNumber.read(parts[0]),
        let micros = PlausibleNumber.read(parts[1])
      else {
        throw UnexpectedAnswer()
      }
      noteRedisClock(seconds * 1_000 + micros / 1_000)
    }
    return redisClock.sample?.earliest(at: deadline) ?? 0
  }

  private func noteRedisClock(_ milliseconds: Int64) {
    redisClock.sample = ClockSample(reading: milliseconds, arrivedAt: clock.now, unitsPerSecond: 1_000)
  }

  private func evaluate(
    _ script: RedisScript, keys: [String], _ arguments: [String], by deadline: MonotonicInstant? = nil
  ) async throws -> ScriptAnswer {
    // Each script may be sent twice: a take is granted once per token, a completion counts once per epoch.
    let value = try await redis.evaluate(
      script, keys: keys, arguments: arguments, isRepeatable: true,
      by: deadline ?? clock.now.advanced(by: Self.commandLimit))
    let answer = try ScriptAnswer(value)
    noteRedisClock(answer.now)
    return answer
  }
}
