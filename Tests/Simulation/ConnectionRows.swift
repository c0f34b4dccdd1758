// Provider connections and their discover jobs: what agents, the api and an existing worker do with them, and what must
// hold for the worker's changes.
// Invariant: a row that an uncommitted change holds is changed by nobody else.

import Reactor
import Worker

/// The table. Times are in µs of the server's clock unless noted as true time.
@EventLoop
final class ConnectionTable {
  @EventLoop
  final class Connection: HeldRow {
    let name: String
    let interval: Int64
    fileprivate var lastDiscoveredAt: Int64?
    fileprivate var startedAt: Int64?
    fileprivate var isRunning = false
    fileprivate var queuedJobs = 0
    /// Whether an uncommitted change holds it.
    var isHeld = false
    /// In true time: when its interval has passed, when its running discovery began, and until when something else
    /// keeps it from being claimed.
    fileprivate var dueAt: Int64 = 0
    fileprivate var runningSince: Int64 = 0
    fileprivate var blockedUntil: Int64 = 0
    /// When the worker claimed it; nil once there is a result.
    fileprivate var openClaim: Moment?
    /// When a replica took its lock, in true time.
    fileprivate var lockedAt: Int64 = 0

    fileprivate init(_ name: String, interval: Int64) {
      self.name = name
      self.interval = interval
    }

    var lockKey: String { Scenario.lockKey(ofConnection: name) }

    /// How long a discovery may run without a result.
    var limit: Int64 { max(2 * interval, 600_000_000) }
  }

  /// An instant on the server's clock and in true time.
  struct Moment {
    let time: Int64
    let trueTime: Int64
  }

  private static let apiToken = "discover now"
  private static let existingWorkerToken = "existing worker"
  private static let apiLock: Int64 = 60_000
  /// The longest effect of a lost lock, a suspension or a stepped clock on a claim.
  private static let excuse: Int64 = 60_000_000
  /// The longest time for which a claim keeps a lock while everything works.
  private static let claimTime: Int64 = 3_000_000

  private let world: World
  private let scenario: Scenario
  private let judge: Judge
  private let mutation: Mutation?
  private let redis: RedisServer
  private let time: @EventLoop () -> Int64
  private let connections: [Connection]
  /// How long a discovery that has timed out is left to connections-stuck: two of its intervals.
  private let stuckPatience: Int64
  private var suspendedUntil = Int64.min / 2

  init(
    _ world: World, _ scenario: Scenario, _ judge: Judge, _ mutation: Mutation?, redis: RedisServer,
    time: @escaping @EventLoop () -> Int64
  ) {
    self.world = world
    self.scenario = scenario
    self.judge = judge
    self.mutation = mutation
    self.redis = redis
    self.time = time
    stuckPatience = scenario.intervals[Scenario.stuck] * 2_000
    connections = (0..<world.any(1...3)).map { number in
      Connection("c\(number)", interval: world.any(of: [60_000_000, 120_000_000, 400_000_000]))
    }
  }

  var now: Moment { Moment(time: time(), trueTime: world.now) }

  /// A machine is suspended.
  func suspended(for length: Int64) {
    suspendedUntil = max(suspendedUntil, world.now + length)
  }
}

// MARK: - Others

extension ConnectionTable {
  /// Users ask for discoveries, and in some seeds an existing worker enqueues them, too.
  func live() {
    discoverNow()
    if world.oneIn(3) { workBeside() }
  }

  private func discoverNow() {
    world.after(world.any(10_000_000...120_000_000)) { [self] in
      discoverNow(world.any(of: connections))
      discoverNow()
    }
  }

  private func discoverNow(_ connection: Connection) {
    lock(connection, token: Self.apiToken, milliseconds: Self.apiLock) { [self] in enqueue($0) }
  }

  /// The existing worker ignores whether a discovery is running, and does not release the lock.
  private func workBeside() {
    world.after(30_000_000) { [self] in
      for connection in connections where isPastInterval(connection, at: time()) {
        let length = min(2 * connection.interval, 7_200_000_000) / 1_000
        lock(connection, token: Self.existingWorkerToken, milliseconds: length) { [self] in
          start($0, now)
          enqueue($0)
        }
      }
      workBeside()
    }
  }

