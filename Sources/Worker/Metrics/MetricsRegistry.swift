// The metrics: counters, gauges and histograms, and their text in Prometheus's exposition format 0.0.4.
// Invariant: every series is known at registration, so rendering only copies prepared text and writes numbers.
// Updated by all parts of the worker on the loop, rendered by the probe listener.

import Reactor

/// The values of a process's metrics, and their text.
///
/// Series are registered when the process starts. Rendering copies the text between the values and writes each value's
/// digits, without an allocation once the buffer is large enough.
@EventLoop
package final class MetricsRegistry {
  static let contentType = "text/plain; version=0.0.4; charset=utf-8"

  typealias Labels = KeyValuePairs<String, String>

  /// The type in a family's TYPE line.
  enum Kind: String {
    case counter, gauge, histogram
  }

  package init() {}

  private struct Family {
    let name: String
    let kind: Kind
    let help: String
    var series: [Series] = []
  }

  /// One line: its text up to the value, and the value's source.
  private struct Series {
    let text: [UInt8]
    let source: Source
  }

  private enum Source {
    case integer(Int)
    case number(Int)
  }

  /// A value's position in the prepared text: after the byte at `textEnd`.
  private struct Place {
    let textEnd: Int
    let source: Source
  }

  private struct Callback {
    let index: Int
    let read: @EventLoop () -> Double
  }

  fileprivate var integers: [UInt64] = []
  fileprivate var numbers: [Double] = []
  private var families: [Family] = []
  private var callbacks: [Callback] = []
  /// The text between the values, and the values' positions; empty until a registration has been laid out.
  private var text: [UInt8] = []
  private var places: [Place] = []

  /// A count of events that starts at 0. Its name ends with `_total`.
  func counter(_ name: String, help: String, labels: Labels = [:]) -> Counter {
    let counter = Counter(registry: self, index: newInteger())
    add(.counter, name, help: help, lines: [(name, labelText(labels), .integer(counter.index))])
    return counter
  }

  /// A count (also of seconds) that is kept elsewhere and read at each render.
  func counter(_ name: String, help: String, labels: Labels = [:], read: @escaping @EventLoop () -> Double) {
    add(.counter, name, help: help, lines: [(name, labelText(labels), newCallback(read))])
  }

  /// A value that goes up and down and starts at 0.
  func gauge(_ name: String, help: String, labels: Labels = [:]) -> Gauge {
    let gauge = Gauge(registry: self, index: newNumber())
    add(.gauge, name, help: help, lines: [(name, labelText(labels), .number(gauge.index))])
    return gauge
  }

  /// A value that is kept elsewhere and read at each render.
  func gauge(_ name: String, help: String, labels: Labels = [:], read: @escaping @EventLoop () -> Double) {
    add(.gauge, name, help: help, lines: [(name, labelText(labels), newCallback(read))])
  }

  /// Counts of values at or below each of several ascending bounds, with their sum.
  func histogram(_ name: String, help: String, labels: Labels = [:], bounds: [Double]) -> Histogram {
    precondition(zip(bounds, bounds.dropFirst()).allSatisfy { $0 < $1 }, "bounds ascend")
    let first = newInteger()
    for _ in bounds { _ = newInteger() }
    let sum = newNumber()
    var lines: [(String, String, Source)] = []
    for (index, bound) in bounds.enumerated() {
      lines.append((name + "_bucket", labelText(labels, bound: ValueText.text(bound)), .integer(first + index)))
    }
    lines.append((name + "_bucket", labelText(labels, bound: "+Inf"), .integer(first + bounds.count)))
    lines.append((name + "_sum", labelText(labels), .number(sum)))
    lines.append((name + "_count", labelText(labels), .integer(first + bounds.count)))
    add(.histogram, name, help: help, lines: lines)
    return Histogram(registry: self, bounds: bounds, firstBucket: first, sum: sum)
  }

  /// The maximum length of the text, so that nothing is checked or moved while it is written.
  package var byteLimit: Int {
    if places.isEmpty { layOut() }
    return text.count + places.count * ValueText.byteLimit
  }

  /// Writes the text of all metrics to `target`, which has room for `byteLimit` bytes, and returns its length.
  package func write(to target: UnsafeMutableRawBufferPointer) -> Int {
    precondition(target.count >= byteLimit)
    for callback in callbacks { numbers[callback.index] = callback.read() }
    // Copied to constants, because each access to an object's variable is checked at run time.
    let (integers, numbers) = (integers, numbers)
    return text.withUnsafeBytes { text in
      var count = 0
      var textStart = 0
      for place in places {
        let piece = UnsafeRawBufferPointer(rebasing: text[textStart..<place.textEnd])
        UnsafeMutableRawBufferPointer(rebasing: target[count...]).copyMemory(from: piece)
        count += piece.count
        textStart = place.textEnd
        let end = UnsafeMutableRawBufferPointer(rebasing: target[count...])
        switch place.source {
        case .integer(let index): count += ValueText.write(integers[index], to: end)
        case .number(let index): count += ValueText.write(numbers[index], to: end)
        }
      }
      let piece = UnsafeRawBufferPointer(rebasing: text[textStart...])
      UnsafeMutableRawBufferPointer(rebasing: target[count...]).copyMemory(from: piece)
      return count + piece.count
    }
  }
}

