// One sweeper's agreement with the other replicas, as calls: take, renew, release, complete.
// Invariant: a call whose answer did not come is thrown as such, with its outcome unknown; nothing is assumed.

import Coordination
import Reactor

/// Redis's clock as this process knows it; in a cluster, that of the node with a sweeper's keys. The sweepers of one
/// server share it: after an hour's wait a sample of one's own could have drifted so far that Redis refused the next
/// question as too late, and had to be asked again.
@EventLoop
final class RedisClock {
  var sample: ClockSample?
}

/// Speaks to Redis for one sweeper of this replica.
@EventLoop
final class Coordinator {
  /// Redis answered something that the scripts do not say.
  struct UnexpectedAnswer: Error {}

  /// How long one command may take.
  static let commandLimit = Duration.seconds(2)

  /// What a time or a count of the scripts' can be: Lua's numbers are exact so far. An answer beyond (a record that
  /// somebody else wrote into) counts as none, and no sum with one within overflows.
  private static let plausible: ClosedRange<Int64> = -(1 << 53)...(1 << 53)

  let grid: SlotGrid
  let leaseDuration: Duration
  private let redis: any RedisScripts
  private let clock: LoopClock
  let lockKey: String
  let recordKey: String
  private let historyKey: String
  private let replica: String
  /// What this replica says of itself in a take.
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

  /// Redis's time in ms as far as known: before its first answer as this machine's clock has it. Only failures are
  /// counted by it.
  var redisTimeEstimate: Int64 {
    if let sample = redisClock.sample { return sample.estimate(at: clock.now) }
    let time = clock.wallTime
    return time.seconds * 1_000 + time.nanoseconds / 1_000_000
  }

  /// Asks whether this replica may run now; where it may, the lock holds `token`.
  ///
  /// - Parameters:
  ///   - pause: what this replica remembers of a pause.
  ///   - deadline: when it is given up, and refused where it arrives later; in `commandLimit` by default.
  /// - Returns: the answer, what it tells of the fleet, and Redis's time in ms when it was given.
  /// - Throws: `RedisError`; after an unknown outcome the lock may be ours until the deadline: then release the token.
  func take(
    token: String, mode: TakeMode, knowing pause: Pause? = nil, by deadline: MonotonicInstant? = nil
  ) async throws -> (answer: TakeAnswer, fleet: FleetNews?, now: Int64) {
    let deadline = deadline ?? clock.now.advanced(by: Self.commandLimit)
    let notAfter = try await notAfter(deadline)
    let sentAt = clock.now
    let answer = try await evaluate(
      CoordinationScripts.take, keys: [lockKey, recordKey],
      [
        token, "\(leaseDuration.milliseconds)", "\(grid.intervalMilliseconds)", "\(grid.offsetMilliseconds)",
        "\(notAfter)", mode.rawValue, pause?.origin ?? "", pause?.text ?? "", replica, presence,
      ], by: deadline)
    let taken = try Self.takeAnswer(answer, token: token, sentAt: sentAt, isForced: mode == .force)
    return (taken, taken == .late ? nil : try Self.fleetNews(answer), answer.now)
  }

  private static func takeAnswer(
    _ answer: Answer, token: String, sentAt: MonotonicInstant, isForced: Bool
  ) throws -> TakeAnswer {
    func number(_ index: Int) throws -> Int64 {
      guard index < answer.numbers.count else { throw UnexpectedAnswer() }
      return answer.numbers[index]
    }
    func text(_ index: Int) throws -> String {
      guard index < answer.texts.count else { throw UnexpectedAnswer() }
      return answer.texts[index]
    }
    switch answer.kind {
    case "taken":
      let (trigger, origin, progress) = (try number(4), try text(0), try text(1))
      return .taken(
        Run(
          epoch: try number(0), slot: try number(1), nextSlot: try number(2), isForced: isForced || trigger > 0,
          acceptsAnyShare: trigger == 2,
          failures: max(0, Int(try number(3))), origin: origin, progress: progress.isEmpty ? nil : progress,
          token: token, takenAt: sentAt))
    case "held": return .held(slot: try number(0), remaining: try number(1))
    case "stuck": return .stuck(slot: try number(0))
    case "idle": return .idle(slot: try number(0), due: try number(1))
    case "settling": return .settling(slot: try number(0), notBefore: try number(1))
    case "paused": return .paused(slot: try number(0), Pause(origin: try text(0), text: try text(1)))
    case "late": return .late
    default: throw UnexpectedAnswer()
    }
  }

