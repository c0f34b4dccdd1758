// What is shipped with the program agrees with it: the manifest, the image, the README.

import Foundation
import TestSupport
import Testing

@testable import Worker

@Suite struct DeploymentTests {
  private static func text(of file: String) throws -> String {
    try Repository.text(file)
  }

  /// The names that a setting can be given by.
  private static let variables = Set(SettingRow.all.flatMap { $0.isSecret ? [$0.name, $0.name + "_FILE"] : [$0.name] })

  @Test(arguments: ["deployment", "sidecar"])
  func theManifestSetsOnlyWhatTheWorkerKnowsAndItsValuesAreAccepted(name: String) throws {
    let manifest = try Self.text(of: "deploy/kubernetes/\(name).yaml")
    let entries = manifest.matches(of: /\{name: ([A-Z_]+), value: "?([^"}]*)"?\}/)
    #expect(entries.count >= 4)
    var environment = ["DATABASE_URL": "postgres://u@h/d", "REDIS_URL": "redis://h"]
    for entry in entries {
      let name = String(entry.1)
      #expect(Self.variables.contains(name), "\(name) is no setting")
      // The files are in the cluster.
      if !name.hasSuffix("_FILE") { environment[name] = String(entry.2) }
    }
    let (settings, warnings) = try Settings.load(environment: environment)
    #expect(warnings.isEmpty)
    // Without one, a pod has 30 s.
    let grace = manifest.firstMatch(of: /terminationGracePeriodSeconds: (\d+)/).flatMap { Int64($0.1) } ?? 30
    #expect(Duration.seconds(grace) > settings[.shutdownGrace])
  }

  @Test func theManifestAndTheImageAgreeOnWhoRunsWhatAndWhere() throws {
    let manifest = try Self.text(of: "deploy/kubernetes/deployment.yaml")
    let image = try Self.text(of: "Dockerfile")
    for line in [
      "runAsUser: 65532", "readOnlyRootFilesystem: true", "allowPrivilegeEscalation: false", "drop: [ALL]",
      "requests: {cpu: 50m, memory: 96Mi}", "limits: {cpu: 500m, memory: 256Mi}", "containerPort: 8091",
    ] {
      #expect(manifest.contains(line), "\(line)")
    }
    #expect(image.contains("\nUSER 65532:65532\n") && image.contains("\nEXPOSE 8091\n"))
    let asked = manifest.matches(of: /httpGet: \{path: \/(\w+), port: probes\}/).map { String($0.1) }
    #expect(asked == Verb.probe.operands.words() && manifest.contains("- {name: probes, containerPort: 8091}"))
    for command in manifest.matches(of: /command: \[([^\]]*)\]/).map({ $0.1.components(separatedBy: ", ") }) {
      #expect(image.contains("ENTRYPOINT [\"\(command[0])\"]"))
      guard case .run(let verb, _) = Invocation.parse(Array(command.dropFirst())), verb.name == Verb.probe.name else {
        Issue.record("\(command) is no probe")
        continue
      }
    }
  }

  @Test func whatTheImageCopiesIsInItsContext() throws {
    let kept = try Self.text(of: ".dockerignore").split(separator: "\n").filter { $0.hasPrefix("!") }.map {
      $0.dropFirst()
    }
    for needed in ["Package.swift", "Sources", "Tests", "Examples", "scripts"] {
      #expect(kept.contains { $0 == needed }, "\(needed) is not in the image's context")
    }
  }

  @Test func everyFolderOfTheSourcesIsInTheReadme() throws {
    let readme = try Self.text(of: "README.md")
    for directory in ["Sources", "Sources/Reactor", "Sources/Worker"] {
      let folder = Repository.root.appendingPathComponent(directory)
      for entry in try FileManager.default.contentsOfDirectory(
        at: folder, includingPropertiesForKeys: [.isDirectoryKey])
      where try entry.resourceValues(forKeys: [.isDirectoryKey]).isDirectory == true {
        #expect(
          readme.contains("\(entry.lastPathComponent)/"),
          "README.md leaves \(directory)/\(entry.lastPathComponent) out")
      }
    }
  }
}
