// Counts in Redis once a second, asks PostgreSQL for its clock, and serves both: docs/using-reactor.md shows this file.

import Reactor

@main
struct UsingReactor {
  /// What the last second brought.
  @EventLoop static var latest = "nothing yet\n"

  static func main() {
    let arguments = HostProcess.arguments
    HostProcess.exit(EventLoop.run { await serve(on: arguments.count > 1 ? arguments[1] : "127.0.0.1:8092") })
  }

  @EventLoop static func serve(on address: String) async -> Int32 {
    let environment = HostProcess.environment
    let clock = EventLoop.clock
    let stop = Latch()
    let signal = SignalWatcher(.terminate) { stop.open() }
    let server = HTTPServer(clock: clock) { request in
      request.hasPath("/latest") ? .now(HTTPResponse(text: latest)) : .now(.notFound)
    }
    do {
      let postgres = PostgresPool(
        try PostgresConfiguration(url: environment["DATABASE_URL"] ?? "", applicationName: "using-reactor"),
        maximumConnections: 2, connectionLifetime: .seconds(1_800), clock: clock)
      let redis = RedisClient(try RedisConfiguration(url: environment["REDIS_URL"] ?? ""), clock: clock)
      try server.listen(on: address)
      await withTaskGroup { group in
        group.addTask { await postgres.run() }
        group.addTask { await redis.run() }
        group.addTask { await server.run() }
        await countSeconds(postgres, redis, clock, until: stop)
        await server.drain(within: .seconds(1))
        group.cancelAll()
      }
    } catch {
      // A URL or the address: nothing was touched yet.
      return 78
    }
    return withExtendedLifetime(signal) { 0 }
  }

  /// One round a second, each answered or given up within two.
  @EventLoop static func countSeconds(
    _ postgres: PostgresPool, _ redis: RedisClient, _ clock: LoopClock, until stop: Latch
  ) async {
    while !stop.isOpen {
      let deadline = clock.now.advanced(by: .seconds(2))
      do {
        let count = try await redis.command(["INCR", "using-reactor:count"], by: deadline).integer ?? 0
        let time = try await postgres.withConnection(by: deadline) { connection in
          try await connection.query(PostgresStatement("SELECT clock_timestamp()"), by: deadline)[row: 0, column: 0]
        }
        latest = "\(count) \(time ?? "")\n"
      } catch {
        latest = "one of the servers did not answer: \(error)\n"
      }
      do {
        try await clock.sleep(until: clock.now.advanced(by: .seconds(1)), orUntil: stop)
      } catch {
        // Cancelled.
        return
      }
    }
  }
}
