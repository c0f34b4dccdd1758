// The worker on a Redis Cluster: three masters and a replica, all real, while a slot moves and a master dies.

import Coordination
import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite(.serialized) struct RedisClusterSweepTests {
  private static let namespace = "secrets-bridge"
  private static let keys = CoordinationScripts.keys(namespace: namespace, sweeper: "agents-stale")

  private static func verb(_ words: String..., url: String) async throws -> (ending: WorkerProcess.Ending, text: String)
  {
    let process = try await WorkerProcess.start(words, environment: ["REDIS_URL": url])
    return (try await process.waitForExit(), process.everything)
  }

  /// A row that is due makes a run, which takes the lock.
  @EventLoop
  private static func sweepsOne(_ name: String, _ plane: ControlPlane) async throws {
    _ = try await plane.sql(
      "INSERT INTO agents (name, secret_hash, last_seen_at) VALUES ('\(name)', '', now() - interval '1 day')")
    try await eventually("\(name) is swept", within: .seconds(10)) {
      try await plane.sql("SELECT status FROM agents WHERE name = '\(name)'") == "stale"
    }
  }

  @Test func theHealthChecksKeysLieInTheSweepersSlot() throws {
    let cluster = try PrivateRedis(settings: ["cluster-enabled yes", "cluster-port \(try freePort())"])
    for name in Sweepers.names {
      let keys = CoordinationScripts.keys(namespace: Self.namespace, sweeper: name)
      let check = CoordinationScripts.healthCheck(namespace: Self.namespace, inSlotOf: name)
      let slots = try ([keys.lock, keys.record, keys.history] + check.keys).map {
        try cluster.cli("CLUSTER", "KEYSLOT", $0)
      }
      #expect(Set(slots).count == 1, "\(name): \(slots)")
    }
  }

  @Test func sweepsContinueWhileASlotMovesAndAfterItsMasterDied() async throws {
    // The first master has a replica; the slot of agents-stale is moved there.
    let cluster = try await offLoop { try PrivateCluster(replicas: 1) }
    let plane = try await ControlPlane.fresh()
    let environment = [
      "DATABASE_URL": plane.url, "REDIS_URL": cluster.url, "SB_WORKER_LEASE": "3s",
      "SB_WORKER_AGENTS_STALE_INTERVAL": "500ms",
    ]
    let workers = [try await WorkerProcess.started(environment), try await WorkerProcess.started(environment)]
    try await onLoop {
      for worker in workers { try await worker.answersReadyz(200) }
      try await Self.sweepsOne("first", plane)
      try await eventually("the run is in the history") {
        try cluster.masters[try cluster.index(of: Self.keys.lock)].cli("LLEN", Self.keys.history) != "0"
      }
      let (text, pause) = (
        try await Self.verb("history", "agents-stale", url: cluster.url),
        try await Self.verb("pause", "agents-stale", "--reason", "test", url: cluster.url)
      )
      #expect(text.ending == .exited(0) && text.text.contains("success"), "\(text)")
      #expect(pause.ending == .exited(0) && pause.text.contains("paused"), "\(pause)")
      let resume = try await Self.verb("resume", "agents-stale", url: cluster.url)
      #expect(resume.ending == .exited(0) && resume.text.contains("resumed"), "\(resume)")
      let trigger = try await Self.verb("trigger", "wraps-expired", url: cluster.url)
      #expect(trigger.ending == .exited(0) && trigger.text.contains("triggered"), "\(trigger)")
      let page = try await workers[0].get("/status").body
      #expect(page.contains("wraps-expired") && page.contains("agents-stale"))
    }
    try await onLoop {
      let slot = try cluster.slot(of: Self.keys.lock)
      if try cluster.owner(of: slot) !== cluster.masters[0] { try await cluster.move(slot, to: cluster.masters[0]) }
      try await Self.sweepsOne("moved", plane)
      cluster.masters[0].stop()
      try await eventually("the replica takes over", within: .seconds(20)) {
        try cluster.replicas[0].cli("INFO", "replication").contains("role:master")
      }
      for worker in workers { try await worker.answersReadyz(200, within: .seconds(3)) }
      try await Self.sweepsOne("after", plane)
    }
    for worker in workers { #expect(try await worker.stop() == .exited(0)) }
    let lines = try cluster.replicas[0].cli("LRANGE", Self.keys.history, "0", "-1").split(separator: "\n")
    let slots = try lines.map { try JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any] }
      .filter { $0?["outcome"] as? String == "success" }.compactMap { $0?["slot"] as? String }
    #expect(slots.count >= 3 && Set(slots).count == slots.count, "each slot was swept once: \(slots)")
  }

  @Test func aRotatedPasswordIsReadAgainForEveryNode() async throws {
    let cluster = try await offLoop { try PrivateCluster(user: ("rotated", "planted-0")) }
    let plane = try await ControlPlane.fresh()
    let file = FileManager.default.temporaryDirectory.appendingPathComponent("redis-url-\(UUID().uuidString)")
    defer { try? FileManager.default.removeItem(at: file) }
    @Sendable func write(_ number: Int) throws {
      try Data(cluster.url(user: "rotated", password: "planted-\(number)").utf8).write(to: file, options: .atomic)
    }
    try write(0)
    let worker = try await WorkerProcess.started([
      "DATABASE_URL": plane.url, "REDIS_URL_FILE": file.path, "SB_WORKER_LEASE": "3s",
      "SB_WORKER_AGENTS_STALE_INTERVAL": "500ms",
    ])
    func count(_ message: String) -> Int { worker.log.count { $0.message == message } }
    let renewed = "Redis refused the login: connecting with the one that was read again"
    let same = "Redis refused the login, and the one that was read again is the same"
    try await onLoop {
      try await worker.answersReadyz(200)
      try await Self.sweepsOne("first", plane)
      // The file first: the sweeps go on.
      try write(1)
      try cluster.rotate("rotated", to: "planted-1")
      try await eventually("it has logged in again") { count(renewed) == 1 }
      try await Self.sweepsOne("second", plane)
      try await worker.answersReadyz(200)
      #expect(count(same) == 0)
      // The servers first: an outage until the file has the new password.
      try cluster.rotate("rotated", to: "planted-2")
      try await worker.answersReadyz(503)
      try await eventually("it says why") { count(same) == 1 }
      try write(2)
      try await worker.answersReadyz(200)
      try await Self.sweepsOne("third", plane)
    }
    #expect(count(renewed) == 2 && count(same) == 1, "once for all nodes")
    #expect(try await worker.stop() == .exited(0))
    #expect(!worker.everything.contains("planted"))
  }
}
