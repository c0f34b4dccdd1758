// Whether PostgreSQL answers: the pure state machine under random sequences of events, and the pool on real servers.

import Foundation
import TestSupport
import Testing

@testable import Reactor

@Suite struct PostgresHealthTests {
  private func at(_ milliseconds: Int64) -> MonotonicInstant {
    MonotonicInstant(nanoseconds: 1_000_000_000_000 + milliseconds * 1_000_000)
  }

  @Test func aChangeIsReportedOnceAndTroubleIsNoChange() {
    var health = PostgresHealth()
    #expect(health.met(.troubled, at: at(0)) == nil && health.isInDoubt)
    #expect(health.met(.accepted, at: at(0)) == .ready && !health.isInDoubt)
    #expect(health.met(.accepted, at: at(0)) == nil)
    #expect(health.met(.troubled, at: at(0)) == nil && health.isInDoubt)
    #expect(health.met(.accepted, at: at(0)) == nil && !health.isInDoubt)
    #expect(health.met(.refused("connection refused"), at: at(0)) == .unavailable(reason: "connection refused"))
    #expect(health.met(.refused("connection refused"), at: at(100)) == nil)
    #expect(health.met(.refused("timed out"), at: at(200)) == .unavailable(reason: "timed out") && health.isInDoubt)
    #expect(health.met(.accepted, at: at(300)) == .ready)
    #expect(health.met(.refused("timed out"), at: at(400)) == .unavailable(reason: "timed out"))
  }

  /// As a primary stops: one address is a standby's, the other one's server is going down.
  @Test func reasonsThatAlternateAreReportedOnceEachAndTheOneThatStays() {
    var health = PostgresHealth()
    _ = health.met(.accepted, at: at(0))
    let (first, second) = (PostgresError.readOnlyReason, "server closed the connection unexpectedly")
    #expect(health.met(.refused(first), at: at(0)) == .unavailable(reason: first) && health.isReadOnly)
    #expect(health.met(.refused(second), at: at(10)) == .unavailable(reason: second) && !health.isReadOnly)
    for time in stride(from: Int64(20), to: 20_000, by: 4_000) {
      #expect(health.met(.refused(first), at: at(time)) == nil && health.isReadOnly)
      #expect(health.met(.refused(second), at: at(time + 2_000)) == nil && !health.isReadOnly)
    }
    #expect(health.met(.refused(first), at: at(20_000)) == nil)
    #expect(health.met(.refused(first), at: at(24_990)) == nil)
    #expect(health.met(.refused(first), at: at(25_000)) == .unavailable(reason: first))
    #expect(health.met(.accepted, at: at(25_000)) == .ready)
  }

  @Test func aServerThatAnswersPingsAndLosesStatementsIsUnavailableUntilItAnswersThem() {
    var health = PostgresHealth()
    let (large, small) = ([PostgresStatement("a long statement", ["1"])], [PostgresStatement("a short one")])
    for round in 0..<2 {
      let start = Int64(round) * 10_000
      #expect(health.met(.accepted, at: at(start)) == (round == 0 ? .ready : nil))
      for loss in 0..<PostgresTrial.lossLimit {
        #expect(health.met(.lost(large, .unanswered), at: at(start)) == nil && health.isInDoubt)
        let change = health.met(.accepted, at: at(start))
        #expect((change == nil) == (loss == 0) && health.isInDoubt == (loss == 1))
      }
      #expect(health.met(.answered(small), at: at(start)) == nil)
      if case .unavailable(let reason) = health.availability {
        #expect(reason.hasPrefix("statements get no answer though pings do"))
      } else {
        Issue.record("not on trial")
      }
      if round == 0 {
        #expect(health.met(.answered([PostgresStatement("a long statement", ["2"])]), at: at(start)) == .ready)
      } else {
        let quiet = start + PostgresTrial.quietLimit.components.seconds * 1_000
        #expect(health.met(.accepted, at: at(quiet - 1)) == nil && health.isInDoubt)
        #expect(health.met(.accepted, at: at(quiet)) == .ready && !health.isInDoubt)
      }
    }
  }

  @Test func lossesThatAnOutageExplainsAreForgotten() {
    var health = PostgresHealth()
    let request = [PostgresStatement("one")]
    _ = health.met(.lost(request, .closed("connection reset by peer")), at: at(0))
    #expect(health.met(.pingFailed("connection refused"), at: at(0)) == .unavailable(reason: "connection refused"))
    #expect(health.met(.accepted, at: at(1)) == .ready)
    _ = health.met(.lost(request, .closed("connection reset by peer")), at: at(2))
    #expect(health.met(.accepted, at: at(2)) == nil)
    // Losses of different statements are accidents.
    _ = health.met(.lost([PostgresStatement("two")], .unanswered), at: at(3))
    #expect(health.met(.accepted, at: at(3)) == nil && health.availability == .ready)
  }

  /// As a proxy that restarts ends them.
  @Test func connectionsThatEndAtOnceAreOneLoss() {
    var health = PostgresHealth()
    let request = [PostgresStatement("one")]
    for _ in 0..<5 { _ = health.met(.lost(request, .closed("connection reset by peer")), at: at(0)) }
    #expect(health.met(.accepted, at: at(0)) == .ready)
    _ = health.met(.lost(request, .closed("connection reset by peer")), at: at(1))
    #expect(health.met(.accepted, at: at(1)) != nil && health.isOnTrial)
    // Another role.
    _ = health.met(.refused(PostgresError.readOnlyReason), at: at(2))
    #expect(health.met(.accepted, at: at(3)) == .ready && !health.isOnTrial)
  }

