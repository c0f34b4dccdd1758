// The tests' own PostgreSQL: it starts, can be frozen and restarted, and keeps its data over a restart.

import TestSupport
import Testing

@Suite struct PostgresPrivateServerTests {
  @Test func aFreshDatabaseAnswers() async throws {
    let server = try await PrivatePostgres.shared
    let url = try await server.freshDatabase()
    #expect(url.contains("fresh_"))
    #expect(try await server.psql("SELECT 1, 'a'") == "1|a")
  }

  @Test func dataOutliveARestart() async throws {
    let server = try await PrivatePostgres.start()
    try await server.psql("CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)")
    try await server.restart()
    #expect(try await server.psql("SELECT n FROM kept") == "7")
    await server.stop()
    await #expect(throws: PrivatePostgresError.self) { try await server.psql("SELECT 1") }
  }
}
