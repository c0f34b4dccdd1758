// The HTTP server over real sockets: what clients see of it, and what they cannot do to it.

import Foundation
import TestSupport
import Testing

@testable import Reactor

@Suite struct HTTPServerTests {
  // MARK: Answers

  @Test func aConnectionServesOneRequestAfterTheOther() async throws {
    try await withHTTPServer { server, port in
      let client = try HTTPTestClient(port: port)
      for number in 0..<100 {
        let answer = try client.get("/echo?\(number)")
        #expect(answer.status == 200)
        #expect(answer.body == "\(number)")
        #expect(answer.fields["Connection"] == nil)
        #expect(answer.fields["Date"]?.hasSuffix(" GMT") == true)
      }
      #expect(await server.statistics.acceptedConnections == 1)
      #expect(await server.statistics.responsesByClass[2] == 100)
    }
  }

  @Test func pipelinedRequestsAreAnsweredInOrderAlsoWhereSomeAreAnsweredLater() async throws {
    try await withHTTPServer { _, port in
      let client = try HTTPTestClient(port: port)
      var text = ""
      for number in 0..<300 {
        text += "GET /echo?\(number) HTTP/1.1\r\nHost: a\r\n\r\n"
        if number % 10 == 0 { text += "GET /later HTTP/1.1\r\nHost: a\r\n\r\nHEAD /later HTTP/1.1\r\nHost: a\r\n\r\n" }
      }
      try client.send(text)
      for number in 0..<300 {
        #expect(try client.response().body == "\(number)")
        guard number % 10 == 0 else { continue }
        #expect(try client.response().body == "later\n")
        let head = try client.response(toHead: true)
        #expect(head.status == 503)
        #expect(head.fields["Content-Length"] == "6")
      }
    }
  }

  @Test func anAnswerToHeadHasTheLengthAndNoBody() async throws {
    try await withHTTPServer { _, port in
      let client = try HTTPTestClient(port: port)
      try client.send("HEAD /now HTTP/1.1\r\nHost: a\r\n\r\n")
      #expect(try client.response(toHead: true).fields["Content-Length"] == "5")
      #expect(try client.get("/now").body == "here\n")
    }
  }

  @Test func aLiveBodyIsWrittenForEachRequestWithItsOwnLength() async throws {
    let length = LiveLength()
    let live = await length.response
    let handler: HTTPServer.Handler = { _ in .live(live) }
    try await withHTTPServer(handler: handler) { _, port in
      let client = try HTTPTestClient(port: port)
      // From one digit of length to six, forth and back, some together in the output; 0 is a body too.
      for bytes in [3, 0, 99_999, 123_456, 7, 10, 9] {
        await length.set(bytes)
        let pair = "GET / HTTP/1.1\r\nHost: a\r\n\r\nHEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
        try client.send(pair + pair)
        for _ in 0..<2 {
          #expect(try client.response().body == String(repeating: "x", count: bytes))
          let head = try client.response(toHead: true)
          #expect(head.fields["Content-Length"] == "\(bytes)" && head.status == 200)
        }
      }
    }
  }

  /// The length of a live response's body, in bytes.
  @EventLoop private final class LiveLength {
    private var bytes = 0

    /// A live response whose body has as many bytes as was last set.
    var response: HTTPLiveResponse {
      HTTPLiveResponse(
        contentType: "text/plain", byteLimit: { self.bytes + 100 },
        write: { target in
          for index in 0..<self.bytes { target[index] = UInt8(ascii: "x") }
          return self.bytes
        })
    }

    func set(_ bytes: Int) {
      self.bytes = bytes
    }
  }

