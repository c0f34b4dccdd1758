// Prometheus and its own checker of metrics and alerts. Invariant: where they are not there, the tests that need them
// are skipped with that reason, not passed.

import Foundation
import TestSupport
import Testing

/// Where a program of Prometheus's package is: installed, or fetched by scripts/test.
private func tool(_ name: String) -> String? {
  ["/usr/bin/\(name)", Repository.root.appendingPathComponent(".local/tools/\(name)").path].first {
    FileManager.default.isExecutableFile(atPath: $0)
  }
}

enum Promtool {
  private static let path = tool("promtool")

  static var isThere: Bool { path != nil }

  /// What `promtool check metrics` has to say of `text`: nothing where all is well.
  static func findings(in text: String) async throws -> String {
    let file = FileManager.default.temporaryDirectory.appendingPathComponent("metrics-\(UUID().uuidString)")
    try text.write(to: file, atomically: false, encoding: .utf8)
    defer { unlink(file.path) }
    let (isWell, said) = try await run(#""$0" check metrics <"$1""#, file.path)
    return isWell && said.isEmpty ? "" : "found: \(said)"
  }

  /// What `promtool test rules` has to say of a file of unit tests: nothing where they pass.
  static func findings(inTests file: String) async throws -> String {
    let (isWell, said) = try await run(#""$0" test rules "$1""#, file)
    return isWell ? "" : "found: \(said)"
  }

  private static func run(_ script: String, _ file: String) async throws -> (isWell: Bool, said: String) {
    let process = try await WorkerProcess.start(
      ["-c", script, path ?? "promtool", file], environment: [:], executable: "/bin/sh")
    return (try await process.waitForExit(within: .seconds(60)) == .exited(0), process.everything)
  }
}

/// A Prometheus that scrapes one worker twice a second.
struct PrivatePrometheus {
  private static let path = tool("prometheus")

  static var isThere: Bool { path != nil }

  struct Unanswered: Error, CustomStringConvertible {
    let description: String
  }

  private let process: WorkerProcess
  private let directory: URL
  private let port: UInt16

  static func start(scraping worker: WorkerProcess, rules: String) async throws -> PrivatePrometheus {
    let directory = FileManager.default.temporaryDirectory.appendingPathComponent("prometheus-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: false)
    let file = directory.appendingPathComponent("prometheus.yaml")
    try """
    global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}
    rule_files: ["\(rules)"]
    scrape_configs: [{job_name: worker, static_configs: [{targets: ["127.0.0.1:\(worker.probePort)"]}]}]
    """.write(to: file, atomically: false, encoding: .utf8)
    let port = try freePort()
    let process = try await WorkerProcess.start(
      [
        "--config.file=\(file.path)", "--storage.tsdb.path=\(directory.path)/data",
        "--web.listen-address=127.0.0.1:\(port)",
      ], environment: [:], executable: path ?? "prometheus")
    return PrivatePrometheus(process: process, directory: directory, port: port)
  }

  func stop() async throws {
    try await process.stop()
    try FileManager.default.removeItem(at: directory)
  }

  /// The answer's data. HTTP/1.0, so that it comes in one piece.
  private func ask<Data>(_ path: String, as _: Data.Type = [String: Any].self) async throws -> Data {
    let request = Array("GET \(path) HTTP/1.0\r\nHost: localhost\r\n\r\n".utf8)
    let answer = String(decoding: try await exchange(port: port, sending: request, within: .seconds(5)), as: UTF8.self)
    let body = answer.components(separatedBy: "\r\n\r\n").dropFirst().joined(separator: "\r\n\r\n")
    let json = (try? JSONSerialization.jsonObject(with: Foundation.Data(body.utf8))) as? [String: Any]
    guard let data = json?["data"] as? Data else { throw Unanswered(description: "\(path): \(answer)") }
    return data
  }

  /// How many series a query answers.
  func seriesCount(_ query: String) async throws -> Int {
    let text = try #require(query.addingPercentEncoding(withAllowedCharacters: .alphanumerics))
    return (try await ask("/api/v1/query?query=\(text)")["result"] as? [Any])?.count ?? 0
  }

  /// The names of the metrics that it has.
  func metrics() async throws -> Set<String> {
    Set(try await ask("/api/v1/label/__name__/values", as: [String].self))
  }

  /// The states of the alerts' rules, and the names of those that fire or are about to.
  func alerts() async throws -> (health: [String], raised: [String]) {
    let groups = try await ask("/api/v1/rules")["groups"] as? [[String: Any]] ?? []
    let rules = groups.flatMap { $0["rules"] as? [[String: Any]] ?? [] }
    let raised = rules.filter { $0["state"] as? String != "inactive" }
    return (rules.compactMap { $0["health"] as? String }, raised.compactMap { $0["name"] as? String })
  }
}
