// A replica's connections to the modelled PostgreSQL, as the worker's runs use them.
// Invariants: a connection abandoned mid-exchange is never reused, and its session is ended; an unknown statement
// traps.

import Coordination
import Reactor
import Worker

@EventLoop
final class ModelledPool: SweepPool {
  let life: Life
  let server: PostgresServer
  private(set) var outage: String?
  var isWorthAsking: Bool { outage == nil }
  private var idle: [ModelledConnection] = []
  private var lent: [ModelledConnection] = []

  init(_ life: Life, _ server: PostgresServer) {
    self.life = life
    self.server = server
  }

  var isReadOnly: Bool { false }

  func waitUntilWritable(by deadline: MonotonicInstant) async throws -> Bool { true }

  func ping(by deadline: MonotonicInstant) async throws {
    let server = server
    try await reach(by: deadline) { $0(server.time) }
  }

  func withSweepConnection(
    by deadline: MonotonicInstant, _ body: @EventLoop (any SweepConnection) async throws -> Void
  ) async throws {
    try Task.checkCancellation()
    idle.removeAll { !$0.isOpen }
    let connection: ModelledConnection
    if let known = idle.popLast() {
      connection = known
    } else {
      let server = server
      connection = ModelledConnection(self, try await reach(by: deadline) { $0(server.connect()) })
    }
    lent.append(connection)
    defer {
      lent.removeAll { $0 === connection }
      if connection.isReusable { idle.append(connection) } else { connection.close() }
    }
    try await body(connection)
  }

  /// The process has died: the server sees its connections close.
  func died() {
    for connection in idle + lent { server.end(connection.session) }
  }

  /// Runs `request` on the server over a new connection.
  ///
  /// - Throws: `PostgresError.unavailable` if the server is down.
  @discardableResult
  private func reach<Value: Sendable>(
    by deadline: MonotonicInstant,
    _ request: @escaping @EventLoop (@escaping @EventLoop (Value) -> Void) -> Void
  ) async throws -> Value {
    guard server.condition != .away else {
      outage = "connection refused"
      throw PostgresError.unavailable(reason: "connection refused")
    }
    guard let value = await exchange(by: deadline, request) else {
      try Task.checkCancellation()
      outage = "timed out connecting"
      throw PostgresError.timedOut(.connecting)
    }
    return value
  }

  /// Carries `request` to the server and its answer back; nil if none arrives by the deadline.
  func exchange<Value: Sendable>(
    by deadline: MonotonicInstant,
    _ request: @escaping @EventLoop (@escaping @EventLoop (Value) -> Void) -> Void
  ) async -> Value? {
    let (life, replica, server) = (life, life.replica, server)
    let reply = OneShot<Value>()
    replica.deliver(\.postgresPath) {
      server.receive {
        request { value in
          guard replica.postgresPath != .answersLost, replica.postgresPath != .closed else { return }
          replica.world.after(replica.delay(replica.postgresPath)) { life.receive { reply.fire(value) } }
        }
      }
    }
    let value = await reply.wait(until: deadline, on: life.clock)
    if value != nil { outage = nil }
    return value
  }
}

@EventLoop
final class ModelledConnection: SweepConnection {
  let session: PostgresSession
  private let pool: ModelledPool
  private var isClosed = false
  /// A request is unanswered.
  private var isBusy = false
  var attachment: (any Sendable)?
  /// The run that sent the last batch.
  private var user: (name: String, sweeper: Int, epoch: Int64)?

  init(_ pool: ModelledPool, _ session: PostgresSession) {
    self.pool = pool
    self.session = session
  }

  private var life: Life { pool.life }
  private var world: World { pool.life.replica.world }
  private var scenario: Scenario { pool.life.replica.scenario }

  var serverVersion: Int { scenario.hasTransactionTimeout ? 170_000 : 150_000 }
  var prelude: [PostgresStatement] { [] }

  var isOpen: Bool { !isClosed && pool.server.isOpen(session) }
  var isReusable: Bool { isOpen && !isBusy }

  func close() {
    guard !isClosed else { return }
    isClosed = true
    let (server, session) = (pool.server, session)
    life.replica.deliver(\.postgresPath) { server.receive { server.end(session) } }
  }

  func pipeline(_ statements: [PostgresStatement], by deadline: MonotonicInstant) async throws -> [PostgresResult] {
    try Task.checkCancellation()
    guard isOpen else { throw PostgresError.connectionLost(reason: "the server closed the connection") }
    isBusy = true
    let roles = statements.map { scenario.statements.role(of: $0.sql) }
    let results: [PostgresResult]
    switch roles[0] {
    case .open: results = try await batch(statements, roles, by: deadline)
    default: results = try await lookup(statements, roles, by: deadline)
    }
    isBusy = false
    return results
  }

