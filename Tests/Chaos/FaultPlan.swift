// What breaks, when and for how long: drawn from a seed before anything starts.
// Invariant: the same seed, length, fleet and choice of faults give the same plan. Performed by FaultDriver.

import Reactor
import TestSupport

/// What the harness can break.
enum FaultKind: String, CaseIterable, Sendable {
  // One replica's path to a server.
  case blackHole = "black-hole"
  case refuse, reset, delay, cut
  // One replica.
  case kill, terminate, freeze
  // A server, for all replicas.
  case pauseRedis = "pause-redis"
  case restartRedis = "restart-redis"
  case flushRedis = "flush-redis"
  case killRedisClients = "kill-redis-clients"
  case fillRedis = "full-redis"
  case isolateRedis = "redis-without-replicas"
  case failOverRedis = "fail-over-redis"
  case pausePostgres = "pause-postgres"
  case restartPostgres = "restart-postgres"
  case endSessions = "end-postgres-sessions"
  case readOnly = "read-only-database"
  case fillDisk = "full-disk"
  case failOverPostgres = "fail-over-postgres"
  // A table, for all replicas.
  case lockTable = "lock-table"
  case lockRows = "lock-rows"
  case failStatements = "fail-statements"
  case poison = "poison-row"
  // One sweeper's lock, by a worker of the existing kind that fails.
  case strangersLock = "strangers-lock"
  // One sweeper's keys in a Redis Cluster.
  case moveSlot = "move-slot"

  /// Those that exist with this Redis. Of a Redis Cluster, no node fails: what it loses is its own slots' only.
  static func all(on redis: RedisKind) -> [FaultKind] {
    allCases.filter { kind in
      switch kind {
      case .pauseRedis, .restartRedis, .flushRedis, .killRedisClients, .fillRedis, .isolateRedis, .failOverRedis:
        redis == .single
      case .moveSlot: redis == .cluster
      default: true
      }
    }
  }

  /// How long it lasts, in ms. Faults that hold bytes back can outlast even a lease renewed meanwhile.
  var lengths: ClosedRange<Int> {
    switch self {
    case .blackHole: 300...9_000
    case .refuse: 200...4_000
    case .delay: 1_000...6_000
    case .cut: 2_000...3_000
    case .kill, .terminate: 100...4_000
    case .freeze: 300...8_000
    case .pauseRedis, .pausePostgres: 200...8_000
    case .restartRedis, .restartPostgres: 50...2_000
    case .fillRedis, .isolateRedis, .readOnly: 300...7_000
    case .fillDisk, .strangersLock: 500...3_500
    // From the end of the old server to the new one's promotion.
    case .failOverRedis, .failOverPostgres: 500...6_000
    case .lockTable, .lockRows, .moveSlot: 300...5_000
    case .failStatements: 300...4_000
    case .poison: 2_000...8_000
    case .reset, .flushRedis, .killRedisClients, .endSessions: 0...0
    }
  }

  /// A resource that only one fault can use at a time.
  enum Claim: Hashable {
    case process(Int)
    case link(Int, Link)
    case table(String)
    case redis, postgres
  }

  fileprivate func claim(_ replica: Int, _ link: Link, _ table: String) -> Claim {
    switch self {
    case .blackHole, .refuse, .reset, .delay, .cut: .link(replica, link)
    case .kill, .terminate, .freeze: .process(replica)
    case .pauseRedis, .restartRedis, .flushRedis, .killRedisClients, .fillRedis, .isolateRedis: .redis
    case .failOverRedis, .strangersLock, .moveSlot: .redis
    case .pausePostgres, .restartPostgres, .endSessions, .readOnly, .fillDisk, .failOverPostgres: .postgres
    case .lockTable, .lockRows, .failStatements, .poison: .table(table)
    }
  }
}

/// A replica's path to one of the servers.
enum Link: String, CaseIterable, Sendable { case postgres, redis }

/// One planned fault. Times count from the beginning of the plan.
struct PlannedFault: Sendable, Equatable, CustomStringConvertible {
  let number: Int
  let kind: FaultKind
  let start: Duration
  let length: Duration
  var replica: Int?
  var link: Link?
  /// Nil: both.
  var direction: FaultProxy.Direction?
  /// The delay in ms, or the bytes after which a connection is cut.
  var amount = 0
  var table: String?

  var description: String {
    var words = [kind.rawValue]
    if let replica { words.append("replica \(replica)") }
    if let link { words.append(link.rawValue) }
    if let direction { words.append(direction == .toServer ? "to the server" : "to the client") }
    if kind == .delay { words.append("by \(amount) ms") }
    if kind == .cut { words.append("after \(amount) bytes") }
    if let table { words.append(table) }
    return "at \(start.text) for \(length.text): " + words.joined(separator: ", ")
  }

