// The alerts and the dashboard: that they fire, that each has its section in docs/on-call.md, and that their queries
// are about what a living worker shows.

import Foundation
import TestSupport
import Testing

@Suite(.serialized) struct AlertTests {
  private static let rulesFile = Repository.root.appendingPathComponent("deploy/prometheus-rules.yaml").path

  private static func captures(_ pattern: Regex<(Substring, Substring)>, in file: String) throws -> [String] {
    try Repository.text(file).matches(of: pattern).map { String($0.1) }
  }

  @Test func eachAlertHasASectionAndATest() throws {
    let alerts = try Self.captures(/- alert: (\w+)/, in: "deploy/prometheus-rules.yaml")
    #expect(alerts.count >= 15 && Set(alerts).count == alerts.count)
    let document = try Repository.text("docs/on-call.md")
    let sections = try #require(document.components(separatedBy: "\n## Alerts\n").last)
    #expect(sections.matches(of: /\n### (\w+)\n/).map { String($0.1) } == alerts)
    #expect(
      try Self.captures(/runbook: docs\/on-call.md#(\w+)/, in: "deploy/prometheus-rules.yaml")
        == alerts.map { $0.lowercased() })
    let fired = try Self.captures(/alertname="(\w+)"/, in: "deploy/prometheus-rules-test.yaml")
    let tested = try Self.captures(/alertname: (\w+)\n +exp_alerts:/, in: "deploy/prometheus-rules-test.yaml")
    #expect(Set(fired + tested) == Set(alerts))
  }

  @Test(.enabled(if: Promtool.isThere, "promtool is not there; scripts/test fetches it"))
  func theUnitTestsOfTheAlertsPass() async throws {
    let file = Repository.root.appendingPathComponent("deploy/prometheus-rules-test.yaml").path
    #expect(try await Promtool.findings(inTests: file) == "")
  }

  // MARK: The dashboard

  private struct Dashboard: Decodable {
    struct Source: Decodable, Equatable {
      let type: String
      let uid: String
    }
    struct Position: Decodable {
      let x: Int
      let y: Int
      let w: Int
      let h: Int
    }
    struct Target: Decodable {
      let refId: String
      let datasource: Source
      let expr: String
      let legendFormat: String
    }
    struct Panel: Decodable {
      let id: Int
      let type: String
      let title: String
      let datasource: Source
      let gridPos: Position
      let targets: [Target]
    }
    struct Variable: Decodable {
      let name: String
      let type: String
      let query: String
    }
    struct Templating: Decodable {
      let list: [Variable]
    }
    let title: String
    let uid: String
    let schemaVersion: Int
    let templating: Templating
    let panels: [Panel]
  }

  private static func dashboard() throws -> Dashboard {
    try JSONDecoder().decode(Dashboard.self, from: Data(Repository.text("deploy/grafana-dashboard.json").utf8))
  }

  /// By Grafana's documented JSON model: a grid of 24 columns, identifiers once, every query of the chosen source.
  @Test func theDashboardHasTheShapeThatGrafanaDocuments() throws {
    let dashboard = try Self.dashboard()
    #expect(dashboard.schemaVersion >= 36 && dashboard.uid.utf8.count <= 40)
    #expect(dashboard.templating.list.map(\.type) == ["datasource"])
    #expect(dashboard.templating.list.map(\.query) == ["prometheus"])
    let source = Dashboard.Source(type: "prometheus", uid: "${\(dashboard.templating.list[0].name)}")
    #expect(Set(dashboard.panels.map(\.id)).count == dashboard.panels.count)
    var taken: Set<[Int]> = []
    for panel in dashboard.panels {
      #expect(["stat", "bargauge", "timeseries"].contains(panel.type), "\(panel.title)")
      #expect(panel.datasource == source && panel.targets.allSatisfy { $0.datasource == source }, "\(panel.title)")
      #expect(Set(panel.targets.map(\.refId)).count == panel.targets.count && !panel.targets.isEmpty)
      let place = panel.gridPos
      #expect(place.x >= 0 && place.x + place.w <= 24, "\(panel.title)")
      for x in place.x..<(place.x + place.w) {
        for y in place.y..<(place.y + place.h) {
          #expect(taken.insert([x, y]).inserted, "\(panel.title) lies over another panel")
        }
      }
    }
  }

  @Test(.enabled(if: PrivatePrometheus.isThere, "prometheus is not there; scripts/test fetches it"))
  func eachQueryHasAnAnswerForALivingWorkerAndNoAlertFires() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    try await stage.addExpiredWrap()
    let worker = try await stage.start([
      "SB_WORKER_WEBHOOK_URL": "http://127.0.0.1:9/", "SB_WORKER_QUEUE_ALERT_AFTER": "1m",
    ])
    try await onLoop {
      try await eventually("it sweeps") { try await worker.runs("wraps-expired", "success") > 0 }
    }
    let prometheus = try await PrivatePrometheus.start(scraping: worker, rules: Self.rulesFile)
    // Rates need two samples.
    try await onLoop {
      try await eventually("it is scraped twice", within: .seconds(20)) {
        (try? await prometheus.seriesCount("rate(worker_loop_turns_total[1m])")) ?? 0 > 0
      }
      try await eventually("the alerts are evaluated") { try await !prometheus.alerts().health.contains("unknown") }
      let (health, raised) = try await prometheus.alerts()
      #expect(health.count >= 15 && Set(health) == ["ok"])
      #expect(raised.filter { !["SecretsBridgeNotificationsWait"].contains($0) } == [])
      for target in try Self.dashboard().panels.flatMap(\.targets) {
        #expect(try await prometheus.seriesCount(target.expr) > 0, "\(target.expr)")
      }
      // A metric that is not shown would never raise an alert.
      let shown = try await prometheus.metrics()
      for metric in try Self.captures(/((?:worker|process)_[a-z_]+)/, in: "deploy/prometheus-rules.yaml") {
        #expect(shown.contains(metric), "\(metric)")
      }
    }
    try await prometheus.stop()
    #expect(try await worker.stop() == .exited(0))
  }
}
