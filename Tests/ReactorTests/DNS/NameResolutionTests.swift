// Resolution on faulty networks: name servers that drop, refuse, truncate or answer late, and glibc's files.

import Foundation
import TestSupport
import Testing

@testable import Reactor

@Suite(.serialized) struct NameResolutionTests {
  // MARK: Two families

  @Test(arguments: ["", "options timeout:1 attempts:1", "options timeout:30", "options single-request"])
  func aServerThatDropsTheQuestionForIPv6DoesNotHoldUpTheAnswerInHand(options: String) async throws {
    try await withFiles(["resolver": options]) { paths in
      let server = try ScriptedNameServer { $0.kind == .ipv6 ? .silence : .addresses(["127.0.0.1"]) }
      let start = LoopClock.system.now
      #expect(try await server.resolve("db.test") { $0.paths = paths } == ["127.0.0.1"])
      let took = start.duration(to: LoopClock.system.now)
      #expect(took < .seconds(1))
      #expect(server.questions.count == 2)
    }
  }

  @Test(.enabled(if: hasLoopbackIPv6()))
  func aServerThatDropsTheQuestionForIPv4DoesNotHoldUpTheAnswerInHand() async throws {
    try await onLoop {
      let server = try ScriptedNameServer { $0.kind == .ipv4 ? .silence : .addresses(["::1"]) }
      let start = LoopClock.system.now
      #expect(try await server.resolve("db.test") == ["::1"])
      let took = start.duration(to: LoopClock.system.now)
      #expect(took < .seconds(2))
    }
  }

  @Test func anAnswerThisHostCannotReachWaitsForTheOtherFamily() async throws {
    try await onLoop {
      // Nobody may connect to the broadcast address.
      let server = try ScriptedNameServer {
        $0.kind == .ipv4 ? .addresses(["255.255.255.255"]) : .after(.milliseconds(300), .addresses(["::1"]))
      }
      let found = try await server.resolve("db.test")
      #expect(found.contains("255.255.255.255") && found.contains("::1"))
    }
  }

  @Test(arguments: [UInt8(2), 3, 4, 5])
  func whatAServerSaysOfIPv6DoesNotHideIPv4(code: UInt8) async throws {
    try await onLoop {
      let server = try ScriptedNameServer { $0.kind == .ipv6 ? .code(code) : .addresses(["192.0.2.1"]) }
      #expect(try await server.resolve("db.test") == ["192.0.2.1"])
      let late = try ScriptedNameServer {
        $0.kind == .ipv6 ? .code(code) : .after(.milliseconds(300), .addresses(["192.0.2.1"]))
      }
      #expect(try await late.resolve("db.test") == ["192.0.2.1"])
    }
  }

  @Test func aNameWithIPv6AddressesAloneIsWaitedFor() async throws {
    try await onLoop {
      let server = try ScriptedNameServer {
        $0.kind == .ipv4 ? .addresses([]) : .after(.milliseconds(300), .addresses(["2001:db8::1"]))
      }
      #expect(try await server.resolve("db.test") == ["2001:db8::1"])
    }
  }

