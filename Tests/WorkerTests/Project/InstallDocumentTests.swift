// The commands of docs/install.md and docs/migrating.md: each refers to what exists and uses it correctly.
// scripts/package --check and scripts/image --check run those that install and start something.

import Coordination
import Foundation
import TestSupport
import Testing

@testable import Worker

@Suite struct InstallDocumentTests {
  private static let documents = ["docs/install.md", "docs/migrating.md", "docs/on-call.md"]
  private static let program = "secrets-bridge-worker"

  /// The lines of code, and text in backquotes if it is a command of the program.
  private static func commands(in document: String) throws -> [String] {
    let lines = try Repository.text(document).components(separatedBy: "\n")
    let blocks = lines.filter { $0.hasPrefix("    ") }.map { $0.trimmingCharacters(in: .whitespaces) }
    let spans = lines.flatMap { $0.matches(of: /`(secrets-bridge-worker [^`]*)`/).map { String($0.1) } }
    return (blocks + spans).filter { $0.first?.isLetter == true || $0.hasPrefix("scripts/") }
  }

  private static func words(of command: String) -> [String] {
    command.components(separatedBy: " ").filter { !$0.isEmpty }
  }

  @Test(arguments: documents) func theProgramTakesEachCommandLine(document: String) throws {
    var found = 0
    for command in try Self.commands(in: document) {
      // A quoted text is one argument.
      let words = Self.words(of: command.replacing(/"[^"]*"/, with: "text"))
      guard let arguments = Self.arguments(in: words) else { continue }
      found += 1
      guard case .run = Invocation.parse(Array(arguments)) else {
        Issue.record("\(document): \(command)")
        continue
      }
    }
    #expect(found >= 3, "\(document) has \(found) commands of the program")
  }

  /// What the program is given: in the shell, by docker after the image's name, or in a container by its path.
  private static func arguments(in words: [String]) -> ArraySlice<String>? {
    if words[0] == program { return words.dropFirst() }
    guard words[0] == "docker" || words[0] == "kubectl", !words.contains("build") else { return nil }
    let place = words.lastIndex { $0 == "/usr/local/bin/\(program)" } ?? words.lastIndex(where: isImage)
    return place.map { words[($0 + 1)...] }
  }

  private static func isImage(_ word: String) -> Bool { word.hasPrefix("\(program):") }

  @Test(arguments: documents) func eachScriptHasTheOptionsThatAreUsed(document: String) throws {
    for command in try Self.commands(in: document) where command.hasPrefix("scripts/") {
      let words = Self.words(of: command)
      let script = try Repository.text(words[0])
      for option in words.dropFirst() where option.hasPrefix("--") {
        #expect(script.contains("\(option))"), "\(document): \(command)")
      }
    }
  }

  @Test(arguments: documents) func eachFileThatIsAppliedIsThere(document: String) throws {
    for command in try Self.commands(in: document) {
      // Without a suffix it is a Deployment in the cluster.
      for word in Self.words(of: command) where word.hasPrefix("deploy/") && word.contains(".") {
        let path = Repository.root.appendingPathComponent(word).path
        #expect(FileManager.default.fileExists(atPath: path), "\(document): \(command)")
      }
    }
  }

  /// The image, its archive and the values are of the version that is built.
  @Test func theVersionIsThatOfTheProgram() throws {
    let texts = try Self.documents.map(Repository.text) + [Repository.text("deploy/kubernetes/helm-values.yaml")]
    for text in texts {
      for found in text.matches(of: /(?:secrets-bridge-worker[:-]|tag: ")(\d+\.\d+\.\d+)/) {
        #expect(String(found.1) == Version.number)
      }
    }
  }

  /// What docker and kubectl are asked to run, by the names that the manifests have.
  @Test(arguments: documents) func kubectlIsAskedForWhatIsDeployed(document: String) throws {
    let deployment = try Repository.text("deploy/kubernetes/deployment.yaml")
    for command in try Self.commands(in: document) where command.hasPrefix("kubectl ") {
      #expect(command.contains(" -n secrets-bridge "), "\(document): \(command)")
      for word in Self.words(of: command) where word.hasSuffix("/\(Self.program)") && word.hasPrefix("deploy") {
        #expect(deployment.contains("kind: Deployment") && deployment.contains("name: \(Self.program)\n"))
      }
    }
  }

  /// Every sweeper that shares a name with the existing worker's keeps its key.
  @Test func theKeysThatStayBehindAreThoseOfTheScripts() throws {
    let text = try Repository.text("docs/migrating.md")
    let keys = CoordinationScripts.keys(namespace: "secrets-bridge", sweeper: "NAME")
    for key in [keys.lock, keys.record, keys.history] { #expect(text.contains("`\(key)`"), "\(key)") }
    for component in ["postgres", "redis"] { #expect(text.contains("`secrets-bridge:outage:\(component)`")) }
  }
}
