// Plots and flame graphs in SVG. Pure.

import Foundation

/// Points with both axes logarithmic, each with its figure.
struct Plot {
  let title: String
  let points: [(x: Figure, y: Figure)]

  private struct Axis {
    var low: Int
    var high: Int

    /// The whole powers of ten around the values.
    init(_ values: [Double]) {
      low = Int(log10(values.min()!).rounded(.down))
      high = max(low + 1, Int((log10(values.max()!) - 1e-9).rounded(.down)) + 1)
    }

    /// From 0 at the lower end to 1 at the upper.
    func place(_ value: Double) -> Double { (log10(value) - Double(low)) / Double(high - low) }
  }

  /// nil without a point that has a logarithm.
  var svg: String? {
    let points = points.filter { $0.x.value > 0 && $0.y.value > 0 }
    guard !points.isEmpty else { return nil }
    let horizontal = Axis(points.map(\.x.value))
    let vertical = Axis(points.map(\.y.value))
    func x(_ value: Double) -> Double { 70 + horizontal.place(value) * 500 }
    func y(_ value: Double) -> Double { 320 - vertical.place(value) * 260 }
    var lines = [
      #"<svg xmlns="http://www.w3.org/2000/svg" width="640" height="370" font-family="sans-serif" font-size="12">"#,
      ##"<rect width="100%" height="100%" fill="white"/>"##,
      #"<text x="70" y="30" font-size="14">\#(title)</text>"#,
    ]
    for power in horizontal.low...horizontal.high {
      let at = Self.digit(x(pow(10, Double(power))))
      lines.append(
        ##"<line x1="\##(at)" y1="60" x2="\##(at)" y2="320" stroke="#ddd"/>"##
          + #"<text x="\#(at)" y="340" text-anchor="middle">\#(Self.power(power))</text>"#)
    }
    for power in vertical.low...vertical.high {
      let at = y(pow(10, Double(power)))
      lines.append(
        ##"<line x1="70" y1="\##(Self.digit(at))" x2="570" y2="\##(Self.digit(at))" stroke="#ddd"/>"##
          + #"<text x="62" y="\#(Self.digit(at + 4))" text-anchor="end">\#(Self.power(power))</text>"#)
    }
    let corners = points.map { "\(Self.digit(x($0.x.value))),\(Self.digit(y($0.y.value))) " }.joined()
    lines.append(##"<polyline fill="none" stroke="#c2410c" stroke-width="2" points="\##(corners)"/>"##)
    for point in points {
      let (left, top) = (x(point.x.value), y(point.y.value))
      lines.append(
        ##"<circle cx="\##(Self.digit(left))" cy="\##(Self.digit(top))" r="4" fill="#c2410c"/>"##
          + #"<text x="\#(Self.digit(left + 6))" y="\#(Self.digit(top - 6))">\#(point.y)</text>"#)
    }
    return (lines + ["</svg>\n"]).joined(separator: "\n")
  }

  private static func digit(_ value: Double) -> String { String(format: "%.1f", value) }

  private static func power(_ exponent: Int) -> String {
    exponent < 0 ? "0.\(String(repeating: "0", count: -exponent - 1))1" : "1\(String(repeating: "0", count: exponent))"
  }
}

/// Samples of a profiler by their stacks, each with its outermost frame first.
struct FoldedStacks {
  private(set) var counts: [[String]: Int] = [:]

  /// The output of perf script -F comm,ip,sym.
  init(perfScript text: String) {
    var frames: [String] = []
    func end() {
      if !frames.isEmpty { counts[frames.reversed(), default: 0] += 1 }
      frames = []
    }
    for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
      guard let first = line.first, first == " " || first == "\t" else {
        end()
        continue
      }
      // The address, then the name, in which words may be hexadecimal as well.
      let words = line.split(maxSplits: 1, whereSeparator: \.isWhitespace)
      let name = words.count > 1 ? words[1] : ""
      // What is not known by name is of no use to the reader, one frame of it is enough.
      if name == "[unknown]", frames.last == "[unknown]" { continue }
      frames.append(String(name))
    }
    end()
  }

  var samples: Int { counts.values.reduce(0, +) }
}

/// Width is the share of samples; a frame stands on its caller.
struct FlameGraph {
  private struct Frame {
    let depth: Int
    let name: String
    let from: Int
    let to: Int
  }

  private static let width = 1200.0
  private static let height = 17
  /// Narrower frames are left out.
  private static let narrowest = 0.3

  private let title: String
  private let samples: Int
  private var frames: [Frame] = []
  private var deepest = 0

  init(_ stacks: FoldedStacks, title: String) {
    self.title = title
    samples = stacks.samples
    var open: [(name: String, since: Int)] = []
    var position = 0
    let sorted = stacks.counts.sorted { $0.key.lexicographicallyPrecedes($1.key) }
    for (stack, count) in sorted + [([], 0)] {
      let same = zip(open, stack).prefix { $0.name == $1 }.count
      for depth in (same..<open.count).reversed() {
        frames.append(Frame(depth: depth + 1, name: open[depth].name, from: open[depth].since, to: position))
      }
      open = open.prefix(same) + stack.dropFirst(same).map { ($0, position) }
      deepest = max(deepest, stack.count)
      position += count
    }
  }

  var svg: String {
    let bottom = (deepest + 1) * Self.height + 40
    let size = "\(Int(Self.width))\" height=\"\(bottom + 10)"
    var lines = [
      #"<svg xmlns="http://www.w3.org/2000/svg" width="\#(size)" viewBox="0 0 \#(Int(Self.width)) \#(bottom + 10)" "#
        + #"font-family="monospace" font-size="11">"#,
      ##"<rect width="100%" height="100%" fill="#fffdf6"/>"##,
      #"<text x="8" y="18" font-size="14">\#(Self.escaped(title)): \#(samples) samples</text>"#,
    ]
    lines += frames.compactMap { drawn($0, bottom: bottom) }
    return (lines + ["</svg>\n"]).joined(separator: "\n")
  }

  private func drawn(_ frame: Frame, bottom: Int) -> String? {
    let share = Double(frame.to - frame.from) / Double(samples)
    let wide = share * Self.width
    guard wide >= Self.narrowest else { return nil }
    let left = Double(frame.from) / Double(samples) * Self.width
    let top = bottom - frame.depth * Self.height
    var text =
      "<g><title>\(Self.escaped(frame.name)): \(Self.decimals(share * 100))%</title>"
      + #"<rect x="\#(Self.decimals(left))" y="\#(top)" width="\#(Self.decimals(wide - 0.2))" "#
      + #"height="\#(Self.height - 1)" fill="\#(Self.colour(frame.name))"/>"#
    let room = Int(wide / 6.7) - 1
    if room >= 3 {
      let name = frame.name.count > room ? frame.name.prefix(room - 1) + "…" : frame.name[...]
      text += #"<text x="\#(Self.decimals(left + 2))" y="\#(top + 12)">\#(Self.escaped(String(name)))</text>"#
    }
    return text + "</g>"
  }

  /// Drawn from the name, so that a function has the same one in every graph.
  static func colour(_ name: String) -> String {
    let letters = Array("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:()<>[]".utf8)
    let bytes = Array(name.utf8)
    var sum = 0
    for index in stride(from: 0, to: bytes.count, by: 3) {
      sum = (sum * 31 + (letters.firstIndex(of: bytes[index]) ?? -1) + 1) % 997
    }
    return "rgb(\(205 + sum % 50),\(80 + sum / 7 % 130),\(30 + sum / 13 % 50))"
  }

  private static func decimals(_ value: Double) -> String { String(format: "%.2f", value) }

  private static func escaped(_ text: String) -> String {
    var escaped = ""
    for letter in text {
      switch letter {
      case "&": escaped += "&amp;"
      case "<": escaped += "&lt;"
      case ">": escaped += "&gt;"
      case "\"": escaped += "&quot;"
      default: escaped.append(letter)
      }
    }
    return escaped
  }
}
