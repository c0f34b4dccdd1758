// The five sweepers under every setting that a session, a role or a database can have, directly and behind a pooler:
// exactly the due rows change, or the run fails and says why, and a pooler's session is afterwards as it was before.

import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite(.serialized) struct SettingsMatrixTests {
  /// How the server is reached.
  enum Way: String, CaseIterable, Sendable, CustomTestStringConvertible {
    case direct
    case session = "session pooling"
    case transaction = "transaction pooling"

    var testDescription: String { rawValue }
  }

  /// What a surrounding did to the sweeps.
  private enum Outcome: Equatable {
    case exact
    /// The server does not take the value from a role or a database.
    case refusedByServer
    /// Some or all sweepers failed as they must or may, and said this.
    case loud(String)
    case wrong(String)
  }

  @Test(arguments: Way.allCases)
  func underEverySettingExactlyTheDueRowsChange(_ way: Way) async throws {
    let stage = try await SettingsStage.make(way)
    let outcomes = try await onLoop { try await Self.tryAll(on: stage) }
    await stage.end()
    for (surrounding, outcome) in outcomes {
      if case .wrong(let reason) = outcome { Issue.record("\(way.rawValue), \(surrounding): \(reason)") }
    }
    #expect(outcomes.count { $0.1 == .exact } > 300)
  }

  @EventLoop
  private static func tryAll(on stage: SettingsStage) async throws -> [(String, Outcome)] {
    let start = LoopClock.system.now
    let settings = try await stage.settings()
    #expect(settings.count > 150)
    let role = stage.plane.least.user
    let values = settings.compactMap { $0.hostileValues(role: role) }
    var outcomes: [HostileValue: Outcome] = [:]
    for group in groups(of: values, for: stage.way) {
      outcomes.merge(try await tryTogether(group[...], on: stage)) { $1 }
    }
    let seconds = start.duration(to: LoopClock.system.now).components.seconds
    report(stage.way, settings, outcomes, seconds)
    return outcomes.map { ($0.key.description, $0.value) } + unknown(settings, outcomes, role: role)
  }

  /// Values that were not tried, or by no more than name.
  private static func unknown(
    _ settings: [ServerSetting], _ outcomes: [HostileValue: Outcome], role: String
  ) -> [(String, Outcome)] {
    settings.compactMap { setting in
      guard let values = setting.hostileValues(role: role) else {
        return (setting.name, .wrong("no hostile values of it are known: look at it, and add them"))
      }
      let isTried = values.contains { outcomes[$0] != .refusedByServer }
      return isTried || ServerSetting.refusedByServer[setting.name] != nil
        ? nil : (setting.name, .wrong("no value of it was tried"))
    }
  }

  /// Each value by itself without a pooler. Behind one, where the same is done in another session, values of different
  /// settings at once, but for those that make a sweep fail; others with each kind of pooling.
  private static func groups(of values: [[HostileValue]], for way: Way) -> [[HostileValue]] {
    let size = way == .direct ? 1 : 8
    let all = way == .transaction ? values.map { $0.reversed() } : values
    var groups: [[HostileValue]] = []
    // The first value of all settings, the second of those that have another one, and so on.
    for index in 0..<(all.map(\.count).max() ?? 0) {
      let row = all.filter { $0.count > index }.map { $0[index] }
      let others = row.filter { ExpectedFailure.of($0) == nil }
      groups += row.filter { ExpectedFailure.of($0) != nil }.map { [$0] }
      // Settings whose names are neighbours bear on each other: no two of them at once.
      let count = (others.count + size - 1) / size
      groups += (0..<count).map { start in stride(from: start, to: others.count, by: count).map { others[$0] } }
    }
    return groups
  }

  /// The values at once. Where something is wrong with them, the halves, so that it is known of which.
  @EventLoop
  private static func tryTogether(
    _ values: ArraySlice<HostileValue>, on stage: SettingsStage
  ) async throws -> [HostileValue: Outcome] {
    let taken = try await stage.set(Array(values))
    var outcomes: [HostileValue: Outcome] = [:]
    for (value, isTaken) in zip(values, taken) { outcomes[value] = isTaken ? .exact : .refusedByServer }
    guard taken.contains(true) else { return outcomes }
    let fault = try await stage.fault()
    if values.count == 1, let value = values.first {
      return [value: judge(fault, ExpectedFailure.of(value))]
    }
    guard fault != nil else { return outcomes }
    let middle = values.startIndex + values.count / 2
    let one = try await tryTogether(values[..<middle], on: stage)
    let other = try await tryTogether(values[middle...], on: stage)
    let halves = one.merging(other) { $1 }
    let isExplained = halves.values.contains { if case .wrong = $0 { true } else { false } }
    return isExplained ? halves : halves.merging([values[middle]: .wrong("with \(values): \(fault!)")]) { $1 }
  }

  private static func judge(_ fault: String?, _ expected: ExpectedFailure?) -> Outcome {
    switch (fault, expected) {
    case (nil, nil): .exact
    case (nil, let expected?): expected.mustFail ? .wrong("succeeds, and should say \(expected.reasons)") : .exact
    case (let fault?, let expected?) where expected.isSaid(in: fault): .loud(fault)
    case (let fault?, _): .wrong(fault)
    }
  }

  /// One line for the settings of each type.
  private static func report(
    _ way: Way, _ settings: [ServerSetting], _ outcomes: [HostileValue: Outcome], _ seconds: Int64
  ) {
    print("matrix: \(way.rawValue), \(settings.count) settings, \(outcomes.count) values in \(seconds) s")
    for type in ["bool", "enum", "integer", "real", "string"] {
      let names = settings.filter { $0.type == type }.map(\.name)
      let some = outcomes.filter { names.contains($0.key.name) }
      func count(_ outcome: Outcome) -> Int { some.values.count { $0 == outcome } }
      let loud = some.compactMap { value, outcome in
        if case .loud(let reason) = outcome { "\(value): \(reason.prefix(120))" } else { nil }
      }.sorted()
      print(
        "matrix: \(way.rawValue), \(names.count) \(type) settings, \(some.count) values: \(count(.exact)) exact, "
          + "\(loud.count) fail with the reason\(loud.isEmpty ? "" : " (\(loud.joined(separator: ", ")))"), "
          + "\(count(.refusedByServer)) not taken by the server: \(names.joined(separator: " "))")
    }
  }
}

