// How chaos reads its evidence: Redis's commands, the workers' logs, PostgreSQL's records.

import Reactor
import TestSupport
import Testing

@testable import Chaos

@Suite struct HistoryTests {
  private static let lock = "chaos:lock:worker:sweeper:agents-stale"
  private static let record = "chaos:schedule:{\(lock)}"

  /// Commands, each with the ms at which it was executed.
  private func history(_ commands: [(Int64, Bool, [String])], restarts: [Int64] = []) -> LockHistory {
    LockHistory(
      commands.map { RedisCommand(at: Moment(milliseconds: $0.0), isOfScript: $0.1, words: $0.2) },
      namespace: "chaos", restarts: restarts.map { Moment(milliseconds: $0) })
  }

  private func take(_ token: String, epoch: Int, at time: Int64) -> [(Int64, Bool, [String])] {
    [
      (time, false, ["EVALSHA", "sha", "2", Self.lock, Self.record, token, "3000"]),
      (time, true, ["SET", Self.lock, token, "PX", "3000"]),
      (time, true, ["HSET", Self.record, "epoch", "\(epoch)", "token", token, "started", "\(time)"]),
    ]
  }

  private func call(_ token: String, at time: Int64, _ effect: [String]) -> [(Int64, Bool, [String])] {
    [(time, false, ["EVALSHA", "sha", "1", Self.lock, token]), (time, true, effect)]
  }

  @Test func aLineOfMonitorIsTakenApart() throws {
    let line = #"1700000000.123456 [0 lua] "SET" "a\"b\\c" "\x00\n""#
    let command = try #require(RedisCommand(line: line[...]))
    #expect(command.at == Moment(microseconds: 1_700_000_000_123_456))
    #expect(command.isOfScript)
    #expect(command.words == ["SET", "a\"b\\c", "\u{0}\n"])
    #expect(RedisCommand(line: "OK") == nil)
  }

  @Test func scriptsOfTwoNodesAreNotMixed() {
    let one = ["1.000001 [0 a] \"EVALSHA\" \"]\"", "1.000004 [0 lua] \"SET\"", "1.000005 [0 lua] \"DEL\""]
    let other = ["1.000002 [0 b] \"EVALSHA\"", "1.000003 [0 lua] \"HSET\"", "1.000006 [0 b] \"GET\" \" lua]\""]
    let expected = one + other
    #expect(RedisMonitors.merged([other, one]) == expected)
    #expect(RedisMonitors.merged([one]) == one)
    // A record that begins in the middle of a script.
    #expect(RedisMonitors.merged([[one[1]], other]) == [other[0], other[1], one[1], other[2]])
  }

  @Test func aHoldEndsWithItsDeletionOrItsLease() throws {
    let history = history(
      take("one", epoch: 10, at: 1_000) + call("one", at: 2_000, ["PEXPIRE", Self.lock, "3000"])
        + call("one", at: 2_500, ["DEL", Self.lock])
        + [(2_500, true, ["HSET", Self.record, "completed", "10", "outcome", "success"])]
        + take("two", epoch: 11, at: 4_000))
    #expect(history.trespasses.isEmpty)
    #expect(history.holds.map(\.ends) == [Moment(milliseconds: 2_500), Moment(milliseconds: 7_000)])
    let first = try #require(history.hold(sweeper: "agents-stale", epoch: 10))
    #expect(first.renewals == 1 && first.outcome == "success" && first.completed != nil)
  }

  /// The take's answer was lost, and came when it was sent again: the run is for the slot of that time.
  @Test func aRunIsForTheSlotThatItsCompletionNames() throws {
    let grid = Sweep.agents.grid
    let slot = grid.slot(at: Moment(milliseconds: 1_700_000_000_000))
    func hold(completing named: Int64) throws -> Hold {
      let time = slot + grid.interval + 100
      let history = history(
        take("one", epoch: 10, at: slot + 10) + call("one", at: time, ["DEL", Self.lock])
          + [
            (time, true, ["HSET", Self.record, "slot", "\(named)"]),
            (time, true, ["HSET", Self.record, "completed", "10", "outcome", "success"]),
          ])
      return try #require(history.hold(sweeper: "agents-stale", epoch: 10))
    }
    #expect(try Sweep.agents.slot(of: hold(completing: slot + grid.interval)) == slot + grid.interval)
    // Neither a slot that was not there then, nor a moment in the middle of one.
    #expect(try Sweep.agents.slot(of: hold(completing: slot + 2 * grid.interval)) == slot)
    #expect(try Sweep.agents.slot(of: hold(completing: slot + 1)) == slot)
  }

  @Test func whoeverMeddlesWithAnothersLockIsNoticed() {
    let held = take("one", epoch: 10, at: 1_000)
    #expect(history(held + take("two", epoch: 11, at: 2_000)).trespasses.count == 1)
    #expect(history(held + call("two", at: 2_000, ["DEL", Self.lock])).trespasses.count == 1)
    #expect(history(held + call("two", at: 2_000, ["PEXPIRE", Self.lock, "3000"])).trespasses.count == 1)
    #expect(history(held + take("two", epoch: 11, at: 4_000)).trespasses.isEmpty)
  }

  @Test func aLockThatRedisLostMayBeTakenAgain() {
    let history = history(
      take("one", epoch: 10, at: 1_000) + [(2_000, false, ["FLUSHALL"])] + take("two", epoch: 11, at: 2_500),
      restarts: [900])
    #expect(history.trespasses.isEmpty)
    #expect(history.losses.map(\.milliseconds) == [900, 2_000])
  }

  @Test func theHealthChecksLockIsOfNoSweeper() {
    for name in ["health", "health:{\(Self.lock)}"] {
      let key = "chaos:lock:worker:sweeper:\(name)"
      #expect(history([(1, false, ["SET", key, "one", "PX", "3000"])]).holds.isEmpty)
    }
  }

  @Test func aLockOfTheOtherKindOfWorkerHasNoEpoch() {
    let set = ["SET", Self.lock, "other", "NX", "PX", "3000"]
    let history = history([(1_000, false, set), (2_000, false, set)])
    #expect(history.holds.count == 1 && history.holds[0].epoch == nil && history.trespasses.isEmpty)
  }

  @Test func aRunIsReadOffItsLogLine() throws {
    let lines = [
      #"{"time":"2026-01-31T12:34:56.5Z","level":"INFO","msg":"swept","task":"a","epoch":7,"duration_ms":1500}"#,
      #"{"time":"2026-01-31T12:34:57.25Z","level":"ERROR","msg":"","task":"a","epoch":8,"duration_ms":2,"error":"e"}"#,
      #"{"time":"2026-01-31T12:34:57.25Z","level":"INFO","msg":"ready"}"#,
      "no JSON",
    ]
    let history = LogHistory(lines.map(WorkerProcess.LogLine.init(text:)), replica: 2)
    #expect(history.broken == ["no JSON"])
    #expect(history.runs.map(\.outcome) == [.success, .failure])
    let run = try #require(history.runs.first)
    #expect(run.ended == Moment(milliseconds: 1_769_862_896_500))
    #expect(run.ended.since(run.began) == .milliseconds(1_500))
  }

  @Test func aNoteOfAWriteNamesItsRun() throws {
    let history = try WriteHistory(rows: "sb-worker 5c0de123 agents-stale 9|5|7|3|0|1\npsql|5|7|1|0|0\n")
    #expect(history.transactions.map(\.epoch) == [9])
    #expect(history.nameless.count == 1)
    #expect(throws: HarnessFault.self) { try WriteHistory(rows: "garbage") }
  }
}
