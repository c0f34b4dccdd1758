// What happens to commands, in thousands of random sequences of events, and the handshake of a new connection.

import TestSupport
import Testing

@testable import Reactor

private func at(_ nanoseconds: Int64) -> MonotonicInstant {
  MonotonicInstant(nanoseconds: nanoseconds)
}

@Suite struct RedisPipelineTests {
  @Test func answersGoToCommandsInTheirOrder() {
    var pipeline = RedisPipeline()
    #expect(pipeline.opened(at: at(0)).isEmpty)
    #expect(pipeline.submit(deadline: at(10), now: at(0)) == .send(1))
    #expect(pipeline.submit(deadline: at(5), now: at(0)) == .send(2))
    #expect(pipeline.wakeAt == at(5))
    #expect(pipeline.answered() == .deliver(1))
    #expect(pipeline.answered() == .deliver(2))
    #expect(pipeline.wakeAt == nil && pipeline.inFlightCount == 0)
  }

  @Test func aCancelledCommandsAnswerIsDroppedAndTheNextOnesIsNot() {
    var pipeline = RedisPipeline()
    _ = pipeline.opened(at: at(0))
    _ = pipeline.submit(deadline: at(10), now: at(0))
    _ = pipeline.submit(deadline: at(10), now: at(0))
    #expect(pipeline.cancel(1) == .unknownOutcome)
    #expect(pipeline.cancel(1) == .tooLate)
    #expect(pipeline.answered() == .drop)
    #expect(pipeline.answered() == .deliver(2))
    #expect(pipeline.cancel(2) == .tooLate)
  }

  @Test func aCommandThatWaitedTooLongWasNotSent() {
    var pipeline = RedisPipeline()
    #expect(pipeline.submit(deadline: at(10), now: at(0)) == .wait(1))
    #expect(pipeline.submit(deadline: at(30), now: at(0)) == .wait(2))
    #expect(pipeline.expire(now: at(20)) == .init(notSent: [1]))
    #expect(pipeline.wakeAt == at(30))
    #expect(pipeline.opened(at: at(0)) == [2])
    #expect(pipeline.submit(deadline: at(20), now: at(20)) == .refused(.expired))
  }

  /// It waited for the connection until just before its deadline: that the answer takes a round trip is no fault.
  @Test func aCommandThatIsSentLateMakesTheConnectionSuspectOnlyLater() {
    var pipeline = RedisPipeline(leastAnswerTime: .nanoseconds(100))
    _ = pipeline.submit(deadline: at(10), now: at(0))
    #expect(pipeline.opened(at: at(9)) == [1])
    #expect(pipeline.expire(now: at(10)) == .init(unknownOutcome: [1]))
    #expect(pipeline.wakeAt == at(109))
    #expect(pipeline.submit(deadline: at(300), now: at(20)) == .send(2))
    #expect(pipeline.wakeAt == at(109))
    var answered = pipeline
    #expect(answered.answered() == .drop && answered.expire(now: at(109)) == .init())
    #expect(pipeline.expire(now: at(109)) == .init(isConnectionSuspect: true))
  }

  @Test func anOverdueAnswerMakesTheConnectionSuspectEvenWhereNobodyWaitsForIt() {
    var pipeline = RedisPipeline(leastAnswerTime: .nanoseconds(10))
    _ = pipeline.opened(at: at(0))
    _ = pipeline.submit(deadline: at(10), now: at(0))
    _ = pipeline.submit(deadline: at(90), now: at(0))
    _ = pipeline.cancel(1)
    let expired = pipeline.expire(now: at(10))
    #expect(expired.isConnectionSuspect && expired.unknownOutcome.isEmpty)
    #expect(pipeline.lost() == [2])
    #expect(pipeline.wakeAt == nil)
  }

  @Test func thereIsABoundOnCommands() {
    var pipeline = RedisPipeline()
    for _ in 0..<RedisPipeline.commandLimit { _ = pipeline.submit(deadline: at(10), now: at(0)) }
    #expect(pipeline.submit(deadline: at(10), now: at(0)) == .refused(.tooMany))
    // Cancelled ones make room again.
    for identifier in 1...RedisPipeline.Identifier(RedisPipeline.commandLimit) { _ = pipeline.cancel(identifier) }
    #expect(pipeline.wakeAt == nil)
    #expect(pipeline.submit(deadline: at(10), now: at(0)) != .refused(.tooMany))
  }

