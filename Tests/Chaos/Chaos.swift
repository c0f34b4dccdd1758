// The chaos harness: a fleet under faults drawn from a seed, and checks of what must still hold.
// Invariant: it prints the seed first and then a line per check; the exit status says whether all held.

import Foundation
import Reactor
import TestSupport

@main
struct Chaos {
  static func main() async {
    // Report a closed peer as an error of the call, not as a signal.
    signal(SIGPIPE, SIG_IGN)
    do {
      let options = try Options(CommandLine.arguments.dropFirst())
      let checks: [Check]
      if let scenario = options.scenario {
        say("scenario \(scenario.rawValue)")
        checks = try await scenario.play(worker: options.worker)
        for check in checks { say(check) }
      } else {
        checks = try await ChaosRun(options: options).perform()
      }
      let failed = checks.count { !$0.isOK }
      say("\(checks.count - failed) passed, \(failed) failed")
      exit(failed == 0 ? 0 : 1)
    } catch {
      say("chaos: \(error)")
      exit(error is Options.Misuse ? 64 : 2)
    }
  }
}

/// The harness's options. scripts/chaos explains them.
struct Options: Sendable {
  struct Misuse: Error, CustomStringConvertible { let description: String }

  var worker = ""
  var seed = UInt64.random(in: 1..<1_000_000)
  var seconds = 120
  var replicas = 3
  /// Empty: all that exist with this Redis.
  var kinds: [FaultKind] = []
  var redis = RedisKind.single
  var isVerbose = false
  var keeps = false
  var showsPlan = false
  var scenario: Scenario?
  /// Whether the seed also draws the surroundings; otherwise they are plain.
  var drawsSurroundings = true
  /// Whether this process can mount a private file system.
  var ownsMounts = false
  /// The parent directory of each run's evidence.
  var evidence = FileManager.default.temporaryDirectory

  init(_ arguments: some Sequence<String>) throws {
    var rest = Array(arguments)[...]
    while let name = rest.popFirst() {
      switch name {
      case "--verbose": isVerbose = true
      case "--keep": keeps = true
      case "--plan": showsPlan = true
      case "--own-mounts": ownsMounts = true
      default:
        guard let value = rest.popFirst() else { throw Misuse(description: "\(name) is no option, or has no value") }
        try set(name, value)
      }
    }
    let known = FaultKind.all(on: redis)
    if kinds.isEmpty { kinds = known }
    if let other = kinds.first(where: { !known.contains($0) }) {
      throw Misuse(description: "\(other.rawValue) is no fault of --redis \(redis.rawValue)")
    }
    guard showsPlan || FileManager.default.isExecutableFile(atPath: worker) else {
      throw Misuse(description: "--worker names no executable")
    }
  }

  private mutating func set(_ name: String, _ value: String) throws {
    func number(_ range: ClosedRange<Int>) throws -> Int {
      guard let number = Int(value), range.contains(number) else {
        throw Misuse(description: "\(name) takes a number from \(range.lowerBound) to \(range.upperBound)")
      }
      return number
    }
    switch name {
    case "--worker": worker = value
    case "--evidence": evidence = URL(fileURLWithPath: value)
    case "--seed": seed = UInt64(try number(0...Int.max))
    case "--seconds": seconds = try number(15...86_400)
    case "--replicas": replicas = try number(1...20)
    case "--faults":
      kinds = try value.split(separator: ",").map { word in
        guard let kind = FaultKind(rawValue: String(word)) else {
          let known = FaultKind.allCases.map(\.rawValue).joined(separator: ", ")
          throw Misuse(description: "\(word) is no fault; known are \(known)")
        }
        return kind
      }
    case "--redis":
      guard let kind = RedisKind(rawValue: value) else { throw Misuse(description: "\(name) takes single or cluster") }
      redis = kind
    case "--surroundings":
      guard ["drawn", "plain"].contains(value) else { throw Misuse(description: "\(name) takes drawn or plain") }
      drawsSurroundings = value == "drawn"
    case "--scenario":
      guard let named = Scenario(rawValue: value) else {
        let known = Scenario.allCases.map(\.rawValue).joined(separator: ", ")
        throw Misuse(description: "\(value) is no scenario; known are \(known)")
      }
      scenario = named
    default: throw Misuse(description: "\(name) is no option")
    }
  }
}

/// Writes a line to standard output, at once.
func say(_ text: some CustomStringConvertible) {
  // If the reader has exited, as `head` does, the exit status still gives the result.
  try? FileHandle.standardOutput.write(contentsOf: Data("\(text)\n".utf8))
}
