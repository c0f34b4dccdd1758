// Boot faults end the worker within a second, with all of them reported, before it contacts a server.

import Foundation
import TestSupport
import Testing

@testable import Worker

@Suite struct BootFaultTests {
  /// A value that is wrong for each kind of setting that can be wrong, and a word of the rule that it breaks.
  private static let wrong: [(variable: String, value: String, expected: String)] = [
    ("DATABASE_URL", "postgres://u:hunter2@h/d?nonsense=1", "unknown parameter nonsense"),
    ("DATABASE_MAX_CONNS", "ten", "number"),
    ("DATABASE_CONN_LIFETIME", "30", "duration"),
    ("REDIS_URL", "rediss//:hunter2@h", "redis://"),
    ("REDIS_NAMESPACE", "a b", "whitespace"),
    ("REDIS_DIAL_TIMEOUT", "-1s", "duration"),
    ("REDIS_POOL_SIZE", "many", "number"),
    ("SB_ENV", "staging", "production"),
    ("SB_WORKER_LOCAL_ADDR", "localhost", "host:port"),
    ("SB_WORKER_LEASE", "2s", "3s"),
    ("SB_WORKER_RUN_ON_START", "maybe", "true"),
    ("SB_WORKER_SHUTDOWN_GRACE", "15", "duration"),
    ("SB_WORKER_WEBHOOK_URL", "ftp://example.com/hunter2", "http"),
    ("SB_WORKER_WEBHOOK_SLACK_FORMAT", "yes", "true"),
    ("SB_WORKER_GITOPS_ENABLED", "true", "false"),
    ("SB_WORKER_WRAPS_EXPIRED_INTERVAL", "0", "duration"),
    ("SB_WORKER_SECRETS_STALE_INTERVAL", "-5m", "duration"),
    ("SB_WORKER_SECRETS_STALE_AFTER", "0s", "duration"),
    ("SB_WORKER_AGENTS_STALE_INTERVAL", "1", "duration"),
    ("SB_WORKER_AGENTS_STALE_AFTER", "never", "duration"),
    ("SB_WORKER_JOBS_RECOVERY_INTERVAL", "30 s", "duration"),
    ("SB_WORKER_JOBS_RECOVERY_ACTION", "drop", "requeue"),
    ("SB_WORKER_JOBS_RECOVERY_GRACE", "-1s", "duration"),
    ("SB_WORKER_DISCOVER_INTERVAL", "1d", "duration"),
    ("SB_DISCOVER_TARGETS_JSON", #"[{"name":"a","cluster":"c","provider_type":"vault"},{"name":"a"}]"#, "[1]"),
  ]

  @Test func everyFaultIsSaidAtOnceAndNamesItsVariable() async throws {
    let environment = Dictionary(uniqueKeysWithValues: Self.wrong.map { ($0.variable, $0.value) })
    let (ending, worker, duration) = try await boot(environment)
    #expect(ending == .exited(78))
    #expect(duration < .seconds(1))
    for (variable, _, expected) in Self.wrong {
      let said = worker.log.filter { $0.level == "ERROR" && $0["variable"] == variable }
      #expect(said.contains { $0["error"]?.contains(expected) ?? false }, "\(variable): \(said)")
    }
    #expect(!worker.everything.contains("hunter2"))
  }

  /// With good URLs, so that there is something to touch.
  @Test(arguments: wrong.filter { !$0.variable.hasSuffix("_URL") }.map { [$0.variable: $0.value] })
  func oneFaultIsEnoughAndNoServerIsTouched(fault: [String: String]) async throws {
    let servers = try Tripwire()
    let (ending, worker, duration) = try await boot(servers.environment.merging(fault) { $1 })
    #expect(ending == .exited(78))
    #expect(duration < .seconds(1))
    #expect(worker.log.count { $0.level == "ERROR" } >= 1)
    #expect(worker.log.allSatisfy { $0.fields != nil })
    #expect(worker.output.isEmpty)
    #expect(!servers.isTouched)
  }

  @Test func aListenAddressThatIsTakenEndsItBeforeAnyServerIsTouched() async throws {
    let servers = try Tripwire()
    let taken = try listenOnLoopback()
    defer { close(taken.descriptor) }
    try await expectNoListener("127.0.0.1:\(taken.port)", servers, "another process listens there")
  }

  @Test func aListenAddressThatIsNotOursEndsItBeforeAnyServerIsTouched() async throws {
    // Of the documentation's addresses (RFC 5737): no machine has it.
    try await expectNoListener("192.0.2.1:8091", try Tripwire(), "no interface of this host")
  }

  private func expectNoListener(_ address: String, _ servers: Tripwire, _ reason: String) async throws {
    let (ending, worker, duration) = try await boot(
      servers.environment.merging(["SB_WORKER_LOCAL_ADDR": address]) { $1 })
    #expect(ending == .exited(78))
    #expect(duration < .seconds(1))
    let fault = try #require(worker.log.first { $0.level == "ERROR" })
    #expect(fault.message == "cannot serve probes")
    #expect(fault["error"]?.contains(reason) ?? false, "\(fault)")
    #expect(fault["error"]?.contains(address) ?? false, "\(fault)")
    #expect(!servers.isTouched)
  }

  @Test func aMistypedVariableIsAWarningWithTheNearestNameAndStopsNothing() async throws {
    let servers = try Tripwire()
    let worker = try await WorkerProcess.started(
      servers.environment.merging(["SB_WORKER_WRAP_EXPIRED_INTERVAL": "hunter2"]) { $1 })
    #expect(try await worker.stop() == .exited(0))
    let warning = try #require(worker.log.first { $0["variable"] == "SB_WORKER_WRAP_EXPIRED_INTERVAL" })
    #expect(warning.level == "WARN")
    #expect(warning["detail"]?.contains("SB_WORKER_WRAPS_EXPIRED_INTERVAL") ?? false)
    #expect(!worker.everything.contains("hunter2"))
  }

  /// Starts a worker and waits for its end; retries on a busy machine if it exceeded its limit.
  private func boot(_ environment: [String: String]) async throws -> (WorkerProcess.Ending, WorkerProcess, Duration) {
    var tries = 3
    while true {
      let begin = ContinuousClock.now
      let worker = try await WorkerProcess.start(environment: environment)
      let ending = try await worker.waitForExit(within: .seconds(20))
      let duration = begin.duration(to: .now)
      tries -= 1
      if duration < .seconds(1) || tries == 0 { return (ending, worker, duration) }
    }
  }
}

/// Two sockets in place of the servers, which show whether anything connected.
private final class Tripwire: Sendable {
  private let postgres: (descriptor: Int32, port: UInt16)
  private let redis: (descriptor: Int32, port: UInt16)

  init() throws {
    postgres = try listenOnLoopback()
    redis = try listenOnLoopback()
  }

  deinit {
    close(postgres.descriptor)
    close(redis.descriptor)
  }

  var environment: [String: String] {
    ["DATABASE_URL": "postgres://u@127.0.0.1:\(postgres.port)/d", "REDIS_URL": "redis://127.0.0.1:\(redis.port)"]
  }

  /// An unaccepted connection makes its socket readable, even after the peer has closed it.
  var isTouched: Bool {
    var sockets = [postgres, redis].map { pollfd(fd: $0.descriptor, events: Int16(POLLIN), revents: 0) }
    return poll(&sockets, 2, 0) > 0
  }
}