  @Test func aStoppedPipelineRefuses() {
    var pipeline = RedisPipeline()
    _ = pipeline.submit(deadline: at(10), now: at(0))
    #expect(pipeline.stop().notSent == [1])
    #expect(pipeline.submit(deadline: at(10), now: at(0)) == .refused(.stopped))
  }

  /// Thousands of random orders of events against a model that keeps a list of everything.
  @Test(arguments: 0..<40)
  func everyCommandMeetsExactlyOneFate(seed: UInt64) {
    for round in 0..<50 {
      var model = PipelineModel(seed: seed * 1_000 + UInt64(round))
      for _ in 0..<200 { model.step() }
      model.finish()
      #expect(model.violations.isEmpty, "seed \(seed), round \(round): \(model.violations)")
    }
  }
}

/// The pipeline beside a naive model of a connection, with the rules checked at each step.
private struct PipelineModel {
  enum Fate: Equatable { case answered, notSent, unknown }

  private static let leastAnswerTime: Int64 = 10

  var violations: [String] = []
  private var pipeline = RedisPipeline(leastAnswerTime: .nanoseconds(leastAnswerTime))
  private var random: SeededRandom
  private var now: Int64 = 0
  private var isUp = false
  private var isRetired = false
  private var wire: [UInt64] = []
  private var everSent: Set<UInt64> = []
  private var repeatable: Set<UInt64> = []
  private var sends: [UInt64: Int] = [:]
  private var deadlines: [UInt64: Int64] = [:]
  private var sentLateAt: [UInt64: Int64] = [:]
  private var fates: [UInt64: Fate] = [:]

  init(seed: UInt64) {
    random = SeededRandom(seed: seed)
  }

  mutating func step() {
    switch Int.random(in: 0..<20, using: &random) {
    case 0..<7: submit()
    case 7..<12: if isUp && !wire.isEmpty { answer() }
    case 12..<14: cancel()
    case 14..<17: passTime()
    case 17: if !isUp { open() }
    case 18: if isUp { lose() }
    default:
      if isUp && Int.random(in: 0..<4, using: &random) == 0 {
        pipeline.retire()
        isRetired = true
      }
    }
    check()
  }

  mutating func finish() {
    if isUp { lose() }
    let stopped = pipeline.stop()
    for identifier in stopped.notSent { meet(identifier, .notSent) }
    for identifier in stopped.unknownOutcome { meet(identifier, .unknown) }
    for identifier in deadlines.keys where fates[identifier] == nil { violations.append("\(identifier) has no fate") }
    if pipeline.wakeAt != nil { violations.append("wakes for nothing") }
  }

  private mutating func submit() {
    let deadline = now + Int64.random(in: 0..<50, using: &random)
    let isRepeatable = Bool.random(using: &random)
    switch pipeline.submit(deadline: at(deadline), now: at(now), isRepeatable: isRepeatable) {
    case .send(let identifier):
      if !isUp || isRetired { violations.append("\(identifier) sent without a connection") }
      deadlines[identifier] = deadline
      if isRepeatable { repeatable.insert(identifier) }
      transmit(identifier)
    case .wait(let identifier):
      if isUp && !isRetired { violations.append("\(identifier) waits beside a connection") }
      deadlines[identifier] = deadline
      if isRepeatable { repeatable.insert(identifier) }
    case .refused(.expired):
      if deadline > now { violations.append("refused before its deadline") }
    case .refused: violations.append("refused")
    }
  }

  private mutating func transmit(_ identifier: UInt64) {
    if fates[identifier] != nil { violations.append("\(identifier) sent after its fate") }
    sends[identifier, default: 0] += 1
    if sends[identifier]! > (repeatable.contains(identifier) ? 2 : 1) {
      violations.append("\(identifier) sent too often")
    }
    everSent.insert(identifier)
    if let last = wire.last, last > identifier { violations.append("\(identifier) overtakes \(last)") }
    wire.append(identifier)
  }

