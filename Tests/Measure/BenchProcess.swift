// The benchmarks of the process itself: size, start, probes, round trips to Redis, idle cost, memory, a fleet.

import Foundation
import TestSupport

extension BenchRun {
  func size() async throws {
    let stripped = instruments.file("stripped")
    try await instruments.run(["strip", "-o", stripped, Instruments.worker])
    let bytes = try FileManager.default.attributesOfItem(atPath: stripped)[.size] as? Int ?? 0
    add(BenchRow("binary_mb", "binary, stripped", Figure(Double(bytes) / 1_048_576, decimals: 1), "MB", .atMost("10")))
  }

  func start() async throws {
    var worker: [Figure] = []
    var floors: [Figure] = []
    for _ in 0..<pick(9, 31) {
      floors.append(try await timeUntil("ready", [floor]))
      worker.append(try await timeUntil(#""msg":"worker ready""#, [Instruments.worker, "run"]))
    }
    add(
      BenchRow(
        "ready_ms", "exec to ready", try median(worker, "start"), "ms", .ratioAtMost("1.2"),
        beside: try median(floors, "start"), "floor"))
  }

  /// From before the exec until a program has written `text`, in ms.
  private func timeUntil(_ text: String, _ command: [String]) async throws -> Figure {
    try await instruments.milliseconds([measure, "said", text] + command)
  }

  // MARK: Probes

  /// Rounds of one server under load.
  private struct Load {
    var rates: [Figure] = []
    var p99s: [Figure] = []
    var cpu: [Figure] = []
  }

  /// Server and client have a core each, where there are two.
  private func pinned(_ core: Int, _ command: [String]) -> [String] {
    ProcessInfo.processInfo.activeProcessorCount > 1 ? ["taskset", "-c", "\(core)"] + command : command
  }

  private func round(_ load: inout Load, of figures: KernelFigures, _ url: String) async throws {
    let before = try figures.cpuNanoseconds
    let output = try await instruments.run(
      pinned(0, ["wrk", "-t1", "-c32", "-d\(pick(2, 4))s", "--latency", url]))
    let used = try figures.cpuNanoseconds - before
    guard let report = WrkReport(output), report.requests > 0 else { throw Failure("wrk measured nothing: \(output)") }
    load.rates.append(Figure(report.requestsPerSecond))
    load.p99s.append(report.p99Microseconds)
    load.cpu.append(Figure(used / report.requests))
  }

  func probes() async throws {
    let nginx = try await startNginx()
    let worker = try await instruments.startWorker(under: pinned(1, []))
    let paths = ["/healthz", "/metrics", "/readyz"]
    var competitor = Load()
    var loads = [Load](repeating: Load(), count: paths.count)
    for _ in 0..<pick(3, 7) {
      try await round(&competitor, of: nginx.worker, nginx.url)
      for (index, path) in paths.enumerated() { try await round(&loads[index], of: worker.figures, worker.url(path)) }
    }
    try await worker.stop()
    try await nginx.process.stop()
    let (health, metrics, ready) = (loads[0], loads[1], loads[2])
    let rate = try median(health.rates, "rate")
    add(
      BenchRow(
        "healthz_rate", "/healthz, 32 connections", rate, "1/s", .ratioAtLeast("1"),
        beside: try median(competitor.rates, "rate"), "nginx"))
    add(
      BenchRow(
        "healthz_p99_us", "/healthz, p99", try median(health.p99s, "p99"), "µs", .ratioAtMost("1"),
        beside: try median(competitor.p99s, "p99"), "nginx"))
    add(
      BenchRow(
        "healthz_cpu_ns", "/healthz, CPU a request", try median(health.cpu, "CPU"), "ns", .ratioAtMost("1"),
        beside: try median(competitor.cpu, "CPU"), "nginx"))
    add(
      BenchRow(
        "metrics_rate", "/metrics, 32 connections", try median(metrics.rates, "rate"), "1/s", .ratioAtLeast("0.5"),
        beside: rate, "/healthz"))
    add(
      BenchRow(
        "readyz_rate", "/readyz, 32 connections", try median(ready.rates, "rate"), "1/s", .atLeast("14000")))
  }

  /// nginx with one worker process and a static answer.
  private func startNginx() async throws -> (process: WorkerProcess, worker: KernelFigures, url: String) {
    let directory = instruments.file("nginx")
    let port = try freePort()
    try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
    let configuration = """
      worker_processes 1;
      daemon off;
      pid \(directory)/pid;
      error_log \(directory)/error.log;
      events { worker_connections 256; }
      http {
        access_log off;
        keepalive_requests 1000000000;
        client_body_temp_path \(directory)/body;
        proxy_temp_path \(directory)/proxy;
        fastcgi_temp_path \(directory)/fastcgi;
        uwsgi_temp_path \(directory)/uwsgi;
        scgi_temp_path \(directory)/scgi;
        server {
          listen 127.0.0.1:\(port);
          location / { default_type application/json; return 200 '{"status":"ok"}'; }
        }
      }

      """
    try configuration.write(toFile: "\(directory)/nginx.conf", atomically: false, encoding: .utf8)
    let process = try await instruments.start(
      pinned(1, ["nginx", "-c", "\(directory)/nginx.conf", "-e", "\(directory)/error.log"]))
    var worker: pid_t?
    try await wait("nginx has its worker process", process) {
      let children = try String(contentsOfFile: "/proc/\(process.id)/task/\(process.id)/children", encoding: .utf8)
      worker = children.split(separator: " ").first.flatMap { pid_t($0) }
      return try await httpStatus(port) == 200 && worker != nil
    }
    return (process, KernelFigures(id: worker!), "http://127.0.0.1:\(port)/healthz")
  }

  private func httpStatus(_ port: UInt16) async throws -> Int {
    // Nobody listens yet: asked again until the deadline.
    (try? await httpGet(port: port, path: "/healthz"))?.status ?? 0
  }

  // MARK: Redis

  func lock() async throws {
    let count = pick(20_000, 50_000)
    let program = Repository.root.appendingPathComponent(".build/release/RoundTripBenchmark").path
    var redis: [Figure] = []
    var worker: [Figure] = []
    for _ in 0..<pick(3, 7) {
      let csv = try await instruments.run(
        ["redis-benchmark"] + instruments.redisArguments + ["-c", "1", "-n", "\(count)", "--csv", "-t", "set"])
      guard let trip = BenchOutput.microseconds(of: "SET", redisBenchmark: csv) else {
        throw Failure("redis-benchmark measured nothing: \(csv)")
      }
      redis.append(trip)
      let own = try await instruments.run([program, "\(count)"]).trimmingCharacters(in: .newlines)
      guard let trip = Figure(own) else { throw Failure("no time: \(own)") }
      worker.append(trip)
    }
    add(
      BenchRow(
        "lock_us", "lock: SET NX PX, one client", try median(worker, "lock"), "µs", .ratioAtMost("1.1"),
        beside: try median(redis, "lock"), "redis-benchmark"))
  }

  // MARK: Idle, and after a load

  func idle() async throws {
    let floor = try await instruments.start([self.floor])
    let worker = try await instruments.startWorker()
    try await Task.sleep(for: .seconds(60))
    let dirty = Figure(try worker.figures.privateDirtyKB)
    let floors = (dirty: Figure(try floor.figures.privateDirtyKB), resident: Figure(try floor.figures.residentKB))
    add(BenchRow("idle_dirty_kb", "idle, 60 s after boot: private dirty", dirty, "kB", .atMost("2048")))
    add(
      BenchRow(
        "idle_dirty_ratio", "the same beside the floor", dirty, "kB", .ratioAtMost("1.6"), beside: floors.dirty, "floor"
      ))
    add(
      BenchRow(
        "idle_resident_kb", "idle, 60 s after boot: resident", Figure(try worker.figures.residentKB), "kB",
        .atMost("10240"), beside: floors.resident, "floor"))
    try await floor.stop()
    try await connections(of: worker)
    try await minute(of: worker)
    try await worker.stop()
    try await webhook()
  }

  private func connections(of worker: WorkerProcess) async throws {
    let postgres = try await instruments.number("SELECT count(*) FROM pg_stat_activity WHERE usename = 'worker'")
    let redis = try instruments.redis.cli("CLIENT", "LIST").split(separator: "\n").count { !$0.contains("cmd=client") }
    add(BenchRow("threads", "threads", Figure(try worker.figures.status("Threads")), "", .atMost("1")))
    add(BenchRow("postgres_connections", "connections to PostgreSQL", Figure(postgres), "", .atMost("1")))
    add(BenchRow("redis_connections", "connections to Redis", Figure(redis), "", .atMost("1")))
  }

  private func minute(of worker: WorkerProcess) async throws {
    let before = (switches: try worker.figures.voluntarySwitches, cpu: try worker.figures.cpuNanoseconds)
    try await Task.sleep(for: .seconds(60))
    let wakeups = try worker.figures.voluntarySwitches - before.switches
    let cpu = Double(try worker.figures.cpuNanoseconds - before.cpu) / 1e6
    add(BenchRow("wakeups", "idle: wake-ups a minute", Figure(wakeups), "", .atMost("20")))
    add(BenchRow("idle_cpu_ms", "idle: CPU a minute", Figure(cpu, decimals: 2), "ms", .atMost("2")))
    // Tracing slows calls down but does not change their number. timeout ends with a status of its own.
    let log = instruments.file("idle.calls")
    try await instruments.run(
      ["timeout", "60", "strace", "-f", "-qq", "-o", log, "-p", "\(worker.id)"], accepting: [0, 124])
    let calls = try instruments.text(of: "idle.calls").split(separator: "\n").count
    add(BenchRow("syscalls", "idle: system calls a minute", Figure(calls), "", .atMost("60")))
  }

  private func webhook() async throws {
    // With the usual lease and intervals.
    let settings = try await Scenario.notifications.prepare(instruments).filter { $0.key == "SB_WORKER_WEBHOOK_URL" }
    let worker = try await instruments.startWorker(settings)
    try await Task.sleep(for: .seconds(60))
    let (dirty, resident) = (try worker.figures.privateDirtyKB, try worker.figures.residentKB)
    try await worker.stop()
    add(
      BenchRow(
        "webhook_dirty_kb", "with a webhook, 60 s after boot: private dirty", Figure(dirty), "kB", .atMost("2560")))
    add(
      BenchRow(
        "webhook_resident_kb", "with a webhook, 60 s after boot: resident", Figure(resident), "kB", .atMost("13312")))
  }

  func load() async throws {
    let worker = try await instruments.startWorker()
    for path in ["/healthz", "/metrics", "/readyz"] {
      try await instruments.run(["wrk", "-t1", "-c64", "-d\(pick(3, 10) / 3 + 1)s", worker.url(path)])
    }
    try await Task.sleep(for: .seconds(1))
    let (dirty, resident) = (try worker.figures.privateDirtyKB, try worker.figures.residentKB)
    try await worker.stop()
    let what = "after 10 s of probes, 64 connections"
    add(BenchRow("load_dirty_kb", "\(what): private dirty", Figure(dirty), "kB", .atMost("2560")))
    add(BenchRow("load_resident_kb", "\(what): resident", Figure(resident), "kB", .atMost("12288")))
  }

  func cgroup() async throws {
    guard MemoryCgroup.isPermitted else {
      say("skipped: needs root and memory cgroups of version 1")
      return
    }
    guard let kilobytes = try await MemoryCgroup.smallest(instruments) else {
      say("no figure: \(MemoryCgroup.sizes[0]) kB did not suffice")
      return
    }
    add(
      BenchRow(
        "cgroup_kb", "smallest memory cgroup: boots, sweeps 100,000 rows", Figure(kilobytes), "kB", .atMost("2048")))
  }

  // MARK: A fleet

  /// Separate processes, each with its own connections, as in a fleet.
  func fleet() async throws {
    await instruments.postgres.halt()
    try await instruments.postgres.startAgain(settings: ["max_connections=1200"])
    var workers: [WorkerProcess] = []
    var points: [(x: Figure, y: Figure)] = []
    for replicas in pick([1, 50], [1, 10, 100, 300, 1000]) {
      while workers.count < replicas {
        workers.append(try await instruments.start([Instruments.worker, "run"]))
        if workers.count.isMultiple(of: 20) { try await Task.sleep(for: .seconds(1)) }
      }
      try await Task.sleep(for: .seconds(20))
      let before = try redisCPU()
      try await Task.sleep(for: .seconds(60))
      points.append((Figure(replicas), Figure((try redisCPU() - before) / 60 * 100, decimals: 3)))
    }
    for worker in workers { worker.signal(SIGTERM) }
    for worker in workers { try await worker.waitForExit() }
    guard let last = points.last else { return }
    add(BenchRow("fleet_percent", "one Redis, \(last.x) replicas: of a core", last.y, "%", .atMost("5")))
    try plot("fleet", "Redis' core in percent against replicas, default intervals", points)
  }

  private func redisCPU() throws -> Double {
    BenchOutput.cpuSeconds(redisInfo: try instruments.redis.cli("INFO", "cpu"))
  }
}