  @Test func aFailureIsNotTakenForAMissingName() async throws {
    try await onLoop {
      let server = try ScriptedNameServer { $0.kind == .ipv4 ? .code(2) : .addresses([]) }
      do {
        _ = try await server.resolve("db.test")
        Issue.record("resolved")
      } catch NameResolutionError.failed {}
      let mute = try ScriptedNameServer { $0.kind == .ipv4 ? .silence : .addresses([]) }
      await #expect(throws: NameResolutionError.timedOut) {
        try await mute.resolve("db.test", within: .milliseconds(700))
      }
    }
  }

  // MARK: Servers

  @Test func anAnswerThatIsCutOffIsAskedForOverTCP() async throws {
    try await onLoop {
      let server = try ScriptedNameServer { $0.isTCP ? .addresses(["192.0.2.1", "192.0.2.2"]) : .truncated }
      let found = try await server.resolve("db.test")
      #expect(found.count >= 2 && found.contains("192.0.2.2"))
      #expect(server.questions.contains { $0.isTCP })
    }
  }

  @Test func aChainOfAliasesLeadsToItsAddresses() async throws {
    try await onLoop {
      let server = try ScriptedNameServer {
        $0.kind == .ipv4
          ? .alias(["a.test", "b.example"], addresses: ["192.0.2.1"]) : .alias(["a.test"], addresses: [])
      }
      #expect(try await server.resolve("db.test") == ["192.0.2.1"])
    }
  }

  @Test(arguments: ["silent", "closed", "failing", "refusing"])
  func aServerThatIsNotWellDoesNotStopTheNext(first: String) async throws {
    try await onLoop {
      let reply: ScriptedNameServer.Reply =
        switch first {
        case "silent": .silence
        case "failing": .code(2)
        default: .code(5)
        }
      var ill: ScriptedNameServer? = try ScriptedNameServer { _ in reply }
      let well = try ScriptedNameServer { $0.kind == .ipv4 ? .addresses(["192.0.2.1"]) : .addresses([]) }
      let servers = "\(ill?.address ?? ""),\(well.address)"
      if first == "closed" { ill = nil }
      let start = LoopClock.system.now
      #expect(try await well.resolve("db.test") { $0.servers = servers } == ["192.0.2.1"])
      let took = start.duration(to: LoopClock.system.now)
      #expect(took < .seconds(3))
      _ = ill
    }
  }

  // MARK: Names

  @Test func theSearchListIsGoneThroughUntilANameExists() async throws {
    let files = ["resolver": "domain ignored.test\nsearch one.test two.test.\noptions ndots:2"]
    try await withFiles(files) { paths in
      let server = try ScriptedNameServer {
        switch ($0.name, $0.kind) {
        case ("db.ns.two.test", .ipv4): .addresses(["192.0.2.2"])
        case ("db.ns", .ipv4): .addresses(["192.0.2.9"])
        // Of another family and another domain: not mixed with the first one's.
        case ("db.ns.two.test", .ipv6): .addresses([])
        case ("db.ns", .ipv6): .addresses(["2001:db8::9"])
        default: .code(3)
        }
      }
      #expect(try await server.resolve("db.ns") { $0.paths = paths } == ["192.0.2.2"])
      #expect(Set(server.questions.map(\.name)) == ["db.ns.one.test", "db.ns.two.test"])
      #expect(Set(try await server.resolve("db.ns.") { $0.paths = paths }) == ["192.0.2.9", "2001:db8::9"])
      await #expect(throws: NameResolutionError.notFound) { try await server.resolve("no.ns.x") { $0.paths = paths } }
      #expect(server.questions.suffix(6).map(\.name).filter { $0 == "no.ns.x" }.count == 2)
    }
  }

  @Test(arguments: ["localhost", "LocalHost", "localhost.", "db.localhost"])
  func localhostIsThisHostWhateverTheFilesAndServersSay(name: String) async throws {
    try await withFiles(["hosts": "192.0.2.1 other"]) { paths in
      let server = try ScriptedNameServer { _ in .addresses(["192.0.2.66"]) }
      let found = try await server.resolve(name) { $0.paths = paths }
      #expect(found.contains("127.0.0.1") && Set(found).isSubset(of: ["127.0.0.1", "::1"]))
      #expect(server.questions.isEmpty)
    }
  }

  @Test func theHostsFileComesFirstUnlessTheHostSaysOtherwise() async throws {
    let hosts =
      "# comment\n192.0.2.5\tDB.test db # db-comment\n2001:db8::5 db.test\r\nnonsense db.test\n192.0.2.5 db.test\n"
    for (services, expected) in [
      ("", ["192.0.2.5", "2001:db8::5"]), ("hosts: files dns", ["192.0.2.5", "2001:db8::5"]),
      ("hosts:\tmymachines resolve [!UNAVAIL=return] files dns", ["192.0.2.1"]), ("hosts: dns", ["192.0.2.1"]),
      ("passwd: files\n# hosts: dns", ["192.0.2.5", "2001:db8::5"]), ("hosts: files", ["192.0.2.5", "2001:db8::5"]),
    ] {
      try await withFiles(["hosts": hosts, "services": services]) { paths in
        let server = try ScriptedNameServer { $0.kind == .ipv4 ? .addresses(["192.0.2.1"]) : .addresses([]) }
        #expect(Set(try await server.resolve("db.TEST.") { $0.paths = paths }) == Set(expected), "\(services)")
        if services == "hosts: files" {
          await #expect(throws: NameResolutionError.notFound) {
            try await server.resolve("a.test") { $0.paths = paths }
          }
        }
      }
    }
  }

  @Test func aFileThatChangesIsReadAgain() async throws {
    try await withFiles(["hosts": "192.0.2.5 db.test"]) { paths in
      let server = try ScriptedNameServer { _ in .code(3) }
      #expect(try await server.resolve("db.test") { $0.paths = paths } == ["192.0.2.5"])
      try "192.0.2.6 db.test".write(toFile: paths.hosts, atomically: true, encoding: .utf8)
      #expect(try await server.resolve("db.test") { $0.paths = paths } == ["192.0.2.6"])
      unlink(paths.hosts)
      await #expect(throws: NameResolutionError.notFound) { try await server.resolve("db.test") { $0.paths = paths } }
    }
  }

  /// Runs `body` on the loop with files of its own in the place of the host's; one that is not given is not there.
  private func withFiles(
    _ contents: [String: String],
    _ body: @escaping @EventLoop @Sendable (ResolverConfiguration.Paths) async throws -> Void
  ) async throws {
    let directory = FileManager.default.temporaryDirectory.appendingPathComponent("resolver-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: false)
    defer { try? FileManager.default.removeItem(at: directory) }
    for (name, text) in contents {
      try text.write(to: directory.appendingPathComponent(name), atomically: true, encoding: .utf8)
    }
    func path(_ name: String) -> String { directory.appendingPathComponent(name).path }
    let paths = ResolverConfiguration.Paths(
      resolver: path("resolver"), services: path("services"), hosts: path("hosts"))
    try await onLoop { try await body(paths) }
  }
}

