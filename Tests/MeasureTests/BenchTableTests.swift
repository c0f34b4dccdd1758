// The rows of scripts/bench, and the drawings of bench and perf-record.

import Testing

@testable import Measure

@Suite struct BenchRowTests {
  private static let beside = BenchRow(
    "wraps_ms", "wraps-expired: half due", Figure(859), "ms", .ratioAtMost("1"), beside: Figure("857.378"), "psql")
  private static let alone = BenchRow("threads", "threads", Figure(1), "", .atMost("1"))
  private static let unjudged = BenchRow("peak", "the same: peak", Figure(14936), "kB")

  @Test func aRowOfTheTable() {
    #expect(
      Self.beside.line == "\("wraps-expired: half due".left(58))          859 ms      857.378 psql               "
        + "1.00  ratio-max 1    met")
    #expect(
      Self.alone.line
        == "threads\(String(repeating: " ", count: 63))1\(String(repeating: " ", count: 42))max 1          met")
    #expect(Self.unjudged.line.trimmedEnd.hasSuffix("14936 kB"))
    #expect(BenchRow.header.trimmedEnd.hasSuffix("worker         competitor                ratio  target"))
  }

  @Test func aRowOfTheDocument() {
    #expect(Self.beside.markdown == "| wraps-expired: half due | 859 ms | 857.378 ms, psql | 1.00 | ≤ 1 × | met |")
    #expect(Self.alone.markdown == "| threads | 1 |  |  | ≤ 1 | met |")
    #expect(Self.unjudged.markdown == "| the same: peak | 14936 kB |  |  |  |  |")
  }

  @Test func aMemberOfTheObject() {
    let expected =
      #"{"what": "threads", "value": 1, "unit": "", "rival": null, "rival_name": "", "ratio": null, "#
      + #""target": "max 1", "verdict": "met"}"#
    #expect(Self.alone.json == expected)
  }

  @Test(arguments: [
    (Target.atMost("10"), "10.0", nil, true), (.atMost("10"), "10.1", nil, false),
    (.atLeast("14000"), "14000", nil, true),
    (.atLeast("14000"), "13999", nil, false), (.ratioAtMost("1.2"), "120.4", "100", true),
    (.ratioAtMost("1.2"), "121", "100", false), (.ratioAtLeast("0.5"), "5", "10", true),
    (.ratioAtLeast("0.5"), "4.9", "10", false),
  ])
  func aTargetIsForTheFigureOrForItsRatio(target: Target, figure: String, competitor: String?, isMet: Bool) throws {
    let row = BenchRow(
      "key", "what", try #require(Figure(figure)), "", target, beside: competitor.flatMap { Figure($0) }, "other")
    #expect(row.verdict == (isMet ? "met" : "MISSED"))
  }

  @Test func theTableHasItsMachineAndItsRows() {
    var table = BenchTable(machine: "a machine")
    table.append(Self.alone)
    #expect(table.text.split(separator: "\n").count == 3 && table.text.hasPrefix("a machine\n"))
    #expect(table.markdown.hasPrefix("a machine\n\n| what |"))
    #expect(table.json.hasPrefix(#"{"threads": {"what""#) && table.json.hasSuffix("}}\n"))
  }

  private func options(_ words: String...) throws -> BenchOptions {
    var arguments = Arguments(words)
    return try BenchOptions(&arguments)
  }

  @Test func groupsAreThoseThatAreNamed() throws {
    #expect(try options().groups == BenchOptions.Group.allCases)
    #expect(try options("--quick").groups == [.size, .start, .probes, .lock, .nothing])
    #expect(try options("--only", "fleet", "--quick", "--only", "size").groups == [.fleet, .size])
    #expect(throws: Misuse.self) { try options("--only", "everything") }
    #expect(throws: Misuse(description: "--json needs a file")) { try options("--json") }
  }
}

@Suite struct DrawingTests {
  @Test func aPlotHasItsPointsWithinPowersOfTen() throws {
    let points = [(x: Figure(10), y: Figure("0.5")!), (x: Figure(1000), y: Figure(20)), (x: Figure(0), y: Figure(1))]
    let svg = try #require(Plot(title: "A title", points: points).svg)
    #expect(svg.contains(">A title</text>"))
    // From 10 to 1000 in 500 pixels, from 0.1 to 100 in 260.
    #expect(svg.contains(##"<circle cx="70.0" cy="259.4" r="4" fill="#c2410c"/><text x="76.0" y="253.4">0.5</text>"##))
    #expect(svg.contains(#"<circle cx="570.0" cy="120.6" r="4""#))
    for label in ["10", "100", "1000"] { #expect(svg.contains(#"y="340" text-anchor="middle">\#(label)</text>"#)) }
    for label in ["0.1", "1", "10", "100"] { #expect(svg.contains(#"text-anchor="end">\#(label)</text>"#)) }
    #expect(Plot(title: "", points: []).svg == nil)
    #expect(Plot(title: "", points: [(Figure(5), Figure(5))]).svg != nil)
  }

  private static let samples = """
    worker
    \t    55d0c1 parse
    \t    55d0c2 run
    \t    55d0c3 main

    worker
    \t    55d0c4 [unknown]
    \t    55d0c5 [unknown]
    \t    55d0c2 run
    \t    55d0c3 main

    worker
    \t    55d0c1 parse
    \t    55d0c2 run
    \t    55d0c3 main

    """

  @Test func samplesOfOneStackAreOne() {
    let stacks = FoldedStacks(perfScript: Self.samples)
    #expect(stacks.counts == [["main", "run", "parse"]: 2, ["main", "run", "[unknown]"]: 1])
    #expect(stacks.samples == 3)
    #expect(FoldedStacks(perfScript: "").samples == 0)
  }

  @Test func aFrameIsAsWideAsItsShare() {
    let svg = FlameGraph(FoldedStacks(perfScript: Self.samples), title: "a & b").svg
    #expect(svg.contains(">a &amp; b: 3 samples</text>"))
    #expect(svg.contains("<title>main: 100.00%</title>") && svg.contains("<title>run: 100.00%</title>"))
    #expect(svg.contains(#"<title>parse: 66.67%</title><rect x="400.00""#))
    #expect(svg.contains(#"<title>[unknown]: 33.33%</title><rect x="0.00""#))
    #expect(svg.split(separator: "\n").count { $0.hasPrefix("<g>") } == 4)
  }

  @Test func aFunctionHasOneColour() {
    #expect(FlameGraph.colour("main") == "rgb(222,139,62)")
    #expect(FlameGraph.colour("swift_release") == "rgb(246,150,67)")
  }
}
