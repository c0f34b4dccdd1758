// scripts/perf-allocs: what a request, a run, a batch, a renewal and a second of a scenario allocate.

import Foundation
import TestSupport

struct PerfAllocs: Command {
  private let options: ScenarioArguments

  init(_ arguments: inout Arguments) throws { options = try ScenarioArguments(&arguments, scenario: .idle) }

  func perform() async throws -> Bool {
    let (scenario, seconds) = (options.scenario, options.seconds ?? 60)
    try await Instruments.use { instruments in
      let library = try await instruments.compileAllocations()
      show("\("allocations".right(10)) \("bytes".right(12))")
      try await requests(instruments, library)
      try await runs(instruments, library)
      try await renewals(instruments, library)
      try instruments.emptyRedis()
      let worker = try await CountedWorker(instruments, library, try await scenario.prepare(instruments))
      try await Task.sleep(for: .seconds(20))
      let cost = try await worker.allocations {
        try await scenario.drive(worker.process, seconds: seconds, instruments)
      }
      showCost(cost, of: seconds, "a second of \(scenario.rawValue)")
      try await worker.process.stop()
    }
    return true
  }

  private func showCost(_ cost: Allocations, of parts: Int, _ name: String) {
    let (count, bytes) = (Statistics.share(cost.count, per: parts), Statistics.share(cost.bytes, per: parts))
    show("\(count.description.right(10)) \(bytes.description.right(12))  \(name)")
  }

  /// A worker that keeps quiet: on a new Redis nothing is swept before a lease is over.
  private func requests(_ instruments: Instruments, _ library: String) async throws {
    let measure = try await instruments.compile("measure")
    let worker = try await CountedWorker(instruments, library, ["SB_WORKER_LEASE": "5m"])
    for (path, count) in [("/healthz", 10_000), ("/metrics", 1000), ("/readyz", 1000)] {
      let cost = try await worker.allocations { try await worker.process.request(path, count, measure, instruments) }
      showCost(cost, of: count, "a request to \(path)")
    }
    try await worker.process.stop()
  }

  // MARK: Runs

  /// Of the wraps' sweeper, the others at rest.
  private func runs(_ instruments: Instruments, _ library: String) async throws {
    try await instruments.fill()
    try instruments.emptyRedis()
    try await instruments.sql("ALTER SYSTEM SET log_statement = 'all'", "SELECT pg_reload_conf()")
    let settings = Sweeper.intervals("1h", [.wraps: "100ms"]).merging(["SB_WORKER_LEASE": "3s"]) { $1 }
    let worker = try await CountedWorker(instruments, library, settings)
    try await Task.sleep(for: .seconds(5))
    let idle = try await work(of: worker, instruments) { try await Task.sleep(for: .seconds(5)) }
    showCost(idle.cost, of: idle.runs, "a run with nothing due")
    let busy = try await work(of: worker, instruments) {
      try await instruments.addRows(["wraps": 100_000, "due": 100])
      try await wait("the wraps are swept", within: .seconds(120), step: .milliseconds(100), worker.process) {
        try await instruments.number("SELECT count(*) FROM secret_wraps") == 0
      }
    }
    showCost(busy.cost.without(idle.cost, parts: busy.runs, of: idle.runs), of: busy.batches, "a batch of wraps")
    try await instruments.sql("ALTER SYSTEM RESET log_statement", "SELECT pg_reload_conf()")
    try await worker.process.stop()
  }

  private typealias Work = (cost: Allocations, runs: Int, batches: Int)

  /// What a worker does while `body` runs.
  private func work(
    of worker: CountedWorker, _ instruments: Instruments, _ body: () async throws -> Void
  ) async throws -> Work {
    let before = (runs: try await runs(of: worker), batches: try batches(instruments))
    let cost = try await worker.allocations(of: body)
    return (cost, try await runs(of: worker) - before.runs, try batches(instruments) - before.batches)
  }

  /// How many slots its sweepers have attended to, by its own metrics.
  private func runs(of worker: CountedWorker) async throws -> Int {
    try await worker.process.get("/metrics").body.split(separator: "\n")
      .filter { $0.hasPrefix("worker_scheduler_runs_total") }
      .reduce(0) { $0 + ($1.split(separator: " ").last.flatMap { Int($0) } ?? 0) }
  }

  /// How many batches of wraps PostgreSQL has been asked to delete.
  private func batches(_ instruments: Instruments) throws -> Int {
    // The worker names the table with its schema.
    try instruments.postgres.log().split(separator: "\n").count {
      $0.contains("DELETE FROM ") && $0.contains("secret_wraps")
    }
  }

  // MARK: Renewals

  /// Of a run that waits for PostgreSQL for most of its lease, and does nothing but renew it twice; all others at rest.
  private func renewals(_ instruments: Instruments, _ library: String) async throws {
    try instruments.emptyRedis()
    try await instruments.sql(
      """
      CREATE FUNCTION wait_long() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_sleep(5); RETURN NULL; END'
      """,
      "CREATE TRIGGER wait_long BEFORE INSERT ON sync_jobs EXECUTE FUNCTION wait_long()")
    let settings = Sweeper.intervals("1h").merging([
      "SB_WORKER_LEASE": "6s", "SB_WORKER_RUN_ON_START": "true",
      "SB_DISCOVER_TARGETS_JSON": #"[{"name": "one", "cluster": "one", "provider_type": "vault"}]"#,
    ]) { $1 }
    let worker = try await CountedWorker(instruments, library, settings)
    try await wait("a run waits", within: .seconds(60), step: .milliseconds(100), worker.process) {
      try await instruments.number("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == 1
    }
    try await Task.sleep(for: .milliseconds(500))
    let before = try scriptsCalled(instruments)
    let cost = try await worker.allocations { try await Task.sleep(for: .seconds(4)) }
    showCost(cost, of: try scriptsCalled(instruments) - before, "a renewal of a lease")
    try await instruments.sql("DROP FUNCTION wait_long CASCADE")
    try await worker.process.stop()
  }

  /// How many scripts Redis has run.
  private func scriptsCalled(_ instruments: Instruments) throws -> Int {
    let statistics = try instruments.redis.cli("INFO", "commandstats")
    return statistics.firstMatch(of: /cmdstat_evalsha:calls=([0-9]+)/).flatMap { Int($0.output.1) } ?? 0
  }
}