  /// Takes a connection's lock, and changes its row soon after, or after some seconds.
  private func lock(
    _ connection: Connection, token: String, milliseconds: Int64, _ body: @escaping @EventLoop (Connection) -> Void
  ) {
    guard redis.condition == .up else { return }
    if let holder = redis.holder(ofLock: connection.lockKey) { return checkRefusal(by: holder, of: connection) }
    guard redis.lock(connection.lockKey, token: token, milliseconds: milliseconds) else { return }
    world.note("\(token) locks connection \(connection.name)")
    connection.blockedUntil = max(connection.blockedUntil, world.now + milliseconds * 1_000)
    let delay = world.oneIn(3) ? world.any(500_000...8_000_000) : world.any(1_000...500_000)
    world.after(delay) { [self] in whenFree(connection, body) }
  }

  private func whenFree(_ connection: Connection, _ body: @escaping @EventLoop (Connection) -> Void) {
    if !connection.isHeld { return body(connection) }
    world.after(100_000) { [self] in whenFree(connection, body) }
  }

  private func start(_ connection: Connection, _ began: Moment) {
    connection.isRunning = true
    connection.startedAt = began.time
    connection.runningSince = began.trueTime
  }

  /// A job is queued. Usually an agent takes it soon and reports a result; some are taken late, and some agents die.
  private func enqueue(_ connection: Connection) {
    connection.queuedJobs += 1
    world.after(world.oneIn(10) ? world.any(60_000_000...900_000_000) : world.any(100_000...20_000_000)) { [self] in
      whenFree(connection) { [self] connection in
        connection.queuedJobs -= 1
        connection.blockedUntil = max(connection.blockedUntil, world.now)
        guard !world.oneIn(6) else { return }
        let length = world.oneIn(10) ? world.any(300_000_000...1_000_000_000) : world.any(500_000...60_000_000)
        world.after(length) { [self] in whenFree(connection) { [self] in complete($0) } }
      }
    }
  }

  private func complete(_ connection: Connection) {
    world.note("connection \(connection.name) has a result")
    connection.isRunning = false
    connection.lastDiscoveredAt = time()
    connection.dueAt = world.now + connection.interval
    connection.openClaim = nil
  }
}

// MARK: - Claims

extension ConnectionTable {
  private func isPastInterval(_ connection: Connection, at time: Int64) -> Bool {
    connection.lastDiscoveredAt.map { $0 + connection.interval <= time } ?? true
  }

  private func isDue(_ connection: Connection, at time: Int64) -> Bool {
    guard isPastInterval(connection, at: time), connection.queuedJobs == 0 || mutation == .queuedIgnored else {
      return false
    }
    guard connection.isRunning, let startedAt = connection.startedAt, mutation != .runningIgnored else { return true }
    return startedAt < time - connection.limit - stuckPatience
  }

  /// The due connections' names and last discoveries, the longest overdue first.
  func due(limit: Int, skipping skipped: Int) -> [[String?]] {
    let time = time()
    return connections.filter { isDue($0, at: time) }
      .sorted { ($0.lastDiscoveredAt ?? .min, $0.name) < ($1.lastDiscoveredAt ?? .min, $1.name) }
      .dropFirst(skipped).prefix(limit).map { [$0.name, $0.lastDiscoveredAt.map { "\($0)" }] }
  }

  /// A replica has taken a connection's lock. Sometimes a user asks for a discovery then.
  func lockTaken(_ key: String) {
    guard let connection = connections.first(where: { $0.lockKey == key }) else { return }
    connection.lockedAt = world.now
    guard world.oneIn(3) else { return }
    // In the midst of a claim that meets no fault, or of one that does.
    world.after(world.any(1_000...(world.oneIn(2) ? 20_000 : 3_000_000))) { [self] in discoverNow(connection) }
  }

  /// Holds those that are due and free, and returns them.
  fileprivate func claim(_ names: [String], began: Int64) -> [Connection] {
    let free = connections.filter { names.contains($0.name) && !$0.isHeld && isDue($0, at: began) }
    hold(free)
    return free
  }

  fileprivate func claimed(_ connection: Connection, at began: Moment, isLate: Bool) {
    world.note("connection \(connection.name) is claimed")
    // Without transaction_timeout nothing prevents a late commit.
    if !isLate || scenario.hasTransactionTimeout { checkLock(of: connection) }
    checkLateness(of: connection)
    if connection.queuedJobs > 0 { judge.violated("connection \(connection.name) was claimed while a job was queued") }
    if let claim = connection.openClaim, judge.postgresSteppedAt < claim.trueTime,
      began.time - claim.time < connection.limit
    {
      judge.violated("connection \(connection.name) was claimed again while its discovery was running")
    }
    connection.openClaim = began
    enqueue(connection)
    start(connection, began)
  }

