// The test tools do what they claim: a fault tool that breaks nothing would prove nothing.

import Foundation
import Reactor
import TestSupport
import Testing

@Suite struct FaultProxyTests {
  @Test func passesEverythingOnInBothDirections() async throws {
    try await withEcho { proxy in
      let request = [UInt8](repeating: 7, count: 3_000_000)
      let answer = try await exchange(port: proxy.port, sending: [1] + request, within: .seconds(10), half: true)
      #expect(answer == [1] + request)
      #expect(proxy.statistics.bytesToServer == request.count + 1)
      #expect(proxy.statistics.bytesToClient == request.count + 1)
    }
  }

  @Test func refusesAndThenAcceptsOnTheSamePort() async throws {
    try await withEcho { proxy in
      for _ in 0..<3 {
        proxy.admission = .refuse
        await #expect(throws: SocketError.self) {
          try await exchange(port: proxy.port, sending: [1], within: .seconds(5), half: true)
        }
        proxy.heal()
        let answer = try await exchange(port: proxy.port, sending: [1], within: .seconds(5), half: true)
        #expect(answer == [1])
      }
    }
  }

  @Test func resetsNewConnections() async throws {
    try await withEcho { proxy in
      proxy.admission = .reset
      await #expect(throws: (any Error).self) {
        try await exchange(port: proxy.port, sending: [1], within: .seconds(5), half: true)
      }
      try await onLoop { try await eventually("it was seen") { proxy.statistics.accepted == 1 } }
      #expect(proxy.statistics.bytesToServer == 0)
    }
  }

  @Test(arguments: [FaultProxy.Direction.toServer, .toClient])
  func holdsOneDirectionBackUntilItIsHealed(direction: FaultProxy.Direction) async throws {
    try await withEcho { proxy in
      proxy.set(.blackHole, direction)
      async let answer = exchange(port: proxy.port, sending: [1, 2, 3], within: .seconds(10), half: true)
      let crossed = direction == .toServer ? 0 : 3
      try await onLoop {
        try await eventually("it is on its way") {
          proxy.statistics.open == 1 && proxy.statistics.bytesToServer == crossed
        }
      }
      #expect(proxy.statistics.bytesToClient == 0)
      proxy.heal()
      #expect(try await answer == [1, 2, 3])
    }
  }

  @Test func delaysWhatItPassesOn() async throws {
    try await withEcho { proxy in
      proxy.set(.delay(.milliseconds(60)))
      let start = ContinuousClock.now
      let answer = try await exchange(port: proxy.port, sending: [1], within: .seconds(5), half: true)
      #expect(answer == [1])
      #expect(start.duration(to: .now) >= .milliseconds(120))
    }
  }

  @Test func cutsAConnectionAfterSoManyBytes() async throws {
    try await withEcho { proxy in
      for limit in [0, 1, 5] {
        let before = proxy.statistics.bytesToServer
        proxy.set(.cut(afterBytes: limit), .toServer)
        await #expect(throws: (any Error).self) {
          try await exchange(port: proxy.port, sending: Array(0..<10), within: .seconds(5), half: true)
        }
        #expect(proxy.statistics.bytesToServer - before == limit)
      }
      proxy.heal()
      let answer = try await exchange(port: proxy.port, sending: [9], within: .seconds(5), half: true)
      #expect(answer == [9])
    }
  }

  @Test func resetsOpenConnectionsOnRequest() async throws {
    try await withEcho { proxy in
      proxy.set(.blackHole)
      async let answer = exchange(port: proxy.port, sending: [1], within: .seconds(10), half: true)
      try await onLoop { try await eventually("it is open") { proxy.statistics.open == 1 } }
      proxy.goAway()
      #expect(proxy.statistics.open == 0)
      do {
        _ = try await answer
        Issue.record("the connection was not reset")
      } catch let error as SystemCallFailed {
        #expect(error.description.contains("reset"))
      }
    }
  }

  /// A connection that the proxy closed first lingers on its port for a minute.
  @Test func listensAgainThoughConnectionsOfItsOwnStillLinger() async throws {
    let (listener, port) = try listenOnLoopback()
    defer { shutdown(listener, Int32(SHUT_RDWR)) }
    Thread.detachNewThread {
      while case let connection = accept(listener, nil, nil), connection >= 0 { close(connection) }
      close(listener)
    }
    let proxy = try FaultProxy(to: port)
    defer { proxy.stop() }
    for _ in 0..<3 {
      #expect(try await exchange(port: proxy.port, sending: [], within: .seconds(10)) == [])
      proxy.goAway()
      proxy.heal()
    }
  }

  /// Runs `body` with a proxy in front of a server that sends everything back.
  private func withEcho(_ body: (FaultProxy) async throws -> Void) async throws {
    let echo = try EchoServer()
    let proxy = try FaultProxy(to: echo.port)
    defer {
      proxy.stop()
      echo.stop()
    }
    try await body(proxy)
  }
}

