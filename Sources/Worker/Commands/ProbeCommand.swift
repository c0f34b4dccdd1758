// The command that asks a worker's own probes: for containers whose image has no shell and no curl.
// Invariant: it ends within seconds, with 0 only where the answer was 200. Called by main.

import Logging
import Reactor

@EventLoop
enum ProbeCommand {
  /// Longer than the worker itself may take for an answer.
  private static let limit = CoalescedCheck.limit + .seconds(1)

  /// Asks, prints the answer to stdout, and returns the process's exit status.
  static func ask(_ path: String, at address: ListenAddress, clock: LoopClock, logger: Logger) async -> Int32 {
    do {
      let deadline = clock.now.advanced(by: limit)
      let target = try await address.resolved(by: deadline, on: clock)
      let answer = try await LocalRequest.get(path, at: target, by: deadline, on: clock)
      let line = Array((answer.body + "\n").utf8)
      // A caller may look at the exit status only.
      _ = StandardStream.output.write(line[...], patience: .seconds(1), on: clock)
      return answer.status == 200 ? 0 : 1
    } catch {
      logger.error("no answer to the probe", metadata: ["error": "\(error)", "address": "\(address)"])
      return 1
    }
  }
}
