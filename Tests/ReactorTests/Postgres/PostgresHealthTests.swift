// Whether PostgreSQL answers: the pure state machine under random sequences of events, and the pool on real servers.

import Foundation
import TestSupport
import Testing

@testable import Reactor

@Suite struct PostgresHealthTests {
  @Test func aChangeIsReportedOnceAndTroubleIsNoChange() {
    var health = PostgresHealth()
    #expect(health.met(.troubled) == nil && health.isInDoubt)
    #expect(health.met(.answered) == .ready && !health.isInDoubt)
    #expect(health.met(.answered) == nil)
    #expect(health.met(.troubled) == nil && health.isInDoubt)
    #expect(health.met(.answered) == nil && !health.isInDoubt)
    #expect(health.met(.refused("connection refused")) == .unavailable(reason: "connection refused"))
    #expect(health.met(.refused("connection refused")) == nil)
    #expect(health.met(.refused("timed out")) == .unavailable(reason: "timed out") && health.isInDoubt)
    #expect(health.met(.answered) == .ready)
  }

  @Test func inAnyOrderTheLastReportIsTheLastState() {
    let reasons = ["connection refused", "timed out"]
    for seed in 0..<5_000 {
      var random = SeededRandom(seed: UInt64(seed))
      var health = PostgresHealth()
      var reported: [ServerAvailability] = []
      var expected: ServerAvailability?
      var isAnsweredLast = true
      for _ in 0..<40 {
        let reason = reasons.randomElement(using: &random)!
        let event =
          [.answered, .refused(reason), .troubled].randomElement(using: &random) ?? PostgresHealth.Event.answered
        switch event {
        case .answered: expected = .ready
        case .refused(let reason): expected = .unavailable(reason: reason)
        case .troubled: break
        }
        isAnsweredLast = event == .answered
        if let change = health.met(event) { reported.append(change) }
        #expect(reported.last == expected && health.availability == expected, "seed \(seed)")
        #expect(health.isInDoubt == !isAnsweredLast, "seed \(seed)")
        let pause = health.pause(jitter: Double.random(in: 0..<1, using: &random))
        #expect(pause > .zero && pause <= .seconds(2), "seed \(seed)")
      }
      #expect(zip(reported, reported.dropFirst()).allSatisfy { $0 != $1 }, "seed \(seed)")
    }
  }
}

@Suite(.serialized) struct PostgresAvailabilityTests {
  @Test func anOutageAndItsEndAreReportedOnceEachWithoutACaller() async throws {
    let server = try await PrivatePostgres.start()
    try await onLoop {
      try await withRunningPool(server.url()) { pool, changes in
        #expect(pool.outage == "not connected yet")
        try await pool.ping(by: soon())
        #expect(changes.list == [.ready] && pool.outage == nil)
        await server.halt()
        try await eventually("the loss is noticed") { pool.outage == "connection refused" }
        // Some attempts on, so that what is told is told once a change and not once a try.
        let failed = pool.statistics.failedConnects
        try await eventually("it asks again") { pool.statistics.failedConnects >= failed + 2 }
        try await server.startAgain()
        try await eventually("the return is noticed", within: .seconds(5)) { pool.outage == nil }
        // On its way down and up it can be met in between, where it says other things for an instant.
        let reported = changes.list
        #expect(
          reported.first == .ready && reported.last == .ready && reported.count { $0 == .ready } == 2, "\(reported)")
        #expect(reported.count { $0 == .unavailable(reason: "connection refused") } == 1, "\(reported)")
      }
    }
    await server.stop()
  }

  @Test func aHungServerIsDistinguishedFromAnAbsentOne() async throws {
    let server = try await PrivatePostgres.start()
    try await onLoop {
      try await withRunningPool(server.url()) { pool, changes in
        try await pool.ping(by: soon())
        server.pause()
        _ = await postgresError { try await pool.ping(by: soon(.milliseconds(300))) }
        try await eventually("the hang is noticed") { pool.outage != nil }
        #expect(pool.outage?.hasPrefix("timed out") == true)
        server.resume()
        try await eventually("the return is noticed", within: .seconds(5)) { pool.outage == nil }
        #expect(changes.list.first == .ready && changes.list.last == .ready)
      }
    }
    await server.stop()
  }

  @Test func whoTakesConnectionsAndAnswersNothingIsNotThere() async throws {
    // As a pooler whose server is away does: it lets everyone in.
    let pooler = try ScriptedPeer { connection in
      guard connection.expect("database") else { return }
      connection.send([UInt8(ascii: "R"), 0, 0, 0, 8, 0, 0, 0, 0])
      connection.send([UInt8(ascii: "Z"), 0, 0, 0, 5, UInt8(ascii: "I")])
      connection.hang()
    }
    try await onLoop {
      let url = "postgres://u@127.0.0.1:\(pooler.port)/d?sslmode=disable"
      try await withRunningPool(url, connectTimeout: .milliseconds(300)) { pool, changes in
        let error = await postgresError { try await pool.ping(by: soon(.milliseconds(100))) }
        #expect(error == .unavailable(reason: "connecting"))
        #expect(changes.list == [] && pool.statistics.failedConnects == 0)
        try await eventually("the attempt is over") { pool.outage == "timed out connecting" }
        let next = await postgresError { try await pool.ping(by: soon(.milliseconds(100))) }
        #expect(next == .unavailable(reason: "timed out connecting"))
        #expect(changes.list == [.unavailable(reason: "timed out connecting")])
      }
    }
    #expect(pooler.accepted >= 1)
  }

  @Test func oneSessionThatIsEndedIsNoOutage() async throws {
    let server = try await PrivatePostgres.shared
    let url = try await server.freshDatabase()
    try await onLoop {
      try await withRunningPool(url) { pool, changes in
        try await pool.ping(by: soon())
        let process = try await pool.withConnection(by: soon()) { $0.backendPID }
        _ = try await server.psql("SELECT pg_terminate_backend(\(process))")
        try await eventually("the pool asked, on a new connection") { pool.statistics.connectsTotal == 2 }
        #expect(pool.statistics.lost == 1)
        #expect(changes.list == [.ready])
      }
    }
  }

  @Test func aPingWhoseSessionEndsIsSentOverAnother() async throws {
    let server = try await PrivatePostgres.shared
    let proxy = try FaultProxy(to: UInt16(server.port))
    let url = server.url().replacingOccurrences(of: ":\(server.port)", with: ":\(proxy.port)")
    try await onLoop {
      try await withRunningPool(url) { pool, changes in
        try await pool.ping(by: soon())
        proxy.set(.blackHole, .toServer)
        async let ping: Void = pool.ping(by: soon())
        try await eventually("it is asked") { pool.statistics.idle == 0 }
        proxy.resetConnections()
        try await eventually("the session ended") { pool.statistics.lost == 1 }
        proxy.heal()
        try await ping
        #expect(changes.list == [.ready])
      }
    }
  }

  @Test func aStatementThatWaitsForALockIsNoOutage() async throws {
    let url = try await PrivatePostgres.shared.freshDatabase()
    try await onLoop {
      try await withRunningPool(url) { pool, changes in
        _ = await postgresError {
          try await pool.withConnection(by: soon()) { connection in
            _ = try await connection.query(PostgresStatement("SELECT pg_sleep(60)"), by: soon(.milliseconds(100)))
          }
        }
        try await eventually("the pool asked, and the statement was cancelled") {
          pool.statistics.idle >= 1 && pool.statistics.cancelling == 0
        }
        #expect(changes.list == [.ready])
      }
    }
  }
}