  /// What it has to itself.
  var claim: FaultKind.Claim { kind.claim(replica ?? 0, link ?? .postgres, table ?? "") }

  /// The affected replicas; nil: all.
  var replicas: Set<Int>? { replica.map { [$0] } }
}

/// Due rows whose sweep takes longer than a lease, inserted into a table at this time.
struct PlannedLoad: Sendable, Equatable {
  let start: Duration
  let table: String
}

/// All planned faults and loads.
struct FaultPlan: Sendable, Equatable {
  /// No fault begins before this: the first load must be swept undisturbed.
  static let quietStart = Duration.seconds(9)

  var faults: [PlannedFault] = []
  var loads: [PlannedLoad] = []

  /// The tables that faults lock, and whose writes they make fail.
  static let tables = ["secret_wraps", "secrets", "agents", "sync_jobs", "reveal_sessions", "access_requests"]
  /// The tables that can get a load.
  static let loadTables = ["secret_wraps", "agents"]

  /// - Parameter links: the paths that have proxies.
  static func draw(
    seed: UInt64, length: Duration, replicas: Int, kinds: [FaultKind] = FaultKind.allCases,
    links: [Link] = Link.allCases
  ) -> FaultPlan {
    var drawing = Drawing(random: SeededRandom(seed: seed), replicas: replicas, kinds: kinds, links: links)
    drawing.load(at: 500)
    var time = Int(quietStart.milliseconds)
    while time < Int(length.milliseconds) - 1_000 {
      let end = drawing.burst(at: time)
      // Some calm periods are long enough to guarantee a slot; others let a fault overlap the aftermath of another.
      let isLong = drawing.flip(withProbability: 0.5)
      time = end + drawing.number(isLong ? 9_000...12_000 : 500...3_000)
    }
    drawing.plan.faults.sort { $0.start < $1.start }
    return drawing.plan
  }

  /// The planned end of the last fault.
  var end: Duration { faults.map { $0.start + $0.length }.max() ?? .zero }

  var description: String {
    let loads = loads.map { "at \($0.start.text): a load of due rows, \($0.table)" }
    return (loads + faults.map { "#\($0.number) \($0)" }).joined(separator: "\n")
  }
}

/// A plan being drawn. Times in ms.
private struct Drawing {
  var random: SeededRandom
  let replicas: Int
  let kinds: [FaultKind]
  let links: [Link]
  var plan = FaultPlan()
  private var busyUntil: [FaultKind.Claim: Int] = [:]

  init(random: SeededRandom, replicas: Int, kinds: [FaultKind], links: [Link]) {
    self.links = links
    self.random = random
    self.replicas = replicas
    self.kinds = kinds
  }

  mutating func number(_ range: ClosedRange<Int>) -> Int { Int.random(in: range, using: &random) }
  mutating func flip(withProbability share: Double) -> Bool { Double.random(in: 0..<1, using: &random) < share }

  mutating func load(at time: Int) {
    let table = FaultPlan.loadTables[number(0...(FaultPlan.loadTables.count - 1))]
    plan.loads.append(PlannedLoad(start: .milliseconds(time), table: table))
  }

  /// One to four faults within three seconds, often during a long sweep. Returns the end of the last one.
  mutating func burst(at time: Int) -> Int {
    if flip(withProbability: 0.6) { load(at: time) }
    var end = time
    for _ in 0..<number(1...4) {
      if let fault = fault(at: time + number(200...3_200)) { end = max(end, fault) }
    }
    return end
  }

  private mutating func fault(at start: Int) -> Int? {
    let kind = kinds[number(0...(kinds.count - 1))]
    let replica = number(0...(replicas - 1))
    let link = links[number(0...(links.count - 1))]
    let table = FaultPlan.tables[number(0...(FaultPlan.tables.count - 1))]
    let direction: FaultProxy.Direction? = [.toServer, .toClient, nil][number(0...2)]
    let length = number(kind.lengths)
    let amount = kind == .delay ? number(20...1_500) : number(0...3_000)
    let claim = kind.claim(replica, link, table)
    guard start >= busyUntil[claim, default: 0] else { return nil }
    // Followed by a short pause, so that two faults in one place do not undo each other.
    busyUntil[claim] = start + length + 500
    var fault = PlannedFault(
      number: plan.faults.count + 1, kind: kind, start: .milliseconds(start), length: .milliseconds(length))
    switch claim {
    case .process: fault.replica = replica
    case .link:
      fault.replica = replica
      fault.link = link
      if kind == .blackHole { fault.direction = direction }
      if kind == .cut { fault.direction = direction ?? .toServer }
      if kind == .delay || kind == .cut { fault.amount = amount }
    case .table: fault.table = table
    case .redis: if [.strangersLock, .moveSlot].contains(kind) { fault.table = table }
    case .postgres: break
    }
    plan.faults.append(fault)
    return start + length
  }
}
