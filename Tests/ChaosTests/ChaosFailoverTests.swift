// The failovers of chaos and its moving slot, on real servers: what was written stays, and what is written afterwards
// is recorded.

import TestSupport
import Testing

@testable import Chaos

@Suite(.serialized) struct ChaosFailoverTests {
  /// A cluster with one replica that does not run.
  private func withCluster(
    _ surroundings: Surroundings = .plain, redis: RedisKind = .single, _ body: (Cluster) async throws -> Void
  ) async throws {
    let options = FleetOptions(
      worker: WorkerProcess.executable, replicas: 1, surroundings: surroundings, redis: redis)
    let cluster = try await Cluster.start(options)
    do {
      try await body(cluster)
      await cluster.stop()
    } catch {
      await cluster.stop()
      throw error
    }
  }

  private func failOver(_ kind: FaultKind, in cluster: Cluster) async throws {
    let standby = try #require(try await Standby.build(for: kind, of: cluster))
    try await standby.takeOver(in: cluster, after: .milliseconds(50))
  }

  /// What the fleet is answered at its own address.
  private func ask(_ text: String, _ cluster: Cluster) async throws -> String {
    let login = "\(PrivatePostgres.lockedUser):s3cr%2Ft%20p%40ss%25"
    let port = cluster.links.proxy(0, .postgres).port
    return try await cluster.postgres.psql(
      text, through: "postgresql://\(login)@127.0.0.1:\(port)/\(cluster.database)")
  }

  @Test(arguments: [Surroundings.Way.direct, .sessionPool, .transactionPool])
  func twoFailoversOfPostgresKeepItsRowsAtTheFleetsAddress(way: Surroundings.Way) async throws {
    try await withCluster(Surroundings(way: way)) { cluster in
      let first = cluster.postgres.port
      try await cluster.sql("CREATE TABLE kept (n INT); GRANT ALL ON kept TO \(PrivatePostgres.lockedUser)")
      for number in 1...2 {
        _ = try await ask("INSERT INTO kept VALUES (\(number))", cluster)
        try await failOver(.failOverPostgres, in: cluster)
        try await eventuallyAnswers("\(number)") { try await ask("SELECT count(*) FROM kept", cluster) }
      }
      #expect(cluster.postgres.port != first)
      #expect(try await cluster.sql("SELECT pg_is_in_recovery(), timeline_id FROM pg_control_checkpoint()") == "f|3")
      #expect(try await cluster.sql("SHOW track_commit_timestamp") == "on")
    }
  }

  /// A pooler answers once its next login succeeds.
  private func eventuallyAnswers(_ expected: String, _ ask: () async throws -> String) async throws {
    var answer = ""
    for _ in 0..<100 where answer != expected {
      do { answer = try await ask() } catch { answer = "\(error)" }
      if answer != expected { try await Task.sleep(for: .milliseconds(50)) }
    }
    #expect(answer == expected)
  }

  @Test func aSlotMovesToEachNodeAndTheRecordIsOne() async throws {
    try await withCluster(redis: .cluster) { cluster in
      let nodes = try #require(cluster.nodes)
      let key = "\(Cluster.namespace):\(Sweep.lockKey(Sweep.wraps.rawValue))"
      let slot = try nodes.slot(of: key)
      try await cluster.monitor.waitUntilRecording()
      var owners = [try nodes.owner(of: slot).port]
      for number in 1...3 {
        let token = "token \(number)"
        #expect(try cluster.redis.cli("-c", "SET", key, token, "PX", "600000") == "OK")
        var fault = PlannedFault(number: number, kind: .moveSlot, start: .zero, length: .milliseconds(100))
        fault.table = Sweep.wraps.table
        try await FaultDriver(cluster: cluster) { _ in }.moveSlot(fault)
        #expect(try cluster.redis.cli("-c", "GET", key) == token)
        owners.append(try nodes.owner(of: slot).port)
      }
      #expect(zip(owners, owners.dropFirst()).allSatisfy { $0 != $1 } && Set(owners).count == 3)
      var locks = LockHistory([], namespace: Cluster.namespace, restarts: [])
      try await eventuallyAnswers("3") {
        let commands = cluster.monitor.lines.compactMap { RedisCommand(line: $0[...]) }
        locks = LockHistory(commands, namespace: Cluster.namespace, restarts: [])
        return "\(locks.holds.count)"
      }
      // A key that moves is neither taken nor deleted.
      #expect(locks.holds.map(\.token) == ["token 1", "token 2", "token 3"])
      #expect(locks.holds.allSatisfy { $0.released == nil })
      #expect(cluster.monitor.gaps == 0)
    }
  }

  @Test func aFailoverOfRedisKeepsItsKeysAndTheRecordGoesOn() async throws {
    try await withCluster { cluster in
      try await cluster.monitor.waitUntilRecording()
      let first = cluster.redis
      try first.cli("SET", "before", "1", "PX", "600000")
      try await failOver(.failOverRedis, in: cluster)
      #expect(first.processIdentifier == nil && cluster.redis.port != first.port)
      #expect(cluster.links.proxy(0, .redis).upstream == cluster.redis.port)
      #expect(try cluster.redis.cli("GET", "before") == "1")
      #expect(try cluster.redis.cli("SET", "after", "1") == "OK")
      try await eventuallyAnswers("before,after") {
        cluster.monitor.lines.compactMap { RedisCommand(line: $0[...]) }.filter { $0.name == "SET" }
          .map { $0.words[1] }.joined(separator: ",")
      }
      #expect(cluster.monitor.gaps == 1)
      // It is the only one now, also after a restart.
      try cluster.redis.restart()
      #expect(try cluster.redis.cli("ROLE").hasPrefix("master"))
    }
  }
}