extension MetricsRegistry {
  private func newInteger() -> Int {
    integers.append(0)
    return integers.count - 1
  }

  private func newNumber() -> Int {
    numbers.append(0)
    return numbers.count - 1
  }

  private func newCallback(_ read: @escaping @EventLoop () -> Double) -> Source {
    let index = newNumber()
    callbacks.append(Callback(index: index, read: read))
    return .number(index)
  }

  private func add(_ kind: Kind, _ name: String, help: String, lines: [(name: String, labels: String, Source)]) {
    var index = families.count
    if let known = families.firstIndex(where: { $0.name == name }) {
      precondition(families[known].kind == kind && families[known].help == help, "\(name) is another metric")
      index = known
    } else {
      families.append(Family(name: name, kind: kind, help: help))
    }
    for (name, labels, source) in lines {
      let text = Array("\(name)\(labels) ".utf8)
      precondition(!families[index].series.contains { $0.text == text }, "\(name)\(labels) exists already")
      families[index].series.append(Series(text: text, source: source))
    }
    places = []
  }

  private func layOut() {
    text = []
    for family in families {
      text += "# HELP \(family.name) \(Self.escaped(family.help, quote: false))\n".utf8
      text += "# TYPE \(family.name) \(family.kind.rawValue)\n".utf8
      for series in family.series {
        text += series.text
        places.append(Place(textEnd: text.count, source: series.source))
        text.append(UInt8(ascii: "\n"))
      }
    }
  }

  private func labelText(_ labels: Labels, bound: String? = nil) -> String {
    var text = ""
    for (name, value) in labels { text += "\(text.isEmpty ? "{" : ",")\(name)=\"\(Self.escaped(value, quote: true))\"" }
    if let bound { text += "\(text.isEmpty ? "{" : ",")le=\"\(bound)\"" }
    return text.isEmpty ? "" : text + "}"
  }

  /// Label values escape backslash, newline and quote; help texts the first two.
  private static func escaped(_ text: String, quote: Bool) -> String {
    var escaped = ""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\\": escaped += "\\\\"
      case "\n": escaped += "\\n"
      case "\"" where quote: escaped += "\\\""
      default: escaped.unicodeScalars.append(scalar)
      }
    }
    return escaped
  }
}

/// A count of events.
@EventLoop
struct Counter {
  fileprivate let registry: MetricsRegistry
  fileprivate let index: Int

  func increment(by count: UInt64 = 1) {
    registry.integers[index] &+= count
  }

  var value: UInt64 { registry.integers[index] }
}

/// A value that goes up and down.
@EventLoop
struct Gauge {
  fileprivate let registry: MetricsRegistry
  fileprivate let index: Int

  func set(_ value: Double) {
    registry.numbers[index] = value
  }

  var value: Double { registry.numbers[index] }
}

/// Counts of values by size.
@EventLoop
struct Histogram {
  fileprivate let registry: MetricsRegistry
  fileprivate let bounds: [Double]
  fileprivate let firstBucket: Int
  fileprivate let sum: Int

  /// Counts `value` in every bucket whose bound it does not exceed; the last bucket has none.
  func observe(_ value: Double) {
    for (index, bound) in bounds.enumerated() where value <= bound { registry.integers[firstBucket + index] &+= 1 }
    registry.integers[firstBucket + bounds.count] &+= 1
    registry.numbers[sum] += value
  }

  var count: UInt64 { registry.integers[firstBucket + bounds.count] }
}