  private mutating func answer() {
    let identifier = wire.removeFirst()
    switch pipeline.answered() {
    case .deliver(let delivered):
      if delivered != identifier { violations.append("\(delivered) got the answer of \(identifier)") }
      meet(delivered, .answered)
    case .drop:
      if fates[identifier] != .unknown { violations.append("\(identifier)'s answer was dropped") }
    }
  }

  private mutating func cancel() {
    guard let identifier = deadlines.keys.sorted().randomElement(using: &random) else { return }
    let before = fates[identifier]
    switch pipeline.cancel(identifier) {
    case .notSent: meet(identifier, .notSent)
    case .unknownOutcome: meet(identifier, .unknown)
    case .tooLate: if before == nil { violations.append("\(identifier) could not be cancelled") }
    }
  }

  private mutating func passTime() {
    now += Int64.random(in: 0..<12, using: &random)
    // As the timer does it: nobody is asked before the pipeline wants to wake.
    guard let wakeAt = pipeline.wakeAt, wakeAt <= at(now) else { return }
    let isOverdue = wire.contains { identifier in
      max(deadlines[identifier]!, sentLateAt[identifier].map { $0 + Self.leastAnswerTime } ?? 0) <= now
    }
    let expired = pipeline.expire(now: at(now))
    for identifier in expired.notSent { meet(identifier, .notSent) }
    for identifier in expired.unknownOutcome { meet(identifier, .unknown) }
    for identifier in expired.notSent + expired.unknownOutcome where deadlines[identifier]! > now {
      violations.append("\(identifier) expired early")
    }
    if isOverdue != expired.isConnectionSuspect { violations.append("suspicion is wrong") }
    if expired.isConnectionSuspect { lose() }
  }

  private mutating func open() {
    isUp = true
    isRetired = false
    for identifier in pipeline.opened(at: at(now)) {
      sentLateAt[identifier] = now
      transmit(identifier)
    }
  }

  private mutating func lose() {
    isUp = false
    isRetired = false
    let unknown = pipeline.lost()
    for identifier in unknown { meet(identifier, .unknown) }
    for identifier in wire
    where repeatable.contains(identifier) && sends[identifier] == 1 && fates[identifier] == .unknown {
      if unknown.contains(identifier) { violations.append("\(identifier) was given up, and may be sent again") }
    }
    wire = []
  }

  private mutating func meet(_ identifier: UInt64, _ fate: Fate) {
    if fates[identifier] != nil { violations.append("\(identifier) has two fates") }
    fates[identifier] = fate
    if fate == .notSent && everSent.contains(identifier) { violations.append("\(identifier) was sent after all") }
    if fate != .notSent && !everSent.contains(identifier) { violations.append("\(identifier) was never sent") }
  }

  private mutating func check() {
    let open = deadlines.filter { fates[$0.key] == nil }
    if let earliest = open.values.min() {
      if let wakeAt = pipeline.wakeAt {
        if wakeAt > at(earliest) { violations.append("sleeps past a deadline") }
      } else {
        violations.append("never wakes")
      }
    }
    if pipeline.inFlightCount != wire.count { violations.append("the line is \(wire.count) long") }
    if pipeline.awaitedCount != wire.count(where: { fates[$0] == nil }) { violations.append("miscounts who waits") }
  }
}

extension RedisPipelineTests {
  @Test func aRepeatableCommandIsSentOnceMoreAfterALossAndKeepsItsPlace() {
    var pipeline = RedisPipeline()
    _ = pipeline.opened(at: at(0))
    _ = pipeline.submit(deadline: at(10), now: at(0), isRepeatable: true)
    _ = pipeline.submit(deadline: at(10), now: at(0))
    _ = pipeline.submit(deadline: at(20), now: at(0), isRepeatable: true)
    #expect(pipeline.lost() == [2])
    #expect(pipeline.submit(deadline: at(20), now: at(0)) == .wait(4))
    #expect(pipeline.waitingCount == 3)
    // It was sent: that it is not executed cannot be said any more.
    #expect(pipeline.expire(now: at(10)) == .init(unknownOutcome: [1]))
    #expect(pipeline.opened(at: at(0)) == [3, 4])
    #expect(pipeline.lost() == [3, 4], "once is enough")
  }
}

