// The program of docs/using-reactor.md: the page shows the file that is compiled, and the program does what it says.

import Foundation
import TestSupport
import Testing

@Suite struct UsingReactorTests {
  @Test func thePageShowsTheProgramThatIsCompiled() throws {
    let page = try Repository.text("docs/using-reactor.md")
    let path = "Examples/UsingReactor/UsingReactor.swift"
    let parts = page.components(separatedBy: "<!-- \(path) -->\n```swift\n")
    try #require(parts.count == 2)
    #expect(parts[1].components(separatedBy: "```\n<!-- /Examples -->")[0] == (try Repository.text(path)))
  }

  @Test func itCountsInRedisAsksPostgresServesBothAndEndsWith0() async throws {
    let redis = try PrivateRedis()
    let url = "postgres://postgres@127.0.0.1:\(try await PrivatePostgres.shared.port)/postgres"
    let port = try freePort()
    let program = URL(fileURLWithPath: WorkerProcess.executable).deletingLastPathComponent()
      .appendingPathComponent("UsingReactor").path
    let process = try await WorkerProcess.start(
      ["127.0.0.1:\(port)"], environment: ["DATABASE_URL": url, "REDIS_URL": redis.url], executable: program)
    try await onLoop {
      try await eventually("it has counted") {
        guard let answer = try? await httpGet(port: port, path: "/latest") else { return false }
        return answer.body.hasPrefix("2 20")
      }
    }
    let latest = try await httpGet(port: port, path: "/latest").body
    #expect(latest.contains(":"), "PostgreSQL's clock: \(latest)")
    #expect(process.threadCount == 1)
    process.signal(SIGTERM)
    #expect(try await process.waitForExit(within: .seconds(10)) == .exited(0))
  }
}
