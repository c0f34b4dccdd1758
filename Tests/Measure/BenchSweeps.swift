// The benchmarks of the sweeps: each beside psql running the one statement, what writers feel of them, how they grow.

import Foundation
import TestSupport

extension BenchRun {
  /// A sweep or a statement: how long it took, and when it ended in seconds since 1970.
  struct Timed {
    let milliseconds: Figure
    let ended: Double
    /// The worker's peak of resident memory.
    var peakKB: Int?
  }

  /// Alternates with psql on the same rows. The transactions of both are recorded alike.
  func sweep(_ sweeper: Sweeper, rows: Int, ratio: String, longest: String, _ rounds: Int) async throws {
    try await prepare()
    try await instruments.fill([sweeper.rows: rows])
    try await keepRows()
    var psql: [Figure] = []
    var worker: [Figure] = []
    var transactions: [Figure] = []
    for _ in 0..<rounds {
      try await restoreRows(of: sweeper)
      _ = try await longestTransaction { psql.append(try await time(sweeper.statement).milliseconds) }
      try await restoreRows(of: sweeper)
      transactions.append(
        try await longestTransaction { worker.append(try await timeSweeps(of: sweeper)[0].milliseconds) })
    }
    say("psql: \(list(psql)), worker: \(list(worker)), longest: \(list(transactions))")
    add(
      BenchRow(
        "\(sweeper.rows)_ms", "\(sweeper.rawValue): half of \(rows) rows due", try median(worker, "sweep"), "ms",
        .ratioAtMost(ratio), beside: try median(psql, "psql"), "psql"))
    add(
      BenchRow(
        "\(sweeper.rows)_longest_ms", "\(sweeper.rawValue): longest transaction",
        try median(transactions, "transactions"), "ms", .atMost(longest)))
  }

  private func list(_ figures: [Figure]) -> String { figures.map(\.description).joined(separator: " ") }

  func nothing() async throws {
    try await prepare()
    let rows = pick(200_000, 1_000_000)
    for sweeper in Sweeper.first {
      try await instruments.fill([sweeper.rows: rows, "due": 0])
      // The first run may read the whole table; later runs need not.
      _ = try await timeSweeps(of: sweeper)
      var counts: [Figure] = []
      var sweeps: [Figure] = []
      for _ in 0..<pick(1, 3) {
        for _ in 0..<3 { counts.append(try await time(sweeper.countQuery).milliseconds) }
        sweeps += try await timeSweeps(of: sweeper, count: 3).map(\.milliseconds)
      }
      // No index covers the expiry of a claim.
      let target = sweeper == .jobs ? Target.ratioAtMost("1") : .atMost("5")
      add(
        BenchRow(
          "nothing_\(sweeper.rows)_ms", "\(sweeper.rawValue): nothing due of \(rows)", try median(sweeps, "sweeps"),
          "ms", target, beside: try median(counts, "counts"), "psql's count"))
    }
  }

  func growth() async throws {
    try await prepare()
    var times: [(x: Figure, y: Figure)] = []
    var peaks: [(x: Figure, y: Figure)] = []
    for count in pick([20_000, 200_000], [20_000, 200_000, 2_000_000, 20_000_000]) {
      try await instruments.fill(["wraps": count])
      let sweep = try await timeSweeps(of: .wraps)[0]
      let due = Figure(count / 2)
      let peak = Figure(sweep.peakKB ?? 0)
      times.append((due, sweep.milliseconds))
      peaks.append((due, peak))
      add(BenchRow("growth_\(count)_ms", "wraps-expired: \(due) of \(count) due", sweep.milliseconds, "ms"))
      add(BenchRow("growth_\(count)_kb", "the same: peak of resident memory", peak, "kB"))
    }
    try plot("growth", "Milliseconds against due rows: wraps-expired, half of the table due", times)
    try plot("growth-memory", "Peak of resident memory in kB against due rows", peaks)
  }

  // MARK: Writers beside a sweep

  /// Writers arrive at a fixed rate, and a wait counts from the scheduled start. Without a rate two clients saturate
  /// two cores by themselves, and the measurement would show only the kernel's time slices.
  private static let writersASecond = 500

