// The environments of chaos: what a seed draws, and that it can be set up.

import Foundation
import Reactor
import TestSupport
import Testing

@testable import Chaos

@Suite struct SurroundingsTests {
  private static let drawn = (UInt64(0)..<200).map(Surroundings.draw(seed:))

  @Test func theSameSeedDrawsTheSameSurroundings() {
    #expect(Surroundings.draw(seed: 7) == Surroundings.draw(seed: 7))
    #expect(Surroundings.draw(seed: 7) != Surroundings.draw(seed: 8))
  }

  @Test func everythingIsDrawnSoonerOrLater() {
    #expect(Set(Self.drawn.map(\.way)) == Set(Surroundings.Way.allCases))
    #expect(Set(Self.drawn.map(\.shape)) == Set(Surroundings.Shape.allCases))
    #expect(Set(Self.drawn.map(\.role)) == Set(Surroundings.Role.allCases))
    #expect(Set(Self.drawn.map(\.neighbours)) == [0, 1, 2])
    #expect(Set(Self.drawn.flatMap(\.settings).map(\.name)) == Set(Surroundings.choices.map(\.name)))
    #expect(Self.drawn.allSatisfy { $0.postgresDelay <= 40 && $0.redisDelay <= 150 })
    #expect(Self.drawn.contains { $0.postgresDelay > 30 } && Self.drawn.contains { $0.redisDelay > 100 })
  }

  @Test func plainSurroundingsAreThoseOfTheServersAlone() {
    #expect(Surroundings.plain.description == "direct; plain tables; grants on tables")
    #expect(Surroundings.plain.slack == .zero)
  }

  @Test func aDelayIsAddedToWhatFaultsDo() {
    #expect(FaultyLinks.later(.pass, by: 0) == .pass)
    #expect(FaultyLinks.later(.pass, by: 30) == .delay(.milliseconds(30)))
    #expect(FaultyLinks.later(.delay(.milliseconds(5)), by: 30) == .delay(.milliseconds(35)))
    #expect(FaultyLinks.later(.blackHole, by: 30) == .blackHole)
  }

  /// Each setting has to be one of this server's, and the harness's own sessions must not have it.
  @Test func theServerTakesEverySettingThatIsDrawn() async throws {
    let server = try await PrivatePostgres.shared
    let known = Set(try await server.psql("SELECT name FROM pg_settings").split(separator: "\n").map(String.init))
    // PostgreSQL 16 has another name for it.
    let unknown = Surroundings.choices.map(\.name).filter { !known.contains($0) && $0 != "force_parallel_mode" }
    #expect(unknown == [])
    for choice in Surroundings.choices where known.contains(choice.name) {
      for value in choice.values { try await server.psql("SET \(choice.name) = '\(value)'") }
    }
  }

  @Test(arguments: Surroundings.Shape.allCases, Surroundings.Role.allCases)
  func whatAWorkerWritesIsNotedInEveryPartOfATable(shape: Surroundings.Shape, role: Surroundings.Role) async throws {
    let server = try await PrivatePostgres.shared
    let database = String(try await server.freshDatabase().split(separator: "/").last!)
    var surroundings = Surroundings(shape: shape, role: role, hasTraps: true, neighbours: 1)
    surroundings.settings = [Surroundings.ServerSetting(name: "DateStyle", value: "German", isOfRole: true)]
    let maker = SurroundingsMaker(
      surroundings: surroundings, postgres: server, database: database, disk: nil,
      worker: WorkerProcess.executable, environment: ["SB_WORKER_AUDIT_EVENTS": "true"])
    try await maker.make(schemas: ["public", "second"])
    for schema in ["public", "second"] {
      for _ in 0..<10 { try await server.psql("SET search_path = \(schema); \(Workload.tick)", database: database) }
    }
    // As a worker might that takes rows which are not due for another half an hour.
    let sweep = """
      SET application_name = 'sb-worker 00000000 wraps-expired 1';
      DELETE FROM second.secret_wraps WHERE expires_at OPERATOR(pg_catalog.>)
        (pg_catalog.now() OPERATOR(pg_catalog.+) interval '30 min')
      """
    try await server.psql(
      sweep, database: database, user: PrivatePostgres.lockedUser, password: PrivatePostgres.lockedPassword)
    let noted = try await server.psql(
      "SELECT schema, relation, changed, wrong FROM chaos.writes", database: database)
    // Each tick has two of them, and six of reveal sessions.
    #expect(noted == "second|secret_wraps|80|80")
    #expect(try await server.psql("SHOW DateStyle", database: database) == "ISO, MDY")
  }
}
