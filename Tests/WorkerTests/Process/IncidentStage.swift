// Where the incidents of docs/incidents.md are played: a control plane with a role of the worker's own, a Redis, and a
// shell in which the document's commands run as they are printed.

import Foundation
import Reactor
import Synchronization
import TestSupport
import Testing

@testable import Worker

/// The servers of some incidents, and an operator's shell.
struct IncidentStage: Sendable {
  /// The worker's role in the document.
  private static let documentedRole = "secrets_bridge_worker"

  let plane: ControlPlane
  let role: String
  let redis: PrivateRedis
  private let environment: [String: String]
  /// Where the second replica listens, by which it is known.
  private let secondAddress: String
  private let replicas = Replicas()

  /// The names that the document's pods have here.
  private final class Replicas: Sendable {
    let names = Mutex<[String]>([])
  }

  /// On the shared server, with a role that has the grants of the verb `grants` and nothing else.
  static func set() async throws -> IncidentStage {
    let plane = try await ControlPlane.fresh()
    let limited = try await plane.limited("pg_read_all_stats")
    let settings = try #require(Settings.defaults(SettingRow.sweepers))
    try await plane.sql(GrantScript(Sweepers.all(settings), role: limited.user).text)
    return try IncidentStage(
      plane: plane, role: limited.user, url: limited.url, port: await PrivatePostgres.shared.port)
  }

  /// On its own server, as superuser.
  static func set(on server: PrivatePostgres, query: String) async throws -> IncidentStage {
    try await server.psql(ControlPlane.schema())
    return try IncidentStage(
      plane: ControlPlane(url: server.url(), name: "postgres"), role: PrivatePostgres.user,
      url: server.url(query: query), port: server.port)
  }

  private init(plane: ControlPlane, role: String, url: String, port: Int) throws {
    self.plane = plane
    self.role = role
    redis = try PrivateRedis()
    secondAddress = "127.0.0.1:\(try freePort())"
    var environment = [
      "DATABASE_URL": url, "REDIS_URL": redis.url, "SB_WORKER_LEASE": "3s", "SB_WORKER_AGENTS_STALE_MAX_SHARE": "50%",
      "PGHOST": "127.0.0.1", "PGPORT": "\(port)", "PGUSER": PrivatePostgres.user, "PGDATABASE": plane.name,
    ]
    for name in ["WRAPS_EXPIRED", "SECRETS_STALE", "AGENTS_STALE", "JOBS_RECOVERY"] {
      environment["SB_WORKER_\(name)_INTERVAL"] = "500ms"
    }
    for name in ["CROSS_TEAM_FILL_EXPIRED", "CONNECTIONS_STUCK", "DISCOVER_CONNECTIONS", "REVEAL_SESSIONS_EXPIRED"] {
      environment["SB_WORKER_\(name)_INTERVAL"] = "off"
    }
    let programs = URL(fileURLWithPath: WorkerProcess.executable).deletingLastPathComponent().path
    environment["PATH"] = "\(programs):\(ProcessInfo.processInfo.environment["PATH"] ?? "/usr/bin:/bin")"
    self.environment = environment
    // Makes Redis look as if it had long known the sweepers, so that no first run waits for a lease.
    for sweeper in WorkerStage.sweepers {
      try redis.cli("HSET", Self.record(sweeper), "epoch", "1")
    }
  }

  private static func record(_ sweeper: String) -> String {
    "secrets-bridge:schedule:{\(WorkerStage.lockKey(sweeper))}"
  }

  // MARK: Workers

  func start() async throws -> WorkerProcess {
    let worker = try await WorkerProcess.started(environment)
    replicas.names.withLock { $0.append("\(HostProcess.hostName):\(worker.probePort)") }
    return worker
  }

  /// Another replica, always at the same address.
  func startSecond(_ settings: [String: String]) async throws -> WorkerProcess {
    let own = ["SB_WORKER_LOCAL_ADDR": secondAddress].merging(settings) { $1 }
    let worker = try await WorkerProcess.start(environment: environment.merging(own) { $1 })
    try await onLoop {
      try await eventually("it is ready") { worker.log.contains { $0.message == "worker ready" } }
    }
    let port = secondAddress.split(separator: ":")[1]
    replicas.names.withLock { $0.append("\(HostProcess.hostName):\(port)") }
    return worker
  }

  /// An expired wrap; with an id, one that a row of another table refers to.
  func addWrap(id: String? = nil) async throws {
    try await plane.sql(
      """
      INSERT INTO secret_wraps
        (id, encrypted_value, nonce, data_key_ciphertext, kms_key_id, content_hash, byte_length, expires_at)
      VALUES ('\(id ?? UUID().uuidString)', 'x', 'x', 'x', 'k', 'x', 1, now() + interval '1 hour')
      """)
    if let id {
      try await plane.sql(
        """
        CREATE TABLE wrap_receipts (wrap_id UUID REFERENCES secret_wraps (id));
        INSERT INTO wrap_receipts VALUES ('\(id)')
        """)
    }
    try await plane.sql("UPDATE secret_wraps SET expires_at = now() - interval '1 hour'")
  }

  func waitForFailures(of sweeper: String) async throws {
    try await onLoop {
      try await eventually("\(sweeper) fails again and again") {
        (Int(try redis.cli("HGET", Self.record(sweeper), "failures")) ?? 0) >= 2
      }
    }
  }

