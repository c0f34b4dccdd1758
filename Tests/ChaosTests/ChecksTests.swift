// Each chaos check on constructed evidence: sound evidence passes, and each flaw is caught by its check.
// Invariant: nothing here runs a fleet; the broken builds show the same on the real thing.

import Foundation
import Reactor
import TestSupport
import Testing

@testable import Chaos

/// Evidence of one replica that ran one sweep of wraps, as a draft that a test spoils.
private struct Draft {
  static let begin = Moment(milliseconds: 1_700_000_000_000)
  static let lock = "chaos:lock:worker:sweeper:wraps-expired"
  static let record = "chaos:schedule:{\(lock)}"

  var commands: [(Int64, Bool, [String])] = []
  var restarts: [Int64] = []
  /// application | began | committed | changed | wrong | guarded, in ms from the beginning.
  var writes: [(epoch: Int64, began: Int64, committed: Int64, changed: Int, wrong: Int)] = []
  var log: [String] = []
  var left = ["wraps-expired": 0]
  var unready: [Int] = []
  var jobs: [String: Int] = [:]
  var texts = [(place: "a log", text: "nothing")]
  var incidents: [Incident] = []
  /// When sessions ran out and were ended, in ms from the beginning.
  var sessions: [(expired: Int64, ended: Int64?)] = [(10_000, 11_500)]
  var leaks = 0
  var trail = AuditTrail(rows: 3)
  /// How many rows sessions-retention deleted, and how long the oldest job has waited, in s; nil: nobody has seen it.
  var deleted: Int?
  var queueAge: Int?

  /// One run of epoch 10 that took the lock at 1,000 ms and wrote for longer than its lease, renewing it.
  init() {
    commands = Self.take("one", 10, at: 1_000)
    for time in stride(from: Int64(2_000), through: 5_000, by: 1_000) {
      commands += Self.call("one", at: time, ["PEXPIRE", Self.lock, "3000"])
    }
    commands += Self.call("one", at: 6_000, ["DEL", Self.lock])
    commands += [(6_000, true, ["HSET", Self.record, "completed", "10", "outcome", "success"])]
    writes = [(10, 1_100, 1_200, 5, 0), (10, 5_100, 5_200, 5, 0)]
    log = [Self.line("swept", epoch: 10, at: 6_000, lasting: 5_000)]
  }

  static func take(_ token: String, _ epoch: Int64, at time: Int64) -> [(Int64, Bool, [String])] {
    [
      (time, false, ["EVALSHA", "sha", "2", lock, record, token]), (time, true, ["SET", lock, token, "PX", "3000"]),
      (time, true, ["HSET", record, "epoch", "\(epoch)", "token", token]),
    ]
  }

  static func call(_ token: String, at time: Int64, _ effect: [String]) -> [(Int64, Bool, [String])] {
    [(time, false, ["EVALSHA", "sha", "1", lock, token]), (time, true, effect)]
  }

