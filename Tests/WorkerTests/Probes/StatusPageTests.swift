// The fleet's status on the probe listener: the page as a document, what Redis answers for it, and both on a living
// worker.

import Coordination
import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite(.serialized) struct StatusPageTests {
  private static let namespace = "secrets-bridge"

  private static func keys(_ sweeper: String) -> (lock: String, record: String, history: String) {
    CoordinationScripts.keys(namespace: namespace, sweeper: sweeper)
  }

  // MARK: The document

  /// A sweeper whose record has these fields, as Redis would answer them.
  private static func sweeper(_ name: String, _ fields: [String: String]) -> SweeperStatus {
    let values = SweeperRecord.fields.map { fields[$0].map { RedisValue.string(Array($0.utf8)) } ?? .null }
    let record = SweeperRecord(sweeper: name, .array([.string([]), .integer(-2), .array(values)]))
    return SweeperStatus(
      record, at: 1_700_000_000_000, lockKey: "lock", ownInterval: 60_000, absence: nil, isAbsentByDefault: false)
  }

  private static func page(_ sweepers: [SweeperStatus], runs: [[RunMark]]? = nil) -> String {
    var status = FleetStatus()
    status.servers = [.init(name: "PostgreSQL"), .init(name: "Redis", fault: "<b>fault</b>")]
    status.redisTime = 1_700_000_000_000
    status.sweepers = sweepers
    let page = StatusPage(
      status: status, runs: runs ?? sweepers.map { _ in [] }, namespace: #"a"><script>"#,
      time: WallClockTime(microsecondsSince1970: 1_700_000_000_000_000))
    return String(decoding: page.html, as: UTF8.self)
  }

  /// Checks that every element is a known one, closed in order, with known attributes only.
  private static func expectWellFormed(_ page: String) throws {
    let attributes: [Substring: Set<String>] = [
      "html": ["lang"], "meta": ["charset", "name", "content", "http-equiv"],
      "svg": [
        "viewBox", "preserveAspectRatio", "role", "aria-label",
      ], "path": ["class", "d"], "section": ["class"], "ul": ["class"], "li": ["class"], "span": ["class"],
      "p": ["class"], "head": [], "title": [], "style": [], "body": [], "header": [], "h1": [], "h2": [], "main": [],
      "time": [], "b": [], "bdi": [], "figure": [], "figcaption": [],
    ]
    var open: [Substring] = []
    let document = try #require(page.wholeMatch(of: /(?s)<!DOCTYPE html>(.*)\n/)).1
    for element in document.matches(of: /<([^<>]*)>/).map(\.1) {
      if element.hasPrefix("/") {
        #expect(open.popLast() == element.dropFirst(), "</\(element)>")
        continue
      }
      let name = element.prefix { $0 != " " && $0 != "/" }
      let known = try #require(attributes[name], "<\(element)>")
      for attribute in element.matches(of: #/ ([a-zA-Z-]+)="[^"]*"/#) { #expect(known.contains(String(attribute.1))) }
      #expect(element.replacing(#/ [a-zA-Z-]+="[^"]*"/#, with: "").count <= name.count + 1, "<\(element)>")
      if name != "meta", !element.hasSuffix("/") { open.append(name) }
    }
    #expect(open.isEmpty)
  }

  @Test func whatAnOperatorOrAStrangerWroteIsShownAsText() throws {
    let hostile = "<script>alert(1)</script><img src=x onerror=\"alert(2)\">'&amp;\u{1b}[31m\u{202e}"
    var fields: [String: String] = [:]
    for name in ["paused", "outcome", "error", "by", "replica", "token"] { fields[name] = hostile }
    for name in ["ended", "rows", "found", "duration", "failing_since", "failures"] { fields[name] = "17" }
    fields["replicas"] = "<u>pod</u> 1699999999000 60000 <i>1</i> \">;"
    let page = Self.page([Self.sweeper("agents-stale", fields)])
    try Self.expectWellFormed(page)
    for tag in ["<script", "<img", "<i>", "<u>", "<b>fault", "\u{1b}"] { #expect(!page.contains(tag), "\(tag)") }
    #expect(page.contains("<bdi>paused: &lt;script&gt;alert(1)&lt;/script&gt;&lt;img src=x onerror=&quot;alert(2)"))
    #expect(page.contains("&#39;&amp;amp;\u{FFFD}[31m\u{202e}</bdi>"))
    #expect(page.contains("&lt;u&gt;pod&lt;/u&gt;") && page.contains("Redis: <bdi>&lt;b&gt;fault"))
  }

  @Test func numbersBeyondAllMeasureAreLeftOut() throws {
    var fields: [String: String] = [:]
    for name in SweeperRecord.fields { fields[name] = "-9223372036854775808" }
    fields["replicas"] = "pod -9223372036854775808 9223372036854775807 1 -;"
    fields["paused"] = "until=9223372036854775807 y"
    try Self.expectWellFormed(Self.page([Self.sweeper("agents-stale", fields)]))
    for name in SweeperRecord.fields { fields[name] = "\(1 << 53)" }
    fields["replicas"] = "pod -\(1 << 53) \(1 << 53) 1 -;"
    try Self.expectWellFormed(Self.page([Self.sweeper("agents-stale", fields)]))
  }

  @Test func aLongTextIsCut() {
    let page = Self.page([Self.sweeper("agents-stale", ["paused": String(repeating: "é", count: 100_000)])])
    #expect(page.utf8.count < 10_000)
  }

  @Test func anOutcomeIsAHeightAndAWord() throws {
    let runs = [
      RunMark(finishedAt: 1, outcome: .success, changed: 0, durationMilliseconds: 10),
      RunMark(finishedAt: 2, outcome: .failure, changed: 3, durationMilliseconds: 20),
      RunMark(finishedAt: 3, outcome: .success, changed: 6, durationMilliseconds: 1),
    ]
    let page = Self.page([Self.sweeper("agents-stale", ["failing_since": "1"])], runs: [runs])
    try Self.expectWellFormed(page)
    #expect(page.contains("1 of 3 runs failed</figcaption>") && page.contains("▲ "))
    #expect(page.contains(#"<path class="failure" d="M174 24v-24h2v24z"/>"#))
    #expect(page.contains(#"<path class="success" d="M171 24v-8h2v8zM177 24v-8h2v8z"/>"#))
    #expect(page.contains(#"<path class="took" d="M171 24v-12h2v12zM174 24v-24h2v24zM177 24v-1h2v1z"/>"#))
    #expect(page.contains(#"<path class="rows" d="M174 24v-12h2v12zM177 24v-24h2v24z"/>"#))
    #expect(page.contains("took up to 20ms") && page.contains("up to 6 rows changed"))
  }

  @Test func aFullPageHasABoundedSize() {
    let runs = (0..<60).map {
      RunMark(finishedAt: 1, outcome: .failure, changed: 1 << 53, durationMilliseconds: (1 << 53) - Int64($0))
    }
    let text = String(repeating: "\"", count: 512)
    let replicas = (0..<200).map { "\($0)\(String(repeating: "&", count: 90)) 1 60000 1 -;" }.joined()
    let sweepers = Sweepers.names.map {
      Self.sweeper($0, ["paused": text, "error": text, "by": text, "replicas": replicas, "failing_since": "1"])
    }
    let page = Self.page(sweepers, runs: sweepers.map { _ in runs })
    #expect(page.utf8.count < 400_000, "\(page.utf8.count)")
  }

  @Test func theStyleSheetIsTheOneThatThePolicyAllows() async throws {
    let file = FileManager.default.temporaryDirectory.appendingPathComponent("style-\(UUID().uuidString)")
    try "\(StatusPageStyle.css)".write(to: file, atomically: false, encoding: .utf8)
    defer { unlink(file.path) }
    let digest = try await WorkerProcess.start([file.path], environment: [:], executable: "/usr/bin/sha256sum")
    #expect(try await digest.waitForExit() == .exited(0))
    let hexadecimal = Array(digest.output.prefix(64))
    let bytes = stride(from: 0, to: hexadecimal.count, by: 2).compactMap {
      UInt8(String(hexadecimal[$0...$0 + 1]), radix: 16)
    }
    #expect(Data(bytes).base64EncodedString() == StatusPageStyle.digest)
    #expect(!"\(StatusPageStyle.css)".contains("url(") && !"\(StatusPageStyle.css)".contains("@import"))
  }

  // MARK: Kept for a second

  @EventLoop private final class Made {
    var count = 0
  }

  @Test func aResponseIsMadeOnceASecondHoweverManyWantIt() async throws {
    try await onLoop {
      let (clock, made) = (LoopClock.manual(), Made())
      let cached = Coalesced<HTTPResponse>(clock: clock) {
        made.count += 1
        return HTTPResponse(text: "\(made.count)")
      }
      @EventLoop func body() async -> String {
        switch cached.reply {
        case .now(let response): String(decoding: response.body, as: UTF8.self)
        case .later(let make): String(decoding: await make().body, as: UTF8.self)
        case .live: "live"
        }
      }
      #expect(made.count == 0)
      for _ in 0..<3 { #expect(await body() == "1") }
      clock.advance(by: .milliseconds(999))
      #expect(await body() == "1")
      clock.advance(by: .milliseconds(1))
      #expect(await body() == "2")
    }
  }

  // MARK: In Redis

  private static func overview(_ redis: PrivateRedis, url: String? = nil) async throws -> [SweeperOverview] {
    let url = url ?? redis.url
    let names = Sweepers.names
    return try await onLoop {
      let client = RedisClient(try RedisConfiguration(url: url), clock: .system)
      let answer = try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { await client.run() }
        defer { group.cancelAll() }
        return try await client.evaluate(
          CoordinationScripts.overview,
          keys: names.flatMap { [keys($0).lock, keys($0).record, keys($0).history] }, arguments: SweeperRecord.fields,
          by: LoopClock.system.now.advanced(by: .seconds(5)))
      }
      return zip(names, try #require(answer.array).dropFirst()).map { SweeperOverview(sweeper: $0, $1) }
    }
  }

  @Test func runsAreReadAndWhatNoWorkerWroteIsLeftOut() async throws {
    let redis = try PrivateRedis()
    let run = #"{"epoch":"17","slot":"1","outcome":"success","rows":3,"duration_ms":5,"replica":"a","finished":"9000"}"#
    let failed = #"{"outcome":"failure","rows":0,"duration_ms":7,"finished":"9001"}"#
    let history = Self.keys("agents-stale").history
    try redis.cli("RPUSH", history, failed, "not JSON", "[1]", "17", #"{"outcome":"; 1","rows":{}}"#, run)
    try redis.cli("SET", Self.keys("wraps-expired").history, "text")
    try redis.cli("SET", Self.keys("jobs-recovery").record, "text")
    try redis.cli("HSET", Self.keys("secrets-stale").record, "paused", String(repeating: "é", count: 5_000))
    let all = try await Self.overview(redis)
    func find(_ name: String) throws -> SweeperOverview { try #require(all.first { $0.record.sweeper == name }) }
    #expect(
      try find("agents-stale").runs == [
        RunMark(finishedAt: 9_000, outcome: .success, changed: 3, durationMilliseconds: 5),
        RunMark(finishedAt: 9_001, outcome: .failure, changed: 0, durationMilliseconds: 7),
      ])
    #expect(try find("wraps-expired").runs == [] && find("wraps-expired").record.fault == nil)
    #expect(try find("jobs-recovery").record.fault == "WRONGTYPE")
    #expect(try find("secrets-stale").record.pause == String(repeating: "é", count: 256), "cut between characters")
    // The rights of a worker do for all but the last runs.
    try redis.cli("ACL", "SETUSER", "worker", "on", ">hunter2", "~*", "+@all", "-lrange")
    let limited = try await Self.overview(redis, url: "redis://worker:hunter2@127.0.0.1:\(redis.port)")
    #expect(limited.allSatisfy { $0.runs.isEmpty } && limited.contains { $0.record.pause != nil })
  }

  // MARK: A living worker

  @Test func aWorkerShowsTheFleetAndAsksRedisOnlyIfWanted() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    try await stage.addExpiredWrap()
    let worker = try await stage.start()
    try stage.redis.cli("HSET", Self.keys("secrets-stale").record, "paused", "<i>ticket 17</i>")
    let environment = try await stage.environment
    try await onLoop {
      try await eventually("it sweeps") { try await worker.runs("wraps-expired", "success") > 0 }
      func isKnown() throws -> Bool {
        try stage.redis.cli("SCRIPT", "EXISTS", CoordinationScripts.overview.sha1).contains("1")
      }
      #expect(try !isKnown())
      let page = try await worker.get("/")
      #expect(try isKnown())
      #expect(page.status == 200 && page.headers["content-type"] == "text/html; charset=utf-8")
      #expect(page.headers["content-security-policy"]?.hasPrefix("default-src 'none'; style-src 'sha256-") == true)
      try Self.expectWellFormed(page.body)
      for text in [
        "PostgreSQL: <bdi>ok", "Redis: <bdi>ok", ">agents-stale <span", "none failed", "&lt;i&gt;ticket 17&lt;/i&gt;",
        HostProcess.hostName, "<b>discover-scheduler</b> <bdi>off: ",
      ] { #expect(page.body.contains(text), "\(text)") }
      #expect(!page.body.contains("127.0.0.1") && !page.body.contains(PrivatePostgres.user))
      let status = try await worker.get("/status")
      #expect(status.headers["content-type"] == "application/json" && !status.body.contains("127.0.0.1"))
      let shown = try #require(JSONSerialization.jsonObject(with: Data(status.body.utf8)) as? [String: Any])
      let verb = try await WorkerProcess.start(["status", "--json"], environment: environment)
      try await verb.waitForExit()
      let printed = try #require(JSONSerialization.jsonObject(with: Data(verb.output.utf8)) as? [String: Any])
      #expect(Set(shown.keys) == Set(printed.keys) && shown["exit_status"] as? Int == 2)
      let rows = try (
        #require(shown["sweepers"] as? [[String: Any]]), #require(printed["sweepers"] as? [[String: Any]])
      )
      #expect(rows.0.map { Set($0.keys) } == rows.1.map { Set($0.keys) })
      #expect(rows.0.compactMap { $0["sweeper"] as? String } == Sweepers.names)
      stage.redisProxy.goAway()
      try await worker.answersReadyz(503)
      try await eventually("the page says that Redis is away") {
        try await worker.get("/").body.contains("Redis does not answer, so nothing is known of the sweepers.")
      }
      #expect(try await worker.get("/status").body.contains(#""exit_status":1"#))
    }
    #expect(try await worker.stop() == .exited(0))
  }

  @Test func thePageCanBeTurnedOff() async throws {
    let stage = try await WorkerStage.set()
    let worker = try await stage.start(["SB_WORKER_STATUS_PAGE": "false"])
    try await onLoop {
      #expect(await worker.status(of: "/") == 404)
      #expect(await worker.status(of: "/status") == 404)
      #expect(await worker.status(of: "/healthz") == 200)
    }
    #expect(try await worker.stop() == .exited(0))
  }
}
