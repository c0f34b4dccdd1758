// What scripts/gate, budgets, bench and perf-* run: each is a subcommand here, and its script says what it does. With
// --check in front it only looks at the arguments.
// Invariant: progress goes to standard error, results to standard output, and the servers are stopped however it ends.

import Foundation
import TestSupport

@main
struct Measure {
  static func main() async {
    // A peer that is gone is an error of the call, not a signal.
    signal(SIGPIPE, SIG_IGN)
    let measuring = Task { await perform() }
    endOnSignal { measuring.cancel() }
    exit(await measuring.value)
  }

  private static func perform() async -> Int32 {
    var arguments = Arguments(CommandLine.arguments.dropFirst())
    var name = arguments.next() ?? ""
    let onlyChecks = name == "--check"
    if onlyChecks { name = arguments.next() ?? "" }
    guard let command = commands[name] else {
      complain("measure: the first argument is one of \(commands.keys.sorted().joined(separator: ", "))")
      return Misuse.status
    }
    do {
      let command = try command.init(&arguments)
      if onlyChecks { return 0 }
      return try await command.perform() ? 0 : 1
    } catch let misuse as Misuse {
      complain("\(name): \(misuse.description); --help says what there is")
      return Misuse.status
    } catch {
      complain("\(name): \(error)")
      return 1
    }
  }

  private static var commands: [String: any Command.Type] {
    [
      "bench": Bench.self,
      "budgets": Budgets.self,
      "gate": Gate.self,
      "hardening": Hardening.self,
      "perf-allocs": PerfAllocs.self,
      "perf-memory": PerfMemory.self,
      "perf-record": PerfRecord.self,
      "perf-stat": PerfStat.self,
      "perf-syscalls": PerfSyscalls.self,
    ]
  }
}

/// What one of the scripts runs.
protocol Command {
  /// Takes the rest of the command line.
  init(_ arguments: inout Arguments) throws
  /// Returns whether all was within its bounds.
  func perform() async throws -> Bool
}

/// Calls `body` at the first signal that asks this process to end.
private func endOnSignal(_ body: @escaping @Sendable () -> Void) {
  var signals = sigset_t()
  sigemptyset(&signals)
  for number in [SIGINT, SIGTERM, SIGHUP] { sigaddset(&signals, number) }
  // Threads that are started from here on inherit the mask. Those that exist already only wait for jobs, and the kernel
  // gives the signal to a thread that takes it, so the default action is replaced as well.
  pthread_sigmask(SIG_BLOCK, &signals, nil)
  let awaited = signals
  Thread.detachNewThread {
    var set = awaited
    var number: Int32 = 0
    sigwait(&set, &number)
    body()
  }
}

/// Writes a line of progress to standard error.
func say(_ text: String) { complain("== \(text)") }

/// Writes a line to standard error, at once.
func complain(_ text: String) {
  // Where nobody reads any more, the measurement goes on: its result is elsewhere.
  try? FileHandle.standardError.write(contentsOf: Data("\(text)\n".utf8))
}

/// Writes lines of the result to standard output, at once.
func show(_ text: String) {
  // Where nobody reads any more, such as behind `head`, the status still says how it went.
  try? FileHandle.standardOutput.write(contentsOf: Data("\(text)\n".utf8))
}
