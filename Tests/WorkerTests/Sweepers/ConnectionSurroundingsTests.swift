// Discovery by connection where a job cannot be inserted, a row is locked, or a target is a connection, too.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct ConnectionSurroundingsTests {
  @Test func aConnectionThatFailsDoesNotKeepTheOthersFromBeingEnqueued() async throws {
    let plane = try await ControlPlane.fresh()
    try await ConnectionDiscoveryTests.add(3, to: plane)
    try await plane.sql(
      "ALTER TABLE sync_jobs ADD CHECK (payload->>'connection_id' <> '\(ConnectionDiscoveryTests.id(1))')")
    let sweeper = try ConnectionDiscoveryTests.sweeper(plane)
    let (failure, count) = try await onLoop {
      let tally = RunTally()
      let failure = await #expect(throws: Discovery.SomeFailed.self) { try await plane.sweep(sweeper, noting: tally) }
      return (failure, tally.count)
    }
    let reason = try #require(failure?.reason)
    #expect(reason.hasPrefix("connection=\(ConnectionDiscoveryTests.id(1)): "), "\(reason)")
    #expect(reason.hasSuffix("(SQLSTATE 23514): INSERT on public.sync_jobs"), "\(reason)")
    #expect(count.changed == 2)
    #expect(
      try await plane.sql("SELECT count(*) FROM provider_connections WHERE last_discover_status = 'running'") == "2")
    #expect(
      try PrivateRedis.shared.cli("EXISTS", "\(plane.name):lock:discover:\(ConnectionDiscoveryTests.id(1))") == "0")
  }

  @Test(arguments: ["BEFORE", "AFTER"])
  func aTriggerThatDiscardsJobsKeepsTheirConnectionsFromRunning(time: String) async throws {
    let plane = try await ControlPlane.fresh()
    try await ConnectionDiscoveryTests.add(2, to: plane)
    let body = time == "BEFORE" ? "" : "DELETE FROM sync_jobs WHERE id = NEW.id;"
    try await plane.sql(
      """
      CREATE FUNCTION discard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \(body) RETURN NULL; END $$;
      CREATE TRIGGER discard \(time) INSERT ON sync_jobs FOR EACH ROW EXECUTE FUNCTION discard()
      """)
    let sweeper = try ConnectionDiscoveryTests.sweeper(plane)
    await #expect(throws: SweepRefusal.swallowed(2, table: "public.sync_jobs")) {
      try await onLoop { try await plane.sweep(sweeper) }
    }
    #expect(
      try await plane.sql("SELECT count(*) FROM provider_connections WHERE last_discover_status = 'running'") == "0")
  }

  /// An operator allows one queued job a cluster.
  @Test(arguments: [false, true])
  func aUniqueIndexThatKeepsJobsOutIsNamedAndNoTriggerIsBlamedForIt(hasTrigger: Bool) async throws {
    let plane = try await ControlPlane.fresh()
    try await ConnectionDiscoveryTests.add(3, to: plane)
    try await plane.sql(
      """
      CREATE UNIQUE INDEX one_queued ON sync_jobs (job_type, (agent_scope ->> 'cluster_name')) WHERE status = 'queued'
      """)
    if hasTrigger {
      try await plane.sql(
        """
        CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
        CREATE TRIGGER pass BEFORE INSERT ON sync_jobs FOR EACH ROW EXECUTE FUNCTION pass()
        """)
    }
    let sweeper = try ConnectionDiscoveryTests.sweeper(plane)
    let (refusal, count) = try await onLoop {
      let tally = RunTally()
      let refusal = await #expect(throws: SweepRefusal.self) { try await plane.sweep(sweeper, noting: tally) }
      return (refusal, tally.count)
    }
    let begin = "2 jobs were not inserted though the statement succeeded: "
    let end = "another row that the unique index one_queued allows only once"
    let trigger = "a trigger on public.sync_jobs discards new rows, or it has "
    #expect(refusal?.reason == begin + (hasTrigger ? trigger : "public.sync_jobs has ") + end)
    #expect(count.changed == 1)
    #expect(
      try await plane.sql("SELECT count(*) FROM provider_connections WHERE last_discover_status = 'running'") == "1")
  }

  @Test func aTriggerThatKeepsConnectionsAsTheyAreIsAFailureWithOneJobAConnection() async throws {
    let plane = try await ControlPlane.fresh()
    try await ConnectionDiscoveryTests.add(2, to: plane)
    try await plane.sql(
      """
      CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
      CREATE TRIGGER keep BEFORE UPDATE ON provider_connections FOR EACH ROW EXECUTE FUNCTION keep()
      """)
    let sweeper = try ConnectionDiscoveryTests.sweeper(plane, ["SB_WORKER_DISCOVER_PILE_UP": "true"])
    for _ in 0..<2 {
      await #expect(throws: SweepRefusal.kept(2, table: "public.provider_connections")) {
        try await onLoop { try await plane.sweep(sweeper) }
      }
    }
    #expect(try await plane.sql("SELECT count(*) FROM sync_jobs") == "2")
  }

  @Test func aConnectionThatAnotherTransactionHoldsIsPassedOver() async throws {
    let plane = try await ControlPlane.fresh()
    try await ConnectionDiscoveryTests.add(3, to: plane)
    let sweeper = try ConnectionDiscoveryTests.sweeper(plane)
    try await onLoop {
      let hold = "SELECT FROM provider_connections WHERE id = '\(ConnectionDiscoveryTests.id(2))' FOR UPDATE"
      try await SweepRaceTests.transaction(plane, hold) { commit in
        #expect(try await plane.sweep(sweeper).changed == 2)
        try await commit()
      }
      #expect(try await plane.sweep(sweeper).changed == 1)
    }
  }

  @Test func targetsThatAreConnectionsTooAreNamed() async throws {
    let plane = try await ControlPlane.fresh()
    try await ConnectionDiscoveryTests.add(1, to: plane)
    let sweeper = try ConnectionDiscoveryTests.sweeper(
      plane,
      [
        "SB_DISCOVER_TARGETS_JSON": """
        [{"name": "other type", "cluster": "c", "provider_type": "aws-sm"},
         {"name": "same", "cluster": "c", "provider_type": "vault"},
         {"name": "other cluster", "cluster": "d", "provider_type": "vault"}]
        """
      ])
    let reported = try await onLoop {
      var reported: [[String]] = []
      _ = try await plane.sweep(sweeper, onCovered: { reported.append($0) })
      return reported
    }
    #expect(reported == [["same"]])
  }

  @Test func aDryRunNamesTheConnectionsThatAreDue() async throws {
    let plane = try await ControlPlane.fresh()
    try await ConnectionDiscoveryTests.add(2, to: plane)
    let sweeper = try ConnectionDiscoveryTests.sweeper(plane)
    let result = try await onLoop {
      try await DryRun(sweeper: sweeper, allowsRowSecurity: false, clock: .system).found(
        through: try PostgresConfiguration(url: plane.url, applicationName: "test"))
    }
    #expect(
      result.due == 2 && result.rows.map(\.id) == [ConnectionDiscoveryTests.id(1), ConnectionDiscoveryTests.id(2)])
    #expect(try await plane.sql("SELECT count(*) FROM sync_jobs") == "0")
  }
}
