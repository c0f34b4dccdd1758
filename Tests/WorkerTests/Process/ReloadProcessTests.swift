// The worker as a process whose settings, passwords and sinks change while it runs.

import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite(.serialized) struct ReloadProcessTests {
  /// A directory whose files are replaced as Kubernetes replaces a secret's: ..data leads to another directory.
  private final class SecretDirectory {
    let url = FileManager.default.temporaryDirectory.appendingPathComponent("secret-\(UUID().uuidString)")
    private var number = 0

    init(_ files: [String: String]) throws {
      try FileManager.default.createDirectory(at: url, withIntermediateDirectories: false)
      try put(files)
      for name in files.keys {
        try FileManager.default.createSymbolicLink(atPath: path(name), withDestinationPath: "..data/\(name)")
      }
    }

    deinit { try? FileManager.default.removeItem(at: url) }

    func path(_ name: String) -> String { url.appendingPathComponent(name).path }

    func put(_ files: [String: String]) throws {
      number += 1
      let version = url.appendingPathComponent("..version_\(number)")
      try FileManager.default.createDirectory(at: version, withIntermediateDirectories: false)
      for (name, text) in files { try Data(text.utf8).write(to: version.appendingPathComponent(name)) }
      try FileManager.default.createSymbolicLink(
        atPath: path("..data_new"), withDestinationPath: version.lastPathComponent)
      #expect(rename(path("..data_new"), path("..data")) == 0)
      if number > 1 { try FileManager.default.removeItem(at: url.appendingPathComponent("..version_\(number - 1)")) }
    }
  }

  private static func count(_ message: String, in worker: WorkerProcess) -> Int {
    worker.log.count { $0.message == message }
  }

  @EventLoop
  private static func hangUp(_ worker: WorkerProcess, until message: String) async throws -> WorkerProcess.LogLine {
    let before = count(message, in: worker)
    worker.signal(SIGHUP)
    try await eventually("it says: \(message)") { count(message, in: worker) > before }
    return worker.log.last { $0.message == message }!
  }

  @Test func aRotatedPasswordIsReadAgainWithoutASignalAndWithoutARestart() async throws {
    let server = try await PrivatePostgres.start(role: .init(name: "rotated", password: "planted-0"))
    let redis = try PrivateRedis(user: ("rotated", "planted-0"))
    func files(_ database: Int, _ redisNumber: Int) -> [String: String] {
      [
        "database": server.url(user: "rotated", password: "planted-\(database)"),
        "redis": "redis://rotated:planted-\(redisNumber)@127.0.0.1:\(redis.port)",
      ]
    }
    func rotate(to number: Int) async throws {
      _ = try await server.psql(
        """
        ALTER ROLE rotated PASSWORD 'planted-\(number)';
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rotated'
        """)
    }
    let directory = try SecretDirectory(files(0, 0))
    let worker = try await WorkerProcess.started([
      "DATABASE_URL_FILE": directory.path("database"), "REDIS_URL_FILE": directory.path("redis"),
    ])
    let renewed = "refused the login: connecting with the one that was read again"
    let same = "refused the login, and the one that was read again is the same"
    try await onLoop {
      try await worker.answersReadyz(200)
      // The server first, as where a file is changed by hand: an outage until the file has the new password.
      try await rotate(to: 1)
      try await worker.answersReadyz(503)
      try await eventually("it says why") { Self.count("PostgreSQL \(same)", in: worker) == 1 }
      try directory.put(files(1, 0))
      try await worker.answersReadyz(200)
      // The file first: nobody notices.
      try directory.put(files(2, 1))
      let outages = Self.count("PostgreSQL is unavailable", in: worker)
      try await rotate(to: 2)
      try await eventually("it has logged in again") { Self.count("PostgreSQL \(renewed)", in: worker) == 2 }
      try await worker.answersReadyz(200)
      #expect(Self.count("PostgreSQL is unavailable", in: worker) == outages)
      try redis.cli("ACL", "SETUSER", "rotated", "resetpass", ">planted-1")
      try redis.cli("CLIENT", "KILL", "USER", "rotated")
      try await eventually("it has logged in to Redis again") { Self.count("Redis \(renewed)", in: worker) == 1 }
      try await worker.answersReadyz(200)
    }
    #expect(Self.count("PostgreSQL \(same)", in: worker) == 1, "once an outage")
    #expect(try await worker.stop() == .exited(0))
    #expect(!worker.everything.contains("planted"))
    await server.stop()
  }

  @Test func aHangUpPutsChangedSettingsIntoEffectAndAFaultChangesNothing() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    let file = FileManager.default.temporaryDirectory.appendingPathComponent("settings-\(UUID().uuidString)")
    defer { try? FileManager.default.removeItem(at: file) }
    func write(_ text: String) throws { try Data(text.utf8).write(to: file, options: .atomic) }
    let manager = try NotifySocket("@sb-reload-\(UUID().uuidString.prefix(8))")
    let interval = "SB_WORKER_WRAPS_EXPIRED_INTERVAL"
    try write("\(interval)=1h\n")
    let worker = try await stage.start([
      SettingsFile.variable: file.path, interval: "", "NOTIFY_SOCKET": manager.name,
    ])
    let enabled = #"worker_sweeper_enabled{task="wraps-expired"}"#
    let fault = "not reloaded: the configuration is invalid, and nothing has changed"
    try await onLoop {
      try await worker.answersReadyz(200)
      _ = manager.lines()
      _ = try await Self.hangUp(worker, until: "reloaded: no setting has changed")
      var lines: [String] = []
      try await eventually("systemd is told") {
        lines += manager.lines()
        return lines.last == "READY=1"
      }
      #expect(lines.first == "RELOADING=1" && lines[1].hasPrefix("MONOTONIC_USEC=") && lines.count == 3)

      let runs = try await worker.runs("wraps-expired", "success")
      try write("LOG_LEVEL=debug\n\(interval)=500ms\n")
      let line = try await Self.hangUp(worker, until: "reloaded")
      #expect(line.fields?["changed"] as? [String: String] == ["LOG_LEVEL": "debug", interval: "500ms"])
      try await eventually("the new slots are swept") { try await worker.runs("wraps-expired", "success") > runs + 1 }
      #expect(worker.log.contains { $0.level == "DEBUG" && $0["task"] == "wraps-expired" })

      try write("LOG_LEVEL=error\n\(interval)=1h\nSB_WORKER_PACE=fast\nSB_WORKER_LEESE=1m\n")
      let error = try await Self.hangUp(worker, until: fault)["error"] ?? ""
      #expect(error.contains("SB_WORKER_PACE must be") && error.contains("line 4"))
      let before = try await worker.runs("wraps-expired", "success")
      try await eventually("it goes on as before") { try await worker.runs("wraps-expired", "success") > before + 1 }

      try write("LOG_LEVEL=debug\n\(interval)=off\nSB_WORKER_QUEUE_ALERT_AFTER=2s\nSB_WORKER_SHUTDOWN_GRACE=3s\n")
      let later = try await Self.hangUp(worker, until: "changed settings take effect at the next start")
      #expect(later.fields?["settings"] as? [String] == ["SB_WORKER_SHUTDOWN_GRACE"])
      try await eventually("it is off") { try await worker.metric(enabled) == 0 }
      try await eventually("another one is on") { try await worker.runs("queue-watch", "success") > 0 }
      let stopped = try await worker.runs("wraps-expired", "success")

      try write("LOG_LEVEL=debug\n\(interval)=500ms\n")
      _ = try await Self.hangUp(worker, until: "reloaded")
      try await eventually("it is on again") { try await worker.runs("wraps-expired", "success") > stopped }
      #expect(try await worker.metric(enabled) == 1)
      #expect(try await worker.metric(#"worker_sweeper_enabled{task="queue-watch"}"#) == 0)
    }
    #expect(try await worker.stop() == .exited(0))
  }

  /// The first sink loads libcurl, in a process that is confined.
  @Test func aSinkThatIsNewOrHasAnotherURLGetsWhatComesNext() async throws {
    let stage = try await WorkerStage.set()
    try stage.settle()
    let sink = try await Endpoint.start(.http)
    let directory = try SecretDirectory(["settings": "", "url": ""])
    let settings = "SB_WORKER_WEBHOOK_URL_FILE=\(directory.path("url"))\n"
    let worker = try await stage.start([SettingsFile.variable: directory.path("settings")])
    func purged(_ path: String) -> Bool {
      sink.received.contains { $0["path"] == path && $0["body"]?.contains("expired wraps purged") == true }
    }
    try await onLoop {
      try await worker.answersReadyz(200)
      for path in ["/planted-1", "/planted-2"] {
        try directory.put(["settings": settings, "url": sink.url(path)])
        let line = try await Self.hangUp(worker, until: "reloaded")
        #expect(line.fields?["changed"] as? [String: String] == ["SB_WORKER_WEBHOOK_URL": "(hidden)"])
        try await stage.addExpiredWrap()
        try await eventually("the sink at \(path) has the report") { purged(path) }
      }
    }
    #expect(try await worker.stop() == .exited(0))
    #expect(!worker.everything.contains("planted"))
  }
}
