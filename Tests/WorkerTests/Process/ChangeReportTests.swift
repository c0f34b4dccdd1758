// What a run changed is reported, however the run ended: the counts that a sink gets are those of the table.

import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite(.serialized) struct ChangeReportTests {
  private static let agents = 3_000

  /// Silent agents, one a page or so; each update of one takes a moment.
  private static func addSilentAgents(_ stage: WorkerStage, delay: String = "0") async throws {
    try await stage.plane.sql(
      """
      INSERT INTO agents (name, scope, secret_hash, last_seen_at)
      SELECT 'agent-' || number, jsonb_build_object('note', repeat(md5(number::text), 30)), 'x',
             now() - interval '1 day' - number * interval '1 second'
        FROM generate_series(1, \(agents)) AS number;
      CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(\(delay)); RETURN NEW; END $$;
      CREATE TRIGGER slow BEFORE UPDATE ON agents FOR EACH ROW EXECUTE FUNCTION slow()
      """)
  }

  /// The sum of what the webhook's reports of agents-stale say was flagged.
  private static func reported(_ endpoint: Endpoint) -> Int {
    endpoint.received.reduce(0) { sum, received in
      let body = try? JSONSerialization.jsonObject(with: Data((received["body"] ?? "").utf8)) as? [String: Any]
      guard body?["title"] as? String == "agents flagged stale (no heartbeat past cutoff)" else { return sum }
      return sum + ((body?["metadata"] as? [String: Any])?["flipped"] as? Int ?? 0)
    }
  }

  private static func flagged(_ stage: WorkerStage) async throws -> Int {
    Int(try await stage.plane.sql("SELECT count(*) FROM agents WHERE status = 'stale'")) ?? -1
  }

  @Test func aRunThatFailsHalfwayReportsWhatItChangedAndTheNextOneOnlyTheRest() async throws {
    let stage = try await WorkerStage.set()
    let endpoint = try await Endpoint.start(.http)
    try stage.settle()
    try await Self.addSilentAgents(stage)
    // The oldest one fails: it is the last that the index leads to.
    try await stage.plane.sql(
      """
      CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN
             IF NEW.name = 'agent-\(Self.agents)' THEN RAISE EXCEPTION 'no'; END IF;
             RETURN NEW;
           END $$;
      CREATE TRIGGER refuse BEFORE UPDATE ON agents FOR EACH ROW EXECUTE FUNCTION refuse()
      """)
    let worker = try await stage.start(["SB_WORKER_WEBHOOK_URL": endpoint.url("/hook")])
    try await onLoop {
      try await eventually("a run has failed", within: .seconds(30)) {
        try await worker.runs("agents-stale", "failure") >= 1
      }
      try await eventually("what it changed is reported") {
        let flagged = try await Self.flagged(stage)
        return flagged > 0 && Self.reported(endpoint) == flagged
      }
      try await stage.plane.sql("DROP TRIGGER refuse ON agents")
      try await eventually("the rest is reported", within: .seconds(30)) { Self.reported(endpoint) == Self.agents }
    }
    #expect(try await worker.stop() == .exited(0))
    #expect(Self.reported(endpoint) == Self.agents, "each change is reported once")
  }

  @Test func aRunThatIsDrainedReportsWhatItChangedBeforeTheWorkerEnds() async throws {
    let stage = try await WorkerStage.set()
    let endpoint = try await Endpoint.start(.http)
    try stage.settle()
    try await Self.addSilentAgents(stage, delay: "0.002")
    let worker = try await stage.start(["SB_WORKER_WEBHOOK_URL": endpoint.url("/hook")])
    try await onLoop {
      try await eventually("it is in the middle of a run", within: .seconds(20)) {
        try await Self.flagged(stage) > 0
      }
    }
    #expect(try await worker.stop() == .exited(0))
    let flagged = try await Self.flagged(stage)
    #expect(flagged > 0 && flagged < Self.agents, "the run was drained halfway: \(flagged)")
    #expect(Self.reported(endpoint) == flagged)
    #expect(!worker.log.contains { $0.level == "ERROR" })
  }
}