  static func line(_ message: String, epoch: Int64, at time: Int64, lasting: Int64, error: String? = nil) -> String {
    let text = ISO8601DateFormatter().string(
      from: Date(timeIntervalSince1970: Double(begin.milliseconds + time) / 1_000))
    let fraction = String(format: "%03lld", (begin.milliseconds + time) % 1_000)
    let failed = error.map { #","error":"\#($0)""# } ?? ""
    return #"{"time":"\#(text.dropLast()).\#(fraction)Z","level":"INFO","msg":"\#(message)","task":"wraps-expired","#
      + #""epoch":\#(epoch),"duration_ms":\#(lasting)\#(failed)}"#
  }

  /// Another run, of 100 ms.
  mutating func run(_ token: String, _ epoch: Int64, at time: Int64) {
    commands += Self.take(token, epoch, at: time) + Self.call(token, at: time + 100, ["DEL", Self.lock])
    writes.append((epoch, time + 10, time + 20, 1, 0))
    log.append(Self.line("swept", epoch: epoch, at: time + 100, lasting: 100))
  }

  func at(_ milliseconds: Int64) -> Moment { Moment(milliseconds: Self.begin.milliseconds + milliseconds) }

  func evidence(_ process: WorkerProcess, ended: Int32? = SIGTERM) throws -> Evidence {
    var rows = writes.map { write in
      "sb-worker 5c0de123 wraps-expired \(write.epoch)|\(at(write.began).microseconds)|"
        + "\(at(write.committed).microseconds)|\(write.changed)|\(write.wrong)|1"
    }
    if let deleted {
      rows.append(
        "sb-worker 5c0de123 sessions-retention 10|\(at(1_100).microseconds)|\(at(1_200).microseconds)|\(deleted)|0|1")
    }
    let metrics = queueAge.map { #"worker_queue_oldest_seconds{job_type="sync"} \#($0)"# }
    let samples = metrics.map { [Sample(replica: 0, at: at(39_000), metrics: $0, footprint: Footprint())] } ?? []
    let life = Life(process: process, began: at(0), ended: ended.map { ($0, at(30_000)) })
    return Evidence(
      plan: FaultPlan(), lease: .seconds(3), span: at(0)...at(40_000),
      disturbances: Disturbances(incidents: incidents, loads: [], stalls: [], replicas: 1), longestStall: .zero,
      locks: LockHistory(
        commands.map { RedisCommand(at: at($0.0), isOfScript: $0.1, words: $0.2) }, namespace: "chaos",
        restarts: restarts.map(at)),
      unexpectedGaps: 0,
      writes: try WriteHistory(rows: rows.joined(separator: "\n")),
      statements: try StatementLog([], role: "locked"),
      logs: [(life, LogHistory(log.map(WorkerProcess.LogLine.init(text:)), replica: 0))], first: [], quietBegin: [],
      quietEnd: samples, jobs: jobs, left: left, unready: unready, texts: texts,
      reveals: RevealHistory(
        sessions: sessions.map { .init(expired: at($0.expired), ended: $0.ended.map(at)) }, leaks: leaks),
      trail: trail)
  }
}

@Suite struct ChecksTests {
  /// The names of the checks that fail, without those that ask for more than a draft has.
  private func failing(ended: Int32? = SIGTERM, _ spoil: (inout Draft) -> Void = { _ in }) async throws -> Set<String> {
    let process = try await WorkerProcess.start([], environment: [:], executable: "/bin/true")
    try await process.waitForExit()
    var draft = Draft()
    spoil(&draft)
    let evidence = try draft.evidence(process, ended: ended)
    let all = evidence.lockChecks + evidence.writeChecks + evidence.runChecks + evidence.surroundingChecks
    let failed = (all + [evidence.witnesses]).filter { !$0.isOK }.map(\.name)
    return Set(failed).subtracting(["named", "discovery-all", "at-least-once", "counted-once"])
  }

  @Test func soundEvidencePasses() async throws {
    #expect(try await failing() == [])
  }

  @Test func aWriteAfterItsLeaseIsCaught() async throws {
    #expect(try await failing { $0.writes.append((10, 8_100, 8_200, 1, 0)) } == ["lease"])
  }

  @Test func aLowerEpochsWriteIsCaught() async throws {
    let failed = try await failing { draft in
      draft.commands += Draft.take("two", 11, at: 7_000)
      draft.commands += Draft.call("two", at: 7_500, ["DEL", Draft.lock])
      draft.writes += [(11, 7_100, 7_200, 1, 0), (10, 7_300, 7_400, 1, 0)]
      draft.log.append(Draft.line("swept", epoch: 11, at: 7_500, lasting: 500))
    }
    #expect(failed.contains("overlap"))
  }

  @Test func aWriteWithoutALockIsCaught() async throws {
    #expect(try await failing { $0.writes.append((12, 9_000, 9_100, 1, 0)) } == ["lease"])
  }

  @Test func aRowThatWasNotDueIsCaught() async throws {
    #expect(try await failing { $0.writes[0].wrong = 1 } == ["untouched"])
  }

  @Test func whatIsLeftUndoneIsCaught() async throws {
    #expect(try await failing { $0.left = ["wraps-expired": 3] } == ["swept"])
    #expect(try await failing { $0.left = [:] } == ["swept"])
    #expect(try await failing { $0.unready = [0] } == ["ready"])
  }

  @Test func anEpochThatFallsBackIsCaught() async throws {
    let failed = try await failing { draft in
      draft.commands += Draft.take("two", 9, at: 7_000) + Draft.call("two", at: 7_100, ["DEL", Draft.lock])
      draft.log.append(Draft.line("swept", epoch: 9, at: 7_100, lasting: 100))
    }
    #expect(failed.contains("epochs"))
  }

  @Test func aLockTakenSoonAfterALossIsCaught() async throws {
    #expect(try await failing { $0.restarts = [500] } == ["settling"])
  }

  @Test func anExistingWorkersLockSoonAfterALossIsItsOwnAffair() async throws {
    let failed = try await failing { draft in
      draft.restarts = [20_000]
      draft.commands.append(
        (20_500, false, ["SET", Draft.lock, ExistingWorker.tokenPrefix + "1", "NX", "PX", "1000"]))
    }
    #expect(!failed.contains("settling"))
  }

  @Test func aGhostIsCaughtUnlessAFaultExplainsIt() async throws {
    let ghost = Draft.take("two", 11, at: 20_000)
    #expect(try await failing { $0.commands += ghost } == ["ghosts", "reported-once"])
    let explained = try await failing { draft in
      draft.commands += ghost
      let fault = PlannedFault(number: 1, kind: .kill, start: .zero, length: .zero, replica: 0)
      draft.incidents = [Incident(fault: fault, began: draft.at(20_100), ended: draft.at(20_200))]
    }
    #expect(explained == [])
  }

  @Test func aFailureWithoutAFaultIsCaught() async throws {
    let failed = try await failing { draft in
      draft.commands += Draft.take("two", 11, at: 20_000) + Draft.call("two", at: 20_100, ["DEL", Draft.lock])
      draft.log.append(Draft.line("failed", epoch: 11, at: 20_100, lasting: 100, error: "why"))
    }
    #expect(failed == ["failures"])
  }

  @Test func aRunReportedTwiceIsCaught() async throws {
    #expect(try await failing { $0.log.append($0.log[0]) }.contains("reported-once"))
  }

  @Test func aSlotThatRanTwiceIsCaughtUnlessRedisLostIt() async throws {
    func again(_ draft: inout Draft) {
      let slot = Sweep.wraps.grid.slot(at: draft.at(20_000))
      let base = slot - Draft.begin.milliseconds
      for (epoch, time) in [(Int64(11), base + 100), (12, base + 1_000)] {
        draft.commands += Draft.take("\(epoch)", epoch, at: time)
        draft.commands += Draft.call("\(epoch)", at: time + 50, ["DEL", Draft.lock])
        draft.commands += [(time + 50, true, ["HSET", Draft.record, "completed", "\(epoch)", "outcome", "success"])]
        draft.log.append(Draft.line("swept", epoch: epoch, at: time + 50, lasting: 50))
      }
    }
    #expect(try await failing { again(&$0) } == ["at-most-once"])
  }

  @Test func aDoubledOrStrangeJobIsCaught() async throws {
    let id = Targets.jobID("alpha", slot: Sweep.discover.grid.slot(at: Draft.begin))
    #expect(try await failing { $0.jobs = [id: 1] } == [])
    #expect(try await failing { $0.jobs = [id: 2] } == ["discovery-once"])
    #expect(try await failing { $0.jobs = ["5ca1ab1e-0000-5000-8000-000000000000": 1] } == ["discovery-once"])
  }

  @Test func aPlantedSecretIsCaughtInEveryForm() async throws {
    let forms = [
      Planted.mark, Data(Planted.mark.utf8).base64EncodedString(), PrivatePostgres.lockedPassword,
      Data(Planted.mark.utf8).map { String(format: "%02x", $0) }.joined(),
    ]
    for form in forms {
      #expect(try await failing { $0.texts.append((place: "Redis", text: "x\(form)y")) } == ["secrets"], "\(form)")
    }
  }

  @Test func aLineThatIsNoJSONIsCaught() async throws {
    #expect(try await failing { $0.log.append("Fatal error") } == ["log"])
  }

  @Test func aReplicaThatEndedByItselfIsCaught() async throws {
    #expect(try await failing(ended: nil) == ["endings"])
    // It ended with 0, and not by this signal.
    #expect(try await failing(ended: SIGKILL) == ["endings"])
  }

  // MARK: The later sweepers

  private func failingLater(_ spoil: (inout Draft) -> Void = { _ in }) async throws -> Set<String> {
    let process = try await WorkerProcess.start([], environment: [:], executable: "/bin/true")
    try await process.waitForExit()
    var draft = Draft()
    draft.left["sessions-retention"] = 0
    (draft.deleted, draft.queueAge) = (5, 9)
    spoil(&draft)
    return Set(try draft.evidence(process).laterChecks.filter { !$0.isOK }.map(\.name))
  }

  @Test func aSessionThatStaysOpenIsCaughtUnlessAFaultExplainsIt() async throws {
    #expect(try await failingLater() == [])
    #expect(try await failingLater { $0.sessions.append((20_000, nil)) } == ["reveal"])
    #expect(try await failingLater { $0.sessions.append((20_000, 25_100)) } == ["reveal"])
    #expect(try await failingLater { $0.sessions = [] } == ["reveal"])
    let explained = try await failingLater { draft in
      draft.sessions.append((20_000, 25_100))
      let fault = PlannedFault(number: 1, kind: .pauseRedis, start: .zero, length: .zero)
      draft.incidents = [Incident(fault: fault, began: draft.at(20_100), ended: draft.at(20_200))]
    }
    #expect(explained == [])
  }

  @Test func aReadableWrapOfAnEndedSessionIsCaught() async throws {
    #expect(try await failingLater { $0.leaks = 1 } == ["reveal"])
  }

  @Test func aRowWithoutItsAuditEventIsCaught() async throws {
    for trail in [AuditTrail(rows: 3, wrong: 1), AuditTrail(rows: 3, strange: 1), AuditTrail()] {
      #expect(try await failingLater { $0.trail = trail } == ["audit"])
    }
  }

  @Test func retentionThatDeletesNothingIsCaught() async throws {
    #expect(try await failingLater { $0.deleted = 0 } == ["retention"])
  }

  @Test func aQueueThatNobodyWatchesIsCaught() async throws {
    #expect(try await failingLater { $0.queueAge = 0 } == ["watch"])
    #expect(try await failingLater { $0.queueAge = nil } == ["watch"])
  }

  // MARK: Surroundings

  /// A fault of wraps-expired's table, or of a server, and one failed run after another while it lasts.
  private func fault(
    _ kind: FaultKind, _ draft: inout Draft, from begin: Int64, to end: Int64, neglected: Int = 0,
    failing: String? = nil
  ) {
    var fault = PlannedFault(number: 1, kind: kind, start: .zero, length: .milliseconds(end - begin))
    if kind != .readOnly { fault.table = Sweep.wraps.table }
    draft.incidents = [Incident(fault: fault, began: draft.at(begin), ended: draft.at(end), neglected: neglected)]
    guard let failing else { return }
    let time = end - 500
    draft.commands += Draft.take("two", 11, at: time - 100) + Draft.call("two", at: time, ["DEL", Draft.lock])
    draft.log.append(Draft.line("scheduler: task failed", epoch: 11, at: time, lasting: 100, error: failing))
  }

  @Test func aSlotThatAStrangersLockCostIsCaught() async throws {
    let base = Sweep.wraps.grid.slot(at: Draft.begin.advanced(by: .seconds(20))) - Draft.begin.milliseconds
    func taken(_ draft: inout Draft) {
      fault(.strangersLock, &draft, from: base + 50, to: base + 1_150)
      let token = ExistingWorker.tokenPrefix + "1"
      draft.commands.append((base + 100, false, ["SET", Draft.lock, token, "NX", "PX", "1000"]))
    }
    #expect(try await failing { taken(&$0) } == ["stranger"])
    let made = try await failing { draft in
      taken(&draft)
      let time = base + 1_200
      draft.commands += Draft.take("two", 11, at: time) + Draft.call("two", at: time + 50, ["DEL", Draft.lock])
      draft.commands += [(time + 50, true, ["HSET", Draft.record, "completed", "11", "outcome", "success"])]
      draft.log.append(Draft.line("swept", epoch: 11, at: time + 50, lasting: 50))
    }
    #expect(made == [])
  }

  @Test func aPoisonedRowThatIsNotReportedOrKeepsOthersIsCaught() async throws {
    let reported = "1 row refused (23503): DELETE on public.secret_wraps"
    func failed(_ reason: String?, neglected: Int = 0) async throws -> Set<String> {
      try await failing { fault(.poison, &$0, from: 20_000, to: 28_000, neglected: neglected, failing: reason) }
    }
    #expect(try await failed(reported) == [])
    #expect(try await failed(nil) == ["poison"])
    #expect(try await failed("the lease was lost") == ["poison"])
    #expect(try await failed(reported, neglected: 3) == ["poison"])
  }

  @Test func aRunThatFailsForAReadOnlyDatabaseIsCaught() async throws {
    #expect(try await failing { fault(.readOnly, &$0, from: 20_000, to: 25_000) } == [])
    let failed = try await failing { fault(.readOnly, &$0, from: 20_000, to: 25_000, failing: "read-only") }
    #expect(failed == ["read-only"])
  }

  @Test func aFailoverAfterWhichNothingRunsIsCaught() async throws {
    func spoil(_ draft: inout Draft, _ kind: FaultKind, at time: Int64) {
      var fault = PlannedFault(number: 1, kind: kind, start: .zero, length: .zero)
      if kind == .moveSlot { fault.table = Sweep.wraps.table }
      draft.incidents = [Incident(fault: fault, began: draft.at(time), ended: draft.at(time + 1_000))]
    }
    for kind in [FaultKind.failOverPostgres, .failOverRedis, .moveSlot] {
      // The draft's only run is before it.
      #expect(try await failing { spoil(&$0, kind, at: 10_000) } == ["failovers"])
      func ran(at time: Int64, after fault: Int64 = 10_000) async throws -> Set<String> {
        try await failing { draft in
          spoil(&draft, kind, at: fault)
          draft.run("two", 11, at: time)
        }
      }
      #expect(try await ran(at: 12_000) == [])
      #expect(try await ran(at: 20_000) == ["failovers"])
      // The server has nothing from before it.
      #expect(try await ran(at: 12_000, after: 500) == ["failovers"])
    }
  }

  @Test func controlPlanesThatWriteInOneAnothersNameAreCaught() async throws {
    let process = try await WorkerProcess.start([], environment: [:], executable: "/bin/true")
    try await process.waitForExit()
    let one = try Draft().evidence(process)
    #expect(!Evidence.apart([one, one]).isOK)
    var silent = Draft()
    silent.writes = []
    #expect(!Evidence.apart([one, try silent.evidence(process)]).isOK)
  }
}
