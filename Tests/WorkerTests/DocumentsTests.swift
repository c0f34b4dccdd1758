// What the documents name exists: the commands and the tests that stand behind a promise.

import Foundation
import Testing

@Suite struct DocumentsTests {
  private static let documents = ["README.md"] + ((try? SourceTree.documents()) ?? [])

  @Test(arguments: documents)
  func whatADocumentNamesIsThere(document: String) throws {
    let text = try String(contentsOf: SourceTree.root.appendingPathComponent(document), encoding: .utf8)
    let words = Set(text.components(separatedBy: CharacterSet.alphanumerics.union(["/", "-", "."]).inverted))
    let tests = Set(try SourceTree.swift("Tests").map { $0.url.deletingPathExtension().lastPathComponent })
    for word in words.sorted() {
      if word.hasPrefix("scripts/"), word != "scripts/" {
        let path = word.hasSuffix(".") ? String(word.dropLast()) : word
        let isThere = FileManager.default.fileExists(atPath: SourceTree.root.appendingPathComponent(path).path)
        #expect(isThere, "\(document) names \(path)")
      }
      // A suite or a target.
      guard word.hasSuffix("Tests"), word.count > 5, !word.contains("/") else { continue }
      let isTarget = FileManager.default.fileExists(
        atPath: SourceTree.root.appendingPathComponent("Tests/\(word)").path)
      #expect(tests.contains(word) || isTarget, "\(document) names \(word)")
    }
  }
}
