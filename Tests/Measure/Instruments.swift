// What every measurement uses: private servers, the control plane's tables, the release build, the helpers in C.
// Invariant: nothing of it outlives this process, and settings in the caller's environment do not affect what is
// measured.

import Foundation
import TestSupport

final class Instruments {
  let postgres: PrivatePostgres
  let redis: PrivateRedis
  /// A directory for what is measured to write into.
  let work: URL
  /// What the worker and the floor are started with.
  let environment: [String: String]
  private let redisPassword: String
  /// Processes that run until the end: receivers, servers to compare with.
  private var kept: [WorkerProcess] = []

  static let worker = Repository.root.appendingPathComponent(".build/release/secrets-bridge-worker").path
  static let database = "secrets_bridge"

  /// Starts the servers, calls `body`, and stops them, whether it throws or not.
  static func use<Result>(_ body: (Instruments) async throws -> Result) async throws -> Result {
    say("starting a private PostgreSQL and Redis")
    let instruments = try await Instruments()
    do {
      let result = try await body(instruments)
      await instruments.stop()
      return result
    } catch {
      await instruments.stop()
      throw error
    }
  }

  private init() async throws {
    // Of digits, which stay the same in a URL.
    let password = (0..<36).map { _ in String(Int.random(in: 0...9)) }.joined()
    redisPassword = password
    // The server's own defaults in place of what makes tests fast, and the password costs its round trips.
    postgres = try await PrivatePostgres.start(
      settings: [
        "shared_buffers=128MB", "full_page_writes=on", "log_min_messages=warning", "unix_socket_directories=",
      ],
      role: .init(name: "worker", password: password))
    redis = try PrivateRedis(password: password)
    work = FileManager.default.temporaryDirectory.appendingPathComponent("measurement-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: work, withIntermediateDirectories: false)
    var environment = Self.inheritedEnvironment
    environment["DATABASE_URL"] = postgres.url(user: "worker", password: password, database: Self.database)
    environment["REDIS_URL"] = "\(redis.url)/0"
    self.environment = environment
    try await maintain("CREATE DATABASE \(Self.database) OWNER worker")
    let files = ["schema", "sample"].flatMap { folder in
      DevelopmentSchema.allCases.flatMap { ["-f", Self.script("\(folder)/\($0.rawValue).sql")] }
    }
    try await run(["psql", environment["DATABASE_URL"]!, "-qX", "-v", "ON_ERROR_STOP=1"] + files)
  }

  /// The caller's environment without what the worker would take for its settings.
  private static let inheritedEnvironment = ProcessInfo.processInfo.environment.filter { name, _ in
    !["SB_", "DATABASE_", "REDIS_"].contains { name.hasPrefix($0) } && name != "LOG_LEVEL"
  }

  private func stop() async {
    for process in kept {
      // It is killed where it does not end by itself, and its output is in no one's way.
      _ = try? await process.stop()
    }
    kept = []
    redis.stop()
    await postgres.stop()
    // The caller removes the directory of temporary files anyway.
    try? FileManager.default.removeItem(at: work)
  }

  static func script(_ name: String) -> String { Repository.root.appendingPathComponent("scripts/dev/\(name)").path }
  func file(_ name: String) -> String { work.appendingPathComponent(name).path }
  func text(of name: String) throws -> String { try String(contentsOfFile: file(name), encoding: .utf8) }

  // MARK: Programs

  /// Runs a program to its end and returns its standard output.
  ///
  /// - Throws: `Failure` with the end of what it wrote to standard error where its status is not 0.
  @discardableResult
  func run(
    _ words: [String], settings: [String: String] = [:], within limit: Duration = .seconds(3600),
    accepting statuses: Set<Int32> = [0]
  ) async throws -> String {
    try await finish(
      try await start(words, settings: settings), as: words[0], within: limit, accepting: statuses)
  }

  /// Waits for the end of a program and returns its standard output.
  @discardableResult
  func finish(
    _ process: WorkerProcess, as name: String, within limit: Duration = .seconds(3600),
    accepting statuses: Set<Int32> = [0]
  ) async throws -> String {
    let ending = try await process.waitForExit(within: limit)
    try Task.checkCancellation()
    guard case .exited(let status) = ending, statuses.contains(status) else {
      throw Failure("\(name) failed (\(ending)): \(Self.tail(process))")
    }
    return process.output
  }

  /// Runs a program that prints a time in milliseconds.
  func milliseconds(_ words: [String], settings: [String: String] = [:]) async throws -> Figure {
    let output = try await run(words, settings: settings)
    guard let time = Figure(output.trimmingCharacters(in: .newlines)) else { throw Failure("no time: \(output)") }
    return time
  }

  /// Starts a program with the worker's environment and `settings`.
  func start(_ words: [String], settings: [String: String] = [:]) async throws -> WorkerProcess {
    try Task.checkCancellation()
    return try await WorkerProcess.start(
      Array(words.dropFirst()), environment: environment.merging(settings) { $1 }, executable: words[0])
  }

  /// Starts a program that is stopped at the end.
  func keep(_ words: [String]) async throws -> WorkerProcess {
    let process = try await start(words)
    kept.append(process)
    return process
  }

  static func tail(_ process: WorkerProcess) -> String { process.log.suffix(3).map(\.text).joined(separator: "\n") }

  /// Compiles scripts/dev/NAME.c and returns the program's path.
  func compile(_ name: String, _ options: [String] = []) async throws -> String {
    let output = file(name)
    // The toolchain's own compiler, which is there wherever Swift is.
    let compile = #"exec "$(dirname "$(readlink -f "$(command -v swift)")")/clang" "$@""#
    try await run(
      ["sh", "-c", compile, "clang", "-O2", "-Wall", "-Wextra", "-Werror", "-o", output, Self.script("\(name).c")]
        + options)
    // Pages of a new binary that are not yet on disk would count as dirty.
    try await run(["sync", output])
    return output
  }

  func compileFloor() async throws -> String { try await compile("floor", ["-lev", "-lpq", "-lhiredis"]) }

  /// The counter of allocations, as a shared object to be loaded first.
  func compileAllocations() async throws -> String { try await compile("allocations", ["-shared", "-fPIC"]) }

  // MARK: The worker

  /// Starts the release build and waits until it is ready. `under`: a program and its options, which run it.
  func startWorker(
    _ settings: [String: String] = [:], under wrapper: [String] = [], worker: String = Instruments.worker
  ) async throws -> WorkerProcess {
    let process = try await start(wrapper + [worker, "run"], settings: settings)
    try await process.until("/readyz", answers: 200)
    return process
  }

  /// One run of every sweeper, due or not.
  func runOnce(_ settings: [String: String] = [:], under wrapper: [String] = [], worker: String = Instruments.worker)
    async throws
  {
    try await run(wrapper + [worker, "run", "--once", "--force"], settings: settings)
  }

  // MARK: The servers

  /// Runs each statement by itself as the server's administrator; rows as lines, columns separated by `|`.
  @discardableResult
  func sql(_ statements: String..., database: String = Instruments.database) async throws -> String {
    let commands = statements.flatMap { ["-c", $0] }
    return try await run(psql(database) + commands).trimmingCharacters(in: .newlines)
  }

  /// The same beside the worker's database, which it may drop.
  @discardableResult
  func maintain(_ statements: String...) async throws -> String {
    try await run(psql("postgres") + statements.flatMap { ["-c", $0] }).trimmingCharacters(in: .newlines)
  }

  /// psql as the administrator: its first words.
  func psql(_ database: String = Instruments.database) -> [String] {
    ["psql", postgres.url(database: database), "-qXAt", "-v", "ON_ERROR_STOP=1"]
  }

  func number(_ query: String) async throws -> Int {
    let answer = try await sql(query)
    guard let number = Int(answer) else { throw Failure("no number: \(answer)") }
    return number
  }

  /// Empties the swept tables and adds rows: see `addRows`.
  func fill(_ rows: [String: Int] = [:]) async throws {
    try await sql("TRUNCATE secret_wraps, secrets, agents, sync_jobs, reveal_sessions CASCADE")
    try await addRows(rows)
  }

  /// Adds rows to the swept tables by scripts/dev/rows.sql: wraps, secrets, agents, jobs, reveals. "due" percent of
  /// them are due.
  func addRows(_ rows: [String: Int]) async throws {
    let all = ["wraps": 0, "secrets": 0, "agents": 0, "jobs": 0, "reveals": 0, "due": 50].merging(rows) { $1 }
    let variables = all.flatMap { ["-v", "\($0.key)=\($0.value)"] }
    try await run(psql() + variables + ["-f", Self.script("rows.sql")])
  }

  /// Removes all data from Redis.
  func emptyRedis() throws { try redis.cli("FLUSHALL") }

  /// The options with which redis-benchmark connects.
  var redisArguments: [String] { ["-h", "127.0.0.1", "-p", "\(redis.port)", "-a", redisPassword] }
}

extension WorkerProcess {
  var figures: KernelFigures { KernelFigures(id: id) }

  /// Waits, 20 s at most, until a probe answers so.
  func until(_ path: String, answers status: Int) async throws {
    try await wait("\(path) answers \(status)", within: .seconds(20), self) { await self.status(of: path) == status }
  }
}

/// Waits until `condition` holds, asking every `step`.
///
/// - Throws: `Failure` after `limit`, or where `process` ended before, with the end of its log.
func wait(
  _ what: String, within limit: Duration = .seconds(20), step: Duration = .milliseconds(50),
  _ process: WorkerProcess? = nil, _ condition: () async throws -> Bool
) async throws {
  let deadline = ContinuousClock.now.advanced(by: limit)
  while try await !condition() {
    guard ContinuousClock.now < deadline, process?.ending == nil else {
      let log = process.map { "; the log ends with: \(Instruments.tail($0))" } ?? ""
      throw Failure("it never came true that \(what)\(log)")
    }
    try await Task.sleep(for: step)
  }
}