  @Test func version10EndsTheConnectionUnlessItAsksToKeepIt() async throws {
    try await withHTTPServer { _, port in
      let client = try HTTPTestClient(port: port)
      try client.send("GET /now HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
      #expect(try client.response().fields["Connection"] == "keep-alive")
      try client.send("GET /now HTTP/1.0\r\n\r\n")
      #expect(try client.response().fields["Connection"] == "close")
      #expect(try client.hasEnded())
    }
  }

  @Test func aSmallBodyIsReadAndDropped() async throws {
    try await withHTTPServer { _, port in
      let client = try HTTPTestClient(port: port)
      try client.send("GET /now HTTP/1.1\r\nHost: a\r\nContent-Length: 24\r\nExpect: 100-continue\r\n\r\n")
      #expect(try client.response().status == 100)
      try client.send("GET /evil HTTP/1.0\r\n\r\nab")
      #expect(try client.response().status == 200)
      #expect(try client.get("/now").status == 200)
    }
  }

  @Test func aClientThatEndsItsSideGetsItsAnswers() async throws {
    try await withHTTPServer { _, port in
      let client = try HTTPTestClient(port: port)
      try client.send("GET /later HTTP/1.1\r\nHost: a\r\n\r\nGET /now HTTP/1.1\r\nHost: a\r\n\r\n")
      client.endSending()
      #expect(try client.response().body == "later\n")
      #expect(try client.response().body == "here\n")
      #expect(try client.hasEnded())
    }
  }

  // MARK: Refusals

  private static let refused: [(request: String, status: Int)] = [
    ("GARBAGE\r\n\r\n", 400), ("GET /now HTTP/1.1\r\n\r\n", 400), ("GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", 404),
    ("POST /now HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}", 405), ("DELETE /now HTTP/1.0\r\n\r\n", 405),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 411),
    ("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n" + String(repeating: "x", count: 3_000_000), 413),
    ("GET /" + String(repeating: "x", count: 100_000), 414),
    ("GET / HTTP/1.1\r\nHost: a\r\nExpect: magic\r\n\r\n", 417),
    ("GET / HTTP/1.1\r\nHost: a\r\n" + String(repeating: "X: y\r\n", count: 20_000) + "\r\n", 431),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501), ("GET / HTTP/2.0\r\n\r\n", 505),
  ]

  @Test(arguments: refused.indices)
  func aRefusalIsReadInFullAndEndsTheConnection(index: Int) async throws {
    let (request, status) = Self.refused[index]
    try await withHTTPServer { server, port in
      let client = try HTTPTestClient(port: port)
      // What follows a refused request is never answered.
      try client.send(request + "GET /now HTTP/1.1\r\nHost: a\r\n\r\n")
      let answer = try client.response()
      #expect(answer.status == status)
      #expect(answer.fields["Connection"] == "close")
      #expect(answer.fields["Allow"] == (status == 405 ? "GET, HEAD" : nil))
      #expect(try client.hasEnded())
      #expect(await server.statistics.responsesByClass[status / 100] == 1)
      #expect(await server.statistics.responsesByClass[2] == 0)
    }
  }

  // MARK: Time

  @Test func aRequestThatDribblesInIsRefusedWhenItsTimeIsUp() async throws {
    try await withTurnedClock { server, port, clock in
      let client = try HTTPTestClient(port: port)
      try client.send("GET / HTTP/1.1\r\n")
      try await onLoop { try await eventually("first bytes") { server.connections.first(.receiving) != nil } }
      try await turn(clock, .seconds(6), server)
      try client.send("Host: a\r\n")
      try await turn(clock, .milliseconds(3_999), server)
      #expect(await server.statistics.timedOutConnections == 0)
      try await turn(clock, .milliseconds(1), server)
      #expect(try client.response().status == 408)
      #expect(try client.hasEnded())
    }
  }

  @Test func anIdleConnectionIsClosedWithoutAWord() async throws {
    try await withTurnedClock { server, port, clock in
      let client = try HTTPTestClient(port: port)
      #expect(try client.get("/now").status == 200)
      try await onLoop { try await eventually("idle") { server.connections.first(.idle)?.isAtWork == false } }
      try await turn(clock, .seconds(30), server)
      #expect(try client.get("/now").status == 200)
      try await turn(clock, .milliseconds(59_999), server)
      #expect(await server.statistics.openConnections == 1)
      try await turn(clock, .milliseconds(1), server)
      #expect(try client.hasEnded())
    }
  }

  @Test func theTimerClosesByTheRealClockAndStopsWithTheLastConnection() async throws {
    var limits = HTTPServerLimits()
    limits.idleTimeout = .milliseconds(50)
    try await withHTTPServer(limits: limits) { server, port in
      #expect(await server.timerDeadline == nil)
      let clients = try (0..<3).map { _ in try HTTPTestClient(port: port) }
      for client in clients { #expect(try client.hasEnded()) }
      try await onLoop { try await eventually("closed") { server.connections.count == 0 } }
      #expect(await server.timerDeadline == nil)
      try await onLoop { #expect(server.responder.input.baseAddress == nil) }
    }
  }

  // MARK: Bounds

  @Test func atTheBoundTheOldestIdleConnectionGivesWay() async throws {
    var limits = HTTPServerLimits()
    limits.maximumConnections = 3
    try await withHTTPServer(limits: limits) { server, port in
      let clients = try (0..<3).map { _ in try HTTPTestClient(port: port) }
      for client in clients { #expect(try client.get("/now").status == 200) }
      #expect(try clients[0].get("/now").status == 200)  // The second is the oldest now.
      let late = try HTTPTestClient(port: port)
      #expect(try late.get("/now").status == 200)
      #expect(try clients[1].hasEnded())
      for client in [clients[0], clients[2]] { #expect(try client.get("/now").status == 200) }
      #expect(await server.statistics.evictedConnections == 1)
    }
  }

  /// As many half requests as there may be connections keep nobody out.
  @Test func whereNoneIsIdleWhoIsSlowGivesWay() async throws {
    var limits = HTTPServerLimits()
    limits.maximumConnections = 2
    try await withHTTPServer(limits: limits) { server, port in
      let slow = try (0..<2).map { _ in try HTTPTestClient(port: port) }
      for client in slow { try client.send("GET /now HTTP/1.1\r\n") }
      try await onLoop { try await eventually("both at work") { server.connections.first(.receiving)?.next != nil } }
      for _ in 0..<3 { #expect(try HTTPTestClient(port: port).get("/now").status == 200) }
      #expect(try slow[0].hasEnded())
      let statistics = await server.statistics
      #expect(statistics.evictedConnections >= 1 && statistics.acceptPauses == 0)
    }
  }

  @Test func whereAllWaitForTheirAnswersANewConnectionWaitsItsTurn() async throws {
    let gate = Gate()
    var limits = HTTPServerLimits()
    limits.maximumConnections = 2
    let handler: HTTPServer.Handler = { _ in .later { await gate.response() } }
    try await withHTTPServer(limits: limits, handler: handler) { server, port in
      let clients = try (0..<2).map { _ in try HTTPTestClient(port: port) }
      for client in clients { try client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n") }
      try await onLoop { try await eventually("both wait") { server.connections.first(.answering)?.next != nil } }
      let late = try HTTPTestClient(port: port)
      try late.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
      try await onLoop { try await eventually("resting") { server.statistics.acceptPauses > 0 } }
      #expect(await server.statistics.openConnections == 2)
      await gate.open()
      for client in clients + [late] { #expect(try client.response().status == 200) }
    }
  }

  @Test func aServerThatEndsWhileAcceptingRestsIsGone() async throws {
    var limits = HTTPServerLimits()
    limits.acceptPause = .milliseconds(20)
    try await onLoop { [limits] in
      var server: HTTPServer? = HTTPServer(limits: limits, clock: .system, handler: testRoutes)
      weak let released = server
      try server?.listen(on: "127.0.0.1:0")
      await withTaskGroup { group in
        group.addTask { [server] in await server?.run() }
        try? await eventually("it runs") { server?.isRunning == true }
        server?.didAccept(-EMFILE)
        #expect(server?.statistics.acceptPauses == 1)
        group.cancelAll()
      }
      server = nil
      #expect(released == nil)
      // Its timer would fire in here.
      try await LoopClock.system.sleep(for: .milliseconds(60))
    }
  }

  /// As a sandbox or an old kernel does, or a shortage while there is no client whose connection could be closed.
  @Test(arguments: [EPERM, ENOSYS, ENOTSOCK, EINVAL, EMFILE, ENFILE, ENOMEM])
  func aRefusedAcceptIsReportedOnceAndRetried(number: Int32) async throws {
    var limits = HTTPServerLimits()
    limits.acceptPause = .milliseconds(20)
    try await onLoop { [limits] in
      let server = HTTPServer(limits: limits, clock: .system, handler: testRoutes)
      var reported: [String] = []
      server.onAcceptFailure = { reported.append($0) }
      try server.listen(on: "127.0.0.1:0")
      await withTaskGroup { group in
        group.addTask { await server.run() }
        try? await eventually("it runs") { server.isRunning }
        for _ in 0..<3 { server.didAccept(-number) }
        #expect(reported == [String(cString: strerror(number))])
        #expect(server.statistics.acceptPauses == 3)
        let client = try? HTTPTestClient(port: server.boundPort)
        try? client?.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        try? await eventually("it accepts again") { server.statistics.acceptedConnections == 1 }
        #expect(server.statistics.acceptedConnections == 1)
        // It comes and goes: nothing new.
        server.didAccept(-number)
        #expect(reported.count == 1)
        group.cancelAll()
      }
    }
  }

  @Test func aPeerThatDoesNotReadIsNotReadFromAndItsTimeEnds() async throws {
    try await withTurnedClock { server, port, clock in
      let client = try HTTPTestClient(port: port, receiveBuffer: 4096)
      try client.send(String(repeating: "GET /large HTTP/1.1\r\nHost: a\r\n\r\n", count: 200))
      try await onLoop { try await eventually("writing") { server.connections.first(.writing) != nil } }
      // Kernel buffers take a few of the 200 MB; the server holds one answer over its bound at most.
      #expect(await server.statistics.responsesByClass[2] < 20)
      try await turn(clock, .seconds(10), server)
      #expect(await server.statistics.openConnections == 0)
    }
  }

  @Test func aSlowReaderGetsEverythingInTheEnd() async throws {
    try await withHTTPServer { _, port in
      let client = try HTTPTestClient(port: port, receiveBuffer: 4096)
      for path in [String](repeating: "/large", count: 5) {
        try client.send("GET \(path) HTTP/1.1\r\nHost: a\r\n\r\nGET /echo?x HTTP/1.1\r\nHost: a\r\n\r\n")
      }
      for _ in 0..<5 {
        #expect(try client.response().body.utf8.count == 1_000_000)
        #expect(try client.response().body == "x")
      }
    }
  }

  @Test func clientsThatResetHarmNobody() async throws {
    try await withHTTPServer { server, port in
      let whole = ["/large", "/later"].map { "GET \($0) HTTP/1.1\r\nHost: a\r\n\r\n" }
      for request in ["", "GET", "BAD\r\n"] + whole {
        for _ in 0..<20 {
          let client = try HTTPTestClient(port: port)
          try client.send(request)
          client.willReset()
        }
      }
      try await onLoop { try await eventually("all closed") { server.connections.count == 0 } }
      #expect(try HTTPTestClient(port: port).get("/now").status == 200)
    }
  }

  @Test func aThousandConnectionsInTurnLeaveNothing() async throws {
    try await withHTTPServer { server, port in
      for _ in 0..<1_000 { #expect(try HTTPTestClient(port: port).get("/now").status == 200) }
      try await onLoop { try await eventually("all closed") { server.connections.count == 0 } }
      #expect(await server.statistics.acceptedConnections == 1_000)
      // Ours by their port: other tests open descriptors of their own meanwhile.
      let sockets = try String(contentsOfFile: "/proc/self/net/tcp", encoding: .utf8)
      let established = sockets.components(separatedBy: "\n").filter {
        $0.contains(String(format: "0100007F:%04X ", port)) && $0.contains(" 01 ")
      }
      #expect(established.isEmpty)
    }
  }

  // MARK: The end

  @Test func aDrainAnswersWhatIsUnderWayAndTakesNothingNew() async throws {
    let gate = Gate()
    let handler: HTTPServer.Handler = { _ in .later { await gate.response() } }
    try await withHTTPServer(handler: handler) { server, port in
      let idle = try HTTPTestClient(port: port)
      let busy = try HTTPTestClient(port: port)
      try busy.send("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
      try await onLoop { try await eventually("two, one waits") { server.connections.count == 2 && gate.isWaitedFor } }
      async let drained: Void = server.drain(within: .seconds(10))
      #expect(try idle.hasEnded())
      #expect(throws: HTTPTestClient.Failure.self) { try HTTPTestClient(port: port) }
      await gate.open()
      let answer = try busy.response()
      #expect(answer.body == "open")
      #expect(answer.fields["Connection"] == "close")
      #expect(try busy.hasEnded())
      await drained
    }
  }

  @Test func aCancelledServerCancelsItsLaterAnswersAndEnds() async throws {
    let (server, port, isCancelled) = try await onLoop {
      let isCancelled = Gate()
      let server = HTTPServer(clock: .system) { _ in
        .later {
          do { try await LoopClock.system.sleep(for: .seconds(60)) } catch { isCancelled.open() }
          return HTTPResponse(status: .serviceUnavailable, text: "stopped")
        }
      }
      try server.listen(on: "127.0.0.1:0")
      return (server, server.boundPort, isCancelled)
    }
    let client = try HTTPTestClient(port: port)
    try client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    try await onLoop {
      await withTaskGroup { group in
        group.addTask { await server.run() }
        group.addTask {
          await Self.wait { server.connections.first(.answering) != nil }
        }
        await group.next()
        group.cancelAll()
      }
      #expect(isCancelled.isOpen)
      #expect(server.connections.count == 0)
    }
    #expect(try client.response().body == "stopped")
    #expect(try client.hasEnded())
  }

  @EventLoop private static func wait(for condition: @EventLoop () -> Bool) async {
    do { try await eventually("condition", condition) } catch { Issue.record(error) }
  }

  private func withTurnedClock(_ body: (HTTPServer, UInt16, LoopClock) async throws -> Void) async throws {
    let clock = try await onLoop { LoopClock.manual() }
    try await withHTTPServer(clock: clock) { server, port in try await body(server, port, clock) }
  }

  private func turn(_ clock: LoopClock, _ duration: Duration, _ server: HTTPServer) async throws {
    try await onLoop { clock.advance(by: duration) }
  }
}

/// Something to wait for, opened once.
@EventLoop private final class Gate {
  private(set) var isOpen = false
  private(set) var isWaitedFor = false

  func open() {
    isOpen = true
  }

  func response() async -> HTTPResponse {
    isWaitedFor = true
    while !isOpen { await Task.yield() }
    return HTTPResponse(text: "open")
  }
}
