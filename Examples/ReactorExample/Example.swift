// The Reactor library on its own: a loop, a timer, a signal and an HTTP server, on one thread.
// `swift run ReactorExample`, then `curl http://127.0.0.1:8092/ticks`. The address may be given as the argument.

import Glibc
import Reactor

@main
struct Example {
  @EventLoop static var ticks = 0
  @EventLoop static var isStopped = false

  static func main() {
    exit(EventLoop.run { await serve(on: CommandLine.arguments.dropFirst().first ?? "127.0.0.1:8092") })
  }

  @EventLoop static func serve(on address: String) async -> Int32 {
    let clock = EventLoop.clock
    let signal = SignalWatcher(.terminate) { isStopped = true }
    let server = HTTPServer(clock: clock) { request in
      request.hasPath("/ticks") ? .now(HTTPResponse(text: "\(ticks)\n")) : .now(.notFound)
    }
    do {
      try server.listen(on: address)
      async let serving: Void = server.run()
      while !isStopped {
        try await clock.sleep(for: .milliseconds(100))
        ticks += 1
      }
      await server.drain(within: .seconds(1))
      await serving
    } catch {
      return 1
    }
    return withExtendedLifetime(signal) { 0 }
  }
}
