// Queries a worker's probes: for containers whose image has no shell and no curl.
// Invariant: it ends within seconds, and with 0 only if the answer was 200. Called by main.

import Logging
import Reactor

@EventLoop
enum ProbeCommand {
  /// Longer than the worker itself may take to answer.
  private static let limit = CoalescedCheck.limit + .seconds(1)

  /// Sends the request, prints the answer to stdout, and returns the exit status.
  static func ask(_ path: String, at address: ListenAddress, clock: LoopClock, logger: Logger) async -> Int32 {
    do {
      let deadline = clock.now.advanced(by: limit)
      let target = try await address.resolved(by: deadline, on: clock)
      let answer = try await LocalRequest.get(path, at: target, by: deadline, on: clock)
      let line = Array((answer.body + "\n").utf8)
      // A caller may check only the exit status.
      _ = StandardStream.output.write(line[...], patience: .seconds(1), on: clock)
      return answer.status == 200 ? 0 : 1
    } catch {
      logger.error("no answer to the probe", metadata: ["error": "\(error)", "address": "\(address)"])
      return 1
    }
  }
}
