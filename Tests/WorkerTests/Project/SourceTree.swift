// The sources as text, for the rules that TidyTests checks.

import Foundation
import TestSupport

/// The files of the package.
enum SourceTree {
  struct File {
    let url: URL
    /// From the root on.
    let path: String
    let text: String
    let lines: [String]

    init(_ url: URL) throws {
      self.url = url
      path = String(url.path.dropFirst(Repository.root.path.count + 1))
      text = try String(contentsOf: url, encoding: .utf8)
      var lines = text.components(separatedBy: "\n")
      if lines.last == "" { lines.removeLast() }
      self.lines = lines
    }

    /// The lines in which a match of the regular expression begins.
    func lines(matching pattern: String) -> [Line] {
      // A pattern that is none is a fault of the test that has it.
      let expression = try! NSRegularExpression(pattern: pattern, options: .anchorsMatchLines)
      let whole = text as NSString
      let matches = expression.matches(in: text, range: NSRange(location: 0, length: whole.length))
      return Set(matches.map { whole.substring(to: $0.range.location).count { $0 == "\n" } }).sorted()
        .map { Line(file: self, index: $0) }
    }
  }

  struct Line {
    let file: File
    let index: Int

    var text: String { file.lines[index] }
    var place: String { "\(file.path):\(index + 1)" }
    var isCode: Bool { !text.drop { $0 == " " }.hasPrefix("//") }

    /// Whether a comment is beside it or right above it.
    var isExplained: Bool {
      text.contains("// ") || (index > 0 && file.lines[index - 1].drop { $0 == " " }.hasPrefix("//"))
    }
  }

  /// A pattern for the lines that import one of the modules.
  static func importing(_ modules: String) -> String {
    #"^ *(@\w+(\([^)\n]*\))? +|(public|package|internal|private|fileprivate) +)*import +"#
      + "((struct|class|enum|func|var|protocol|typealias) +)?(\(modules))\\b"
  }

  static func files(_ directory: String, _ extensions: [String]) throws -> [File] {
    let paths = FileManager.default.enumerator(
      at: Repository.root.appendingPathComponent(directory), includingPropertiesForKeys: nil)
    let urls = (paths?.allObjects as? [URL] ?? []).filter { extensions.contains($0.pathExtension) }
    return try urls.sorted { $0.path < $1.path }.map(File.init)
  }

  static func swift(_ directories: String...) throws -> [File] {
    try directories.flatMap { try files($0, ["swift"]) }
  }

  /// The commands: files without an extension in scripts/ and .ci/.
  static func scripts() throws -> [File] {
    try ["scripts", ".ci"].flatMap { directory in
      try FileManager.default.contentsOfDirectory(
        at: Repository.root.appendingPathComponent(directory), includingPropertiesForKeys: [.isRegularFileKey]
      ).filter { url in
        let isFile = try url.resourceValues(forKeys: [.isRegularFileKey]).isRegularFile
        return isFile == true && url.pathExtension.isEmpty && !url.lastPathComponent.hasPrefix(".")
      }.sorted { $0.path < $1.path }.map(File.init)
    }
  }

  /// The paths of the documentation.
  static func documents() throws -> [String] {
    try files("docs", ["md"]).map(\.path)
  }

  /// The exceptions, each with its reason.
  static func isAllowed(_ pattern: String, _ line: Line) -> Bool {
    // The executor is what the compiler's proof rests on.
    if pattern.contains("@unchecked"), line.file.path.hasPrefix("Sources/Reactor/EventLoop/") { return true }
    if pattern == #"\bTask\("#, line.file.path == "Sources/Reactor/EventLoop/EventLoop.swift" { return true }
    // A dropped error with its reason beside it.
    if pattern.contains("try"), line.isExplained { return true }
    return false
  }
}
