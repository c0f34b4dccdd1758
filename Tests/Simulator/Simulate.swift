// The simulator's command: runs seeds one after the other, says what was violated, and replays one with its trace.
// Called by scripts/simulate, which has the help.

import Glibc
import Reactor
import Simulation

@main
struct Simulate {
  private var first: UInt64 = 1
  private var count: UInt64 = 100
  private var hours = Simulation.defaultHours
  private var mutation: Mutation?
  private var isTraced = false
  /// Ends with the first seed that was violated.
  private var isFirstOnly = false

  static func main() {
    var simulate = Simulate()
    guard simulate.read(CommandLine.arguments.dropFirst().map { $0 }) else {
      print("simulate: see scripts/simulate --help")
      exit(64)
    }
    let command = simulate
    exit(EventLoop.run { await command.run() })
  }

  private mutating func read(_ arguments: [String]) -> Bool {
    var rest = arguments[...]
    while let option = rest.popFirst() {
      switch option {
      case "--trace":
        isTraced = true
        continue
      case "--first-only":
        isFirstOnly = true
        continue
      default: break
      }
      guard let value = rest.popFirst() else { return false }
      switch option {
      case "--seed":
        guard let number = UInt64(value) else { return false }
        first = number
      case "--seeds":
        guard let number = UInt64(value), number > 0 else { return false }
        count = number
      case "--hours":
        guard let number = Double(value), number > 0, number <= 1_000 else { return false }
        hours = number
      case "--mutation":
        guard let known = Mutation(rawValue: value) else { return false }
        mutation = known
      default: return false
      }
    }
    return true
  }

  /// The totals are the last line: seeds, virtual hours, runs, faults, seeds with violations.
  @EventLoop
  private func run() async -> Int32 {
    var (seconds, runs, faults, failed) = (0.0, 0, 0, 0)
    for seed in first..<(first + count) {
      let report = await Simulation.run(
        seed: seed, hours: hours, mutation: mutation, trace: isTraced ? { print($0) } : nil)
      seconds += report.virtualSeconds
      runs += report.runs
      faults += report.faults.values.reduce(0, +)
      guard !report.violations.isEmpty else { continue }
      failed += 1
      for violation in report.violations { print("seed \(seed): at \(violation)") }
      // Seen at once, also where the rest takes long.
      fflush(nil)
      if isFirstOnly { break }
    }
    print("\(count) \(Int((seconds / 3_600).rounded())) \(runs) \(faults) \(failed)")
    return failed == 0 ? 0 : 1
  }
}
