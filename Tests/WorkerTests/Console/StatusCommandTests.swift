// What the verbs status and history show of a fleet on real servers.

import Coordination
import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite(.serialized) struct StatusCommandTests {
  private static let namespace = "secrets-bridge"

  /// A control plane and a Redis, and replicas of a sweeper there.
  private struct Fleet: Sendable {
    let plane: ControlPlane
    let redis: PrivateRedis

    static func make() async throws -> Fleet { Fleet(plane: try await .fresh(), redis: try PrivateRedis()) }

    func settings(_ more: [String: String] = [:]) throws -> Settings {
      try plane.settings(["REDIS_URL": redis.url].merging(more) { $1 })
    }

    func status(_ more: [String: String] = [:], longTransaction: Duration = .seconds(30)) async throws -> FleetStatus {
      let settings = try settings(more)
      return try await onLoop {
        await StatusCommand(settings: settings, clock: .system, longTransaction: longTransaction).status()
      }
    }

    /// Does `body` with a replica of this name and these settings.
    @EventLoop
    func with(
      _ name: String, sweeper: String = "agents-stale", _ more: [String: String] = [:],
      _ body: @escaping @EventLoop @Sendable (Coordinator) async throws -> Void
    ) async throws {
      let settings = try settings(more)
      let interval = Sweepers.all(settings).first { $0.name == sweeper }?.interval ?? .seconds(60)
      let client = RedisClient(try RedisConfiguration(url: redis.url), clock: .system)
      try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { await client.run() }
        try await body(
          Coordinator(
            redis: client, redisClock: RedisClock(), clock: .system, namespace: StatusCommandTests.namespace,
            sweeper: sweeper, interval: interval, leaseDuration: .milliseconds(600), replica: name,
            settings: settings.digest))
        group.cancelAll()
      }
    }
  }

  private static func find(_ sweeper: String, in status: FleetStatus) throws -> SweeperStatus {
    try #require(status.sweepers.first { $0.record.sweeper == sweeper })
  }

  private static let swept: SweepCount = {
    var count = SweepCount(changed: 12, skipped: 2)
    count.refused = 1
    return count
  }()

  @Test func aNewFleetIsUnattendedAndWhatSettingsTurnOffIsOff() async throws {
    let fleet = try await Fleet.make()
    let status = try await fleet.status()
    #expect(status.servers.map(\.fault) == [nil, nil] && status.exitStatus == FleetStatus.attentionStatus)
    #expect(try Self.find("agents-stale", in: status).state == .unattended)
    let off = try Self.find("discover-scheduler", in: status)
    #expect(off.state == .off && off.notes.first?.contains("SB_DISCOVER_TARGETS_JSON") == true)
    let lines = status.text(as: .text).split(separator: "\n")
    #expect(lines.contains { $0.hasPrefix("Off by default: discover-scheduler, ") })
    #expect(lines.filter { $0.contains("discover-scheduler") }.count == 1)
    #expect(lines.contains { $0.hasPrefix("agents-stale: no replica has asked for it") })
    var waiting = status
    waiting.servers[0].fault = "a standby: nothing is swept through it"
    let text = waiting.text(as: .text)
    #expect(!text.contains("no replica has asked for it") && text.contains("any that run wait for the server"))
    #expect(status.text(as: .json).contains(#""sweeper":"discover-scheduler""#))
    // What the settings or the schema turn off is shown.
    try await fleet.plane.sql("ALTER TABLE reveal_sessions DROP COLUMN expired_reason")
    let changed = try await fleet.status(["SB_WORKER_AGENTS_STALE_INTERVAL": "off"]).text(as: .text)
    for line in [
      "agents-stale: off: SB_WORKER_AGENTS_STALE_INTERVAL=off, by this command's settings\n",
      "reveal-sessions-expired: off: the schema has no column reveal_sessions.expired_reason\n",
    ] { #expect(changed.contains(line), "\(changed)") }
    #expect(try fleet.redis.cli("DBSIZE").contains("0"), "it writes nothing")
  }

  @Test func aRunIsShownWhileItLastsAndWithItsCountsAfterwards() async throws {
    let fleet = try await Fleet.make()
    try await fleet.with("pod-a") { replica in
      let run = try await replica.takeInAnyCase()
      _ = try await replica.renew(token: run.token, changed: 7, by: LoopClock.system.now.advanced(by: .seconds(2)))
      let running = try Self.find("agents-stale", in: try await fleet.status())
      #expect(running.state == .running && running.record.text("replica") == "pod-a")
      #expect(running.notes.contains { $0.hasSuffix("on pod-a, epoch \(run.epoch), 7 rows changed so far") })
      _ = try await replica.complete(
        EndedRun(
          run: run, result: .success(Self.swept), duration: .milliseconds(31),
          endedAt: WallClockTime(seconds: 0, nanoseconds: 0)))
    }
    let status = try await fleet.status()
    let ended = try Self.find("agents-stale", in: status)
    #expect(ended.state == .idle && !ended.needsAttention && ended.due ?? 0 > status.redisTime ?? 0)
    #expect(ended.record.number("rows") == 12 && ended.record.number("found") == 15)
    #expect(ended.record.text("by") == "pod-a" && ended.record.number("succeeded") != nil)
    let line = try #require(status.text(as: .text).split(separator: "\n").first { $0.hasPrefix("agents-stale ") })
    #expect(line.contains("idle") && line.contains("pod-a") && line.contains("31ms") && line.contains("in "))
    let text = status.text(as: .text)
    #expect(
      text.contains(
        "agents-stale: the last run left 2 rows locked by others, and 1 row that PostgreSQL refused to change\n"))
    let json = try #require(
      JSONSerialization.jsonObject(with: Data(status.text(as: .json).utf8)) as? [String: Any])
    let rows = try #require(json["sweepers"] as? [[String: Any]])
    let row = try #require(rows.first { $0["sweeper"] as? String == "agents-stale" })
    #expect(row["changed"] as? Int == 12 && row["refused"] as? Int == 1 && row["state"] as? String == "idle")
  }

  @Test func aFailureIsShownWithItsClassAndHowOften() async throws {
    let fleet = try await Fleet.make()
    try await fleet.with("pod-a") { replica in
      for _ in 0..<3 {
        let failure = RunFailure(PostgresError.server(sqlState: "42501", message: "denied"), on: nil)
        _ = try await replica.complete(EndedRun(try await replica.takeInAnyCase(), .failure(failure)))
      }
    }
    let status = try await fleet.status()
    let failing = try Self.find("agents-stale", in: status)
    #expect(failing.state == .failing && status.exitStatus == FleetStatus.attentionStatus)
    #expect(
      failing.notes.contains { $0.hasSuffix("3 runs in a row, the last with 42501: a privilege is missing") },
      "\(failing.notes)")
  }

  @Test func replicasAreListedWithTheSettingsInWhichTheyDiffer() async throws {
    let fleet = try await Fleet.make()
    for (name, more) in [
      ("pod-a", [:]), ("pod-b", ["SB_WORKER_AGENTS_STALE_AFTER": "10m", "SB_WORKER_WEBHOOK_URL": "http://h/secret"]),
      (
        "pod-c",
        [
          "SB_WORKER_AGENTS_STALE_AFTER": "300s", "SB_WORKER_LOCAL_ADDR": "127.0.0.1:9091",
          "SB_WORKER_SMTP_HELO": "pod-c.test",
        ]
      ),
    ] {
      try await fleet.with(name, more) { _ = try await $0.take(token: Token.random(.system), mode: .due) }
    }
    let status = try await fleet.status()
    #expect(status.replicas.map(\.name) == ["pod-a", "pod-b", "pod-c"])
    #expect(status.differences(of: status.replicas[0]) == [], "5m is 300s, and the address is each one's own")
    #expect(status.differences(of: status.replicas[1]) == ["SB_WORKER_AGENTS_STALE_AFTER"])
    #expect(status.differences(of: status.replicas[2]) == [], "the odd one is the one that few are like")
    #expect(status.text(as: .text).contains("differs: SB_WORKER_AGENTS_STALE_AFTER"))
    #expect(status.exitStatus == FleetStatus.attentionStatus)
  }

  @Test func aReplicaThatHasNotAskedForTenMinutesAndTwoIntervalsIsGone() async throws {
    let fleet = try await Fleet.make()
    let now = Int64(Date().timeIntervalSince1970 * 1_000)
    let record = CoordinationScripts.keys(namespace: Self.namespace, sweeper: "agents-stale").record
    func status(_ fields: String...) async throws -> FleetStatus {
      try fleet.redis.cli(["DEL", record])
      try fleet.redis.cli(["HSET", record, "epoch", "1"] + fields)
      return try await fleet.status()
    }
    func listed(_ minutes: Int64, every milliseconds: Int64) -> String {
      "pod-a \(now - minutes * 60_000) \(milliseconds) 0.1.0 -;"
    }
    let living = try await status("replicas", listed(9, every: 60_000) + listed(19, every: 600_000))
    #expect(living.replicas.map(\.name) == ["pod-a"])
    #expect(try Self.find("agents-stale", in: living).state != .unattended)
    let gone = try await status("replicas", listed(11, every: 60_000) + listed(21, every: 600_000))
    #expect(gone.replicas.isEmpty && gone.text(as: .text).contains("\nNo replica is known to run.\n"))
    #expect(try Self.find("agents-stale", in: gone).state == .unattended)
    // A cron job's runs are no replica's.
    for (minutes, state) in [(Int64(9), SweeperStatus.State.due), (11, .unattended)] {
      let status = try await status("started", "\(now - minutes * 60_000)")
      #expect(try Self.find("agents-stale", in: status).state == state, "\(minutes) minutes ago")
    }
  }

  /// With a combining mark behind it, a quote is part of another Character.
  @Test func aQuoteInAPreparedTransactionsIdentifierIsDoubledWhateverFollows() {
    #expect(PreparedTransaction.end("x'; DROP").hasPrefix("ROLLBACK PREPARED 'x''; DROP'; or "))
    let text = PreparedTransaction.end("x'\u{301}; DROP")
    #expect(text.unicodeScalars.starts(with: "ROLLBACK PREPARED 'x''\u{301}; DROP'; or ".unicodeScalars))
  }

  @Test func aReplicaIsKnownByItsHostAndByItsPortIfThatIsNotTheUsualOne() throws {
    let plane = ControlPlane(url: "postgres://u@h/d", name: "d")
    for (address, name) in [
      ("127.0.0.1:8091", HostProcess.hostName), (":8091", HostProcess.hostName),
      ("127.0.0.1:8092", "\(HostProcess.hostName):8092"),
    ] {
      let settings = try plane.settings(["SB_WORKER_LOCAL_ADDR": address])
      #expect(settings.replicaName == name && ReplicaName.text(name) == name)
    }
  }

  @Test func digestsOfEarlierVersionsDifferInNothingThatIsEachReplicasOwn() throws {
    let plane = ControlPlane(url: "postgres://u@h/d", name: "d")
    let digest = try plane.settings().digest
    let place = try #require(SettingDigest.names.firstIndex(of: "SB_WORKER_LOCAL_ADDR")) * SettingDigest.length
    let earlier = String(digest.prefix(place)) + "abcd" + String(digest.dropFirst(place + SettingDigest.length))
    #expect(SettingDigest.differences(digest, earlier) == [] && digest != earlier)
  }

  @Test func pausesStrangersLocksAndSpoiltKeysAreNamed() async throws {
    let fleet = try await Fleet.make()
    func keys(_ name: String) -> (lock: String, record: String, history: String) {
      CoordinationScripts.keys(namespace: Self.namespace, sweeper: name)
    }
    try fleet.redis.cli("HSET", keys("agents-stale").record, "paused", "ticket 17")
    try fleet.redis.cli("SET", keys("wraps-expired").lock, "another's")
    try fleet.redis.cli("SET", keys("secrets-stale").lock, "another's", "PX", "60000")
    try fleet.redis.cli("SET", keys("jobs-recovery").record, "text")
    let status = try await fleet.status()
    func state(_ name: String) throws -> SweeperStatus.State { try Self.find(name, in: status).state }
    #expect(try state("agents-stale") == .paused && state("wraps-expired") == .stuck)
    #expect(try state("secrets-stale") == .held && state("jobs-recovery") == .unreadable)
    let text = status.text(as: .text)
    #expect(text.contains("agents-stale: paused: ticket 17\n"))
    #expect(text.contains("then: DEL secrets-bridge:lock:worker:sweeper:wraps-expired\n"))
    #expect(text.contains("jobs-recovery: its keys in Redis cannot be read: WRONGTYPE\n"))
  }

  @Test func aSessionThatBlocksASweepIsNamedWithoutItsStatement() async throws {
    let fleet = try await Fleet.make()
    let holder = Task.detached {
      try await fleet.plane.sql("BEGIN; UPDATE agents SET scope = '{\"hunter2\": 1}'; SELECT pg_sleep(60)")
    }
    defer { holder.cancel() }
    var seen: FleetStatus?
    for _ in 0..<200 where seen == nil {
      let status = try await fleet.status(longTransaction: .zero)
      if !status.holders.isEmpty { seen = status }
    }
    let status = try #require(seen)
    let session = try #require(status.holders.first)
    #expect(session.relation == "agents" && session.statement == "BEGIN" && session.state == "active")
    #expect(status.grant == nil && status.exitStatus == FleetStatus.attentionStatus)
    #expect(!status.text(as: .json).contains("hunter2"))
    // A role without privileges sees that one exists, and how to see more.
    let limited = try await fleet.plane.limited("SELECT ON agents")
    let blind = try await Fleet(plane: limited, redis: fleet.redis).status()
    #expect(blind.holders.first?.state == nil && blind.holders.first?.process == session.process)
    #expect(blind.text(as: .text).contains("Run: GRANT pg_read_all_stats TO \"\(limited.user)\";\n"))
    try await fleet.plane.sql("SELECT pg_terminate_backend(\(session.process))")
    await #expect(throws: (any Error).self) { try await holder.value }
  }

  @Test func whatPostgreSQLKnowsIsShownWithoutRedis() async throws {
    let stage = try await WorkerStage.set()
    let worker = try await stage.startStuck()
    try stage.settle()
    let environment = try await stage.environment.merging(["REDIS_URL": "redis://127.0.0.1:1"]) { $1 }
    let status = try await WorkerProcess.start(["status"], environment: environment)
    #expect(try await status.waitForExit() == .exited(1))
    #expect(status.output.contains("Redis       connection refused"), "\(status.everything)")
    #expect(status.output.contains("Runs in PostgreSQL:") && status.output.contains("wraps-expired"))
    worker.signal(SIGKILL)
  }

  /// Whoever can write to Redis can write anything into a record.
  @Test func timesThatNoCalendarHasEndNoWorkerAndNoCommand() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    let worker = try await stage.start()
    let record = "secrets-bridge:schedule:{\(WorkerStage.lockKey("agents-stale"))}"
    let time = "-9007199254740992"
    try stage.redis.cli(
      ["HSET", record, "paused", "until=\(time) spoilt"]
        + ["ended", "started", "succeeded", "failing_since"].flatMap { [$0, time] })
    try await onLoop {
      try await eventually("it says until when it is paused") {
        worker.log.contains { $0["reason"]?.contains("0000-01-01") == true }
      }
      #expect(try await worker.get("/status").body.contains("0000-01-01T00:00:00Z"))
      #expect(try await worker.get("/").body.contains("agents-stale"))
    }
    let status = try await WorkerProcess.start(["status"], environment: stage.environment)
    #expect(try await status.waitForExit() == .exited(2), "\(status.everything)")
    #expect(try await worker.stop() == .exited(0))
  }

  @Test func theProgramShowsARunningFleet() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    try await stage.addExpiredWrap()
    let worker = try await stage.start()
    try await onLoop {
      try await eventually("it sweeps") { try await worker.runs("wraps-expired", "success") > 0 }
    }
    let environment = try await stage.environment
    let status = try await WorkerProcess.start(["status"], environment: environment)
    #expect(try await status.waitForExit() == .exited(0), "\(status.everything)")
    #expect(status.output.contains("\(HostProcess.hostName)"))
    let history = try await WorkerProcess.start(
      ["history", "wraps-expired", "--json", "--limit", "200"], environment: ["REDIS_URL": stage.redis.url])
    #expect(try await history.waitForExit() == .exited(0), "\(history.everything)")
    let runs = try #require(JSONSerialization.jsonObject(with: Data(history.output.utf8)) as? [[String: Any]])
    #expect(runs.contains { $0["changed"] as? Int == 1 && $0["found"] as? Int == 1 && $0["error"] is NSNull })
    // What follows is printed as it happens.
    let follower = try await WorkerProcess.start(
      ["history", "wraps-expired", "--follow"], environment: ["REDIS_URL": stage.redis.url])
    try await onLoop {
      try await eventually("it has shown the last runs") { follower.output.hasPrefix("finished ") }
      let before = follower.output.count
      try await eventually("it shows a run that has ended since") { follower.output.count > before }
    }
    follower.signal(SIGINT)
    #expect(try await follower.waitForExit() == .exited(0))
    #expect(try await worker.metric("worker_replicas") == 1)
    #expect(try await worker.metric(#"worker_sweep_rows_total{task="wraps-expired",result="changed"}"#) == 1)
    let success = try await worker.metric(#"worker_sweep_last_success_timestamp_seconds{task="wraps-expired"}"#) ?? 0
    #expect(abs(success - Date().timeIntervalSince1970) < 60)
    #expect(try await worker.metric(#"worker_sweep_next_due_timestamp_seconds{task="wraps-expired"}"#) ?? 0 > success)
    #expect(try await worker.stop() == .exited(0))
  }

  @Test func linesOfEarlierVersionsAndOfStrangersDoNotDisturbAHistory() {
    let old = #"{"epoch":"17","slot":"1","outcome":"success","rows":3,"duration_ms":5,"replica":"a","finished":"9000"}"#
    let run = PastRun(old)
    #expect(run?.changed == 3 && run?.found == nil && run?.error == nil && run?.finished == 9_000)
    for line in ["", "[]", "not JSON", #"{"epoch":"x"}"#] { #expect(PastRun(line) == nil) }
  }

  /// As docs/on-call.md lists them.
  @Test func commandsNeedNoMoreRightsInRedisThanTheWorker() async throws {
    let fleet = try await Fleet.make()
    var rights = ["ACL", "SETUSER", "worker", "on", ">hunter2", "-@all", "+evalsha", "+eval"]
    for command in [
      "time", "get", "exists", "pttl", "set", "pexpire", "del", "hmget", "hset", "hdel", "lpush", "ltrim",
    ] {
      rights.append("+\(command)")
    }
    for kind in ["lock:worker:sweeper:", "schedule:", "history:"] { rights.append("~\(Self.namespace):\(kind)*") }
    try fleet.redis.cli(rights)
    let url = "redis://worker:hunter2@127.0.0.1:\(fleet.redis.port)"
    for words in [["pause", "agents-stale", "--reason", "r"], ["resume", "agents-stale"]] {
      let command = try await WorkerProcess.start(words, environment: ["REDIS_URL": url])
      #expect(try await command.waitForExit() == .exited(0), "\(command.everything)")
    }
    #expect(try await fleet.status(["REDIS_URL": url]).servers.map(\.fault) == [nil, nil])
  }

  @Test func aRightThatHistoryNeedsIsNamed() async throws {
    let redis = try PrivateRedis()
    try redis.cli("ACL", "SETUSER", "worker", "on", ">hunter2", "~*", "+@all", "-lrange")
    let history = try await WorkerProcess.start(
      ["history", "wraps-expired"], environment: ["REDIS_URL": "redis://worker:hunter2@127.0.0.1:\(redis.port)"])
    #expect(try await history.waitForExit() == .exited(1))
    #expect(history.log.first?["error"]?.contains("lrange") == true, "\(history.everything)")
    let limit = try await WorkerProcess.start(["history", "wraps-expired", "--limit", "0"], environment: [:])
    #expect(try await limit.waitForExit() == .exited(64))
  }

  /// Sums and differences of them would overflow.
  @Test(arguments: [Int64.min, .max]) func numbersThatNoScriptWritesCountAsMissing(number: Int64) throws {
    let fields = SweeperRecord.fields.map { _ in RedisValue.string(Array("\(number)".utf8)) }
    let record = SweeperRecord(
      sweeper: "agents-stale", .array([.string(Array("token".utf8)), .integer(-1), .array(fields)]))
    #expect(record.number("skipped") == nil && record.number("started") == nil)
    let status = SweeperStatus(
      record, at: 1_795_847_000_000, lockKey: "lock", ownInterval: 60_000, absence: nil,
      isAbsentByDefault: false)
    #expect(status.needsAttention)
    #expect(PastRun(#"{"epoch":\#(number),"finished":1,"outcome":"success"}"#) == nil)
  }

  // MARK: A sweeper that finds nothing

  /// reveal-sessions-expired, every 15 s, as it is so long after a replica asked Redis for it.
  private static func quiet(_ fields: [String: String] = [:], after seconds: Int64) throws -> SweeperStatus {
    let settings = try Settings(environment: ["DATABASE_URL": "postgres://h/d", "REDIS_URL": "redis://h"])
    let grid = SlotGrid(sweeper: "reveal-sessions-expired", interval: .seconds(15))
    let slot = grid.slot(at: 1_795_847_000_000)
    let known = [
      "slot": "\(slot)", "ended": "\(slot)", "succeeded": "\(slot)", "outcome": "success",
      "replicas": "pod-a \(slot) 15000 v1 digest;",
    ].merging(fields) { $1 }
    let values = SweeperRecord.fields.map { known[$0].map { RedisValue.string(Array($0.utf8)) } ?? .null }
    let record = SweeperRecord(
      sweeper: "reveal-sessions-expired", .array([.string([]), .integer(-2), .array(values)]))
    return try #require(
      SweeperStatus.all([record], at: slot + seconds * 1_000, settings, lacks: [:], whose: "").first)
  }

  /// It does without Redis for 60 s while PostgreSQL has nothing due.
  @Test func aSweeperThatFindsNothingIsIdleUntilItIsToAskRedis() throws {
    for seconds: Int64 in [1, 20, 50, 62] {
      let status = try Self.quiet(after: seconds)
      #expect(status.state == .idle, "after \(seconds) s")
      #expect(try #require(status.due) > status.record.number("slot")! + seconds * 1_000)
    }
    #expect(try Self.quiet(after: 80).state == .due)
    // What it is to do sooner is due.
    #expect(try Self.quiet(["trigger": "t", "trigger_until": "\(1_795_847_900_000)"], after: 50).state == .due)
    #expect(try Self.quiet(["failing_since": "1795847000000"], after: 50).state == .failing)
  }
}
