// The worker's messages to systemd: the pure model, and the program with a stand-in for systemd's socket.

import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct ManagerMessagesTests {
  private static func after(_ seconds: Int) -> MonotonicInstant {
    MonotonicInstant(nanoseconds: Int64(seconds) * 1_000_000_000)
  }

  /// Sends what is due, and returns it.
  private static func sent(_ messages: inout ManagerMessages, at now: MonotonicInstant) -> String? {
    let message = messages.message(at: now)
    if message != nil { messages.sent(true, at: now) }
    return message
  }

  @Test func readyIsSentOnceAndTheStatusWheneverItChanges() {
    var messages = ManagerMessages(watchdogTimeout: nil, now: Self.after(1))
    #expect(Self.sent(&messages, at: Self.after(1)) == "STATUS=Connecting to PostgreSQL and Redis\n")
    messages.becameUnready([("PostgreSQL", "timed out"), ("Redis", "connection refused")])
    #expect(
      Self.sent(&messages, at: Self.after(2)) == "STATUS=Not ready: PostgreSQL: timed out; Redis: connection refused\n")
    messages.becameReady()
    #expect(Self.sent(&messages, at: Self.after(3)) == "READY=1\nSTATUS=Ready\n")
    messages.becameReady()
    #expect(Self.sent(&messages, at: Self.after(4)) == nil)
    messages.becameUnready([("Redis", "timed out")])
    messages.becameReady()
    #expect(Self.sent(&messages, at: Self.after(5)) == "STATUS=Ready\n")
    messages.stops()
    messages.becameReady()
    #expect(Self.sent(&messages, at: Self.after(6)) == "STOPPING=1\nSTATUS=Shutting down: a running batch finishes\n")
  }

  @Test func aReloadBeginsAndEndsInMessagesOfTheirOwnAndOnlyOnceTheWorkerIsReady() {
    var messages = ManagerMessages(watchdogTimeout: nil, now: Self.after(1))
    messages.reloads(at: Self.after(1))
    messages.reloaded()
    messages.becameReady()
    #expect(Self.sent(&messages, at: Self.after(1)) == "READY=1\nSTATUS=Ready\n")
    messages.reloads(at: Self.after(2))
    messages.reloaded()
    #expect(Self.sent(&messages, at: Self.after(2)) == "RELOADING=1\nMONOTONIC_USEC=2000000\n")
    #expect(Self.sent(&messages, at: Self.after(2)) == "READY=1\n")
    #expect(messages.wakeAt == .never)
  }

  @Test func withoutAWatchdogNothingIsDueWhileNothingChanges() {
    var messages = ManagerMessages(watchdogTimeout: nil, now: Self.after(1))
    _ = Self.sent(&messages, at: Self.after(1))
    #expect(messages.wakeAt == .never)
  }

  @Test func theWatchdogIsFedTwiceInItsTimeout() {
    var messages = ManagerMessages(watchdogTimeout: .seconds(30), now: Self.after(1))
    #expect(Self.sent(&messages, at: Self.after(1))?.hasSuffix("\nWATCHDOG=1\n") == true)
    #expect(messages.wakeAt == Self.after(16))
    messages.becameReady()
    #expect(Self.sent(&messages, at: Self.after(10)) == "READY=1\nSTATUS=Ready\n")
    #expect(Self.sent(&messages, at: Self.after(16)) == "WATCHDOG=1\n")
    #expect(messages.wakeAt == Self.after(31))
  }

  @Test func aMessageThatWasNotTakenIsSentAgainASecondLater() {
    var messages = ManagerMessages(watchdogTimeout: nil, now: Self.after(1))
    messages.becameReady()
    let message = messages.message(at: Self.after(1))
    messages.sent(false, at: Self.after(1))
    #expect(messages.wakeAt == Self.after(2) && messages.message(at: Self.after(1)) == nil)
    #expect(messages.message(at: Self.after(2)) == message)
  }

  @Test func aReasonWithALineBreakAddsNoAssignment() {
    var messages = ManagerMessages(watchdogTimeout: nil, now: Self.after(1))
    messages.becameUnready([("PostgreSQL", "gone\nREADY=1")])
    #expect(messages.message(at: Self.after(1)) == "STATUS=Not ready: PostgreSQL: gone READY=1\n")
  }
}

