// One worker's whole life, boot to exit, through sweeps, outages and failures: what holds from its first line to its
// last.

import Foundation
import TestSupport
import Testing

@Suite(.serialized) struct WholeLifeTests {
  /// Each is in a secret's place, and must never be output.
  private static let planted = [
    "planted-redis-password", PrivatePostgres.lockedPassword, "s3cr%2Ft%20p%40ss%25", "planted-webhook-path",
    "planted-row-value", "planted-detail", "planted-provider-config",
  ]

  @Test func oneThreadOnlyJSONAndNoSecretFromBootThroughOutagesToTheEnd() async throws {
    let stage = try await WorkerStage.set(redis: PrivateRedis(password: "planted-redis-password"))
    try stage.settle()
    try await stage.makeDeletingFail()
    let worker = try await stage.start(try await Self.settings(stage))
    let threads = ThreadWatch(worker)
    let shown = try await onLoop {
      var shown = ""
      try await eventually("it sweeps, and one sweep fails") {
        let (good, bad) = try await (
          worker.runs("agents-stale", "success"), worker.runs("wraps-expired", "failure")
        )
        return good > 0 && bad > 0
      }
      for proxy in [stage.redisProxy, stage.postgresProxy] {
        proxy.goAway()
        try await worker.answersReadyz(503)
        shown += try await worker.get("/readyz").body
        proxy.heal()
        try await worker.answersReadyz(200)
      }
      let before = try await worker.runs("agents-stale", "success")
      try await eventually("it sweeps again") { try await worker.runs("agents-stale", "success") > before }
      for path in ["/metrics", "/readyz", "/healthz", "/"] { shown += try await worker.get(path).body }
      return shown
    }
    #expect(try await worker.stop() == .exited(0))

    #expect(threads.samples > 100)
    #expect(threads.most == 1)
    #expect(worker.output.isEmpty)
    for line in worker.log { expectLogLine(line) }
    #expect(worker.log.first?.message == "starting" && worker.log.last?.message == "shutdown complete")
    let (postgres, redis) = (stage.postgresProxy.port, stage.redisProxy.port)
    #expect(
      worker.log.first?["postgres"]?.hasPrefix("postgresql://\(PrivatePostgres.lockedUser)@127.0.0.1:\(postgres)/")
        == true)
    #expect(worker.log.first?["redis"] == "redis://:***@127.0.0.1:\(redis)/0")
    #expect(worker.log.first?["namespace"] == "secrets-bridge")
    #expect(worker.log.count { $0.message == "worker ready" } == 1)
    #expect(Set(worker.log.compactMap(\.level)).isSuperset(of: ["DEBUG", "INFO", "WARN", "ERROR"]))
    for secret in Self.planted {
      #expect(!worker.everything.contains(secret), "logged: \(secret)")
      #expect(!shown.contains(secret), "shown by a probe: \(secret)")
    }
  }

  /// A role with a password, a webhook with a secret path, and targets with a secret configuration.
  private static func settings(_ stage: WorkerStage) async throws -> [String: String] {
    let role = PrivatePostgres.lockedUser
    try await stage.plane.sql("GRANT ALL ON ALL TABLES IN SCHEMA public TO \(role)")
    let usual = try #require(try await stage.environment["DATABASE_URL"])
    return [
      "DATABASE_URL": usual.replacingOccurrences(of: "postgres@", with: "\(role):s3cr%2Ft%20p%40ss%25@"),
      "SB_DISCOVER_TARGETS_JSON": """
      [{"name": "a", "cluster": "c", "provider_type": "vault", "provider_config": {"k": "planted-provider-config"}}]
      """,
      "SB_WORKER_DISCOVER_INTERVAL": "500ms", "LOG_LEVEL": "debug",
    ]
  }

  private func expectLogLine(_ line: WorkerProcess.LogLine) {
    #expect(line.fields != nil, "no JSON: \(line)")
    #expect(line.message != nil && ["DEBUG", "INFO", "WARN", "ERROR"].contains(line.level), "\(line)")
    // RFC 3339 with a fraction.
    let time = line["time"] ?? ""
    #expect(time.wholeMatch(of: /\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(Z|[+-]\d\d:\d\d)/) != nil, "\(line)")
  }

  @Test(.enabled(if: Promtool.isThere, "promtool is not there; scripts/test fetches it"))
  func promtoolFindsNothingInTheMetricsOfALivingWorker() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    // A sink, so that its metrics are there.
    let worker = try await stage.start(["SB_WORKER_WEBHOOK_URL": "http://127.0.0.1:9/"])
    try await onLoop {
      try await eventually("it sweeps") { try await worker.runs("agents-stale", "success") > 0 }
      let answer = try await worker.get("/metrics")
      #expect(answer.headers["content-type"]?.hasPrefix("text/plain; version=0.0.4") ?? false)
      #expect(try await Promtool.findings(in: answer.body) == "")
      for name in [
        "worker_scheduler_runs_total", "worker_scheduler_run_duration_seconds", "worker_scheduler_lock_skipped_total",
        "worker_build_info", "worker_postgres_connected", "worker_redis_connected", "worker_redis_reconnects_total",
        "process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds",
      ] {
        #expect(answer.body.contains("\n# TYPE \(name) "), "\(name) is not shown")
      }
    }
    #expect(try await worker.stop() == .exited(0))
  }
}

extension WorkerStage {
  /// From now on, deleting a wrap fails, with a row's value wherever an error can carry one.
  fileprivate func makeDeletingFail() async throws {
    try await addExpiredWrap()
    try await plane.sql(
      """
      CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE NOTICE 'planted-row-value';
        RAISE EXCEPTION 'planted-row-value %', OLD.kms_key_id USING DETAIL = 'planted-detail', HINT = 'planted-detail';
      END $$;
      CREATE TRIGGER fail BEFORE DELETE ON secret_wraps FOR EACH ROW EXECUTE FUNCTION fail()
      """)
  }
}