@Suite struct RedisHandshakeTests {
  @Test func onlyWhatIsNeededIsSaid() {
    let plain = RedisHandshake(user: nil, password: nil, database: 0, clientName: nil)
    #expect(plain.commands == [["PING"]])
    let full = RedisHandshake(user: "u", password: "p", database: 3, clientName: "n")
    #expect(full.commands == [["AUTH", "u", "p"], ["SELECT", "3"], ["CLIENT", "SETNAME", "n"], ["PING"]])
    let old = RedisHandshake(user: nil, password: "p", database: 0, clientName: nil)
    #expect(old.commands == [["AUTH", "p"], ["PING"]])
  }

  @Test func theServerIsReadyOnceThePingIsAnswered() {
    var handshake = RedisHandshake(user: nil, password: "p", database: 1, clientName: nil)
    #expect(handshake.answered(.status("OK")) == .more)
    #expect(handshake.answered(.status("OK")) == .more)
    #expect(handshake.answered(.status("PONG")) == .ready)
  }

  @Test func aRefusalNamesTheStepAndTheCode() {
    var handshake = RedisHandshake(user: nil, password: nil, database: 0, clientName: "n")
    #expect(handshake.answered(.error(code: "NOPERM", message: "no")) == .more)
    let verdict = handshake.answered(.error(code: "LOADING", message: "Redis is loading"))
    #expect(verdict == .refused("PING refused: the server is loading its data (LOADING)"))
    var denied = RedisHandshake(user: nil, password: nil, database: 0, clientName: nil)
    #expect(denied.answered(.error(code: "NOPERM", message: "run ping")) == .ready)
  }

  private static let check = RedisHealthCheck(script: RedisScript("return 1"), keys: ["k"], arguments: ["a"])
  private static let digest = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db"

  private static func checking(sendsHello: Bool = true) -> RedisHandshake {
    RedisHandshake(
      user: nil, password: nil, database: 0, clientName: nil, healthCheck: check, sendsHello: sendsHello)
  }

  private static func hello(mode: String) -> RedisValue {
    .array(["server", "redis", "mode", mode, "role", "master"].map { .string(Array($0.utf8)) })
  }

  @Test func withAHealthCheckTheServerIsReadyOnceThatHasSucceeded() {
    var handshake = Self.checking()
    #expect(handshake.commands == [["HELLO", "2"], ["EVALSHA", Self.digest, "1", "k", "a"]])
    #expect(handshake.answered(Self.hello(mode: "standalone")) == .more)
    #expect(handshake.answered(.integer(1)) == .ready)
  }

  @Test func aScriptThatTheServerDoesNotKnowIsSentAsAWhole() {
    for error in [RedisValue.error(code: "NOSCRIPT", message: ""), .error(code: "ERR", message: "unknown command")] {
      var handshake = Self.checking(sendsHello: false)
      #expect(handshake.answered(error) == .send(["EVAL", "return 1", "1", "k", "a"]))
      #expect(handshake.answered(.integer(1)) == .ready)
    }
  }

  @Test func whatRefusesTheCheckIsNotReady() {
    var handshake = Self.checking(sendsHello: false)
    #expect(
      handshake.answered(.error(code: "READONLY", message: ""))
        == .refused("the server is a read-only replica (READONLY)"))
  }

  @Test(arguments: ["cluster", "sentinel"])
  func aClusterNodeAndASentinelAreRefusedByName(mode: String) {
    let reason = mode == "cluster" ? RedisErrorReply.clusterNode : RedisErrorReply.sentinel
    var handshake = Self.checking()
    #expect(handshake.answered(Self.hello(mode: mode)) == .refused(reason))
    // Before Redis 6, and where HELLO is denied.
    handshake = Self.checking()
    #expect(handshake.answered(.error(code: "ERR", message: "unknown command")) == .send(["INFO", "server"]))
    #expect(handshake.answered(.integer(1)) == .more)
    let information = "# Server\r\nredis_version:5.0.14\r\nredis_mode:\(mode)\r\nos:Linux\r\n"
    #expect(handshake.answered(.string(Array(information.utf8))) == .refused(reason))
  }

  @Test func aServerThatReportsNoModeIsAccepted() {
    var handshake = Self.checking()
    #expect(handshake.answered(.error(code: "NOPERM", message: "")) == .send(["INFO", "server"]))
    #expect(handshake.answered(.integer(1)) == .more)
    #expect(handshake.answered(.error(code: "NOPERM", message: "")) == .ready)
  }
}

