// How long a lock's command takes to Redis and back, through the worker's own client: for scripts/bench.
// Invariant: one command at a time, as a sweeper sends them.
//
//   RoundTripBenchmark COUNT    with REDIS_URL; prints the mean in microseconds

import Reactor

@main
struct RoundTripBenchmark {
  static func main() {
    HostProcess.exit(EventLoop.run { await measure() })
  }

  @EventLoop private static func measure() async -> Int32 {
    let clock = EventLoop.clock
    guard let count = CommandLine.arguments.last.flatMap({ Int($0) }), count > 0,
      let url = HostProcess.environment["REDIS_URL"]
    else { return 64 }
    do {
      let client = RedisClient(try RedisConfiguration(url: url), clock: clock)
      return try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { await client.run() }
        try await client.waitUntilReady(by: clock.now.advanced(by: .seconds(5)))
        let begin = clock.now
        for _ in 0..<count {
          try await client.command(
            ["SET", "benchmark:lock", "0123456789abcdef0123456789abcdef", "PX", "15000"],
            by: clock.now.advanced(by: .seconds(2)))
        }
        let microseconds = begin.duration(to: clock.now).seconds * 1e6 / Double(count)
        group.cancelAll()
        let text = Array("\(Double(Int(microseconds * 100)) / 100)\n".utf8)
        return StandardStream.output.write(text[...], patience: .seconds(1), on: clock) == text.count ? 0 : 1
      }
    } catch {
      return 1
    }
  }
}
