// Kubernetes accepts the manifests in deploy/kubernetes, and the worker their settings. manifests.py has the rules.

import Foundation
import TestSupport
import Testing

@testable import Worker

@Suite struct ManifestTests {
  private static let manifests = Repository.root.appendingPathComponent("deploy/kubernetes")

  private func check(_ directory: URL) async throws -> (ending: WorkerProcess.Ending, text: String) {
    let script = Repository.root.appendingPathComponent("Tests/Manifests/manifests.py").path
    let process = try await WorkerProcess.start(
      [script, directory.path], environment: [:], executable: "/usr/bin/python3")
    let ending = try await process.waitForExit(within: .seconds(30))
    return (ending, process.everything)
  }

  @Test func theManifestsKeepToThePublishedSchemas() async throws {
    let (ending, said) = try await check(Self.manifests)
    #expect(ending == .exited(0), "\(said)")
  }

  /// The chart gives these variables, and the rest as a secret.
  @Test func theWorkerStartsWithWhatTheChartGivesIt() async throws {
    let variables = try await check(Self.manifests).text.matches(of: /variable ([A-Z_]+)=(.*)/)
    #expect(variables.count >= 5)
    var environment = ["DATABASE_URL": "postgres://u@h/d", "REDIS_URL": "redis://h"]
    for variable in variables { environment[String(variable.1)] = String(variable.2) }
    let (_, warnings) = try Settings.load(environment: environment)
    #expect(warnings.isEmpty)
  }

  @Test(arguments: [
    ("deployment.yaml", "/readyz", "/ready", "readinessProbe asks for /ready"),
    ("deployment.yaml", "runAsUser: 65532", "runAsUser: 0", "securityContext.runAsUser is 0"),
    ("deployment.yaml", "  replicas: 2", "  replica: 2", "'replica' was unexpected"),
    ("deployment.yaml", "/etc/secrets-bridge-worker/redis-url", "/etc/redis-url", "REDIS_URL_FILE is in no volume"),
    ("deployment.yaml", ", memory: 256Mi}", "}", "no resources.limits.memory"),
    ("sidecar.yaml", "          restartPolicy: Always\n", "", "readinessProbe asks for None"),
    ("sidecar.yaml", "- name: worker-urls", "- name: urls", "no volume {'worker-urls'}"),
    ("disruption-budget.yaml", "policy/v1", "policy/v1beta1", "no schema for"),
    ("network-policy.yaml", "protocol: TCP", "protocoll: TCP", "'protocoll' was unexpected"),
    ("pod-monitor.yaml", "  selector:", "  selectors:", "'selector' is a required property"),
    ("helm-values.yaml", "imageRegistry", "registry", "the chart has no value registry"),
    ("helm-values.yaml", "tag: \"0.1.0\"", "tag: latest", "the image's tag is not a version"),
  ])
  func aMistakeIsNamed(file: String, text: String, mistake: String, fault: String) async throws {
    let directory = FileManager.default.temporaryDirectory.appendingPathComponent("manifests-\(UUID().uuidString)")
    try FileManager.default.copyItem(at: Self.manifests, to: directory)
    defer { try? FileManager.default.removeItem(at: directory) }
    let manifest = try Repository.text("deploy/kubernetes/\(file)")
    #expect(manifest.contains(text))
    try manifest.replacingOccurrences(of: text, with: mistake)
      .write(to: directory.appendingPathComponent(file), atomically: false, encoding: .utf8)
    let (ending, said) = try await check(directory)
    #expect(ending == .exited(1) && said.contains(fault), "\(said)")
  }
}
