// Slots, the topology, and a command's way through a cluster in seeded orders of answers.

import Testing

@testable import Reactor

@Suite struct ClusterRouteTests {
  private static let nodes = (1...3).map { RedisEndpoint(host: "10.0.0.\($0)", port: 6379) }
  private static let start = MonotonicInstant(nanoseconds: 0)
  private static let deadline = start.advanced(by: .seconds(2))

  /// As CLUSTER SLOTS answers it: three masters, the first with a replica.
  private static func answer(hosts: [String?] = nodes.map(\.host)) -> RedisValue {
    func node(_ host: String?) -> RedisValue {
      .array([host.map { .string(Array($0.utf8)) } ?? .null, .integer(6379), .string(Array("id".utf8)), .array([])])
    }
    return .array([
      .array([.integer(5461), .integer(10_922), node(hosts[1])]),
      .array([.integer(10_923), .integer(16_383), node(hosts[2])]),
      .array([.integer(0), .integer(5460), node(hosts[0]), node("10.0.0.9")]),
    ])
  }

  private static func topology() throws -> ClusterTopology {
    try #require(ClusterTopology(slots: answer(), from: "asked"))
  }

  /// The first is the specification's own; the others are what CLUSTER KEYSLOT answers.
  @Test func aKeysSlotIsTheCRC16OfItsHashTag() {
    #expect(ClusterSlot.crc16("123456789".utf8) == 0x31C3)
    let lock = "secrets-bridge:lock:worker:sweeper:wraps-expired"
    for (key, slot) in [("foo", 12_182), ("bar", 5061), ("", 0), (lock, 14_270), ("a:{\(lock)}", 14_270)] {
      #expect(Int(ClusterSlot.of(key)) == slot, "\(key)")
    }
    #expect(ClusterSlot.of("{user1000}.following") == ClusterSlot.of("user1000"))
    #expect(ClusterSlot.of("foo{}{bar}") == ClusterSlot.crc16("foo{}{bar}".utf8) % 16_384)
    #expect(ClusterSlot.of("foo{{bar}}zap") == ClusterSlot.of("{bar"))
    #expect(ClusterSlot.of("foo{bar}{zap}") == ClusterSlot.of("bar"))
  }

  @Test func theSlotsAreReadFromTheNodesAnswer() throws {
    let topology = try Self.topology()
    #expect(topology.nodes == Self.nodes && topology.coveredCount == ClusterSlot.count)
    #expect(topology.node(of: 0) == Self.nodes[0] && topology.node(of: 5460) == Self.nodes[0])
    #expect(topology.node(of: 5461) == Self.nodes[1] && topology.node(of: 16_383) == Self.nodes[2])
    let unknown = try #require(ClusterTopology(slots: Self.answer(hosts: [nil, "", "?"]), from: "asked"))
    #expect(unknown.nodes == [RedisEndpoint(host: "asked", port: 6379)])
  }

  @Test(arguments: [
    RedisValue.array([]), .null, .integer(1), .array([.array([.integer(0), .integer(1)])]),
    .array([.array([.integer(0), .integer(16_384), .array([.null, .integer(1)])])]),
    .array([.array([.integer(2), .integer(1), .array([.null, .integer(1)])])]),
    .array([.array([.integer(0), .integer(1), .array([.null, .integer(65_536)])])]),
    .array([
      .array([.integer(0), .integer(5), .array([.null, .integer(1)])]),
      .array([.integer(5), .integer(9), .array([.null, .integer(1)])]),
    ]),
  ])
  func anotherAnswerHasNoSlots(answer: RedisValue) {
    #expect(ClusterTopology(slots: answer, from: "asked") == nil)
  }

  @Test func aRedirectNamesASlotAndANode() {
    let redirect = ClusterRedirect("3999 127.0.0.1:6381", from: "asked")
    #expect(redirect?.slot == 3999 && redirect?.node == RedisEndpoint(host: "127.0.0.1", port: 6381))
    #expect(ClusterRedirect("1 ::1:6381", from: "asked")?.node == RedisEndpoint(host: "::1", port: 6381))
    #expect(ClusterRedirect("1 :6381", from: "asked")?.node == RedisEndpoint(host: "asked", port: 6381))
    for text in ["", "1", "1 host", "16384 h:1", "x h:1", "1 h:0", "1 h:x", "1 h:1 2"] {
      #expect(ClusterRedirect(text, from: "asked") == nil, "\(text)")
    }
  }