@Suite struct WorkerProcessTests {
  @Test func hasItsOutputItsLogAndItsStatus() async throws {
    let process = try await shell(#"echo out; echo '{"level":"INFO","msg":"hello"}' >&2; printf rest >&2; exit 7"#)
    #expect(try await process.waitForExit() == .exited(7))
    #expect(process.output == "out\n")
    #expect(process.log.map(\.text) == [#"{"level":"INFO","msg":"hello"}"#, "rest"])
    #expect(process.log[0].level == "INFO")
    #expect(process.log[0].message == "hello")
    #expect(process.log[1].fields == nil)
  }

  @Test func hasNothingOfOurEnvironmentOrDescriptors() async throws {
    setenv("PLANTED_FOR_A_TEST", "1", 1)
    let leaked = fcntl(0, F_DUPFD, 100)
    defer { close(leaked) }
    let process = try await shell("env; test ! -e /proc/$$/fd/\(leaked)", ["OURS": "yes"])
    #expect(try await process.waitForExit() == .exited(0))
    #expect(!process.output.contains("PLANTED_FOR_A_TEST"))
    #expect(process.output.contains("OURS=yes\n"))
    #expect(process.output.contains("SB_WORKER_LOCAL_ADDR=127.0.0.1:\(process.probePort)\n"))
  }

  @Test func isStoppedAndGoesOnByASignal() async throws {
    let process = try await shell("trap 'echo ended; exit 3' TERM; echo ready; while :; do sleep 0.01; done")
    try await onLoop { try await eventually("it is ready") { process.output == "ready\n" } }
    #expect(process.threadCount == 1)
    #expect((process.descriptorCount ?? 0) >= 3)
    process.signal(SIGSTOP)
    process.signal(SIGTERM)
    await #expect(throws: NeverHappened.self) { try await process.waitForExit(within: .milliseconds(50)) }
    process.signal(SIGCONT)
    let ending = try await process.waitForExit()
    #expect(ending == .exited(3))
    #expect(process.output == "ready\nended\n")
    #expect(process.threadCount == nil)
  }

  @Test func isKilledWhenNobodyHoldsItAnyMore() async throws {
    var process: WorkerProcess? = try await shell("sleep 60")
    let id = try #require(process?.id)
    #expect(kill(id, 0) == 0)
    process = nil
    try await onLoop { try await eventually("it is gone") { kill(id, 0) != 0 } }
  }

  private func shell(_ script: String, _ environment: [String: String] = [:]) async throws -> WorkerProcess {
    try await WorkerProcess.start(["-c", script], environment: environment, executable: "/bin/sh")
  }
}

/// An echo server with a thread per connection.
private final class EchoServer: Sendable {
  let port: UInt16
  private let listener: Int32

  init() throws {
    (listener, port) = try listenOnLoopback()
    Thread.detachNewThread { [listener] in
      while case let connection = accept(listener, nil, nil), connection >= 0 {
        Thread.detachNewThread {
          var buffer = [UInt8](repeating: 0, count: 65_536)
          while case let count = recv(connection, &buffer, buffer.count, 0), count > 0 {
            var sent = 0
            while sent < count {
              let more = buffer[sent..<count].withUnsafeBytes { send(connection, $0.baseAddress, $0.count, 0) }
              if more <= 0 { break }
              sent += more
            }
          }
          close(connection)
        }
      }
      close(listener)
    }
  }

  func stop() { shutdown(listener, Int32(SHUT_RDWR)) }
}
