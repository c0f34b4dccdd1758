// The model of Redis's scripts against the scripts themselves: the same questions to both, on a real Redis whose time
// the test gives, and the same answers and the same keys after each of thousands of them.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Simulation

@Suite struct ScheduleModelTests {
  /// Put before a script, it gives the script a clock that the test turns: TIME answers the test's time, and the lock's
  /// expiry follows it. The script itself is not touched.
  static let turnedClock = """
    local server, virtual = redis, tonumber(ARGV[#ARGV])
    ARGV[#ARGV] = nil
    local function expiry(key) return key .. ':expiry' end
    local redis = {call = function(command, key, ...)
      if command == 'TIME' then
        return {string.format('%.0f', math.floor(virtual / 1000)), string.format('%.0f', virtual % 1000 * 1000)}
      end
      if key == KEYS[1] then
        local ends = tonumber(server.call('GET', expiry(key)))
        if ends and virtual > ends then server.call('DEL', key, expiry(key)) end
        if command == 'PTTL' then return ends and ends - virtual or -1 end
        local arguments = {...}
        if command == 'SET' then
          server.call('SET', expiry(key), string.format('%.0f', virtual + arguments[3]))
          return server.call('SET', key, arguments[1])
        end
        if command == 'PEXPIRE' then
          return server.call('SET', expiry(key), string.format('%.0f', virtual + arguments[1]))
        end
        if command == 'DEL' then return server.call('DEL', key, expiry(key)) end
      end
      return server.call(command, key, ...)
    end}

    """

  /// All that Redis has: the lock and its expiry, the record's fields, the history.
  static let everything = RedisScript(
    """
    return {redis.call('GET', KEYS[1]) or '', redis.call('GET', KEYS[1] .. ':expiry') or '',
      redis.call('HGETALL', KEYS[2]), redis.call('LRANGE', KEYS[3], 0, -1)}
    """)

  /// Both sides, and the same random questions to them.
  @EventLoop
  private final class Pair {
    let redis: RedisClient
    var model = ScheduleModel()
    var random: SeededRandom
    var now: Int64 = 1_700_000_000_000
    var runs: [Run] = []
    private let keys: [String]
    private let grids = [60_000, 7_000].map { SlotGrid(sweeper: "wraps-expired", interval: .milliseconds($0)) }
    private var tokens = 0
    /// The pause that was last seen, perhaps long ago.
    private var pause: Pause?
    private var lines: [String] = []

    init(_ redis: RedisClient, seed: UInt64) {
      self.redis = redis
      random = SeededRandom(seed: seed)
      let name = "model-\(seed):lock"
      keys = [name, "schedule:{\(name)}", "history:{\(name)}"]
    }

    func any<Element>(of elements: [Element]) -> Element {
      elements[Int.random(in: 0..<elements.count, using: &random)]
    }

    private func evaluate(_ script: RedisScript, _ keyCount: Int, _ arguments: [String]) async throws -> RedisValue {
      let turned = RedisScript(ScheduleModelTests.turnedClock + script.source)
      return try await redis.evaluate(
        turned, keys: Array(keys[..<keyCount]), arguments: arguments + ["\(now)"],
        by: LoopClock.system.now.advanced(by: .seconds(10)))
    }

    private func command(_ arguments: [String]) async throws {
      try await redis.command(arguments, by: LoopClock.system.now.advanced(by: .seconds(10)))
    }

    /// One question to both; what each answered, as text.
    func ask() async throws -> (what: String, real: String, modelled: String) {
      now +=
        any(of: [0, 1, 5, 900, 3_000, 8_000, 61_000, 700_000]) * (Int.random(in: 0..<20, using: &random) == 0 ? -1 : 1)
      switch Int.random(in: 0..<20, using: &random) {
      case 0..<7: return try await take()
      case 7: return try await trigger()
      case 8: return try await leave()
      case 9..<11: return try await renew()
      case 11..<13: return try await release()
      case 13..<19: return try await complete()
      default: return try await disturb()
      }
    }

    /// One call to both, as it goes over the wire.
    private func ask(
      _ script: RedisScript, _ keyCount: Int, _ arguments: [String]
    ) async throws -> (answer: ScheduleModel.Answer, texts: (String, String, String)) {
      let call = ScheduleModel.call(script, arguments, sweeper: "wraps-expired")
      let answer = model.execute(call, at: now)
      let real = try await evaluate(script, keyCount, arguments)
      return (answer, ("\(call)", ScheduleModelTests.text(real), ScheduleModelTests.text(answer.value(at: now))))
    }