  /// Runs statements that write nothing and keep no lock.
  private func lookup(
    _ statements: [PostgresStatement], _ roles: [StatementRole], by deadline: MonotonicInstant
  ) async throws -> [PostgresResult] {
    let (server, scenario, last) = (pool.server, scenario, statements[statements.count - 1])
    let answer: [[String?]]? = await pool.exchange(by: deadline) { answer in
      switch roles[roles.count - 1] {
      case .clock: answer([["\(server.time)"]])
      case .survey:
        answer([
          scenario.statements.survey(
            of: last.parameters[0] ?? "", moments: last.parameters[3], pages: scenario.tablePages)
        ])
      case .holders:
        let sweeper = scenario.sweeper(inRunName: last.parameters[1] ?? "")
        let holder = server.evict(sweeper, before: Int64(last.parameters[2] ?? "") ?? 0)
        answer(holder.map { [["1", (last.parameters[1] ?? "") + "\($0.epoch)", $0.isEnded ? "t" : "f"]] } ?? [])
      case .nothingDue: answer([[server.reveals?.isAnyDue == true ? "f" : "t"]])
      case .related:
        let hasReference = server.secrets?.hasReference ?? false
        answer(scenario.statements.relatedTables(last.parameters, hasReference: hasReference))
        if last.parameters[1] != "0" { server.secrets?.referencesWereRead() }
      case .schema, .coveredTargets: answer([])
      case .dueConnections:
        let (limit, skipped) = (last.parameters[0].flatMap { Int($0) }, last.parameters[1].flatMap { Int($0) })
        answer(server.connections?.due(limit: limit ?? 0, skipping: skipped ?? 0) ?? [])
      default: preconditionFailure("this is not asked outside of a batch: \(last.sql)")
      }
    }
    let rows = try await answered(answer)
    return statements.dropLast().map { _ in scenario.statements.nothing } + [PostgresResult(rows: rows)]
  }

  private func answered<Value>(_ answer: Value?) async throws -> Value {
    if let answer { return answer }
    try Task.checkCancellation()
    throw PostgresError.timedOut(.statement)
  }

  private func batch(
    _ statements: [PostgresStatement], _ roles: [StatementRole], by deadline: MonotonicInstant
  ) async throws -> [PostgresResult] {
    let (replica, life, server, session) = (life.replica, life, pool.server, session)
    let opening = statements[0]
    let (sweeper, epoch) = run(named: opening.parameters[1] ?? "")
    let plan = BatchPlan(statements, roles, sweeper: sweeper, epoch: epoch, replica)
    life.sendsBatch(sweeper)
    var cut: (message: Int, length: Int64)?
    let freeze = replica.freezeAtNextBatch
    if let freeze {
      replica.freezeAtNextBatch = nil
      let message = Int(world.any(0...3))
      if message > 0 { cut = (message, freeze + world.any(0...2_000)) }
    }
    let batch = PostgresServer.Batch(
      sweeper: sweeper, epoch: epoch, deadline: Int64(opening.parameters[0] ?? "") ?? 0,
      writeLength: plan.length, rows: plan.rows, cut: cut, jobs: plan.jobs, change: plan.change)
    if let freeze {
      replica.pause(freeze)
      // It froze before sending anything, so this waits until it continues.
      if cut == nil { await untilReleased() }
    }
    let answer: PostgresServer.Answer? = await pool.exchange(by: deadline) { answer in
      server.execute(batch, in: session, answer: answer)
    }
    switch try await answered(answer) {
    case .done(let began, let clock, let isGuarded):
      return plan.results(of: batch, began: began, clock: clock, isGuarded: isGuarded)
    case .tooLate: throw failure(GuardStatements.pastDeadlineState, statements.count - 1)
    case .lockTimeout: throw failure("55P03", plan.firstWrite)
    case .cancelled: throw failure("57014", plan.firstWrite)
    case .gone(let byTimeout):
      isClosed = true
      let state = byTimeout ? "\(GuardStatements.transactionTimeoutState): " : ""
      throw PostgresError.connectionLost(reason: "\(state)the server closed the connection")
    }
  }

  private func run(named name: String) -> (sweeper: Int, epoch: Int64) {
    if let user, user.name == name { return (user.sweeper, user.epoch) }
    let epoch = name.split(separator: " ").last.flatMap { Int64($0) } ?? 0
    let known = (name: name, sweeper: scenario.sweeper(inRunName: name), epoch: epoch)
    user = known
    return (known.sweeper, known.epoch)
  }

  /// The server refused a statement, and with it the transaction; the session lives on.
  private func failure(_ state: String, _ statement: Int) -> PostgresError {
    isBusy = false
    return .server(sqlState: state, message: "refused", statement: statement)
  }

  private func untilReleased() async {
    let signal = OneShot<Void>()
    life.receive { signal.fire(()) }
    _ = await signal.wait()
  }
}