@Suite(.serialized) struct ManagerReportTests {
  private static func makeSocket(isAbstract: Bool) throws -> NotifySocket {
    let name = "sb-notify-\(UUID().uuidString.prefix(8))"
    return try NotifySocket(isAbstract ? "@" + name : FileManager.default.temporaryDirectory.path + "/" + name)
  }

  @Test(arguments: [false, true])
  func itIsReadyWhenBothServersAnswerAndStopsWhenItIsAskedTo(isAbstract: Bool) async throws {
    let stage = try await WorkerStage.set()
    stage.redisProxy.admission = .refuse
    let socket = try Self.makeSocket(isAbstract: isAbstract)
    let worker = try await stage.start(["NOTIFY_SOCKET": socket.name])
    try await onLoop {
      var lines: [String] = []
      try await eventually("it says what is wrong") {
        lines += socket.lines()
        return lines.contains { $0.hasPrefix("STATUS=Not ready: ") && $0.contains("Redis: ") }
      }
      #expect(!lines.contains("READY=1") && !lines.contains("WATCHDOG=1"))
      stage.redisProxy.admission = .accept
      try await eventually("it is ready") {
        lines += socket.lines()
        return lines.contains("READY=1") && lines.last == "STATUS=Ready"
      }
      try await worker.answersReadyz(200)
      stage.postgresProxy.set(.blackHole)
      try await eventually("it names the server that hangs", within: .seconds(20)) {
        await worker.status(of: "/readyz") == 503 && socket.lines().contains { $0.contains("PostgreSQL: ") }
      }
    }
    worker.signal(SIGTERM)
    #expect(try await worker.waitForExit(within: .seconds(20)) == .exited(0))
    let last = socket.lines()
    #expect(last.contains("STOPPING=1") && !last.contains("READY=1"))
  }

  @Test func aLoopThatIsStuckFeedsNoWatchdog() async throws {
    let stage = try await WorkerStage.set()
    let socket = try Self.makeSocket(isAbstract: true)
    let worker = try await stage.start(["NOTIFY_SOCKET": socket.name, "WATCHDOG_USEC": "200000"])
    try await onLoop {
      var meals = 0
      try await eventually("it is fed") {
        meals += socket.lines().count { $0 == "WATCHDOG=1" }
        return meals >= 5
      }
      worker.signal(SIGSTOP)
      let begin = ContinuousClock.now
      _ = socket.lines()
      try await eventually("five intervals have passed") { begin.duration(to: .now) > .milliseconds(500) }
      #expect(!socket.lines().contains("WATCHDOG=1"))
      worker.signal(SIGCONT)
      try await eventually("it is fed again") { socket.lines().contains("WATCHDOG=1") }
    }
    #expect(try await worker.stop() == .exited(0))
  }

  @Test func aManagerThatIsNotThereIsInNobodysWay() async throws {
    let stage = try await WorkerStage.set()
    let worker = try await stage.start(["NOTIFY_SOCKET": "/nowhere/notify", "WATCHDOG_PID": "1"])
    try await onLoop { try await worker.answersReadyz(200) }
    #expect(try await worker.stop() == .exited(0))
  }

  @Test func credentialsOfSystemdAreRead() async throws {
    let stage = try await WorkerStage.set()
    let directory = FileManager.default.temporaryDirectory.appendingPathComponent("credentials-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: false)
    defer { try? FileManager.default.removeItem(at: directory) }
    let environment = try await stage.environment
    for name in ["DATABASE_URL", "REDIS_URL"] {
      try #require(environment[name]).write(
        to: directory.appendingPathComponent("worker_\(name)"), atomically: false, encoding: .utf8)
    }
    let worker = try await stage.start([
      "DATABASE_URL": "", "REDIS_URL": "", "CREDENTIALS_DIRECTORY": directory.path,
    ])
    try await onLoop { try await worker.answersReadyz(200) }
    #expect(try await worker.stop() == .exited(0))

    let doubtful = try await WorkerProcess.start(
      environment: environment.merging(["CREDENTIALS_DIRECTORY": directory.path]) { $1 })
    #expect(try await doubtful.waitForExit() == .exited(78))
    #expect(
      doubtful.log.contains {
        $0["variable"] == "DATABASE_URL"
          && $0["error"] == "DATABASE_URL must not be set while there is a credential worker_DATABASE_URL"
      })
  }
}
