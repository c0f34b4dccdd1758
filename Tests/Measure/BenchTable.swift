// The rows of scripts/bench: a figure, its competitor's, their ratio, and the target. Pure.

/// What a figure, or its ratio to the competitor's, is to be.
struct Target: Equatable {
  enum Side: String {
    case max, min
  }

  let side: Side
  let bound: String
  let isRatio: Bool

  static func atMost(_ bound: String) -> Target { Target(side: .max, bound: bound, isRatio: false) }
  static func atLeast(_ bound: String) -> Target { Target(side: .min, bound: bound, isRatio: false) }
  static func ratioAtMost(_ bound: String) -> Target { Target(side: .max, bound: bound, isRatio: true) }
  static func ratioAtLeast(_ bound: String) -> Target { Target(side: .min, bound: bound, isRatio: true) }

  /// In the table.
  var text: String { "\(isRatio ? "ratio-" : "")\(side.rawValue) \(bound)" }
  /// In the documents.
  var sign: String { "\(side == .max ? "≤" : "≥") \(bound)\(isRatio ? " ×" : "")" }

  func isMet(by figure: Figure, ratio: Figure?) -> Bool {
    guard let bound = Figure(bound), let value = isRatio ? ratio : figure else { return false }
    return side == .max ? value <= bound : value >= bound
  }
}

struct BenchRow {
  let key: String
  let what: String
  let figure: Figure
  let unit: String
  var target: Target?
  var competitor: (figure: Figure, name: String)?

  init(
    _ key: String, _ what: String, _ figure: Figure, _ unit: String, _ target: Target? = nil,
    beside competitor: Figure? = nil, _ name: String = ""
  ) {
    self.key = key
    self.what = what
    self.figure = figure
    self.unit = unit
    self.target = target
    self.competitor = competitor.map { ($0, name) }
  }

  var ratio: Figure? {
    competitor.map { Figure($0.figure.value == 0 ? 0 : figure.value / $0.figure.value, decimals: 2) }
  }

  /// Empty without a target.
  var verdict: String {
    guard let target else { return "" }
    return target.isMet(by: figure, ratio: ratio) ? "met" : "MISSED"
  }

  static let header = line("", "worker", "", "competitor", "ratio", "target", "")

  var line: String {
    Self.line(
      what, figure.description, unit, competitor.map { "\($0.figure) \($0.name)" } ?? "", ratio?.description ?? "",
      target?.text ?? "", verdict)
  }

  private static func line(
    _ what: String, _ figure: String, _ unit: String, _ competitor: String, _ ratio: String, _ target: String,
    _ verdict: String
  ) -> String {
    "\(what.left(58)) \(figure.right(12)) \(unit.left(7)) \(competitor.left(24)) \(ratio.right(6))  "
      + "\(target.left(14)) \(verdict)"
  }

  static let markdownHeader = "| what | worker | competitor | ratio | target | |\n|---|---|---|---|---|---|"

  var markdown: String {
    let of = unit.isEmpty ? "" : " \(unit)"
    let beside = competitor.map { "\($0.figure)\(of), \($0.name)" } ?? ""
    return "| \(what) | \(figure)\(of) | \(beside) | \(ratio?.description ?? "") | \(target?.sign ?? "") | "
      + "\(verdict.lowercased()) |"
  }

  var json: String {
    OrderedJSON.object([
      ("what", OrderedJSON.string(what)), ("value", figure.description), ("unit", OrderedJSON.string(unit)),
      ("rival", competitor?.figure.description ?? "null"),
      ("rival_name", OrderedJSON.string(competitor?.name ?? "")), ("ratio", ratio?.description ?? "null"),
      ("target", OrderedJSON.string(target?.text ?? "")), ("verdict", OrderedJSON.string(verdict)),
    ])
  }
}

/// What has been measured so far.
struct BenchTable {
  let machine: String
  private(set) var rows: [BenchRow] = []

  init(machine: String) { self.machine = machine }

  mutating func append(_ row: BenchRow) { rows.append(row) }

  var text: String { ([machine, BenchRow.header] + rows.map(\.line)).joined(separator: "\n") }
  var markdown: String {
    ([machine, "", BenchRow.markdownHeader] + rows.map(\.markdown)).joined(separator: "\n") + "\n"
  }
  var json: String { OrderedJSON.object(rows.map { ($0.key, $0.json) }) + "\n" }
}