  private static func fleetNews(_ answer: Answer) throws -> FleetNews {
    let numbers = Array(answer.numbers.suffix(4))
    guard numbers.count == 4, let notice = PauseNotice(rawValue: numbers[2]), let origin = answer.texts.last else {
      throw UnexpectedAnswer()
    }
    return FleetNews(
      replicas: Int(max(0, numbers[0])), succeededAt: numbers[1] > 0 ? numbers[1] : nil, pause: notice,
      newestTrigger: numbers[3], origin: origin)
  }

  /// Renews the lock.
  ///
  /// - Parameter changed: how many rows the run has changed so far.
  /// - Returns: whether it is still the token's.
  /// - Throws: `RedisError`, where nothing is known.
  func renew(token: String, changed: Int = 0, by deadline: MonotonicInstant) async throws -> Bool {
    try await renewal(token: token, changed: changed, by: deadline) != .refused
  }

  /// Renews the lock, and tells whether the run is to stop after its batch.
  ///
  /// - Throws: `RedisError`, where nothing is known.
  func renewal(token: String, changed: Int = 0, by deadline: MonotonicInstant) async throws -> Renewal {
    let limit = min(deadline, clock.now.advanced(by: Self.commandLimit))
    let notAfter = try await notAfter(limit)
    let answer = try await evaluate(
      CoordinationScripts.renew, keys: [lockKey, recordKey],
      [token, "\(leaseDuration.milliseconds)", "\(notAfter)", "\(changed)"], by: limit)
    switch answer.kind {
    case "1": return .renewed
    case "2": return .stop
    default: return .refused
    }
  }

  /// Deletes the lock where it is the token's.
  func release(token: String) async throws {
    _ = try await evaluate(CoordinationScripts.release, keys: [lockKey], [token])
  }

  /// Ends a run: writes the record, and frees the lock.
  ///
  /// - Returns: whether people are told of it, never of a run that another one has taken over, and Redis's time in ms.
  /// - Throws: `RedisError`; sending it again is right, for it is idempotent by epoch.
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
    guard answer.kind == "done" else { return (.none, answer.now) }
    guard answer.numbers.count == 3, let kind = AlertDecision.Kind(rawValue: answer.numbers[0]) else {
      throw UnexpectedAnswer()
    }
    let decision = AlertDecision(
      kind: kind, failingFor: .milliseconds(answer.numbers[1]), failures: Int(answer.numbers[2]))
    return (decision, answer.now)
  }

  /// Which of the sweeper's keys holds another type of value than the scripts work with; nil where that cannot be told.
  func keyOfAnotherType() async -> String? {
    do {
      for (key, type) in [(lockKey, "string"), (recordKey, "hash"), (historyKey, "list")] {
        let deadline = clock.now.advanced(by: Self.commandLimit)
        let found = try await redis.command(["TYPE", key], isRepeatable: true, by: deadline).text
        if let found, found != "none", found != type { return key }
      }
    } catch {
      // A user need not have the right to ask. The line goes without it.
    }
    return nil
  }

  /// `deadline` on Redis's clock, in ms: what arrives there later was given up here.
  private func notAfter(_ deadline: MonotonicInstant) async throws -> Int64 {
    if redisClock.sample == nil {
      let time = try await redis.time(near: lockKey, by: deadline)
      guard let parts = time.array, parts.count == 2, let seconds = parts[0].integer, let micros = parts[1].integer,
        Self.plausible.contains(seconds), Self.plausible.contains(micros)
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

  /// A script's answer, taken apart.
  private struct Answer {
    /// A word, or a number in decimal.
    let kind: String
    /// Redis's time in ms.
    let now: Int64
    /// What else is in it, each kind in its order.
    var numbers: [Int64] = []
    var texts: [String] = []
  }

  private func evaluate(
    _ script: RedisScript, keys: [String], _ arguments: [String], by deadline: MonotonicInstant? = nil
  ) async throws -> Answer {
    // Each of the scripts may be sent twice: a take is granted once a token, a completion counts once an epoch.
    let value = try await redis.evaluate(
      script, keys: keys, arguments: arguments, isRepeatable: true,
      by: deadline ?? clock.now.advanced(by: Self.commandLimit))
    guard let parts = value.array, parts.count >= 2, case .integer(let now) = parts[1],
      let kind = parts[0].text ?? parts[0].integer.map({ "\($0)" })
    else { throw UnexpectedAnswer() }
    var answer = Answer(kind: kind, now: now)
    for part in parts[2...] {
      if case .integer(let number) = part {
        answer.numbers.append(number)
      } else {
        // Not UTF-8: somebody else wrote it, and it counts as nothing.
        answer.texts.append(part.text ?? "")
      }
    }
    guard Self.plausible.contains(now), answer.numbers.allSatisfy(Self.plausible.contains) else {
      throw UnexpectedAnswer()
    }
    noteRedisClock(now)
    return answer
  }
}
