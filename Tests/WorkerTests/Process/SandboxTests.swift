// The sandbox that the worker enters once started: what an attacker inside could still do, and that sweeps still work.

import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite(.serialized) struct SandboxTests {
  /// What the worker itself does.
  private static let permitted = [
    "read-allowed", "read-linked", "read-library", "read-resolver", "read-statistics", "tcp", "udp6", "unix",
    "addresses",
    "map-memory",
    "no-dump-limit",
  ]
  /// The error's number of each attempt that is refused.
  private static let refused: [String: Int32] = [
    "execve": EPERM, "fork": EPERM, "thread": EPERM, "packet": EPERM, "raw": EPERM, "netlink-audit": EPERM,
    "vsock": EPERM, "listen": EPERM, "read-secret": EACCES, "write-allowed": EPERM, "create": EPERM, "unlink": EPERM,
    "write-execute": EPERM, "make-executable": EPERM, "ptrace": EPERM, "kill-other": EPERM, "raise-limit": EPERM,
    "uring": ENOSYS, "memory-file": EPERM, "namespace": EPERM, "dumpable": EPERM,
  ]

  private static func makeDirectory() throws -> URL {
    let directory = FileManager.default.temporaryDirectory.appendingPathComponent("sandbox-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: false)
    return directory
  }

  /// Compiles the attempts with the worker's own sandbox.
  private static func compile(to program: String) async throws {
    let root = Repository.root.path
    let compiler = try #require(SteppedClock.compiler)
    let compiling = try await WorkerProcess.start(
      [
        "-O1", "-Wall", "-Werror", "-D_GNU_SOURCE", "-I", root + "/Sources/CWorkerStart/include", "-o", program,
        root + "/Tests/Endpoints/sandboxed.c", root + "/Sources/CWorkerStart/Sandbox.c",
      ], environment: [:], executable: compiler)
    #expect(try await compiling.waitForExit(within: .seconds(60)) == .exited(0), "\(compiling.everything)")
  }

  /// The program's lines: name and result.
  private static func attempts(_ output: String) -> [String: String] {
    var attempts: [String: String] = [:]
    for line in output.split(separator: "\n") {
      let words = line.split(separator: " ")
      attempts[String(words[0])] = String(words[1])
    }
    return attempts
  }

  @Test(.enabled(if: SteppedClock.isAvailable, "no C compiler"))
  func fromWithinOnlyTheWorkersOwnWorkSucceeds() async throws {
    let directory = try Self.makeDirectory()
    defer { try? FileManager.default.removeItem(at: directory) }
    let program = directory.appendingPathComponent("attempts").path
    try await Self.compile(to: program)
    let allowed = directory.appendingPathComponent("certificates")
    try FileManager.default.createDirectory(at: allowed, withIntermediateDirectories: false)
    try Data().write(to: allowed.appendingPathComponent("allowed"))
    let secret = directory.appendingPathComponent("secret")
    try Data("secret".utf8).write(to: secret)
    // As OpenSSL finds certificates: by links that are named after their digests.
    let (elsewhere, links) = (directory.appendingPathComponent("elsewhere"), directory.appendingPathComponent("links"))
    for place in [elsewhere, links] {
      try FileManager.default.createDirectory(at: place, withIntermediateDirectories: false)
    }
    try Data().write(to: elsewhere.appendingPathComponent("certificate"))
    try FileManager.default.createSymbolicLink(
      atPath: links.appendingPathComponent("linked").path, withDestinationPath: "../elsewhere/certificate")
    let trial = try await WorkerProcess.start(
      [allowed.path, secret.path, links.path], environment: [:], executable: program)
    #expect(try await trial.waitForExit() == .signalled(SIGABRT), "it ends by abort, as a trap does")
    let attempts = Self.attempts(trial.output)
    let parts = try #require(attempts["parts"].flatMap { Int32($0) }.map(Sandbox.Parts.init(rawValue:)))
    try #require(parts.contains(.systemCalls))
    for name in Self.permitted { #expect(attempts[name] == "ok", "\(name)") }
    for (name, number) in Self.refused where name != "read-secret" || parts.contains(.files) {
      #expect(attempts[name] == "\(number)", "\(name)")
    }
  }

  /// In a container the run time mounts the resolver's files; nothing else of /etc is readable then, not even for root.
  @Test(.enabled(if: SteppedClock.isAvailable, "no C compiler"), .enabled { await OwnMounts.arePermitted() })
  func inAContainerTheOtherFilesOfEtcAreClosed() async throws {
    let directory = try Self.makeDirectory()
    defer { try? FileManager.default.removeItem(at: directory) }
    let program = directory.appendingPathComponent("attempts").path
    try await Self.compile(to: program)
    try Data().write(to: directory.appendingPathComponent("allowed"))
    let trial = try await OwnMounts.start(
      [directory.path, "/etc/shadow"], environment: [:],
      after: "for f in resolv.conf hosts; do mount --bind /etc/$f /etc/$f; done", executable: program)
    _ = try await trial.waitForExit()
    let attempts = Self.attempts(trial.output)
    guard attempts["parts"] == "3" else { return }  // The kernel has no Landlock.
    #expect(attempts["read-secret"] == "\(EACCES)" && attempts["read-resolver"] == "ok")
  }

  /// As at boot, where /etc/resolv.conf leads into a directory that another service has yet to make.
  @Test(.enabled(if: SteppedClock.isAvailable, "no C compiler"), .enabled { await OwnMounts.arePermitted() })
  func aResolverFileThatIsWrittenAfterTheStartCanBeRead() async throws {
    let directory = try Self.makeDirectory()
    defer { try? FileManager.default.removeItem(at: directory) }
    let program = directory.appendingPathComponent("attempts").path
    try await Self.compile(to: program)
    let (allowed, run) = (directory.appendingPathComponent("a"), directory.appendingPathComponent("run"))
    for place in [allowed, run] {
      try FileManager.default.createDirectory(at: place, withIntermediateDirectories: false)
    }
    try Data().write(to: allowed.appendingPathComponent("allowed"))
    let late = run.appendingPathComponent("late")
    try Data().write(to: late)
    let (etc, link) = ("\(directory.path)/etc", "\(run.path)/resolve/resolv.conf")
    let trial = try await OwnMounts.start(
      [allowed.path, late.path], environment: [:],
      after: "cp -a /etc '\(etc)' && ln -sfn '\(link)' '\(etc)/resolv.conf' && mount --bind '\(etc)' /etc",
      executable: program)
    _ = try await trial.waitForExit()
    #expect(Self.attempts(trial.output)["read-secret"] == "ok", "\(trial.everything)")
  }

  @Test func whatLibrariesAreConfiguredToReadStaysReadable() throws {
    let settings = try Settings.load(
      environment: ["DATABASE_URL": "postgres://u@h/d", "REDIS_URL": "redis://h"]
    ).settings
    let sandbox = Sandbox(
      settings, environment: ["SSL_CERT_DIR": "/opt/a:/opt/b", "KRB5CCNAME": "FILE:/run/cache", "SSL_CERT_FILE": "/c"],
      confine: { _ in [] })
    for path in ["/opt/a", "/opt/b", "/run/cache", "/c"] { #expect(sandbox.readablePaths.contains(path), "\(path)") }
  }

  private static func state(of worker: WorkerProcess) throws -> [String: String] {
    var state: [String: String] = [:]
    for line in try String(contentsOfFile: "/proc/\(worker.id)/status", encoding: .utf8).split(separator: "\n") {
      let parts = line.split(separator: ":", maxSplits: 1)
      state[String(parts[0])] = parts.last.map { $0.trimmingCharacters(in: .whitespaces) }
    }
    let limits = try String(contentsOfFile: "/proc/\(worker.id)/limits", encoding: .utf8)
    for line in limits.split(separator: "\n") where line.hasPrefix("Max core file size") {
      state["core"] = line.split(separator: " ").dropFirst(4).first.map(String.init)
    }
    return state
  }

  @Test(.enabled(if: !Sanitizer.isOn, "there is no sandbox beside a sanitizer"))
  func theWorkerIsConfinedAndSweepsAndAHangUpDoesNotEndIt() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    let worker = try await stage.start()
    try await onLoop {
      for sweeper in WorkerStage.sweepers {
        try await eventually("\(sweeper) runs") { try await worker.runs(sweeper, "success") > 0 }
      }
      worker.signal(SIGHUP)
      stage.redisProxy.resetConnections()
      stage.postgresProxy.resetConnections()
      try await worker.answersReadyz(200)
    }
    let state = try Self.state(of: worker)
    #expect(state["Seccomp"] == "2" && state["NoNewPrivs"] == "1" && state["core"] == "0", "\(state)")
    let starting = try #require(worker.log.first { $0.message == "starting" })
    #expect(starting["sandbox"]?.hasPrefix("system calls") == true)
    #expect(try await worker.metric("process_open_fds") ?? 0 > 4)
    #expect(try await worker.stop() == .exited(0))
  }

  @Test func itCanBeTurnedOff() async throws {
    let stage = try await WorkerStage.set()
    let worker = try await stage.start(["SB_WORKER_SANDBOX": "off"])
    let state = try Self.state(of: worker)
    #expect(state["Seccomp"] == "0" && state["NoNewPrivs"] == "0", "\(state)")
    #expect(worker.log.first { $0.message == "starting" }?["sandbox"] == "off")
    #expect(try await worker.stop() == .exited(0))
  }

  /// Each connection reads the authority's file anew; a renewed one is another file under the same name.
  @Test func aCertificateAuthorityThatIsReplacedIsStillRead() async throws {
    let directory = try Self.makeDirectory()
    defer { try? FileManager.default.removeItem(at: directory) }
    let file = directory.appendingPathComponent("ca.pem")
    let authority = try Data(contentsOf: URL(fileURLWithPath: await TestAuthority.shared().certificateFile))
    try authority.write(to: file)
    let server = try await PrivatePostgres.startWithTLS()
    let redis = try PrivateRedis()
    let worker = try await WorkerProcess.start(environment: [
      "DATABASE_URL": server.url(query: "sslmode=verify-ca&sslrootcert=\(file.path)"), "REDIS_URL": redis.url,
    ])
    try await onLoop { try await worker.answersReadyz(200) }
    try Data("nothing".utf8).write(to: file, options: .atomic)
    _ = try await server.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    try await onLoop { try await worker.answersReadyz(503) }
    try authority.write(to: file, options: .atomic)
    try await onLoop { try await worker.answersReadyz(200, within: .seconds(20)) }
    #expect(try await worker.stop() == .exited(0))
    await server.stop()
  }
}
