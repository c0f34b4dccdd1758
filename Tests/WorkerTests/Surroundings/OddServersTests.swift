// Servers in a state that tests have to bring about from outside: a damaged page, no transaction numbers left, a lock
// that no session holds. Each test has a server of its own.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct OddServersTests {
  /// A control plane on a server with these settings. Call `stop()` on the server at the end.
  private static func plane(_ settings: [String]) async throws -> (server: PrivatePostgres, plane: ControlPlane) {
    let server = try await PrivatePostgres.start(settings: settings)
    try await server.psql(try ControlPlane.schema())
    return (server, ControlPlane(url: server.url(), name: "postgres"))
  }

  // MARK: A damaged page

  private static let jobs = """
    INSERT INTO sync_jobs (job_type, correlation_id, status, claim_expires_at, payload)
    SELECT 'sync', gen_random_uuid(), 'claimed', now() - interval '1 hour', to_jsonb(n || repeat(' ', 150))
      FROM generate_series(1, 2000) AS n
    """
  private static let wraps = """
    \(SweeperTests.wrap) SELECT n, '', '', '', repeat('x', 150), '', 0, now() - n * interval '1 s', NULL, NULL
      FROM generate_series(1, 2000) AS n
    """
  /// PostgreSQL looks at other rows' pages when an update adds an entry to an index that is full.
  private static let noIndexes = """
    ALTER TABLE sync_jobs DROP CONSTRAINT sync_jobs_pkey CASCADE;
    DO $$ DECLARE entry regclass; BEGIN
      FOR entry IN SELECT indexrelid FROM pg_index WHERE indrelid = 'sync_jobs'::regclass
      LOOP EXECUTE format('DROP INDEX %s', entry); END LOOP; END $$
    """

  /// One table is swept by its pages alone, the other one by an index first.
  @Test(arguments: [("sync_jobs", "\(noIndexes); \(jobs)"), ("secret_wraps", wraps)])
  func allPagesButADamagedOneAreSwept(_ table: String, _ rows: String) async throws {
    let (server, plane) = try await Self.plane(["autovacuum=off"])
    try await server.psql(rows)
    let page = 20
    let place = "ctid >= '(\(page),0)' AND ctid < '(\(page + 1),0)'"
    let lost = try await server.psql("SELECT count(*) FROM \(table) WHERE \(place)")
    let file = try await server.psql("CHECKPOINT; SELECT pg_relation_filepath('\(table)')")
    try await server.whileHalted(
      "tr '\\0' '\\377' </dev/zero | head -c 24 | dd of=\(file) bs=1 seek=\(page * 8_192) conv=notrunc status=none")
    let settings = try plane.settings()
    let sweeper = table == "sync_jobs" ? Sweeper.jobsRecovery(settings) : Sweeper.wrapsExpired(settings)
    let changed = 2_000 - (Int(lost) ?? 0)
    try await onLoop {
      let tally = RunTally()
      let refusal = await #expect(throws: SweepRefusal.self) { try await plane.sweep(sweeper, noting: tally) }
      #expect(refusal?.reason == "1 row refused (XX001)")
      #expect(tally.count.changed == changed && changed < 2_000)
    }
    await server.stop()
  }

  // MARK: No transaction numbers

  /// Numbers a million before they would wrap around, which old rows forbid: nothing can be written. A slot keeps the
  /// server from mending that by itself.
  @Test func aServerWithoutTransactionNumbersIsNamedAtOnce() async throws {
    let (server, plane) = try await Self.plane(["autovacuum=off", "wal_level=logical"])
    try await server.psql("SELECT pg_create_logical_replication_slot('old', 'pgoutput')")
    try await server.psql(Self.jobs)
    let oldest = try await server.psql("CHECKPOINT; SELECT min(datfrozenxid::text::bigint) FROM pg_database")
    let number = (Int(oldest) ?? 0) + 2_147_483_647 - 900_000
    let segment = String(number / 1_048_576, radix: 16, uppercase: true)
    let name = String(repeating: "0", count: 4 - segment.count) + segment
    try await server.whileHalted(
      "pg_resetwal -f -x \(number) -D . && dd if=/dev/zero of=pg_xact/\(name) bs=8192 count=32 status=none")
    let sweeper = Sweeper.jobsRecovery(try plane.settings())
    try await onLoop {
      let pool = try plane.pool()
      var batches = 0
      let refusal = await #expect(throws: SweepRefusal.self) {
        try await plane.sweep(sweeper, through: pool, beforeBatch: { batches += 1 })
      }
      #expect(refusal == .noTransactionNumbers)
      #expect(batches < 6)
      await pool.close()
    }
    await server.stop()
  }

  // MARK: A lock without a session

  @Test func aPreparedTransactionThatHoldsTheLockIsNamed() async throws {
    let (server, plane) = try await Self.plane(["max_prepared_transactions=2"])
    let sweeper = Sweeper.agentsStale(try plane.settings())
    let lock = try await onLoop { SweepRaceTests.takeLock(of: sweeper, as: "somebody") }
    try await server.psql("BEGIN; \(lock); PREPARE TRANSACTION 'left'")
    try await onLoop {
      let error = await #expect(throws: RunInterruption.self) { try await plane.sweep(sweeper) }
      #expect(error == .preparedTransaction)
    }
    try await server.psql("ROLLBACK PREPARED 'left'")
    #expect(try await onLoop { try await plane.sweep(sweeper) }.found == 0)
    await server.stop()
  }

  @Test func aPreparedTransactionThatHoldsRowsOrATableIsShownWithWhatEndsIt() async throws {
    let (server, plane) = try await Self.plane(["max_prepared_transactions=4"])
    try await server.psql("BEGIN; UPDATE agents SET scope = scope; PREPARE TRANSACTION 'it''s left'")
    try await server.psql("BEGIN; LOCK TABLE secrets; PREPARE TRANSACTION 'other'")
    let settings = try plane.settings()
    try await onLoop {
      let status = await StatusCommand(settings: settings, clock: .system, longTransaction: .zero).status()
      let held = status.holders.map { "\($0.relation) \($0.prepared ?? "") \($0.user ?? "") \($0.mode)" }
      #expect(
        held.sorted() == [
          "agents it's left postgres RowExclusiveLock", "secrets other postgres AccessExclusiveLock",
        ])
      #expect(status.grant == nil && status.exitStatus != 0)
      let text = status.text(as: .text)
      #expect(text.contains("ROLLBACK PREPARED 'it''s left'; or COMMIT PREPARED 'it''s left';"), "\(text)")
      #expect(status.text(as: .json).contains(#""prepared_transaction":"other""#))
      for (name, gid) in [("agents-stale", "'it''s left'"), ("secrets-stale", "'other'")] {
        let limit = LoopClock.system.now.advanced(by: .seconds(10))
        let connection = try await PostgresConnection.connect(settings[.databaseURL], by: limit, on: .system)
        defer { connection.close() }
        let session = ReadOnlySession(
          connection: connection, clock: .system, deadline: limit, answerLimit: .seconds(5))
        let sweeper = try #require(Sweepers.all(settings).first { $0.name == name })
        let check = TableCheck(
          needs: SweepNeeds(sweeper.work), role: "postgres", database: plane.name, allowsRowSecurity: false,
          longTransaction: .zero)
        let found = try await check.findings(in: session).filter { $0.text.contains("prepared transaction") }
        #expect(found.map(\.verdict) == [.warning])
        let text = found.first?.text ?? ""
        #expect(text.hasPrefix("prepared transaction \(gid) of user postgres has held"), "\(text)")
        #expect(found.first?.remedy?.hasPrefix("ROLLBACK PREPARED \(gid);") == true)
      }
    }
    await server.stop()
  }
}
