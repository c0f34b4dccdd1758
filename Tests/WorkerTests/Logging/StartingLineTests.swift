// What the first line of the log says of a worker.

import Logging
import Testing

@testable import Worker

@Suite struct StartingLineTests {
  @Test func theFirstLogLineSaysWhatTheWorkerIsConfiguredToDo() throws {
    let settings = try Settings.load(
      environment: [
        "DATABASE_URL": "postgres://u:hunter2@h/d", "REDIS_URL": "redis://:hunter2@h",
        "SB_WORKER_AGENTS_STALE_INTERVAL": "90s", "SB_WORKER_SLACK_WEBHOOK_URL": "https://h/hunter2",
      ]
    ).settings
    let fields = StartingLine.fields(settings, sandbox: "system calls")
    #expect(!"\(fields)".contains("hunter2"))
    #expect(fields["sandbox"] == "system calls")
    #expect(fields["lease"] == "15s" && fields["sinks"] == ["slack"])
    guard case .dictionary(let sweepers)? = fields["sweepers"] else {
      Issue.record("no sweepers: \(fields)")
      return
    }
    #expect(sweepers["agents-stale"] == "every 1m30s")
    #expect(sweepers["discover-scheduler"] == "off: SB_DISCOVER_TARGETS_JSON has no target")
    #expect(Set(sweepers.keys) == Set(Sweepers.names))
  }
}
