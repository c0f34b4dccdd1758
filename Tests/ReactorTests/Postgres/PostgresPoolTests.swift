// The pool against real servers: its bound, its queue, ageing, losses, servers that freeze and restart.

import Foundation
import TestSupport
import Testing

@testable import Reactor

private let one = PostgresStatement("SELECT 1")

@EventLoop
private func makePool(
  _ url: String, limit: Int = 2, lifetime: Duration = .seconds(1800), idle: Duration = .seconds(60),
  clock: LoopClock = .system
) throws -> PostgresPool {
  PostgresPool(
    try PostgresConfiguration(url: url, applicationName: "pool test"), maximumConnections: limit,
    connectionLifetime: lifetime, idleTimeout: idle, clock: clock)
}

@EventLoop
private func use(_ pool: PostgresPool, _ statement: PostgresStatement = one, within limit: Duration = .seconds(10))
  async throws -> UInt64
{
  try await pool.withConnection(by: soon(limit)) { connection in
    _ = try await connection.query(statement, by: soon(limit))
    return connection.number
  }
}

@Suite struct PostgresPoolTests {
  @Test func aConnectionIsUsedAgain() async throws {
    let url = try await PrivatePostgres.shared.freshDatabase()
    try await onLoop {
      let pool = try makePool(url)
      let first = try await use(pool)
      #expect(try await use(pool) == first)
      #expect(pool.statistics.connectsTotal == 1)
      await pool.close()
      #expect(pool.statistics.open == 0)
      #expect(await postgresError { _ = try await use(pool) } == .poolClosed)
    }
  }

  @Test func aConnectionOpenedForAPingIsSetUpBeforeItIsUsed() async throws {
    let url = try await PrivatePostgres.shared.freshDatabase()
    try await onLoop {
      let pool = try makePool(url)
      try await pool.ping(by: soon())
      for _ in 0..<2 {
        try await pool.withConnection(by: soon()) { connection in
          #expect(connection.prelude.count == 2)
          #expect(connection.identity?.processID == String(connection.backendPID))
        }
      }
      #expect(pool.statistics.connectsTotal == 1)
      await pool.close()
    }
  }

  @Test func neverMoreThanTheLimitAndServedInTheOrderOfComing() async throws {
    let server = try await PrivatePostgres.shared
    let url = try await server.freshDatabase()
    try await onLoop {
      let pool = try makePool(url, limit: 2)
      let order = Order()
      try await withThrowingTaskGroup { group in
        for number in 0..<12 {
          group.addTask {
            try await pool.withConnection(by: soon(.seconds(30))) { connection in
              order.began.append(number)
              _ = try await connection.query(PostgresStatement("SELECT pg_sleep(0.02)"), by: soon())
            }
          }
        }
        try await eventually("all wait or run") { pool.statistics.waiting == 10 }
        try await group.waitForAll()
      }
      // The first two race for the order in which their connections open.
      #expect(order.began.dropFirst(2).elementsEqual(2..<12))
      #expect(pool.statistics.connectsTotal == 2)
      #expect(pool.statistics.waiting == 0)
      await pool.close()
    }
  }

  @EventLoop private final class Order {
    var began: [Int] = []
    nonisolated init() {}
  }

  /// As many as the role may have, not as many as the pool may: the others wait, and nothing is an outage.
  @Test(arguments: [1, 2]) func whereTheRoleMayHaveFewerConnectionsRequestsTakeTurns(count: Int) async throws {
    let server = try await PrivatePostgres.shared
    let role = "few\(UInt32.random(in: 0...UInt32.max))"
    try await server.psql("CREATE ROLE \(role) LOGIN PASSWORD 'p' CONNECTION LIMIT \(count)")
    try await onLoop {
      let pool = try makePool(server.url(user: role, password: "p"), limit: 4)
      var changes: [ServerAvailability] = []
      pool.onStateChange = { changes.append($0) }
      for _ in 0..<3 {
        try await withThrowingTaskGroup { group in
          for _ in 0..<8 {
            group.addTask { _ = try await use(pool, PostgresStatement("SELECT pg_sleep(0.02)")) }
          }
          try await group.waitForAll()
        }
      }
      #expect(changes == [.ready] && pool.statistics.connectsTotal == count)
      #expect(pool.statistics.failedConnects < 8, "not one for each request")
      await pool.close()
    }
  }

  /// The same limit, of a role and of a pooler.
  @Test(arguments: [false, true]) func aCallerThatWaitsForARoomLearnsWhoseLimitItIs(behindAPooler: Bool) async throws {
    let server = try await PrivatePostgres.shared
    let role = "one\(UInt32.random(in: 0...UInt32.max))"
    try await server.psql("CREATE ROLE \(role) LOGIN CONNECTION LIMIT 1")
    let pooler =
      behindAPooler
      ? try await PrivatePgBouncer.start(to: server, mode: .session, settings: ["query_wait_timeout = 1"]) : nil
    let url =
      pooler.map { "postgres://postgres@127.0.0.1:\($0.port)/postgres" } ?? server.url(user: role)
    try await onLoop {
      let pool = try makePool(url, limit: 4)
      var changes: [ServerAvailability] = []
      pool.onStateChange = { changes.append($0) }
      try await pool.withConnection(by: soon()) { _ in
        let error = await postgresError { _ = try await use(pool, within: .seconds(3)) }
        let limit =
          behindAPooler
          ? "the pooler had no connection to the server in time (query_wait_timeout) (SQLSTATE 08P01)"
          : "too many connections (SQLSTATE 53300)"
        #expect(error == .poolExhausted(serverLimit: limit))
      }
      #expect(changes == [.ready])
      _ = try await use(pool)
      await pool.close()
    }
    await pooler?.stop()
  }