  private func checkLock(of connection: Connection) {
    guard let holder = redis.holder(ofLock: connection.lockKey),
      [Self.apiToken, Self.existingWorkerToken].contains(holder),
      world.now > max(redis.lostLocksAt, suspendedUntil, judge.postgresSteppedAt) + Self.excuse
    else { return }
    judge.violated("connection \(connection.name) was claimed under the lock of: \(holder)")
  }

  private func checkRefusal(by holder: String, of connection: Connection) {
    guard ![Self.apiToken, Self.existingWorkerToken].contains(holder),
      world.now - connection.lockedAt > Self.claimTime,
      judge.wasQuiet(from: connection.lockedAt, to: world.now, Scenario.connections)
    else { return }
    judge.violated("connection \(connection.name) stayed locked after its claim")
  }

  private func checkLateness(of connection: Connection) {
    guard connection.queuedJobs == 0 else { return }
    let runningUntil = connection.isRunning ? connection.runningSince + connection.limit + stuckPatience : 0
    check(connection, "due", since: max(connection.dueAt, connection.blockedUntil, runningUntil), Scenario.connections)
  }

  /// How long it stayed like this.
  private func check(_ connection: Connection, _ state: String, since begin: Int64, _ sweeper: Int) {
    // An interval with its jitter, and a run.
    let end = begin + scenario.intervals[sweeper] * 1_050 + 3_000_000
    // A stepped clock moves due times, or the ends of locks.
    guard world.now > end, max(judge.postgresSteppedAt, judge.redisSteppedAt) < 0,
      judge.wasQuiet(from: begin, to: end, sweeper)
    else { return }
    judge.violated("connection \(connection.name) was \(state) for \((world.now - begin) / 1_000) ms")
  }

  /// The simulation has ended.
  func checkDue() {
    for connection in connections {
      checkLateness(of: connection)
      checkStuck(connection)
    }
  }
}

// MARK: - Discoveries that are given up

extension ConnectionTable: PagedRows {
  var skipsLocked: Bool { true }

  func due(_ cutoff: Int64, _ statement: PostgresStatement) -> [Connection] {
    connections.filter { connection in
      let limit = mutation == .givenUpEarly ? connection.limit / 2 : connection.limit
      return connection.isRunning && connection.startedAt.map { $0 < cutoff - limit } ?? false
    }
  }

  func isLocked(_ row: Connection) -> Bool { row.isHeld }

  func allowsWrites(_ statement: PostgresStatement) -> Bool { true }

  func changed(_ rows: [Connection]) {
    for connection in rows {
      world.note("the discovery of connection \(connection.name) is given up")
      if judge.postgresSteppedAt < connection.runningSince, world.now - connection.runningSince < connection.limit {
        judge.violated("the discovery of connection \(connection.name) was given up before its time")
      }
      checkStuck(connection)
      connection.isRunning = false
      connection.blockedUntil = max(connection.blockedUntil, world.now)
      connection.openClaim = nil
    }
  }

  private func checkStuck(_ connection: Connection) {
    guard connection.isRunning else { return }
    check(connection, "stuck", since: connection.runningSince + connection.limit, Scenario.stuck)
  }
}

/// A claim: the jobs and the marks of the connections that are due, or nothing.
@EventLoop
final class ConnectionChange: RowChange {
  private let table: ConnectionTable
  private let roles: [StatementRole]
  private let names: [String]
  private var claimed: [ConnectionTable.Connection] = []
  private var began: ConnectionTable.Moment

  init(_ statements: [PostgresStatement], _ roles: [StatementRole], in table: ConnectionTable) {
    self.table = table
    self.roles = roles
    began = table.now
    let list = roles.firstIndex(of: .claim).flatMap { statements[$0].parameters[0] } ?? "{}"
    names = list.dropFirst().dropLast().split(separator: ",").map(String.init)
  }

  var rows: Int { claimed.count }

  func result(_ index: Int) -> PostgresResult {
    let count = "\(rows)"
    return PostgresResult(rows: [roles[index] == .claim ? [count, count, "{}"] : [count, count]])
  }

  func write(began time: Int64) -> Bool {
    began = table.now
    claimed = table.claim(names, began: time)
    return true
  }

  func committed(isLate: Bool) {
    table.release(claimed)
    for connection in claimed { table.claimed(connection, at: began, isLate: isLate) }
  }

  func rolledBack() {
    table.release(claimed)
    claimed = []
  }
}
