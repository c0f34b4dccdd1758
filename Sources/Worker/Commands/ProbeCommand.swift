// Queries a worker's probes: for containers whose image has no shell and no curl.
// Invariant: it ends within seconds, and with 0 only if the answer was 200.

import Logging
import Reactor

extension Verb {
  static let probe = Verb(
    name: "probe",
    help:
      "Query a probe of the worker at SB_WORKER_LOCAL_ADDR and print its response. Exit status 0 if healthy, else 1.",
    operands: Operands(name: "readyz|healthz", count: 0...1, words: { ["readyz", "healthz"] }),
    statuses: [
      ExitStatus(0, "The worker is healthy."), ExitStatus(1, "The worker is not healthy, or did not answer."),
    ],
    perform: { arguments, context in
      // The other settings concern only the queried worker.
      let rows = [Setting.localAddress.row, Setting.logLevel.row]
      guard let settings = context.settings(rows, isAlone: true) else { return ConfigurationFaults.exitStatus }
      return EventLoop.run {
        await ProbeCommand.ask(
          "/" + (arguments.operands.first ?? "readyz"), at: settings[.localAddress], clock: context.clock,
          logger: Logger.worker(output: context.log))
      }
    })
}

@EventLoop
enum ProbeCommand {
  /// Longer than the worker itself may take to answer.
  private static let limit = Readiness.checkLimit + .seconds(1)

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
