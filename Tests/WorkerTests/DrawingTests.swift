// A state machine's drawing is above its declaration; some are also in docs/, where they must be identical.

import Foundation
import Testing

@Suite struct DrawingTests {
  /// A drawing, without the indentation that all of its lines have.
  struct Drawing: Hashable, CustomStringConvertible {
    let lines: [String]

    init(_ lines: [String]) {
      let indentations = lines.filter { $0.contains { $0 != " " } }.map { $0.prefix { $0 == " " }.count }
      let indentation = indentations.min() ?? 0
      self.lines = lines.map { line in
        var line = String(line.dropFirst(indentation))
        while line.last == " " { line.removeLast() }
        return line
      }
    }

    /// What tells a drawing from a table, a command or a program.
    var isDrawn: Bool { description.contains { "─│┌┐└┘├┤┬┴┼▶◀▲▼⟲".contains($0) } || hasTextArrow }

    private var hasTextArrow: Bool { description.contains("-->") || description.contains("<--") }

    var description: String { lines.joined(separator: "\n") }
  }

  /// The drawings of a document: its fenced blocks that have lines of boxes or arrows.
  static func drawings(ofDocument text: String) -> [Drawing] {
    let blocks = text.components(separatedBy: "\n```")
    // Every other part is within a fence; its first line is the fence's language.
    return stride(from: 1, to: blocks.count, by: 2)
      .map { Drawing(Array(blocks[$0].components(separatedBy: "\n").dropFirst())) }
      .filter(\.isDrawn)
  }

  /// The drawings of a source: runs of comment lines that are indented as code.
  static func drawings(ofSource lines: [String]) -> [Drawing] {
    var drawings: [Drawing] = []
    var run: [String] = []
    for line in lines + [""] {
      let text = line.drop { $0 == " " }
      if text.hasPrefix("///     ") {
        run.append(String(text.dropFirst(3)))
      } else {
        if !run.isEmpty { drawings.append(Drawing(run)) }
        run = []
      }
    }
    return drawings.filter(\.isDrawn)
  }

  @Test func aDrawingInADocumentIsTheOneInTheSource() throws {
    var sources: [Drawing: String] = [:]
    for file in try SourceTree.swift("Sources") {
      for drawing in Self.drawings(ofSource: file.lines) { sources[drawing] = file.url.lastPathComponent }
    }
    var count = 0
    for document in try SourceTree.files("docs", ["md"]) {
      for drawing in Self.drawings(ofDocument: document.text) {
        count += 1
        let source = try #require(
          sources[drawing], "\(document.path) has a drawing that no source has:\n\(drawing)")
        #expect(document.text.contains("`\(source)`"), "\(document.path) names \(source), whose drawing it has")
      }
    }
    // docs/reliability.md has those of a sweeper's states, the lease and a batch.
    #expect(count >= 3)
  }

  @Test func aDrawingThatDiffersInAWordIsAnother() {
    let source = ["/// States:", "///", "///     held ──▶ lost", "///       ▲", "///", "/// More.", "struct Lease {"]
    let same = "text\n\n```\n   held ──▶ lost\n     ▲\n```\n\n```sh\nls\n```\n"
    #expect(Self.drawings(ofDocument: same) == Self.drawings(ofSource: source))
    #expect(Self.drawings(ofDocument: same).count == 1)
    let other = same.replacingOccurrences(of: "lost", with: "gone")
    #expect(Self.drawings(ofDocument: other) != Self.drawings(ofSource: source))
  }
}