@Suite struct RedisErrorTests {
  private func parse(_ reply: String) -> [String] {
    let error = RedisErrorReply(reply)
    return [error.code, error.message]
  }

  @Test func aMessageIsCutBeforeWhatItQuotesOrAddresses() {
    #expect(parse("OOM command not allowed") == ["OOM", "command not allowed"])
    #expect(parse("ERR unknown command 'sesame', with args") == ["ERR", "unknown command"])
    #expect(parse("WRONGPASS bob") == ["WRONGPASS", "refused"])
    #expect(parse("Error text of a script") == ["ERR", "Error text of a script"])
    #expect(parse("upstream 10.0.0.7:6379 failed") == ["ERR", "upstream"])
    #expect(parse("ERR no user bob@example") == ["ERR", "no user"])
    #expect(parse("MOVED 3999 127.0.0.1:6381") == ["MOVED", ""])
    #expect(parse("") == ["ERR", ""])
    #expect(parse("NOAUTH") == ["NOAUTH", ""])
  }

  @Test func aScriptsErrorIsThatOfItsCommandInEveryVersion() {
    let old = "ERR Error running script (call to f_ab12): @user_script:8: @user_script: 8: "
    #expect(parse(old + "-READONLY You can't write against a read only replica.")[0] == "READONLY")
    #expect(parse(old + "OOM command not allowed when used memory > 'maxmemory'.")[0] == "OOM")
    #expect(
      RedisErrorReply(old + "Write commands not allowed after non deterministic commands.").explanation
        == "the server is too old: Redis 5 or later is needed (ERR)")
    #expect(parse("OOM command not allowed when used memory > 'maxmemory'. script: ab, on @user_script:8.")[0] == "OOM")
    for denied in [
      old + "The user executing the script can't run this command or subcommand",
      "ERR ACL failure in script: User bob has no permissions to run the 'set' command script: ab, on @user_script:5.",
    ] {
      #expect(parse(denied)[0] == "NOPERM")
    }
  }

  @Test(arguments: [
    ("NOPERM User bob has no permissions to run the 'evalsha' command", "the user may not run evalsha (NOPERM)"),
    (
      "NOPERM this user has no permissions to run the 'evalsha' command or its subcommand",
      "the user may not run evalsha (NOPERM)"
    ),
    ("NOPERM No permissions to access a key", "the user may not use a key (NOPERM)"),
    (
      "NOPERM this user has no permissions to access one of the keys used as arguments",
      "the user may not use a key (NOPERM)"
    ),
    ("NOPERM bob's 'Secret Name'", "the user may not do this (NOPERM)"),
    (
      "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
      "the server cannot save its data to disk and refuses writes (MISCONF)"
    ),
    (
      "NOREPLICAS Not enough good replicas to write.",
      "the server has too few replicas and refuses writes (NOREPLICAS)"
    ),
    (
      "ERR AUTH <password> called without any password configured for the default user.",
      "the server has no password, and the URL has one (ERR)"
    ),
    (
      "ERR Error running script (call to f_ab): @user_script:1: Unknown Redis command called from Lua script",
      "a command that the worker's scripts run is unknown to the server, or renamed (ERR)"
    ),
    ("ERR max number of clients reached", "the server has as many clients as it allows (ERR)"),
    (
      "ERR value is not an integer or out of range",
      "the server answered: value is not an integer or out of range (ERR)"
    ),
    ("CLUSTERDOWN The cluster is down", "the Redis Cluster is down: not every slot has a master (CLUSTERDOWN)"),
    (
      "ERR This instance has cluster support disabled",
      "the server is no Redis Cluster node: write redis://HOST:PORT (ERR)"
    ),
  ])
  func anErrorReplySaysWhatIsWrong(reply: String, explanation: String) {
    #expect(RedisErrorReply(reply).explanation == explanation)
  }

  @Test func theDigestIsTheServersNameForTheScript() {
    #expect(RedisScript("return 1").sha1 == "e0e1f9fabfc9d4800c877a703b823ac0578ff8db")
  }
}