  @Test func aCallerThatWaitsTooLongGetsAnError() async throws {
    let url = try await PrivatePostgres.shared.freshDatabase()
    try await onLoop {
      let pool = try makePool(url, limit: 1)
      try await pool.withConnection(by: soon()) { _ in
        let error = await postgresError { _ = try await use(pool, within: .milliseconds(50)) }
        #expect(error == .poolExhausted())
        #expect(pool.statistics.waiting == 0)
      }
      _ = try await use(pool)
      await pool.close()
    }
  }

  @Test func whoOnlyAsksIsAnsweredByTheConnectionsInUse() async throws {
    let url = try await PrivatePostgres.shared.freshDatabase()
    try await onLoop {
      let pool = try makePool(url, limit: 1)
      try await pool.withConnection(by: soon()) { connection in
        let error = await postgresError { try await pool.ping(by: soon(.milliseconds(50))) }
        #expect(error == .poolExhausted())
        async let asked: Void = pool.ping(by: soon())
        try await eventually("it waits") { pool.statistics.waiting == 1 }
        _ = try await connection.query(one, by: soon())
        try await asked
        #expect(pool.statistics.waiting == 0)
      }
      _ = try await use(pool)
      #expect(pool.statistics.connectsTotal == 1)
      await pool.close()
    }
  }

  @Test func aCancelledWaiterLeavesTheQueue() async throws {
    let url = try await PrivatePostgres.shared.freshDatabase()
    try await onLoop {
      let pool = try makePool(url, limit: 1)
      try await pool.withConnection(by: soon()) { _ in
        await withTaskGroup { group in
          group.addTask { await #expect(throws: CancellationError.self) { try await use(pool) } }
          try? await eventually("it waits") { pool.statistics.waiting == 1 }
          group.cancelAll()
        }
        #expect(pool.statistics.waiting == 0)
      }
      _ = try await use(pool)
      await pool.close()
    }
  }

  @Test func anAgedConnectionIsReplaced() async throws {
    let url = try await PrivatePostgres.shared.freshDatabase()
    try await onLoop {
      let clock = LoopClock.manual()
      let pool = try makePool(url, lifetime: .seconds(100), clock: clock)
      let first = try await use(pool)
      clock.advance(by: .seconds(99))
      #expect(try await use(pool) == first)
      clock.advance(by: .seconds(1))
      #expect(try await use(pool) != first)
      #expect(pool.statistics.open == 1)
      #expect(pool.statistics.lost == 0)
      await pool.close()
    }
  }

  @Test func unusedConnectionsAreClosedButOne() async throws {
    let url = try await PrivatePostgres.shared.freshDatabase()
    try await onLoop {
      let pool = try makePool(url, limit: 4, idle: .milliseconds(150))
      try await withThrowingTaskGroup { group in
        for _ in 0..<4 {
          group.addTask { _ = try await use(pool, PostgresStatement("SELECT pg_sleep(0.5)")) }
        }
        try await eventually("all four are open") { pool.statistics.open == 4 }
        try await group.waitForAll()
      }
      try await eventually("one is left") { pool.statistics.open == 1 }
      try await LoopClock.system.sleep(for: .milliseconds(250))
      #expect(pool.statistics.open == 1)
      await pool.close()
    }
  }

  @Test func anOpenTransactionIsNotPassedOn() async throws {
    let url = try await PrivatePostgres.shared.freshDatabase()
    try await onLoop {
      let pool = try makePool(url, limit: 1)
      let first = try await use(pool, PostgresStatement("BEGIN"))
      #expect(try await use(pool) != first)
      await pool.close()
    }
  }

  @Test func cancelledStatementsLeaveCleanConnections() async throws {
    let server = try await PrivatePostgres.shared
    let url = try await server.freshDatabase()
    try await onLoop {
      let pool = try makePool(url, limit: 3)
      for _ in 0..<5 {
        await withTaskGroup { group in
          for _ in 0..<3 {
            group.addTask {
              await #expect(throws: CancellationError.self) {
                try await use(pool, PostgresStatement("SELECT pg_sleep(60)"))
              }
            }
          }
          try? await LoopClock.system.sleep(for: .milliseconds(40))
          group.cancelAll()
        }
        for _ in 0..<3 { _ = try await use(pool) }
      }
      try await eventually("all are clean") { pool.statistics.cancelling == 0 }
      #expect(pool.statistics.connectsTotal == 3)
      #expect(pool.statistics.lost == 0)
      let running = try await server.psql(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND state = 'active'"
          + " AND application_name = 'pool test'")
      #expect(running == "0")
      await pool.close()
    }
  }