  /// A session that has run a statement and leaves its transaction open.
  func leaveTransactionOpen(_ statement: String) throws -> OpenSession {
    let session = try OpenSession(url: plane.url)
    try session.run("BEGIN;\n\(statement);\n")
    return session
  }

  // MARK: Commands

  /// Runs a command in a shell, as an operator would.
  func run(_ command: String) async throws -> (status: Int32, output: String) {
    let shell = try await WorkerProcess.start(["-c", command], environment: environment, executable: "/bin/sh")
    guard case .exited(let status) = try await shell.waitForExit() else { return (-1, shell.everything) }
    return (status, shell.everything)
  }

  private func words(_ replacing: [String: String]) -> [(documented: String, here: String)] {
    // A superuser's name is a part of too much else.
    let roles = role == PrivatePostgres.user ? [] : [(documented: Self.documentedRole, here: role)]
    return roles + replacing.map { (documented: $0, here: $1) }
  }

  /// Runs what finds the incident until it prints what the document says; nothing of it may be missing in the end.
  @discardableResult
  func find(_ title: String, replacing: [String: String] = [:]) async throws -> Incident {
    let incident = try #require(try Incident.all().first { $0.title == title })
    let step = incident.steps[0]
    var missing = step.output
    var (status, printed): (Int32, String) = (0, "")
    for _ in 0..<30 where !missing.isEmpty {
      (status, printed) = try await run(step.command)
      for (documented, here) in words(replacing) { printed = printed.replacing(here, with: documented) }
      for name in replicas.names.withLock({ $0 }) { printed = printed.replacing(name, with: "pod-a") }
      missing = Incident.missing(of: step, in: printed)
    }
    #expect(missing.isEmpty && status != 0, "\(title): \(step.command) printed\n\(printed)")
    return incident
  }

  /// Runs what ends the incident, and waits until nothing needs attention.
  func end(_ incident: Incident, replacing: [String: String] = [:]) async throws {
    let step = incident.steps[1]
    var command = step.command
    for (documented, here) in words(replacing) { command = command.replacing(documented, with: here) }
    let ran = try await run(command)
    var output = ran.output
    for name in replicas.names.withLock({ $0 }) { output = output.replacing(name, with: "pod-a") }
    let missing = Incident.missing(of: step, in: output)
    #expect(missing.isEmpty && ran.status == 0, "\(incident.title): \(command) printed\n\(output)")
    try await expectWell(incident.title)
  }

  func play(_ title: String, replacing: [String: String] = [:]) async throws {
    try await end(try await find(title, replacing: replacing), replacing: replacing)
  }

  func expectWell(_ when: String) async throws {
    var last = ""
    for _ in 0..<60 {
      let (status, output) = try await run("secrets-bridge-worker status")
      if status == 0 { return }
      last = output
    }
    Issue.record("\(when): something needs attention still:\n\(last)")
  }
}

/// psql, which reads statements from here until it is ended.
final class OpenSession {
  private let process: Process
  private let input: Pipe

  init(url: String) throws {
    (process, input) = (Process(), Pipe())
    process.executableURL = URL(fileURLWithPath: PrivatePostgres.program("psql"))
    process.arguments = ["-X", "-q", "-d", url]
    process.standardInput = input
    process.standardOutput = FileHandle.nullDevice
    process.standardError = FileHandle.nullDevice
    try process.run()
  }

  func run(_ statements: String) throws {
    try input.fileHandleForWriting.write(contentsOf: Data(statements.utf8))
  }

  func end() { process.terminate() }

  deinit { process.terminate() }
}

/// A PostgreSQL server whose certificate has expired.
struct CertifiedServer: Sendable {
  let postgres: PrivatePostgres
  private let files: URL
  private let authority: TestAuthority

  static func start() async throws -> CertifiedServer {
    let authority = try await TestAuthority.shared()
    let files = FileManager.default.temporaryDirectory.appendingPathComponent("certificates-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: files, withIntermediateDirectories: false)
    try install(authority.files(of: .expired), in: files)
    let postgres = try await PrivatePostgres.start(settings: [
      "ssl=on", "ssl_cert_file=\(files.path)/certificate.pem", "ssl_key_file=\(files.path)/key.pem",
    ])
    return CertifiedServer(postgres: postgres, files: files, authority: authority)
  }

  /// What a client that verifies the certificate has in its URL.
  var query: String { "sslmode=verify-full&sslrootcert=\(authority.certificateFile)" }

  func stop() async {
    await postgres.stop()
    try? FileManager.default.removeItem(at: files)
  }

  func renew() throws { try Self.install(authority.files(of: .good), in: files) }

  private static func install(_ pair: (certificate: String, key: String), in files: URL) throws {
    for (file, name) in [(pair.certificate, "certificate.pem"), (pair.key, "key.pem")] {
      let place = files.appendingPathComponent(name)
      try Data(contentsOf: URL(fileURLWithPath: file)).write(to: place)
      try FileManager.default.setAttributes([.posixPermissions: 0o600], ofItemAtPath: place.path)
      // The server accepts only a key that its account owns.
      if geteuid() == 0, let account = getpwnam("postgres") {
        chown(place.path, account.pointee.pw_uid, account.pointee.pw_gid)
      }
    }
  }
}
