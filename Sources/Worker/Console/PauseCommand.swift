// The verbs pause and resume: stop sweepers in the whole fleet, and let them continue.
// Invariant: each change is printed, one line per sweeper; nothing changes unless the command line is complete.

import Coordination
import Logging
import Reactor

extension CommandOption {
  static let everySweeper = CommandOption(name: "all", help: "Every sweeper.")
  static let reason = CommandOption(
    name: "reason", argument: "TEXT",
    help: "Reason, shown in the log, status and notifications; up to 100 bytes. Required.")
  static let pauseLength = CommandOption(
    name: "for", argument: "DURATION",
    help: "Resume automatically after this time, such as 2h. Default: only `resume` ends the pause.")
  static let stopNow = CommandOption(
    name: "now", help: "Also stop a run in progress, after its current batch and within a third of the lease.")
}

extension Verb {
  static let pause = Verb(
    name: "pause",
    help: """
      Pause sweepers in the whole fleet: no replica starts a run. A run in progress finishes. The pause outlasts \
      restarts, and a loss of Redis's data if a replica has seen it. Notifies once, and once a day while it lasts.
      """,
    operands: sweeperNames, options: [.everySweeper, .reason, .pauseLength, .stopNow], statuses: pauseStatuses,
    fault: { arguments in
      if let fault = namesFault(arguments) { return fault }
      let reason = arguments.argument(of: .reason) ?? ""
      if reason.isEmpty || reason.utf8.count > 100 { return "pause needs --reason with 1 to 100 bytes" }
      // The record's text of a pause begins so where it has an end.
      if reason.hasPrefix("until=") { return "--reason must not begin with until=; --for sets an end" }
      guard let text = arguments.argument(of: .pauseLength) else { return nil }
      guard let length = GoDuration.parse(text), length >= .seconds(1), length <= .seconds(366 * 86_400) else {
        return "--for must be a duration from 1s to a year, such as 2h"
      }
      return nil
    },
    perform: { arguments, context in
      let environment = context.environment
      let user = environment["USER"] ?? environment["LOGNAME"] ?? "uid-\(HostProcess.userID)"
      let who = Event.oneLine("\(user)@\(HostProcess.hostName)", limit: 60)
      let reason = Event.oneLine(arguments.argument(of: .reason) ?? "", limit: 100)
      let length = arguments.argument(of: .pauseLength).flatMap { GoDuration.parse($0) } ?? .zero
      let values = ["\(reason) (\(who))", "\(length.milliseconds)", arguments.has(.stopNow) ? "1" : "0"]
      return PauseCommand(arguments: arguments, context: context).change(by: CoordinationScripts.pause, values) {
        kind, text in
        let under = arguments.has(.stopNow) ? "the run under way stops after its batch" : "the run under way goes on"
        return Pause(origin: "", text: text).description + (kind == "running" ? "; \(under)" : "")
      }
    })

  static let resume = Verb(
    name: "resume", help: "Resume paused sweepers in the whole fleet. They run again from their next slots on.",
    operands: sweeperNames, options: [.everySweeper], statuses: pauseStatuses, fault: namesFault,
    perform: { arguments, context in
      PauseCommand(arguments: arguments, context: context).change(by: CoordinationScripts.resume, []) { _, text in
        text.isEmpty ? "was not paused" : "resumed; it was \(Pause(origin: "", text: text).description)"
      }
    })

  private static let sweeperNames = Operands(name: "SWEEPER", count: 0...64, words: { Sweepers.names })
  private static let pauseStatuses = [
    ExitStatus(0, "Done. Replicas see the change when they next ask Redis, within one interval."),
    ExitStatus(1, "Redis did not answer, or refused the command."),
  ]

  @Sendable private static func namesFault(_ arguments: CommandArguments) -> String? {
    if arguments.has(.everySweeper) == arguments.operands.isEmpty { return nil }
    return "name the sweepers, or give --all"
  }
}

/// Changes the records of the named sweepers.
struct PauseCommand: Sendable {
  let arguments: CommandArguments
  let context: CommandContext

  /// Runs the script for each sweeper and prints a line about each.
  ///
  /// - Parameter line: what to print, from the answer's first word and its text.
  func change(
    by script: RedisScript, _ values: [String], line: @escaping @Sendable (String, String) -> String
  ) -> Int32 {
    let rows = RedisVisit.rows + [Setting.logLevel.row]
    guard let settings = context.settings(rows, isAlone: true) else { return ConfigurationFaults.exitStatus }
    let names = arguments.has(.everySweeper) ? Sweepers.names : arguments.operands
    let (context, namespace) = (context, settings[.redisNamespace])
    return EventLoop.run {
      do {
        let lines = try await RedisVisit(settings, clock: context.clock).use { client in
          var lines = ""
          for name in names {
            let keys = CoordinationScripts.keys(namespace: namespace, sweeper: name)
            let answer = try await client.evaluate(
              script, keys: [keys.lock, keys.record], arguments: values, isRepeatable: true,
              by: context.clock.now.advanced(by: Coordinator.commandLimit))
            guard let parts = answer.array, parts.count == 3 else { throw Coordinator.UnexpectedAnswer() }
            lines += "\(name): \(ReportTable.printable(line(parts[0].text ?? "", parts[2].text ?? "")))\n"
          }
          return lines
        }
        return context.show(lines)
      } catch {
        context.logger(settings).error("not done", metadata: ["error": "\(RedisVisit.reason(error))"])
        return 1
      }
    }
  }
}