@Suite struct ResolverConfigurationTests {
  private static func read(_ text: String) -> ResolverConfiguration {
    var configuration = ResolverConfiguration()
    for line in text.components(separatedBy: "\n") { configuration.take(line) }
    return configuration
  }

  @Test func resolvConfMeansWhatItMeansToGlibc() {
    let read = Self.read(
      """
      nameserver 10.0.0.1
      nameserver\tfd00::1
      nameserver fe80::1%eth0
      nameserver 10.0.0.4
      nameserver nonsense
      search a.test b.test.
      options ndots:5 timeout:2 attempts:3 rotate single-request edns0 trust-ad use-vc ndots:x timeout:
      sortlist 130.155.160.0/255.255.240.0
      """)
    #expect(read.servers == ["10.0.0.1", "fd00::1", "fe80::1%eth0"])
    #expect(read.search == ["a.test", "b.test"] && read.dotCount == 5)
    #expect(read.timeout == .seconds(2) && read.rounds == 3)
    #expect(read.rotatesServers && read.queriesInTurn && read.usesTCP)
    #expect(Self.read("options timeout:0 attempts:0 ndots:99").timeout == .seconds(1))
    #expect(Self.read("options timeout:99 attempts:99 ndots:99").dotCount == 15)
    #expect(Self.read("search a.test\ndomain b.test").search == ["b.test"])
    #expect(Self.read("") == ResolverConfiguration())
  }

  @Test func theEnvironmentGoesBeforeTheFile() {
    let paths = ResolverConfiguration.Paths(resolver: "/nonexistent", services: "/nonexistent", hosts: "/nonexistent")
    let read = ResolverConfiguration.read(paths) {
      ["LOCALDOMAIN": "x.test y.test", "RES_OPTIONS": "ndots:3 timeout:4"][$0]
    }
    #expect(read.search == ["x.test", "y.test"] && read.dotCount == 3 && read.timeout == .seconds(4))
    #expect(read.sources == [.files, .dns])
  }

