// What scripts/gate counted beside the figures that it is held to. Pure.

/// A counted cost.
struct GateCount: Equatable {
  let name: String
  let value: Int
}

struct GateReport {
  enum Verdict: String {
    case ok
    case less = "less: worth an --update"
    case grown = "GROWN"
    case unknown = "NO FIGURE"
  }

  struct Line {
    let count: GateCount
    let figure: Int?

    var verdict: Verdict {
      guard let figure else { return .unknown }
      if count.value * 100 > figure * (100 + GateReport.growthPercent) { return .grown }
      if count.value * 100 < figure * (100 - GateReport.growthPercent) { return .less }
      return .ok
    }
    var isWithinBounds: Bool { verdict == .ok || verdict == .less }
  }

  /// How much a cost may grow.
  static let growthPercent = 5

  let lines: [Line]

  /// `figures`: the text of the file.
  init(_ counts: [GateCount], figures: String) {
    var known: [Substring: Int] = [:]
    for line in figures.split(separator: "\n") {
      let parts = line.split(separator: "\t")
      if parts.count == 2 { known[parts[1]] = Int(parts[0]) }
    }
    lines = counts.map { Line(count: $0, figure: known[Substring($0.name)]) }
  }

  var isWithinBounds: Bool { lines.allSatisfy(\.isWithinBounds) }

  var table: String {
    func row(_ name: String, _ counted: String, _ figure: String, _ verdict: String) -> String {
      "\(name.left(52)) \(counted.right(12)) \(figure.right(12))\(verdict)"
    }
    let rows = lines.map {
      row($0.count.name, "\($0.count.value)", $0.figure.map(String.init) ?? "-", "  \($0.verdict.rawValue)")
    }
    return ([row("", "counted", "figure", "")] + rows).joined(separator: "\n")
  }

  var json: String {
    OrderedJSON.object(
      lines.map { line in
        let members = [
          ("value", "\(line.count.value)"), ("figure", line.figure.map(String.init) ?? "null"),
          ("ok", "\(line.isWithinBounds)"),
        ]
        return (line.count.name, OrderedJSON.object(members))
      })
  }

  /// The file's text with these counts as the figures.
  static func file(of counts: [GateCount]) -> String {
    "# What fixed scenarios cost, as counted by scripts/gate --update. A line: figure, name.\n"
      + counts.map { "\($0.value)\t\($0.name)\n" }.joined()
  }
}
