// What a command reads in Redis about the whole fleet: one script for all sweepers' locks and records.
// Invariant: it changes nothing, and uses only commands that the worker's scripts use, so their rights suffice.

import Reactor

extension CoordinationScripts {
  /// KEYS lock and record of each sweeper. ARGV the record's fields. Answers Redis's time in ms, and for each sweeper
  /// the lock's value (empty: free), its TTL in ms (-1: no expiry) and the fields' values. For a key of another type it
  /// answers the error.
  package static let records = RedisScript(
    """
    local time = redis.call('TIME')
    local answer = {time[1] * 1000 + math.floor(time[2] / 1000)}
    for index = 1, #KEYS, 2 do
      local lock = redis.pcall('GET', KEYS[index])
      local remaining = lock and redis.call('PTTL', KEYS[index]) or -2
      answer[#answer + 1] = {lock or '', remaining, redis.pcall('HMGET', KEYS[index + 1], unpack(ARGV))}
    end
    return answer
    """)

  /// KEYS the lock of `writeTrialName`. Answers an error if Redis takes no writes.
  ///
  /// XX sets only an existing key, and this one does not exist: nothing changes, but a server that is full, read-only
  /// or cannot save its data refuses it like any other write.
  package static let writeTrial = RedisScript(
    replicatingEffects + """
      if redis.call('GET', KEYS[1]) then return {'well'} end
      local answer = redis.pcall('SET', KEYS[1], '1', 'XX', 'PX', '1')
      if type(answer) == 'table' and answer.err then return answer end
      return {'well'}
      """)

  /// Not a sweeper's name: its lock is never set.
  package static let writeTrialName = "write-trial"
}

/// What Redis knows of one sweeper at one moment. Times are in ms of Redis's clock, since 1970.
package struct SweeperRecord: Sendable {
  /// A replica that attends the sweeper.
  package struct Replica: Equatable, Sendable {
    package let name: String
    package let seenAt: Int64
    package let intervalMilliseconds: Int64
    package let version: String
    /// Digests of its settings.
    package let settings: String
  }

  /// The record's fields to read, as `CoordinationScripts` describes them.
  package static let fields = [
    "epoch", "token", "slot", "started", "not_before", "next_try", "failures", "paused", "failing_since", "outcome",
    "rows", "found", "skipped", "refused", "error", "duration", "ended", "by", "succeeded", "replica", "rows_so_far",
    "replicas", "trigger", "trigger_until", "trigger_run", "triggered",
  ]

  package let sweeper: String
  /// The lock's value; nil if it is free.
  package let lock: String?
  /// The lock's remaining time unless it is renewed; nil if it has no expiry.
  package let lockRemaining: Int64?
  /// Why a key cannot be read: it has another type.
  package let fault: String?
  private let values: [String: String]

  /// - Parameter answer: the script's answer for this sweeper.
  package init(sweeper: String, _ answer: RedisValue) {
    self.sweeper = sweeper
    let parts = answer.array ?? []
    var values: [String: String] = [:]
    var fault: String?
    for part in parts { if case .error(let code, _) = part { fault = code } }
    if parts.count == 3, let list = parts[2].array, list.count == Self.fields.count {
      for (name, value) in zip(Self.fields, list) {
        // Only a pause's reason is written by people.
        values[name] = name == "paused" ? value.repairedText : value.text
      }
    } else {
      fault = fault ?? "an unexpected answer"
    }
    self.fault = fault
    self.values = values
    let lock = parts.first?.text ?? ""
    self.lock = lock.isEmpty ? nil : lock
    let remaining = parts.count > 1 ? parts[1].integer ?? -2 : -2
    lockRemaining = remaining >= 0 ? remaining : nil
  }

  /// A text field; nil if it is missing or empty.
  package func text(_ field: String) -> String? {
    guard let text = values[field], !text.isEmpty else { return nil }
    return text
  }

  /// A numeric field.
  package func number(_ field: String) -> Int64? { text(field).flatMap { PlausibleNumber.read($0) } }

  /// Whether the last run that began holds the lock.
  package var isRunning: Bool { lock != nil && lock == text("token") }

  /// The operator's text for the pause; nil if the sweeper is not paused.
  package var pause: String? {
    guard let text = text("paused"), text != "0", text.lowercased() != "false" else { return nil }
    return text
  }

  /// Whether a trigger is waiting for a replica.
  package func isTriggered(at now: Int64) -> Bool {
    guard let trigger = text("trigger"), trigger != text("trigger_run") else { return false }
    return now < number("trigger_until") ?? 0
  }

  /// The replicas that a take listed, by name, however long ago.
  package var replicas: [Replica] {
    var replicas: [Replica] = []
    for line in (text("replicas") ?? "").split(separator: ";") {
      let words = line.split(separator: " ")
      guard words.count == 5, let seenAt = PlausibleNumber.read(words[1]),
        let interval = PlausibleNumber.read(words[2]), interval > 0
      else { continue }
      replicas.append(
        Replica(
          name: String(words[0]), seenAt: seenAt, intervalMilliseconds: interval, version: String(words[3]),
          settings: String(words[4])))
    }
    return replicas.sorted { $0.name < $1.name }
  }

  /// The replicas that attend the sweeper, by the scripts' rules.
  package func attending(at now: Int64) -> [Replica] {
    replicas.filter { now - $0.seenAt < Self.horizon($0.intervalMilliseconds) }
  }

  /// Whether a replica attends the sweeper, or a run has begun lately: a cron job's is no replica.
  ///
  /// - Parameter interval: in ms.
  package func isAttended(every interval: Int64?, at now: Int64) -> Bool {
    if !attending(at: now).isEmpty { return true }
    return number("started").map { now - $0 < Self.horizon(interval ?? 0) } ?? false
  }

  /// How long ago a replica that attends may have asked, in ms.
  private static func horizon(_ interval: Int64) -> Int64 {
    max(Int64(CoordinationScripts.presenceMilliseconds), 2 * interval)
  }

  /// The interval of the replica that asked last; nil if none is listed.
  package var intervalMilliseconds: Int64? {
    replicas.max { $0.seenAt < $1.seenAt }?.intervalMilliseconds
  }

  /// When the next run is due, by a take's rules; in the past if one is due.
  ///
  /// - Parameter interval: in ms.
  package func due(interval: Int64, at now: Int64) -> Int64 {
    let grid = SlotGrid(sweeper: sweeper, interval: .milliseconds(interval))
    let following = grid.slot(after: now)
    let notBefore = number("not_before") ?? 0
    if let slot = number("slot"), min(slot, now) >= grid.slot(at: now) { return following }
    return max(notBefore, min(number("next_try") ?? grid.slot(at: now), following))
  }
}

/// Numbers that the scripts write. Lua represents them exactly, and no sum of two overflows, even as a time, so a
/// record that somebody else wrote cannot stop a process.
package enum PlausibleNumber {
  package static let range: ClosedRange<Int64> = -(1 << 53)...(1 << 53)

  /// The number; nil if it is not a plausible one.
  package static func read(_ text: some StringProtocol) -> Int64? {
    guard let number = Int64(text), range.contains(number) else { return nil }
    return number
  }

  /// The number in an answer; nil if it is not a plausible one.
  package static func read(_ value: RedisValue) -> Int64? {
    value.integer.flatMap { range.contains($0) ? $0 : nil }
  }
}