  @Test func namesAreTriedInTheOrderOfTheirDots() {
    var configuration = ResolverConfiguration()
    configuration.search = ["a.test", "b.test"]
    #expect(configuration.candidates(for: "db") == ["db.a.test", "db.b.test", "db"])
    #expect(configuration.candidates(for: "db.x") == ["db.x", "db.x.a.test", "db.x.b.test"])
    #expect(configuration.candidates(for: "db.") == ["db"])
    configuration.dotCount = 5
    #expect(configuration.candidates(for: "db.x.y") == ["db.x.y.a.test", "db.x.y.b.test", "db.x.y"])
  }
}

@Suite struct FamilyRaceTests {
  private static func instant(_ milliseconds: Int64) -> MonotonicInstant {
    MonotonicInstant(nanoseconds: milliseconds * 1_000_000)
  }

  private static func race(reaching reachable: Set<FamilyRace.Family> = [.ipv4, .ipv6]) -> FamilyRace {
    FamilyRace { family, _ in reachable.contains(family) }
  }

  @Test func anAnswerInHandWaitsForTheOtherForAShortTime() {
    var race = Self.race()
    #expect(race.answered(.ipv4, .found(["a"]), at: Self.instant(10)) == .wait(until: Self.instant(60)))
    #expect(race.timeIsUp() == .found(["a"]))
    #expect(race.answered(.ipv6, .found(["b"]), at: Self.instant(20)) == .finish(.found(["a", "b"])))
    race = Self.race()
    #expect(race.answered(.ipv6, .found(["b"]), at: Self.instant(10)) == .wait(until: Self.instant(510)))
    #expect(race.answered(.ipv4, .failed("x"), at: Self.instant(20)) == .finish(.found(["b"])))
  }

  @Test func whatCannotBeReachedOrIsEmptyWaitsForTheOtherWithoutALimit() {
    var race = Self.race(reaching: [.ipv4])
    #expect(race.answered(.ipv6, .found(["b"]), at: Self.instant(10)) == .wait(until: nil))
    for answer in [FamilyRace.Answer.noAddress, .timedOut, .failed("x")] {
      race = Self.race()
      #expect(race.answered(.ipv4, answer, at: Self.instant(10)) == .wait(until: nil))
    }
    race = Self.race()
    #expect(race.answered(.ipv6, .noName, at: Self.instant(10)) == .wait(until: nil))
    #expect(race.answered(.ipv4, .found(["a"]), at: Self.instant(900)) == .finish(.found(["a"])))
  }

  @Test func aFailureSaysMoreThanAnEmptyAnswer() {
    for (left, right, verdict) in [
      (FamilyRace.Answer.noName, FamilyRace.Answer.noName, FamilyRace.Answer.noName),
      (.noAddress, .noAddress, .noAddress), (.noAddress, .noName, .noName), (.timedOut, .noAddress, .timedOut),
      (.noAddress, .failed("x"), .failed("x")), (.failed("x"), .timedOut, .timedOut),
    ] {
      var race = Self.race()
      _ = race.answered(.ipv4, left, at: Self.instant(1))
      #expect(race.answered(.ipv6, right, at: Self.instant(2)) == .finish(verdict))
    }
    #expect(Self.race().timeIsUp() == .timedOut)
    var race = Self.race()
    _ = race.answered(.ipv6, .noAddress, at: Self.instant(1))
    #expect(race.timeIsUp() == .timedOut)
    race = Self.race()
    #expect(race.answered(.ipv4, .noName, at: Self.instant(1)) == .wait(until: Self.instant(51)))
    #expect(race.timeIsUp() == .noName)
  }

