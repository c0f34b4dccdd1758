// Networks that are slow or forgetful: a connection is opened in the time that it takes, and one that was idle is
// looked at before it is used.

import Foundation
import TestSupport
import Testing

@testable import Reactor

@Suite(.serialized) struct PostgresSlowNetworkTests {
  /// TLS, a password and the first statements: seven round trips, with TCP's own eight.
  @Test(arguments: [300, 800])
  func aSlowConnectionIsOpenedThoughEachPingIsShort(roundTrip: Int) async throws {
    let server = try await PrivatePostgres.startWithTLS()
    let proxy = try FaultProxy(to: UInt16(server.port))
    proxy.set(.delay(.milliseconds(roundTrip / 2)))
    let url = server.url(
      user: PrivatePostgres.lockedUser, password: PrivatePostgres.lockedPassword, query: "sslmode=require"
    ).replacingOccurrences(of: ":\(server.port)", with: ":\(proxy.port)")
    try await onLoop {
      try await withRunningPool(url) { pool, changes in
        let first = await postgresError { try await pool.ping(by: soon(.milliseconds(500))) }
        #expect(first == .unavailable(reason: "connecting") && pool.outage == "not connected yet")
        // Whoever comes next waits for the same attempt.
        async let other: Void = pool.ping(by: soon())
        let name = try await pool.withConnection(by: soon(.seconds(15))) { connection in
          try await connection.query(PostgresStatement("SELECT session_user"), by: soon())[row: 0, column: 0]
        }
        try await other
        #expect(name == PrivatePostgres.lockedUser)
        for _ in 0..<3 { try await pool.ping(by: soon(PostgresPool.pingLimit)) }
        #expect(changes.list == [.ready] && pool.statistics.failedConnects == 0)
        #expect(pool.statistics.connectsTotal <= 2, "\(pool.statistics)")
      }
    }
    await server.stop()
  }

  @Test func anAttemptThatTakesTooLongIsAFailureOnce() async throws {
    let server = try await PrivatePostgres.shared
    let proxy = try FaultProxy(to: UInt16(server.port))
    proxy.set(.blackHole)
    let url = server.url().replacingOccurrences(of: ":\(server.port)", with: ":\(proxy.port)")
    try await onLoop {
      try await withRunningPool(url, connectTimeout: .milliseconds(400)) { pool, changes in
        _ = await postgresError { try await pool.ping(by: soon(.milliseconds(100))) }
        #expect(changes.list == [])
        try await eventually("the attempt is over") { pool.statistics.failedConnects == 1 }
        #expect(changes.list == [.unavailable(reason: "timed out connecting")])
        proxy.heal()
        try await eventually("it is back", within: .seconds(5)) { pool.outage == nil }
      }
    }
  }

  /// Both ways to come to a connection: with work, and with a question only.
  @Test(arguments: [false, true])
  func aForgottenConnectionIsReplacedBeforeItIsUsed(isAsked: Bool) async throws {
    let server = try await PrivatePostgres.shared
    let proxy = try FaultProxy(to: UInt16(server.port))
    let url = server.url().replacingOccurrences(of: ":\(server.port)", with: ":\(proxy.port)")
    try await onLoop {
      let clock = LoopClock.manual()
      try await withRunningPool(url, clock: clock) { pool, changes in
        let first = try await pool.withConnection(by: soon()) { $0.number }
        clock.advance(by: .seconds(1))
        let again = try await pool.withConnection(by: soon()) { $0.number }
        #expect(again == first)
        proxy.forgetConnections()
        clock.advance(by: .seconds(10))
        let start = clock.now
        async let other = Self.number(pool, clock, isAsked: isAsked)
        try await eventually("it is looked at") { clock.nextTimer == start.advanced(by: .seconds(1)) }
        clock.advance(by: .seconds(1))
        let second = try await other
        #expect(second != first)
        #expect(changes.list == [.ready] && pool.statistics.lost == 0 && pool.statistics.failedConnects == 0)
        #expect(pool.statistics.open == 1)
      }
    }
    proxy.stop()
  }

  /// The number of the connection that the pool lends, within 2 s of `clock`.
  @EventLoop private static func number(_ pool: PostgresPool, _ clock: LoopClock, isAsked: Bool) async throws -> UInt64
  {
    let deadline = clock.now.advanced(by: PostgresPool.pingLimit)
    if isAsked { try await pool.ping(by: deadline) }
    return try await pool.withConnection(by: deadline) { connection in
      _ = try await connection.query(PostgresStatement("SELECT 1"), by: deadline)
      return connection.number
    }
  }

  @Test func aConnectionUsedASecondAgoIsNotChecked() async throws {
    let server = try await PrivatePostgres.shared
    let proxy = try FaultProxy(to: UInt16(server.port))
    let url = server.url().replacingOccurrences(of: ":\(server.port)", with: ":\(proxy.port)")
    try await onLoop {
      let clock = LoopClock.manual()
      try await withRunningPool(url, clock: clock) { pool, _ in
        try await pool.withConnection(by: soon()) { _ in }
        for (pause, isLookedAt) in [(Duration.seconds(1), false), (.seconds(6), true), (.milliseconds(1_500), false)] {
          clock.advance(by: pause)
          let before = proxy.statistics.bytesToServer
          try await pool.withConnection(by: soon()) { _ in }
          #expect((proxy.statistics.bytesToServer > before) == isLookedAt, "after \(pause)")
        }
      }
    }
  }
}