    private func take() async throws -> (String, String, String) {
      tokens += 1
      let grid = any(of: grids)
      let isRepeated = Int.random(in: 0..<10, using: &random) == 0
      let token = isRepeated ? token : "token-\(tokens)"
      let (lease, notAfter, mode) = (
        any(of: [3_000, 15_000]), now + any(of: [2_000, 2_000, 0, -1]),
        any(of: [TakeMode.due, .due, .due, .start, .force])
      )
      let known = any(of: [nil, pause])
      let listed = "\(grid.intervalMilliseconds) 1.0 ab12"
      let (answer, texts) = try await ask(
        CoordinationScripts.take, 2,
        [
          token, "\(lease)", "\(grid.intervalMilliseconds)", "\(grid.offsetMilliseconds)", "\(notAfter)", mode.rawValue,
          known?.origin ?? "", known?.text ?? "", any(of: ["a", "b", "c"]),
          any(of: ["", listed, listed, listed]),
        ])
      if case .take(.paused(_, let seen), _) = answer { pause = seen }
      if case .take(.taken(let run), _) = answer { runs.append(run) }
      return texts
    }

    private var token: String {
      runs.last.map { Bool.random(using: &random) ? $0.token : any(of: runs).token } ?? "nobody's"
    }

    private func renew() async throws -> (String, String, String) {
      try await ask(
        CoordinationScripts.renew, 2,
        [token, "15000", "\(now + any(of: [2_000, 2_000, 0, -1]))", any(of: ["0", "25"])]
      ).texts
    }

    private func release() async throws -> (String, String, String) {
      try await ask(CoordinationScripts.release, 1, [token]).texts
    }

    private func leave() async throws -> (String, String, String) {
      guard let presence = model.record?.presences.map({ any(of: $0 + [Self.stranger]) }) else { return ("", "", "") }
      let listedAt = presence.seenAt + any(of: [0, 0, 0, 1])
      return try await ask(CoordinationScripts.leave, 2, [presence.replica, "\(listedAt)"]).texts
    }

    private static let stranger = ScheduleModel.Presence(replica: "z", seenAt: 1, words: "")

    private func complete() async throws -> (String, String, String) {
      guard let last = runs.last else { return ("", "", "") }
      let run = Int.random(in: 0..<3, using: &random) > 0 ? last : any(of: runs)
      let outcome = any(of: ["success", "success", "failure", "failure", "failure", "drained"])
      return try await ask(
        CoordinationScripts.complete, 3,
        [
          run.token, "\(run.epoch)", "15000", "\(run.slot)", outcome,
          "\(any(of: [1_000, 90_000]))", "\(any(of: [0, 17]))", "42", "replica", any(of: ["", "page 7"]),
          "\(any(of: grids).intervalMilliseconds)", any(of: ["0", "0", "1"]), "\(any(of: [30, 31]))", "3", "2",
          outcome == "failure" ? any(of: ["42501", "lease-lost"]) : "",
        ]
      ).texts
    }

    private func trigger() async throws -> (String, String, String) {
      if Int.random(in: 0..<3, using: &random) == 0 {
        let id = now + any(of: [0, 1, -5_000])
        model.announceTrigger(id)
        _ = try await evaluate(CoordinationScripts.announceTrigger, 2, ["\(id)"])
        return ("announced", "", "")
      }
      return try await ask(CoordinationScripts.trigger, 2, [any(of: ["0", "1"])]).texts
    }

    /// What is done to the keys from outside.
    private func disturb() async throws -> (String, String, String) {
      switch Int.random(in: 0..<5, using: &random) {
      case 0:
        model.flush()
        try await command(["DEL", keys[0], keys[0] + ":expiry", keys[1], keys[2]])
      case 1, 2:
        let expiry = any(of: [nil, nil, now + 5_000, now + 5_000, now + 3_600_000])
        model.setLock("another's", expiry: expiry)
        try await command(["SET", keys[0], "another's"])
        try await command(expiry.map { ["SET", keys[0] + ":expiry", "\($0)"] } ?? ["DEL", keys[0] + ":expiry"])
      default:
        guard model.record != nil else { return ("", "", "") }
        let value = any(of: [nil, nil, "1", "0", "", "false", "by an operator", "until=\(now + 5_000) by an operator"])
        model.record?.paused = value
        let stop = token
        model.record?.stop = stop
        try await command(["HSET", keys[1], "stop", stop])
        try await command(value.map { ["HSET", keys[1], "paused", $0] } ?? ["HDEL", keys[1], "paused"])
      }
      return ("disturbed", "", "")
    }