  /// Two answers of any kind at any time, with the timer and the caller's deadline between them.
  @Test func noOrderOfAnswersHidesAnAddressOrProlongsTheWaitForOne() {
    for seed in 0..<20_000 {
      var random = SeededRandom(seed: UInt64(seed))
      let reachable = Set(FamilyRace.Family.allCases.filter { _ in Bool.random(using: &random) })
      var race = Self.race(reaching: reachable)
      let deadline = Int64.random(in: 1...3_000, using: &random)
      let kinds: [(FamilyRace.Family) -> FamilyRace.Answer] = [
        { .found(["\($0)"]) }, { _ in .noAddress }, { _ in .noName }, { _ in .timedOut }, { _ in .failed("x") },
      ]
      let events = FamilyRace.Family.allCases.shuffled(using: &random)
        .map { (Int64.random(in: 0...3_000, using: &random), $0, kinds.randomElement(using: &random)!($0)) }
        .sorted { $0.0 < $1.0 }
      var limit = deadline
      var answers: [FamilyRace.Answer] = []
      var result: (answer: FamilyRace.Answer, at: Int64)?
      for (time, family, answer) in events where result == nil && time < limit {
        answers.append(answer)
        switch race.answered(family, answer, at: Self.instant(time)) {
        case .finish(let verdict): result = (verdict, time)
        case .wait(let until): if let until { limit = min(limit, until.nanoseconds / 1_000_000) }
        }
        if case .found = answer, reachable.contains(family) {
          #expect(limit <= time + 500 || answers.count == 2, "seed \(seed): waits long with an address in hand")
        }
      }
      let (verdict, _) = result ?? (race.timeIsUp(), limit)
      let found = answers.contains { if case .found = $0 { true } else { false } }
      if case .found(let addresses) = verdict {
        #expect(found && addresses == addresses.sorted(), "seed \(seed): \(verdict)")
      } else {
        #expect(!found, "seed \(seed): an address is hidden by \(answers)")
        #expect(answers.count == 2 || verdict == .timedOut || verdict == .noName, "seed \(seed): \(verdict)")
      }
    }
  }
}

@Suite struct AddressOrderTests {
  private static func destination(_ text: String, from source: String?) -> AddressOrder.Destination {
    AddressOrder.Destination(text: text, source: source.flatMap { NameResolver.addressBytes($0) })
  }

  @Test func aTextWithANULIsNoAddress() {
    for text in ["127.0.0.1", "::1", "fe80::1%eth0"] {
      #expect(NameResolver.isNumericAddress(text) && !NameResolver.isNumericAddress(text + "\0.example"))
    }
  }

  /// The examples of RFC 6724, section 10.2, that need no look at interfaces.
  @Test func theOrderIsThatOfRFC6724() {
    for (destinations, expected) in [
      (
        [("198.51.100.121", "198.51.100.117"), ("2001:db8:1::1", "2001:db8:1::2")], ["2001:db8:1::1", "198.51.100.121"]
      ),
      ([("2001:db8:1::1", "fe80::1"), ("198.51.100.121", "198.51.100.117")], ["198.51.100.121", "2001:db8:1::1"]),
      ([("2001:db8:1::1", "fd00::2"), ("192.0.2.1", "192.0.2.2")], ["192.0.2.1", "2001:db8:1::1"]),
      ([("192.0.2.1", "192.0.2.2"), ("2001:db8::1", nil)], ["192.0.2.1", "2001:db8::1"]),
      ([("2001:db8::1", nil), ("192.0.2.1", "192.0.2.2")], ["192.0.2.1", "2001:db8::1"]),
      ([("192.0.2.7", "192.0.2.2"), ("192.0.2.1", "192.0.2.2")], ["192.0.2.7", "192.0.2.1"]),
    ] as [([(String, String?)], [String])] {
      #expect(AddressOrder.sorted(destinations.map { Self.destination($0.0, from: $0.1) }) == expected)
    }
  }

  @Test func theKernelSaysWhatItWouldSendFrom() {
    #expect(AddressOrder.source(for: "127.0.0.1") == [127, 0, 0, 1])
    #expect(AddressOrder.source(for: "255.255.255.255") == nil)
  }
}
