// The tables, the JSON and the verdicts of scripts/gate and scripts/budgets.

import Testing

@testable import Measure

@Suite struct GateReportTests {
  private static let figures = "# Comment\n100\tallocations of a request\n0\tallocations of another\n"

  @Test(arguments: [
    (105, GateReport.Verdict.ok), (106, .grown), (95, .ok), (94, .less), (100, .ok), (0, .less),
  ])
  func aCostMayGrowByFivePercent(value: Int, verdict: GateReport.Verdict) {
    let report = GateReport([GateCount(name: "allocations of a request", value: value)], figures: Self.figures)
    #expect(report.lines.map(\.verdict) == [verdict])
    #expect(report.isWithinBounds == (verdict != .grown))
  }

  @Test func oneAllocationIsMoreThanNone() {
    let report = GateReport([GateCount(name: "allocations of another", value: 1)], figures: Self.figures)
    #expect(!report.isWithinBounds)
  }

  @Test func aCostWithoutAFigureIsAFault() {
    let report = GateReport([GateCount(name: "allocations", value: 0)], figures: Self.figures)
    #expect(report.lines.map(\.verdict) == [.unknown])
    #expect(!report.isWithinBounds)
  }

  @Test func writesATableAndJSON() {
    let report = GateReport(
      [GateCount(name: "allocations of a request", value: 107), GateCount(name: "new", value: 3)],
      figures: Self.figures)
    let expected = """
                                                                counted       figure
      allocations of a request                                      107          100  GROWN
      new                                                             3            -  NO FIGURE
      """
    #expect(report.table == expected)
    #expect(
      report.json == #"{"allocations of a request": {"value": 107, "figure": 100, "ok": false}, "#
        + #""new": {"value": 3, "figure": null, "ok": false}}"#)
  }

  @Test func readsWhatItWrites() {
    let counts = [GateCount(name: "a, b", value: 7), GateCount(name: "c", value: 0)]
    let report = GateReport(counts, figures: GateReport.file(of: counts))
    #expect(report.lines.map(\.figure) == [7, 0])
    #expect(report.isWithinBounds)
  }
}

@Suite struct BudgetReportTests {
  private func report(_ value: Figure) -> BudgetReport {
    BudgetReport(lines: [
      .init(name: "threads", key: "threads", value: Figure(1), limit: 1, unit: ""),
      .init(name: "ready", key: "ready_ms", value: value, limit: 30, unit: "ms"),
    ])
  }

  @Test func theLimitItselfIsWithinTheBudget() {
    #expect(report(Figure(30)).isWithinBounds)
    #expect(!report(Figure(30.01, decimals: 2)).isWithinBounds)
  }

  @Test func writesATableAndJSON() {
    let expected = """
                         measured     budget
      threads                   1          1           ok
      ready                 31.25         30  ms       OVER BUDGET
      """
    let over = report(Figure(31.25, decimals: 2))
    #expect(over.table == expected)
    #expect(
      over.json == #"{"threads": {"value": 1, "limit": 1, "ok": true}, "#
        + #""ready_ms": {"value": 31.25, "limit": 30, "ok": false}}"#)
  }
}

@Suite struct ArgumentsTests {
  private func scenario(_ words: String...) throws -> ScenarioArguments {
    var arguments = Arguments(words)
    return try ScenarioArguments(
      &arguments, scenario: .idle, flags: ["--cgroup"], valued: ["--output": "a file"])
  }

  @Test func aScenarioAndItsOptionsComeInAnyOrder() throws {
    let given = try scenario("--seconds", "7", "sweep", "--output", "x.svg", "--cgroup")
    #expect(given.scenario == .sweep && given.seconds == 7)
    #expect(given.options == ["--output": "x.svg", "--cgroup": ""])
    let none = try scenario()
    #expect(none.scenario == .idle && none.seconds == nil && none.options.isEmpty)
  }

  @Test(arguments: [
    (["--seconds"], "--seconds needs a number"), (["--seconds", "0"], "--seconds needs a number"),
    (["--seconds", "+5"], "--seconds needs a number"), (["--seconds", "5s"], "--seconds needs a number"),
    (["--output"], "--output needs a file"), (["--nope"], "no such option: --nope"),
    (["nothing"], "no such scenario: nothing; there are idle, sweep, probes, notifications"),
  ])
  func aMistakeIsNamed(words: [String], text: String) {
    #expect(throws: Misuse(description: text)) {
      var arguments = Arguments(words)
      _ = try ScenarioArguments(&arguments, scenario: .idle, valued: ["--output": "a file"])
    }
  }

  @Test func gateAndBudgetsTakeTheirOptionsOnly() {
    for words in [["--nope"], ["--json", "more"]] {
      #expect(throws: Misuse.self) {
        var arguments = Arguments(words)
        _ = try Budgets(&arguments)
      }
      #expect(throws: Misuse.self) {
        var arguments = Arguments(words)
        _ = try Gate(&arguments)
      }
    }
  }
}
