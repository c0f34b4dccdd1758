// Discovery by connection on real servers, row by row: which connections get a job, what it contains, and how often.

import Coordination
import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct ConnectionDiscoveryTests {
  /// The migrations that have what discovery by connection needs.
  private static let migrations = [DevelopmentSchema.twentyEight, .thirtyEight]

  /// How long ago each connection's last discovery ended and the present one began; all intervals are 300 s.
  private static let connections = """
    ('at its time', 'active', true, 'c', '300 s', 'success', '301 s'),
    ('disabled', 'disabled', true, 'c', '1 h', NULL, NULL),
    ('failed', 'active', true, 'c', '1 h', 'failure', '1 h'),
    ('fresh', 'active', true, 'c', '4 min', 'success', '5 min'),
    ('just given up', 'active', true, 'c', '1 h', 'running', '11 min'),
    ('never', 'active', true, 'c', NULL, NULL, NULL),
    ('never, running', 'active', true, 'c', NULL, 'running', '1 min'),
    ('no cluster', 'active', true, '', '1 h', NULL, NULL),
    ('off', 'active', false, 'c', '1 h', NULL, NULL),
    ('overdue', 'active', true, 'c', '1 day', 'success', '1 day'),
    ('running', 'active', true, 'c', '1 h', 'running', '9 min'),
    ('stuck', 'active', true, 'c', '1 h', 'running', '13 min')
    """

  private static func fill(_ plane: ControlPlane) async throws {
    try await plane.sql(
      """
      INSERT INTO provider_connections (name, type, auth_method, scope, status, discover_enabled, cluster_name,
        last_discover_at, last_discover_status, last_discover_started_at, last_discover_error)
      SELECT name, 'vault', 'token', '{"ü": [0.1, 12345678901234567890]}', status, enabled, cluster,
        now() - ended::interval, state, now() - began::interval, 'an error'
        FROM (VALUES \(connections)) AS connection (name, status, enabled, cluster, ended, state, began)
      """)
  }

  /// So many connections that were never discovered, oldest first by their ids.
  static func add(_ count: Int, to plane: ControlPlane) async throws {
    try await plane.sql(
      """
      INSERT INTO provider_connections (id, name, type, auth_method, discover_enabled, cluster_name)
      SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, 'connection ' || n, 'vault', 'token',
        true, 'c' FROM generate_series(1, \(count)) AS n
      """)
  }

  static func id(_ number: Int) -> String { "00000000-0000-0000-0000-" + String(format: "%012d", number) }

  static func sweeper(_ plane: ControlPlane, _ settings: [String: String] = [:]) throws -> Sweeper {
    Sweeper.discoverConnections(try plane.settings(settings))
  }

  private static let names = """
    SELECT string_agg(connection.name, ',' ORDER BY connection.name) FROM sync_jobs AS job
      JOIN provider_connections AS connection ON connection.id::text = job.payload->>'connection_id'
    """

  // MARK: Which ones, and what they get

  @Test(arguments: migrations)
  func connectionsThatAreDueGetOneJobAndAreRunning(migration: DevelopmentSchema) async throws {
    let plane = try await ControlPlane.fresh(at: migration)
    try await Self.fill(plane)
    let sweeper = try Self.sweeper(plane)
    #expect(try await onLoop { try await plane.sweep(sweeper) } == SweepCount(changed: 5))
    #expect(try await plane.sql(Self.names) == "at its time,failed,never,overdue,stuck")
    #expect(
      try await plane.sql(
        """
        SELECT count(*) FROM sync_jobs AS job JOIN provider_connections AS connection
            ON connection.id::text = job.payload->>'connection_id'
         WHERE job.job_type = 'discover' AND job.status = 'queued' AND job.id = job.correlation_id
           AND job.agent_scope = '{"cluster_name": "c"}' AND job.payload = jsonb_build_object(
             'connection_id', connection.id, 'target_provider_type', 'vault', 'cluster_name', 'c',
             'target_provider_config', connection.scope)
           AND substr(job.id::text, 15, 1) = '8' AND substr(job.id::text, 20, 1) = '8'
        """) == "5")
    #expect(
      try await plane.sql(
        """
        SELECT string_agg(name, ',' ORDER BY name) FROM provider_connections
         WHERE last_discover_status = 'running' AND last_discover_started_at > now() - interval '1 minute'
           AND last_discover_error IS NULL AND (last_discover_at IS NULL OR last_discover_at < now() - interval '299 s')
        """) == "at its time,failed,never,overdue,stuck")
    #expect(try await plane.sql("SELECT count(*) FROM provider_connections WHERE last_discover_error IS NULL") == "5")
    #expect(try await onLoop { try await plane.sweep(sweeper) } == SweepCount())
  }

  @Test func withoutConnectionsStuckADiscoveryIsGivenUpAtItsLimit() async throws {
    let plane = try await ControlPlane.fresh()
    try await Self.fill(plane)
    let sweeper = try Self.sweeper(plane, ["SB_WORKER_CONNECTIONS_STUCK_INTERVAL": "off"])
    #expect(try await onLoop { try await plane.sweep(sweeper) }.changed == 6)
    #expect(try await plane.sql(Self.names) == "at its time,failed,just given up,never,overdue,stuck")
  }

  @Test func anOldSchemaLacksItsColumns() async throws {
    let plane = try await ControlPlane.fresh(at: .eleven)
    let sweeper = try Self.sweeper(plane)
    let missing = try await onLoop {
      let pool = try plane.pool()
      let missing = try await SchemaCheck([sweeper], pool: pool, clock: .system).missing(
        for: sweeper.name, maximumAge: .zero)
      await pool.close()
      return missing
    }
    #expect(missing == "column provider_connections.cluster_name")
  }

  @Test func aRunClaimsAHundredTheLongestOverdueFirst() async throws {
    let plane = try await ControlPlane.fresh()
    try await Self.add(130, to: plane)
    try await plane.sql(
      "UPDATE provider_connections SET last_discover_at = now() - interval '1 day' WHERE id <= '\(Self.id(30))'")
    let sweeper = try Self.sweeper(plane)
    #expect(try await onLoop { try await plane.sweep(sweeper) } == SweepCount(changed: 100))
    #expect(
      try await plane.sql(
        "SELECT min(id::text), count(*) FROM provider_connections WHERE last_discover_status = 'running'")
        == "\(Self.id(31))|100")
    #expect(try await onLoop { try await plane.sweep(sweeper) } == SweepCount(changed: 30))
  }

  // MARK: Exactly one job a due time

  /// What an agent and the api do when a job is done.
  private static let complete = """
    UPDATE sync_jobs SET status = 'succeeded' WHERE status = 'queued';
    UPDATE provider_connections SET last_discover_status = 'success', last_discover_at = now() - interval '1 hour'
    """

  /// PostgreSQL knows nothing yet of tables that were just filled, and expects a few rows.
  @Test func tenThousandDueConnectionsAndALongQueueAreNoHindrance() async throws {
    let plane = try await ControlPlane.fresh()
    try await Self.add(10_000, to: plane)
    try await plane.sql(
      """
      INSERT INTO sync_jobs (job_type, correlation_id, payload)
      SELECT 'discover', gen_random_uuid(), jsonb_build_object('connection_id', gen_random_uuid())
        FROM generate_series(1, 5000)
      """)
    let sweeper = try Self.sweeper(plane)
    #expect(try await onLoop { try await plane.sweep(sweeper) }.changed == 100)
  }

  @Test func eachDueTimeHasAJobOfItsOwn() async throws {
    let plane = try await ControlPlane.fresh()
    try await Self.add(1, to: plane)
    let sweeper = try Self.sweeper(plane)
    let changes = [
      // The first result, and one more; then twice none.
      Self.complete, Self.complete,
      "UPDATE sync_jobs SET status = 'expired' WHERE status = 'queued';"
        + "UPDATE provider_connections SET last_discover_status = 'failure'",
      "UPDATE sync_jobs SET status = 'expired' WHERE status = 'queued';"
        + "UPDATE provider_connections SET last_discover_started_at = now() - interval '1 day'",
    ]
    for change in changes {
      #expect(try await onLoop { try await plane.sweep(sweeper) }.changed == 1)
      #expect(try await onLoop { try await plane.sweep(sweeper) } == SweepCount())
      try await plane.sql(change)
    }
    #expect(try await onLoop { try await plane.sweep(sweeper) }.changed == 1)
    #expect(try await plane.sql("SELECT count(*), count(DISTINCT id) FROM sync_jobs") == "5|5")
  }

  @Test func anOldStateThatIsWrittenBackMakesNoSecondJob() async throws {
    let plane = try await ControlPlane.fresh()
    try await Self.fill(plane)
    try await plane.sql("DELETE FROM provider_connections WHERE name <> 'overdue'")
    try await plane.sql("CREATE TABLE before AS SELECT * FROM provider_connections")
    let sweeper = try Self.sweeper(plane, ["SB_WORKER_DISCOVER_PILE_UP": "true"])
    #expect(try await onLoop { try await plane.sweep(sweeper) }.changed == 1)
    // As an api does that read the row before the claim, and writes all of it.
    try await plane.sql(
      """
      UPDATE provider_connections SET last_discover_status = before.last_discover_status,
        last_discover_started_at = before.last_discover_started_at FROM before
      """)
    #expect(try await onLoop { try await plane.sweep(sweeper) } == SweepCount())
    #expect(
      try await plane.sql("SELECT count(*), min(last_discover_status) FROM sync_jobs, provider_connections")
        == "1|running")
  }

  @Test func aConnectionWhoseJobIsQueuedGetsNoSecondOneUnlessJobsMayPileUp() async throws {
    let plane = try await ControlPlane.fresh()
    try await Self.add(2, to: plane)
    let sweeper = try Self.sweeper(plane)
    #expect(try await onLoop { try await plane.sweep(sweeper) }.changed == 2)
    try await plane.sql(
      """
      UPDATE provider_connections SET last_discover_started_at = now() - interval '1 day';
      UPDATE sync_jobs SET status = 'claimed' WHERE payload->>'connection_id' = '\(Self.id(1))'
      """)
    #expect(try await onLoop { try await plane.sweep(sweeper) }.changed == 1)
    #expect(
      try await plane.sql("SELECT payload->>'connection_id' FROM sync_jobs GROUP BY 1 HAVING count(*) = 2")
        == Self.id(1))
    let pilesUp = try Self.sweeper(plane, ["SB_WORKER_DISCOVER_PILE_UP": "true"])
    #expect(try await onLoop { try await plane.sweep(pilesUp) }.changed == 1)
  }

  /// The connection to PostgreSQL is cut after each so many bytes of a claim, in either direction.
  @Test(arguments: [FaultProxy.Direction.toServer, .toClient])
  func aClaimThatIsCutAnywhereIsMadeWholeOrNotAtAll(direction: FaultProxy.Direction) async throws {
    let plane = try await ControlPlane.fresh()
    let port = try await PrivatePostgres.shared.port
    let proxy = try FaultProxy(to: UInt16(port))
    let url = plane.url.replacingOccurrences(of: "127.0.0.1:\(port)", with: "127.0.0.1:\(proxy.port)")
    let cut = ControlPlane(url: url, name: plane.name)
    let sweeper = try Self.sweeper(plane, ["SB_WORKER_DISCOVER_PILE_UP": "true"])
    try await Self.add(3, to: plane)
    var committed = 0
    let (limit, step) = direction == .toServer ? (24_000, 1_200) : (900, 60)
    for (round, bytes) in stride(from: 0, through: limit, by: step).enumerated() {
      try await onLoop {
        let pool = try cut.pool(connections: 1)
        do {
          _ = try await cut.sweep(
            sweeper, through: pool, epoch: Int64(2 * round + 1),
            beforeBatch: { proxy.set(.cut(afterBytes: bytes), direction) })
        } catch {
          // It was cut; or the claim was shorter.
        }
        await pool.close()
      }
      proxy.heal()
      // Time passes: the locks that it left expire.
      for number in 1...3 {
        try PrivateRedis.shared.cli("DEL", DiscoverLocks.key(namespace: plane.name, connection: Self.id(number)))
      }
      let before = try #require(Int(try await plane.sql("SELECT count(*) FROM sync_jobs WHERE status = 'queued'")))
      #expect(try await onLoop { try await plane.sweep(sweeper, epoch: Int64(2 * round + 2)) }.changed == 3 - before)
      committed += before
      #expect(
        try await plane.sql(
          "SELECT count(*), count(DISTINCT payload->>'connection_id') FROM sync_jobs WHERE status = 'queued'") == "3|3")
      #expect(
        try await plane.sql("SELECT count(*) FROM provider_connections WHERE last_discover_status = 'running'") == "3")
      try await plane.sql(Self.complete)
    }
    proxy.stop()
    #expect(committed > 0, "some cuts came after the commit")
  }

  // MARK: Locks

  @Test func aHundredHeldLocksAreSkippedAndDoNotHoldUpTheOthers() async throws {
    let plane = try await ControlPlane.fresh()
    try await Self.add(103, to: plane)
    let redis = PrivateRedis.shared
    for number in 1...100 {
      let key = "\(plane.name):lock:discover:\(Self.id(number))"
      try redis.cli("SET", key, "the api's", "NX", "PX", "60000")
    }
    let sweeper = try Self.sweeper(plane)
    #expect(try await onLoop { try await plane.sweep(sweeper) } == SweepCount(changed: 3, skipped: 100))
    #expect(
      try await plane.sql(
        "SELECT min(id::text), count(*) FROM provider_connections WHERE last_discover_status = 'running'")
        == "\(Self.id(101))|3")
    #expect(try redis.cli("GET", "\(plane.name):lock:discover:\(Self.id(1))") == "the api's")
    #expect(try redis.cli("EXISTS", "\(plane.name):lock:discover:\(Self.id(101))") == "0", "its own are given back")
  }

  /// What a run leaves that dies between taking the locks and its commit.
  @Test func locksThatAreLeftBehindExpireWithinSeconds() async throws {
    let plane = try await ControlPlane.fresh()
    try await Self.add(1, to: plane)
    let key = "\(plane.name):lock:discover:\(Self.id(1))"
    try await onLoop {
      try await plane.withLocks { locks in
        let held = try await locks.take([Self.id(1)])
        #expect(held.connections == [Self.id(1)])
      }
    }
    let expiry = try #require(Int(try PrivateRedis.shared.cli("PTTL", key)))
    #expect(expiry > 0 && expiry <= 10_000)
    let sweeper = try Self.sweeper(plane)
    #expect(try await onLoop { try await plane.sweep(sweeper) } == SweepCount(skipped: 1))
    try PrivateRedis.shared.cli("PEXPIRE", key, "1")
    try await onLoop {
      try await eventually("it is claimed") { try await plane.sweep(sweeper).changed == 1 }
    }
  }

  @Test func aLockIsDeletedByItsOwnTokenOnly() async throws {
    let plane = try await ControlPlane.fresh()
    try await onLoop {
      try await plane.withLocks { locks in
        let held = try await locks.take(["a", "b"])
        #expect(held.connections == ["a", "b"])
        #expect(try await locks.take(["b", "c"]).connections == ["c"])
        try PrivateRedis.shared.cli("SET", "\(plane.name):lock:discover:b", "the api's")
        await locks.release(held)
        #expect(try PrivateRedis.shared.cli("EXISTS", "\(plane.name):lock:discover:a") == "0")
        #expect(try PrivateRedis.shared.cli("GET", "\(plane.name):lock:discover:b") == "the api's")
      }
    }
  }

  /// The existing worker: it takes the lock for long, and then writes the row and the job, each by itself.
  @Test func besideTheExistingWorkersClaimNothingIsDoubled() async throws {
    let plane = try await ControlPlane.fresh()
    try await Self.add(1, to: plane)
    let sweeper = try Self.sweeper(plane, ["SB_WORKER_DISCOVER_PILE_UP": "true"])
    let key = "\(plane.name):lock:discover:\(Self.id(1))"
    try PrivateRedis.shared.cli("SET", key, "of the existing worker", "NX", "PX", "600000")
    #expect(try await onLoop { try await plane.sweep(sweeper) } == SweepCount(skipped: 1))
    try await plane.sql(
      """
      UPDATE provider_connections SET last_discover_status = 'running', last_discover_started_at = now(),
        last_discover_error = NULL
      """)
    #expect(try await onLoop { try await plane.sweep(sweeper) } == SweepCount())
    try await plane.sql(
      """
      INSERT INTO sync_jobs (job_type, correlation_id, agent_scope, payload)
      SELECT 'discover', gen_random_uuid(), '{"cluster_name": "c"}', jsonb_build_object('connection_id', id)
        FROM provider_connections
      """)
    // Its lock ends while the discovery still runs.
    try PrivateRedis.shared.cli("DEL", key)
    #expect(try await onLoop { try await plane.sweep(sweeper) } == SweepCount())
    try await plane.sql(Self.complete)
    #expect(try await onLoop { try await plane.sweep(sweeper) }.changed == 1)
    #expect(try await plane.sql("SELECT count(*) FROM sync_jobs") == "2")
  }

  @Test func underALockThatMayHaveExpiredNothingIsWritten() async throws {
    let plane = try await ControlPlane.fresh()
    try await Self.add(1, to: plane)
    try await onLoop {
      let pool = try plane.pool()
      let now = LoopClock.system.now
      let held = HeldLease(Lease(duration: .seconds(15), takenAt: now))
      try await pool.withConnection(by: held.lease.stopAt) { connection in
        let run = Run(epoch: 7, slot: 0, nextSlot: 1, failures: 0, origin: "o", token: "t", takenAt: now)
        let session = GuardedSession(
          connection: connection, held: held, clock: .system, name: ControlPlane.runName("discover-connections"),
          run: run, age: .zero, isDraining: { false })
        session.schema = "public"
        let write = PostgresStatement("DELETE FROM provider_connections")
        await #expect(throws: (any Error).self) {
          _ = try await session.batch([write], notAfter: LoopClock.system.now)
        }
        #expect(try await plane.sql("SELECT count(*) FROM provider_connections") == "1")
        _ = try await session.batch([write], notAfter: LoopClock.system.now.advanced(by: .seconds(5)))
      }
      await pool.close()
    }
    #expect(try await plane.sql("SELECT count(*) FROM provider_connections") == "0")
  }
}

@Suite struct ConnectionPagesTests {
  @Test func aRunEndsWithTheLastPage() {
    var pages = ConnectionPages()
    #expect(pages.next?.limit == 100 && pages.next?.skipping == 0)
    pages.read(found: 30, claimed: 20)
    #expect(pages.next == nil)
  }

  @Test func whatIsLeftIsPassedOver() {
    var pages = ConnectionPages()
    pages.read(found: 100, claimed: 40)
    #expect(pages.next?.limit == 60 && pages.next?.skipping == 60)
    pages.read(found: 60, claimed: 60)
    #expect(pages.next == nil && pages.claimed == 100)
  }

  @Test func aRunThatClaimsNothingEnds() {
    var pages = ConnectionPages()
    var queries = 0
    while pages.next != nil {
      pages.read(found: 100, claimed: 0)
      queries += 1
    }
    #expect(queries == ConnectionPages.queryLimit)
  }
}
