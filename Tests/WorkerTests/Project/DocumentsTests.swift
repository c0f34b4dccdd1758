// Everything that the documents name exists: folders, files, commands, and the tests behind each guarantee.

import Foundation
import TestSupport
import Testing

@Suite struct DocumentsTests {
  private static let documents = ["README.md"] + ((try? SourceTree.documents()) ?? [])
  private static let sourceNames = Result {
    Set(try SourceTree.swift("Sources", "Tests", "Examples").map(\.url.lastPathComponent))
  }

  @Test(arguments: documents)
  func whatADocumentNamesIsThere(document: String) throws {
    let text = try Repository.text(document)
    let words = Set(text.components(separatedBy: CharacterSet.alphanumerics.union(["/", "-", "."]).inverted))
    let tests = Set(try SourceTree.swift("Tests").map { $0.url.deletingPathExtension().lastPathComponent })
    for word in words.sorted() {
      if word.hasPrefix("scripts/"), word != "scripts/" {
        let path = word.hasSuffix(".") ? String(word.dropLast()) : word
        let isThere = FileManager.default.fileExists(atPath: Repository.root.appendingPathComponent(path).path)
        #expect(isThere, "\(document) names \(path)")
      }
      // A suite or a target.
      guard word.hasSuffix("Tests"), word.count > 5, !word.contains("/") else { continue }
      let isTarget = FileManager.default.fileExists(
        atPath: Repository.root.appendingPathComponent("Tests/\(word)").path)
      #expect(tests.contains(word) || isTarget, "\(document) names \(word)")
    }
  }

  /// The paths that a document has in backquotes, of files and folders of the package.
  @Test(arguments: documents)
  func aPathInADocumentLeadsSomewhere(document: String) throws {
    let text = try String(contentsOf: Repository.root.appendingPathComponent(document), encoding: .utf8)
    let names = try Self.sourceNames.get()
    let spans = text.components(separatedBy: "`").filter { !$0.contains(" ") && !$0.contains("\n") }
    for span in spans where !span.contains("*") {
      if ["Sources/", "Tests/", "Examples/", "deploy/", "docs/"].contains(where: span.hasPrefix) {
        #expect(Self.isThere(span), "\(document) names \(span)")
      } else if span.hasSuffix(".swift") {
        #expect(names.contains(span), "\(document) names \(span)")
      }
    }
  }

  /// README's layout has a row for each folder of code, and only for those.
  @Test func theLayoutIsThatOfTheFolders() throws {
    let text = try String(contentsOf: Repository.root.appendingPathComponent("README.md"), encoding: .utf8)
    let rows = try #require(text.components(separatedBy: "| folder | contents |\n").last).components(separatedBy: "\n")
    var shown: [String] = []
    var parent = ""
    for row in rows where row.hasPrefix("| ") {
      let cell = row.components(separatedBy: " | ")[0]
      let spans = cell.components(separatedBy: "`")
      let folders = stride(from: 1, to: spans.count, by: 2).map { spans[$0] }
      if cell.hasPrefix("| — ") {
        shown += folders.map { parent + $0 }
      } else {
        shown += folders
        parent = folders[0]
      }
    }
    for folder in shown { #expect(Self.isThere(folder), "the layout has \(folder)") }
    for parent in ["Sources/", "Sources/Reactor/", "Sources/Worker/", "Tests/"] {
      for folder in try Self.folders(in: parent) { #expect(shown.contains(folder), "the layout lacks \(folder)") }
    }
  }

  private static func isThere(_ path: String) -> Bool {
    FileManager.default.fileExists(atPath: Repository.root.appendingPathComponent(path).path)
  }

  private static func folders(in parent: String) throws -> [String] {
    let url = Repository.root.appendingPathComponent(parent)
    return try FileManager.default.contentsOfDirectory(at: url, includingPropertiesForKeys: [.isDirectoryKey])
      .filter { try $0.resourceValues(forKeys: [.isDirectoryKey]).isDirectory == true }
      .map { "\(parent)\($0.lastPathComponent)/" }
  }
}