  private static let writer = #"""
    INSERT INTO secret_wraps
      (encrypted_value, nonce, data_key_ciphertext, kms_key_id, content_hash, byte_length, expires_at)
    VALUES ('\x00', '\x00', '\x00', 'key', '\x00', 1, now() + interval '1 hour') RETURNING id AS wrap \gset
    UPDATE secret_wraps SET consumed_at = now(), consumed_by_user = 'someone' WHERE id = ':wrap';

    """#

  func writers() async throws {
    try await prepare()
    let script = instruments.file("writer.sql")
    try Self.writer.write(toFile: script, atomically: false, encoding: .utf8)
    try await instruments.fill(["wraps": pick(200_000, 2_000_000)])
    try await keepRows()
    var alone: [Figure] = []
    var control: [Figure] = []
    var worker: [Figure] = []
    var slowed: [Figure] = []
    var psql: [Figure] = []
    for _ in 0..<pick(2, 5) {
      try await restoreRows(of: .wraps)
      alone.append(try await waitsUndisturbed(of: script))
      worker.append(try await waits(of: script) { try await timeSweeps(of: .wraps)[0] })
      try await restoreRows(of: .wraps)
      slowed.append(try await waits(of: script) { try await timeSweeps(of: .wraps, pace: "1/4")[0] })
      try await restoreRows(of: .wraps)
      psql.append(try await waits(of: script) { try await time(Sweeper.wraps.statement) })
      try await restoreRows(of: .wraps)
      control.append(try await waitsUndisturbed(of: script))
    }
    let undisturbed = try median(alone, "writers")
    add(
      BenchRow(
        "writers_ms", "\(Self.writersASecond) writers a second: p99 beside the wraps' sweep",
        try median(worker, "writers"), "ms", .ratioAtMost("2"), beside: undisturbed, "undisturbed"))
    add(
      BenchRow(
        "writers_paced_ms", "the same with SB_WORKER_PACE=1/4", try median(slowed, "writers"), "ms",
        .ratioAtMost("1.3"), beside: undisturbed, "undisturbed"))
    add(
      BenchRow(
        "writers_psql_ms", "the same beside the one DELETE", try median(psql, "writers"), "ms", beside: undisturbed,
        "undisturbed"))
    // A ratio above 1.3 beside a sweep says nothing if this one is as large.
    add(
      BenchRow(
        "writers_control_ms", "the same undisturbed, at the end of each round", try median(control, "writers"), "ms",
        beside: undisturbed, "undisturbed"))
  }

  /// The writers' p99 in ms without a sweep.
  private func waitsUndisturbed(of script: String) async throws -> Figure {
    try await waits(of: script) {
      try await Task.sleep(for: .seconds(2))
      return Timed(milliseconds: Figure(2000), ended: Date().timeIntervalSince1970)
    }
  }

  /// The writers' p99 in ms, of those that ended while `body` did what it says it timed.
  private func waits(of script: String, _ body: () async throws -> Timed) async throws -> Figure {
    let logs = instruments.work.appendingPathComponent("writers")
    if FileManager.default.fileExists(atPath: logs.path) { try FileManager.default.removeItem(at: logs) }
    try FileManager.default.createDirectory(at: logs, withIntermediateDirectories: false)
    let writers = try await instruments.start([
      PrivatePostgres.program("pgbench"), "-n", "-c", "2", "-T", "600", "-l", "--log-prefix=\(logs.path)/pgbench",
      "--rate=\(Self.writersASecond)", "-f", script, instruments.postgres.url(database: Instruments.database),
    ])
    try await Task.sleep(for: .seconds(1))
    let timed = try await body()
    guard writers.ending == nil else { throw Failure("pgbench ended early: \(Instruments.tail(writers))") }
    writers.signal(SIGINT)
    try await writers.waitForExit()
    let latencies = try FileManager.default.contentsOfDirectory(atPath: logs.path).flatMap { name in
      BenchOutput.latencies(
        pgbench: try String(contentsOfFile: "\(logs.path)/\(name)", encoding: .utf8),
        from: timed.ended - timed.milliseconds.value / 1000, to: timed.ended)
    }
    guard let p99 = Statistics.percentile(99, of: latencies) else { throw Failure("no writer ended meanwhile") }
    return Figure(p99, decimals: 2)
  }

  // MARK: What is timed

  /// How long psql says that a statement took.
  private func time(_ statement: String) async throws -> Timed {
    let output = try await instruments.sql("\\timing on", statement)
    guard let milliseconds = BenchOutput.milliseconds(psql: output) else { throw Failure("no time: \(output)") }
    return Timed(milliseconds: milliseconds, ended: Date().timeIntervalSince1970)
  }

  /// The durations of `count` sweeps in a running worker's log. Like psql's time, they exclude connecting.
  private func timeSweeps(
    of sweeper: Sweeper, count: Int = 1, pace: String = "full"
  ) async throws -> [Timed] {
    try instruments.redis.cli("DEL", "secrets-bridge:schedule:{secrets-bridge:lock:worker:sweeper:\(sweeper.rawValue)}")
    // A single run is due because its record was deleted. No other follows, because it would meet dead index entries.
    let settings = Sweeper.intervals("24h", [sweeper: count > 1 ? "1s" : "24h"]).merging(
      ["LOG_LEVEL": "debug", "SB_WORKER_LEASE": "3s", "SB_WORKER_PACE": pace]) { $1 }
    let worker = try await instruments.start([Instruments.worker, "run"], settings: settings)
    var swept: [SweptLine] = []
    try await wait("\(count) sweeps are over", within: .seconds(300), step: .milliseconds(200), worker) {
      swept = worker.log.compactMap { $0.fields.flatMap { SweptLine($0, of: sweeper.rawValue) } }
      return swept.count >= count
    }
    let peak = try worker.figures.status("VmHWM")
    try await worker.stop()
    return swept.prefix(count).map {
      Timed(milliseconds: Figure($0.milliseconds), ended: $0.ended, peakKB: peak)
    }
  }

  /// The longest of the worker's transactions while `body` runs, in steps of a millisecond.
  private func longestTransaction(_ body: () async throws -> Void) async throws -> Figure {
    try await instruments.maintain("CREATE TABLE IF NOT EXISTS watched (stop BOOLEAN)", "TRUNCATE watched")
    let watch = try await instruments.start(instruments.psql("postgres") + ["-c", Self.watching])
    try await body()
    try await instruments.maintain("INSERT INTO watched VALUES (true)")
    try await instruments.finish(watch, as: "the watch of transactions", within: .seconds(30))
    let longest = watch.log.compactMap { $0.text.firstMatch(of: /longest ([0-9.]+)/) }.last
    // None was seen while psql worked in the worker's place.
    return longest.flatMap { Figure($0.output.1) } ?? Figure(0)
  }

  private static let watching = """
    DO $$
    DECLARE longest INTERVAL := '0'; seen INTERVAL;
    BEGIN
      LOOP
        PERFORM pg_stat_clear_snapshot();
        SELECT max(clock_timestamp() - xact_start) INTO seen FROM pg_stat_activity
         WHERE usename = 'worker' AND state <> 'idle';
        longest := greatest(longest, seen);
        EXIT WHEN EXISTS (SELECT FROM watched);
        PERFORM pg_sleep(0.0005);
      END LOOP;
      RAISE NOTICE 'longest %', round(extract(epoch FROM longest) * 1000, 1);
    END $$
    """

  // MARK: The rows

  /// Prevents what would take a core from one side during its measurement: autovacuum, and the first sweeps on a new
  /// Redis.
  private func prepare() async throws {
    try await instruments.sql("ALTER SYSTEM SET autovacuum = off", "SELECT pg_reload_conf()")
    try await instruments.fill()
    try await instruments.runOnce()
  }

  /// What the database holds now is what `restoreRows` brings back.
  private func keepRows() async throws {
    try await instruments.maintain("DROP DATABASE IF EXISTS kept", copy("kept", of: Instruments.database))
  }

  private func restoreRows(of sweeper: Sweeper) async throws {
    let database = Instruments.database
    try await instruments.maintain("DROP DATABASE \(database) WITH (FORCE)", copy(database, of: "kept"), "CHECKPOINT")
    // Load the tables into memory, for both sides alike, and flush pending writes, or the kernel would make the next
    // writer wait for them.
    for table in sweeper.tables { try await instruments.sql("SELECT count(*) FROM \(table)") }
    try await instruments.run(["sync"])
  }

  private func copy(_ name: String, of template: String) -> String {
    "CREATE DATABASE \(name) TEMPLATE \(template) OWNER worker STRATEGY file_copy"
  }
}
