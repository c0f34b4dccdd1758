// The incidents of docs/incidents.md, played with real servers and workers by the commands that the document prints:
// each fault is found by one command and ended by one.

import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite(.serialized) struct IncidentTests {
  /// The document's title of each incident that is played below.
  private static let played = [
    "A privilege is missing", "An idle transaction locks a table", "Redis is full", "The URL leads to a standby",
    "A poison row", "Paused and forgotten", "Two replicas have different intervals",
    "A replica has the wrong namespace",
    "A certificate has expired", "Every agent looks silent",
  ]

  @Test func everyIncidentIsPlayedAndHasOneCommandThatFindsItAndOneThatEndsIt() throws {
    let incidents = try Incident.all()
    #expect(incidents.map(\.title) == Self.played)
    for incident in incidents {
      #expect(incident.steps.count == 2, "\(incident.title)")
      #expect(incident.steps.first?.command == "secrets-bridge-worker status", "\(incident.title)")
    }
  }

  // MARK: A fleet

  @Test func faultsOfTablesRowsAndRedisAreFoundAndEnded() async throws {
    let stage = try await IncidentStage.set()
    let worker = try await stage.start()
    try await stage.expectWell("at the beginning")

    try await stage.plane.sql("REVOKE DELETE ON secret_wraps FROM \(stage.role)")
    try await stage.addWrap()
    try await stage.waitForFailures(of: "wraps-expired")
    try await stage.play("A privilege is missing")

    let session = try stage.leaveTransactionOpen("LOCK TABLE agents IN SHARE MODE")
    try await stage.waitForFailures(of: "agents-stale")
    let process = try await stage.plane.sql(
      "SELECT pid FROM pg_locks WHERE relation = 'agents'::regclass AND mode = 'ShareLock' AND granted")
    try await stage.play("An idle transaction locks a table", replacing: ["3720": process])
    session.end()

    try stage.redis.cli("CONFIG", "SET", "maxmemory", "1")
    try await stage.play("Redis is full")

    try await stage.addWrap(id: "e32e2f65-79d7-4dbc-af14-31ffc00538d8")
    try await stage.waitForFailures(of: "wraps-expired")
    try await stage.play("A poison row")
    #expect(try await stage.plane.sql("SELECT count(*) FROM secret_wraps") == "0")
    #expect(try await worker.stop() == .exited(0))
  }

  @Test func pausesSharesAndReplicasThatDifferAreFoundAndEnded() async throws {
    let stage = try await IncidentStage.set()
    let first = try await stage.start()
    try await stage.expectWell("at the beginning")

    let reason = "ticket 17: agents move to another cluster"
    #expect(try await stage.run("secrets-bridge-worker pause agents-stale --reason '\(reason)'").status == 0)
    try await stage.play("Paused and forgotten")

    try await stage.plane.sql(
      """
      INSERT INTO agents (name, secret_hash, last_seen_at)
      SELECT n::text, '', now() - CASE WHEN n > 2 THEN interval '1 hour' ELSE interval '0' END
        FROM generate_series(1, 30) AS n
      """)
    try await stage.waitForFailures(of: "agents-stale")
    try await stage.play("Every agent looks silent")
    #expect(try await stage.plane.sql("SELECT count(*) FROM agents WHERE status = 'stale'") == "28")

    for (title, name, value) in [
      ("Two replicas have different intervals", "SB_WORKER_AGENTS_STALE_INTERVAL", "700ms"),
      ("A replica has the wrong namespace", "REDIS_NAMESPACE", "secret-bridge"),
    ] {
      let second = try await stage.startSecond([name: value])
      let incident = try await stage.find(title)
      #expect(try await second.stop() == .exited(0))
      // What restarts a replica differs from host to host: here its process ends, and another one has the setting.
      let assignment = try #require(incident.steps[1].command.split(separator: " ").last).split(separator: "=")
      #expect(assignment.first == name[...])
      let mended = try await stage.startSecond(name == "REDIS_NAMESPACE" ? [name: String(assignment[1])] : [:])
      try await stage.expectWell(title)
      #expect(try await mended.stop() == .exited(0))
    }
    #expect(try await first.stop() == .exited(0))
  }

  // MARK: A server

  @Test func anExpiredCertificateAndAStandbyAreFoundAndEnded() async throws {
    let server = try await CertifiedServer.start()
    let stage = try await IncidentStage.set(on: server.postgres, query: server.query)
    let worker = try await stage.start()
    try await onLoop { try await worker.answersReadyz(503) }
    let find = try await stage.find("A certificate has expired")
    try server.renew()
    try await stage.end(find)
    try await onLoop { try await worker.answersReadyz(200) }

    try await server.postgres.demote()
    try await stage.play("The URL leads to a standby")
    #expect(try await worker.stop() == .exited(0))
    await server.stop()
  }
}