  @Test func anOutageEndsATrial() {
    for event in [PostgresHealth.Event.pingFailed("connection refused"), .refused(PostgresError.readOnlyReason)] {
      var health = PostgresHealth()
      for _ in 0..<PostgresTrial.lossLimit {
        _ = health.met(.lost([PostgresStatement("one")], .unanswered), at: at(0))
        _ = health.met(.accepted, at: at(0))
      }
      #expect(health.isOnTrial)
      _ = health.met(event, at: at(1))
      #expect(!health.isOnTrial && health.isInDoubt)
    }
  }

  @Test func aSessionThatTheServerEndsHasAnsweredUnlessTheConnectionIsAtFault() {
    func loss(_ state: String?, _ reason: String = "x") -> PostgresTrial.Loss? {
      PostgresTrial.Loss(.connectionLost(reason: reason, sqlState: state))
    }
    #expect(loss(nil, "connection reset by peer") == .closed("connection reset by peer"))
    #expect(loss("57P01") == nil && loss("57P02") == nil && loss("53300") == nil)
    #expect(loss("08P01", "query_wait_timeout") == nil)
    #expect(loss("08P01", "bad packet") != nil)
    #expect(PostgresTrial.Loss(.timedOut(.statement)) == .unanswered)
    #expect(PostgresTrial.Loss(.unavailable(reason: "connection refused")) == nil)
  }

  @Test func inAnyOrderTheLastReportIsTheStateUnlessItAlternates() {
    let reasons = (0..<12).map { "reason \($0)" }
    for seed in 0..<5_000 {
      var random = SeededRandom(seed: UInt64(seed))
      var health = PostgresHealth()
      var reported: [ServerAvailability] = []
      var state: (value: ServerAvailability, since: Int64)?
      var time: Int64 = 0
      for _ in 0..<60 {
        time += Int64.random(in: 0...3_500, using: &random)
        let reason = reasons[Int.random(in: 0..<Int.random(in: 1...12, using: &random), using: &random)]
        let choice = Int.random(in: 0..<3, using: &random)
        let event = [PostgresHealth.Event.accepted, .refused(reason), .troubled][choice]
        let met: ServerAvailability? = [.ready, .unavailable(reason: reason), nil][choice]
        if let met, met != state?.value { state = (met, time) }
        if let change = health.met(event, at: at(time)) {
          #expect(change == state?.value && change != reported.last, "seed \(seed)")
          reported.append(change)
        }
        #expect(health.availability == state?.value, "seed \(seed)")
        let isSettled = state.map { $0.value == .ready || time - $0.since >= 5_000 } ?? false
        if isSettled, met != nil { #expect(reported.last == state?.value, "seed \(seed)") }
        #expect(health.isInDoubt == (choice != 0), "seed \(seed)")
        let pause = health.pause(jitter: Double.random(in: 0..<1, using: &random))
        #expect(pause > .zero && pause <= .seconds(2), "seed \(seed)")
      }
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

  /// Statements of a batch's length; pings are short.
  private static let long = PostgresStatement("SELECT '\(String(repeating: "x", count: 2_000))'")

  private func send(_ pool: PostgresPool) async throws {
    try await pool.withConnection(by: soon()) { connection in
      _ = try await connection.query(Self.long, by: soon(.milliseconds(200)))
    }
  }

  @Test func aServerWhoseLongStatementsAreLostOnTheWayIsUnavailableUntilTheyAreAnswered() async throws {
    let server = try await PrivatePostgres.shared
    let proxy = try FaultProxy(to: UInt16(server.port))
    let url = server.url().replacingOccurrences(of: ":\(server.port)", with: ":\(proxy.port)")
    try await onLoop {
      try await withRunningPool(url) { pool, changes in
        try await self.send(pool)
        proxy.set(.holdBack(overBytes: 1_500), .toServer)
        for _ in 0..<PostgresTrial.lossLimit {
          #expect(pool.outage == nil)
          #expect(await postgresError { try await self.send(pool) } == .timedOut(.statement))
          try await eventually("it is given up") { pool.statistics.cancelling == 0 }
        }
        try await eventually("the loss is concluded") { pool.outage != nil }
        try await pool.ping(by: soon())
        #expect(pool.outage?.hasPrefix("statements get no answer though pings do") == true)
        proxy.heal()
        try await self.send(pool)
        #expect(changes.list.first == .ready && changes.list.count == 3 && changes.list.last == .ready)
      }
    }
  }

  @Test func aPoolerThatRefusesLongStatementsIsUnavailable() async throws {
    let server = try await PrivatePostgres.shared
    let pooler = try await PrivatePgBouncer.start(
      to: server, mode: .transaction, poolSize: 4, settings: ["max_packet_size = 1500"])
    try await onLoop {
      try await withRunningPool("postgres://postgres@127.0.0.1:\(pooler.port)/postgres") { pool, changes in
        for _ in 0..<PostgresTrial.lossLimit {
          #expect(pool.outage == nil || pool.statistics.connectsTotal == 0)
          _ = await postgresError { try await self.send(pool) }
        }
        try await eventually("the refusal is concluded") { pool.outage != nil }
        try await pool.ping(by: soon())
        #expect(pool.outage?.contains("when statements are sent, though pings are answered") == true, "\(changes.list)")
      }
    }
    await pooler.stop()
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