  @Test func aMovedSlotIsRememberedAndAnAskedOneIsNot() throws {
    var topology = try Self.topology()
    var route = ClusterRoute(slot: 0, isRepeatable: false, deadline: Self.deadline)
    #expect(route.choose(in: topology, at: Self.start) == .send(to: Self.nodes[0], isAsking: false))
    func fail(_ code: String, _ message: String) -> ClusterRoute.Action {
      route.failed(
        .server(code: code, message: message), at: "h", isGone: false, in: &topology, now: Self.start)
    }
    #expect(fail("ASK", "0 10.0.0.2:6379") == .send(to: Self.nodes[1], isAsking: true))
    #expect(topology.node(of: 0) == Self.nodes[0])
    #expect(fail("MOVED", "0 10.0.0.3:6379") == .send(to: Self.nodes[2], isAsking: false))
    #expect(topology.node(of: 0) == Self.nodes[2] && topology.node(of: 1) == Self.nodes[0])
    #expect(fail("WRONGTYPE", "x") == .fail(.server(code: "WRONGTYPE", message: "x")))
  }

  @Test func nodesThatDisagreeEndTheCommandAfterFiveRedirections() throws {
    var topology = try Self.topology()
    var route = ClusterRoute(slot: 0, isRepeatable: true, deadline: Self.deadline)
    for count in 1...6 {
      let action = route.failed(
        .server(code: "MOVED", message: "0 10.0.0.\(count % 2 + 1):6379"), at: "h", isGone: false, in: &topology,
        now: Self.start)
      #expect((action == .fail(.notSent("the nodes of the cluster disagree about slot 0"))) == (count > 5))
    }
  }

  @Test(arguments: 1...300 as ClosedRange<UInt64>)
  func anyOrderOfAnswersEndsByTheDeadlineAndRepeatsOnlyWhatMayBe(seed: UInt64) throws {
    var random = SeededRandom(seed: seed)
    var topology = Bool.random(using: &random) ? try Self.topology() : ClusterTopology()
    let isRepeatable = Bool.random(using: &random)
    var route = ClusterRoute(slot: 77, isRepeatable: isRepeatable, deadline: Self.deadline)
    var now = Self.start
    var (unknownCount, mayBeExecuted) = (0, false)
    var action = route.choose(in: topology, at: now)
    for _ in 0..<200 {
      switch action {
      case .send(let node, _):
        #expect(Self.nodes.contains(node) && (!mayBeExecuted || (isRepeatable && unknownCount == 1)))
        now = now.advanced(by: .milliseconds(Int.random(in: 0...300, using: &random)))
        let error = Self.error(using: &random)
        let isGone = Bool.random(using: &random)
        if case .unknownOutcome = error { (unknownCount, mayBeExecuted) = (unknownCount + 1, true) }
        action = route.failed(error, at: "10.0.0.1", isGone: isGone, in: &topology, now: now)
      case .wait(let until):
        #expect(until > now && until < Self.deadline)
        now = until
        if Bool.random(using: &random) { topology = try Self.topology() }
        action = route.choose(in: topology, at: now)
      case .fail(let error):
        #expect(!"\(error)".contains("10.0.0"), "no address leaves the cluster's client")
        if mayBeExecuted, case .notSent = error { Issue.record("it may have been executed") }
        return
      }
    }
    Issue.record("it does not end")
  }

  private static func error(using random: inout SeededRandom) -> RedisError {
    let node = nodes.randomElement(using: &random)!
    switch Int.random(in: 0..<8, using: &random) {
    case 0, 1: return .server(code: "MOVED", message: "77 \(node.text)")
    case 2: return .server(code: "ASK", message: "77 \(node.text)")
    case 3: return .server(code: "TRYAGAIN", message: "")
    case 4: return .server(code: "CLUSTERDOWN", message: "")
    case 5: return .notSent("stopped")
    case 6: return .server(code: "MOVED", message: "78 \(node.text)")
    default: return .unknownOutcome("stopped")
    }
  }
}