/// Values under which nobody can work, or not always, and what the sweeps say there.
struct ExpectedFailure: Sendable {
  /// Of a setting.
  let name: String
  /// As SQL writes them.
  let values: [String]
  /// Parts of what is said, one of which must be there.
  let reasons: [String]
  /// Else whether it fails depends on how fast the machine is.
  var mustFail = true

  private static let noLibrary = "the server lacks a file, such as a library that sessions are to preload"

  private static let all = [
    ExpectedFailure(name: "default_transaction_read_only", values: ["'on'"], reasons: ["read-only"]),
    ExpectedFailure(name: "search_path", values: ["''", "nowhere"], reasons: ["in the search path: set search_path"]),
    ExpectedFailure(name: "local_preload_libraries", values: ["nothing"], reasons: [noLibrary]),
    ExpectedFailure(name: "session_preload_libraries", values: ["nothing"], reasons: [noLibrary]),
    // Where triggers are in a language that is found by it: a server of version 18.
    ExpectedFailure(
      name: "dynamic_library_path", values: ["'/nowhere'", "''"], reasons: [noLibrary], mustFail: false),
    // Each session ends after a millisecond without a statement, each statement after one. A session that has ended
    // leaves nothing behind, and the pooler gives another one.
    ExpectedFailure(
      name: "idle_session_timeout", values: ["'1'"],
      reasons: ["57P05", "connection closed", "closed the connection", "08P01", "the pooler gave another session"],
      mustFail: false),
    ExpectedFailure(
      name: "statement_timeout", values: ["'1'"], reasons: ["statement cancelled (SQLSTATE 57014)"], mustFail: false),
    ExpectedFailure(
      name: "transaction_timeout", values: ["'1'"], reasons: ["the transaction took too long (SQLSTATE 25P04)"],
      mustFail: false),
  ]

  func isSaid(in fault: String) -> Bool {
    !fault.contains("WRONG") && !fault.contains("LEFT BEHIND") && reasons.contains { fault.contains($0) }
  }

  static func of(_ value: HostileValue) -> ExpectedFailure? {
    if value.name == "role", value.value.hasSuffix("_nobody'") {
      return ExpectedFailure(
        name: value.name, values: [value.value], reasons: ["permission denied on table", "permission denied (SQLSTATE"])
    }
    return all.first { $0.name == value.name && $0.values.contains(value.value) }
  }
}