  @Test func closingWaitsUntilCancelledStatementsHaveEnded() async throws {
    let server = try await PrivatePostgres.shared
    let url = try await server.freshDatabase()
    try await onLoop {
      let pool = try makePool(url)
      _ = await postgresError {
        try await pool.withConnection(by: soon()) { connection in
          _ = try await connection.query(PostgresStatement("SELECT pg_sleep(61)"), by: soon(.milliseconds(50)))
        }
      }
      await pool.close()
      #expect(pool.statistics.open == 0)
      let running = try await server.psql(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(61)%' AND state = 'active'")
      #expect(running == "0")
    }
  }

  @Test(arguments: [false, true])
  func waitNoLongerClosesWhatIsBeingCancelled(isCalledAfterwards: Bool) async throws {
    let server = try await PrivatePostgres.start()
    try await onLoop {
      let pool = try makePool(server.url())
      _ = try await use(pool)
      if !isCalledAfterwards { pool.waitNoLonger() }
      try await pool.withConnection(by: soon()) { connection in
        server.pause()
        _ = await postgresError { _ = try await connection.query(one, by: soon(.milliseconds(100))) }
      }
      #expect(pool.statistics.cancelling == (isCalledAfterwards ? 1 : 0))
      if isCalledAfterwards { pool.waitNoLonger() }
      let start = LoopClock.system.now
      await pool.close()
      #expect(start.duration(to: LoopClock.system.now) < .milliseconds(500))
      #expect(pool.statistics.open == 0)
      server.resume()
    }
    await server.stop()
  }

  @Test func runningThePoolClosesItWhenItsTaskIsCancelled() async throws {
    let url = try await PrivatePostgres.shared.freshDatabase()
    try await onLoop {
      let pool = try makePool(url)
      try await withThrowingTaskGroup { group in
        group.addTask { await pool.run() }
        _ = try await use(pool)
        group.cancelAll()
      }
      #expect(pool.statistics.open == 0)
    }
  }

  @Test func aRestartedServerIsUsedAgainAtOnce() async throws {
    let server = try await PrivatePostgres.start()
    try await onLoop {
      let pool = try makePool(server.url())
      _ = try await use(pool)
      await server.halt()
      let away = await postgresError { _ = try await use(pool) }
      #expect(away == .unavailable(reason: "connection refused"))
      #expect(pool.statistics.lost == 1)
      #expect(pool.statistics.failedConnects >= 1)
      try await server.startAgain()
      _ = try await use(pool)
      await pool.close()
    }
    await server.stop()
  }

  @Test func aFrozenServerTimesOutAndItsConnectionsAreReplaced() async throws {
    let server = try await PrivatePostgres.start()
    // More than the sockets' buffers hold, so that even the end of the connection finds no room.
    let text = String(repeating: String(repeating: "x", count: 1_000), count: 20_000)
    try await onLoop {
      let pool = try makePool(server.url(), limit: 2)
      _ = try await use(pool)
      server.pause()
      let start = LoopClock.system.now
      let large = PostgresStatement("SELECT length($1)", [text])
      let hanging = await postgresError { _ = try await use(pool, large, within: .milliseconds(200)) }
      #expect(hanging == .timedOut(.statement))
      let connecting = await postgresError { _ = try await use(pool, within: .milliseconds(200)) }
      #expect(connecting == .unavailable(reason: "connecting"))
      #expect(start.duration(to: LoopClock.system.now) < .seconds(4))
      try await eventually("the connection is given up") { pool.statistics.open == 0 }
      server.resume()
      _ = try await use(pool)
      await pool.close()
    }
    await server.stop()
  }

  @Test func tenThousandQueriesLeaveMemoryAsItWas() async throws {
    let url = try await PrivatePostgres.shared.freshDatabase()
    try await onLoop {
      let pool = try makePool(url)
      let statement = PostgresStatement("SELECT repeat('x', 8000), $1::text", [String(repeating: "y", count: 200)])
      for _ in 0..<500 { _ = try await use(pool, statement) }
      let before = residentBytes()
      for _ in 0..<10_000 { _ = try await use(pool, statement) }
      let growth = (residentBytes() - before) / 1_024
      #expect(pool.statistics.connectsTotal == 1)
      // Kept results would be over 80,000 KB. Other tests run meanwhile, so it is not nothing.
      #expect(growth < 50_000, "grew by \(growth) KB")
      await pool.close()
    }
  }

  @Test func connectionsAndRefusalsLeaveNoDescriptors() async throws {
    let server = try await PrivatePostgres.shared
    let url = server.url()
    let refused = server.url(user: PrivatePostgres.lockedUser, password: "wrong")
    try await onLoop {
      let before = openDescriptors()
      for _ in 0..<150 {
        let pool = try makePool(url)
        _ = try await use(pool)
        await pool.close()
        let other = try makePool(refused)
        _ = await postgresError { _ = try await use(other) }
      }
      #expect(openDescriptors() < before + 100)
    }
  }
}
