// Transaction length by round-trip time, in isolation and on a real PostgreSQL behind a proxy.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct BatchTimeTests {
  @Test(arguments: [
    (0, 25, 45, 32), (1, 25, 45, 32), (50, 25, 45, 32), (80, 40, 72, 51), (100, 50, 90, 64), (170, 50, 90, 64),
    (60_000, 50, 90, 64),
  ])
  func theTimesGrowWithTheRoundTripToTwiceTheLeast(
    roundTrip: Int, goal: Int64, writeLimit: Int64, partLimit: Int64
  ) {
    let time = BatchTime(roundTrip: .milliseconds(roundTrip))
    #expect(time.goal.milliseconds == goal)
    #expect(time.writeLimit.milliseconds == writeLimit)
    #expect(time.partLimit.milliseconds == partLimit)
  }

  @Test func theShortestOfThreeRoundTripsCounts() {
    var roundTrip = RoundTrip()
    for elapsed in [900, 210] {
      roundTrip.noted(.milliseconds(elapsed), serverTime: .milliseconds(10))
      #expect(roundTrip.batchTime == BatchTime())
    }
    roundTrip.noted(.milliseconds(90), serverTime: .milliseconds(10))
    #expect(roundTrip.batchTime == BatchTime(roundTrip: .milliseconds(80)))
    // One that waited for something else, and one on a server whose clock jumped.
    roundTrip.noted(.seconds(9), serverTime: .milliseconds(10))
    #expect(roundTrip.batchTime == BatchTime(roundTrip: .milliseconds(80)))
    roundTrip.noted(.milliseconds(90), serverTime: .seconds(10))
    #expect(roundTrip.batchTime == BatchTime())
  }

  /// Each of 100 rows takes 5 ms, three of them lie on a page, and a batch's answer takes 170 ms. Transactions of 25 ms
  /// would be more than 30.
  @Test func slowRowsBehindALongWayAreSweptInLongerTransactions() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(
      """
      ALTER TABLE sync_jobs SET (fillfactor = 10);
      INSERT INTO sync_jobs (job_type, correlation_id, status, claim_expires_at, payload)
      SELECT 'sync', gen_random_uuid(), 'claimed', now() - interval '1 hour', to_jsonb(n || repeat(' ', 150))
        FROM generate_series(1, 100) AS n;
      ALTER TABLE sync_jobs ADD COLUMN finished_at timestamptz;
      CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(0.005); NEW.finished_at := clock_timestamp(); RETURN NEW; END $$;
      CREATE TRIGGER dawdle BEFORE UPDATE ON sync_jobs FOR EACH ROW EXECUTE FUNCTION dawdle()
      """)
    let port = try await PrivatePostgres.shared.port
    let proxy = try FaultProxy(to: UInt16(port))
    proxy.set(.delay(.milliseconds(85)))
    let far = ControlPlane(url: plane.url.replacing(":\(port)", with: ":\(proxy.port)"), name: plane.name)
    let sweeper = Sweeper.jobsRecovery(try plane.settings())
    let count = try await onLoop { try await far.sweep(sweeper, lease: .seconds(60)) }
    #expect(count.changed == 100)
    // updated_at is the transaction's beginning.
    let times = try await plane.sql(
      """
      SELECT count(DISTINCT updated_at), max(extract(epoch FROM finished_at - updated_at)) < 0.2 FROM sync_jobs
       WHERE status = 'expired'
      """)
    let transactions = Int(times.prefix { $0 != "|" }) ?? .max
    #expect(transactions <= 22 && times.hasSuffix("|t"), "\(times)")
  }
}