    /// What Redis has, and what the model says it has.
    func contents() async throws -> (real: [String], modelled: [String]) {
      let value = try await redis.evaluate(
        ScheduleModelTests.everything, keys: keys, arguments: [], by: LoopClock.system.now.advanced(by: .seconds(10)))
      let parts = value.array ?? []
      var fields: [String] = []
      let hash = parts[2].array ?? []
      for index in stride(from: 0, to: hash.count, by: 2) {
        fields.append("\(hash[index].text ?? "")=\(hash[index + 1].text ?? "")")
      }
      let history = (parts[3].array ?? []).map { ScheduleModelTests.line($0.text ?? "") }
      let isExpired = parts[1].integer.map { now > $0 } ?? false
      // Expired on both sides, also if the next question turns the clock back.
      if isExpired { try await command(["DEL", keys[0], keys[0] + ":expiry"]) }
      let real =
        ["lock=\(isExpired ? " " : "\(parts[0].text ?? "") \(parts[1].text ?? "")")"] + fields.sorted() + history
      model.expire(at: now)
      let lock = model.lock.map { "\($0.token) \($0.expiry.map { "\($0)" } ?? "")" } ?? " "
      return (real, ["lock=\(lock)"] + model.fields.sorted() + model.history.map(\.text))
    }
  }

  private static func text(_ value: RedisValue) -> String {
    (value.array ?? []).map { $0.integer.map { "\($0)" } ?? $0.text ?? "" }.joined(separator: " ")
  }

  /// A line of history with its fields in one order: a Lua table has none.
  private static func line(_ json: String) -> String {
    json.dropFirst().dropLast().split(separator: ",").sorted().joined(separator: ",")
  }

  @Test(arguments: 1...6)
  func theModelAnswersAndWritesAsTheScriptsDo(seed: UInt64) async throws {
    let url = PrivateRedis.shared.url
    try await onLoop {
      let redis = RedisClient(try RedisConfiguration(url: url), clock: .system)
      try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { await redis.run() }
        let pair = Pair(redis, seed: seed)
        for step in 0..<800 {
          let (what, real, modelled) = try await pair.ask()
          guard real == modelled else {
            Issue.record("seed \(seed), step \(step), \(what): answered \(real), not \(modelled)")
            break
          }
          let contents = try await pair.contents()
          guard contents.real == contents.modelled else {
            Issue.record("seed \(seed), step \(step), \(what): wrote \(contents.real), not \(contents.modelled)")
            break
          }
        }
        group.cancelAll()
      }
    }
  }
}

extension ScheduleModel {
  /// The record's fields as the scripts name them.
  fileprivate var fields: [String] {
    guard let record else { return [] }
    let numbers: [(String, Int64?)] = [
      ("epoch", record.epoch), ("slot", record.slot), ("started", record.started), ("completed", record.completed),
      ("not_before", record.notBefore), ("next_try", record.nextTry), ("failures", record.failures),
      ("rows", record.rows), ("duration", record.duration),
      ("failing_since", record.failingSince), ("alerts", record.alerts), ("alerted_at", record.alertedAt),
      ("verdict", record.verdict), ("verdict_for", record.verdictFor), ("verdict_runs", record.verdictRuns),
      ("found", record.found), ("skipped", record.skipped), ("refused", record.refused), ("ended", record.ended),
      ("succeeded", record.succeeded), ("notice", record.notice),
      ("trigger_until", record.triggerUntil), ("trigger_run", record.triggerRun),
      ("trigger_epoch", record.triggerEpoch), ("newest_trigger", record.newestTrigger),
    ]
    let texts = [
      ("token", record.token), ("outcome", record.outcome), ("progress", record.progress), ("origin", record.origin),
      ("paused", record.paused), ("paused_in", record.pausedIn), ("error", record.error), ("by", record.by),
      ("replica", record.replica), ("rows_so_far", record.rowsSoFar), ("replicas", record.replicas),
      ("pause_told", record.pauseTold), ("notice_for", record.noticeFor), ("stop", record.stop),
      ("trigger", record.trigger.map { "\($0)" } ?? (record.triggered == nil ? nil : "")),
      ("trigger_accepts", record.triggerAccepts), ("triggered", record.triggered),
    ]
    return numbers.compactMap { name, value in value.map { "\(name)=\($0)" } }
      + texts.compactMap { name, value in value.map { "\(name)=\($0)" } }
  }
}

extension ScheduleModel.Line {
  fileprivate var text: String {
    [
      "\"epoch\":\"\(epoch)\"", "\"slot\":\"\(slot)\"", "\"outcome\":\"\(outcome)\"", "\"rows\":\(rows)",
      "\"duration_ms\":\(duration)", "\"replica\":\"\(replica)\"", "\"finished\":\"\(finished)\"",
      "\"found\":\(found)", "\"skipped\":\(skipped)", "\"refused\":\(refused)", "\"error\":\"\(error)\"",
    ].sorted().joined(separator: ",")
  }
}
