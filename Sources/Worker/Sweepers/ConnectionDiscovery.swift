// Discovery by connection: claims due connections and enqueues their jobs in small groups, each in one guarded
// transaction and under the connections' locks in Redis, which the api's "discover now" also takes.
// Invariant: a due time has at most one job, whatever dies in between. Called by the scheduler's run.

import Coordination
import Reactor

/// Discovery of provider connections, as declared.
package struct ConnectionDiscovery: Sendable {
  /// The claimed table.
  package static let table = "provider_connections"
  /// Its moment columns.
  package static let moments = ["last_discover_at", "last_discover_started_at"]

  /// The configured targets. One that a connection also covers gets a warning.
  let targets: DiscoverTargets
  /// Whether a connection gets another job while one is queued.
  let pilesUp: Bool
  /// How long a discovery without a result is left to connections-stuck.
  let patience: Duration

  @EventLoop
  package func statements(on connections: TableSurvey, _ jobs: TableSurvey) -> ConnectionStatements {
    ConnectionStatements(
      connections: connections.quotedName, moments: connections.moments, jobs: jobs.quotedName, pilesUp: pilesUp,
      patience: patience)
  }
}

/// Which due connections a run reads next: first the longest overdue, then those after the ones that it could not
/// claim. Pure.
struct ConnectionPages: Equatable, Sendable {
  /// The most connections that one run claims.
  static let claimLimit = 100
  /// The most queries of one run.
  static let queryLimit = 50

  private(set) var claimed = 0
  private var left = 0
  private var queries = 0
  private var isLast = false

  /// How many connections to read, and how many to skip; nil if the run is over.
  var next: (limit: Int, skipping: Int)? {
    guard !isLast, claimed < Self.claimLimit, queries < Self.queryLimit else { return nil }
    return (Self.claimLimit - claimed, left)
  }

  /// Counts a query's due and claimed connections.
  mutating func read(found: Int, claimed: Int) {
    queries += 1
    isLast = found < Self.claimLimit - self.claimed
    self.claimed += claimed
    left += found - claimed
  }
}

/// What a process remembers of discovery by connection.
@EventLoop
final class ConnectionMemory {
  let connections = TableMemory()
  let jobs = TableMemory()
  /// Whether targets have been compared with connections.
  fileprivate var hasComparedTargets = false

  /// Forgets both tables, and returns their last surveys.
  fileprivate func forget() -> [TableSurvey] {
    defer { (connections.survey, jobs.survey) = (nil, nil) }
    return [connections.survey, jobs.survey].compactMap { $0 }
  }
}

/// One run.
@EventLoop
final class ConnectionDiscoveryRun {
  /// The timeout of each statement of a claim.
  private static let statementLimit = Duration.seconds(2)

  private let discovery: ConnectionDiscovery
  private let session: GuardedSession
  private let memory: ConnectionMemory
  private let locks: DiscoverLocks
  private let allowsRowSecurity: Bool
  private let tally: RunTally
  private var failures: [(target: String, error: any Error)] = []
  /// Jobs that are missing, and connections that were not marked, although the statements succeeded.
  private var swallowed = 0
  private var unmarked = 0

  init(
    _ discovery: ConnectionDiscovery, in session: GuardedSession, knowing memory: ConnectionMemory,
    locks: DiscoverLocks, allowsRowSecurity: Bool = false, noting tally: RunTally
  ) {
    self.discovery = discovery
    self.session = session
    self.memory = memory
    self.locks = locks
    self.allowsRowSecurity = allowsRowSecurity
    self.tally = tally
  }

  /// Enqueues due jobs, and counts connections whose lock is held as skipped.
  ///
  /// - Parameter onCovered: called once per process with the names of targets that a connection also covers.
  /// - Throws: `Discovery.SomeFailed`, `SweepRefusal`, `RunInterruption`, `RedisError`, or `PostgresError`.
  func run(onCovered: @EventLoop ([String]) -> Void) async throws {
    do {
      try await compareTargets(onCovered)
      try await enqueue()
    } catch let error as PostgresError where error.sqlState != nil {
      // A table may have changed, so the next run surveys both again.
      let tables = memory.forget()
      for table in tables where table.isRefusedByRule(error) { throw SweepRefusal.rule(table.displayName) }
      throw error
    }
    try await conclude()
  }

  private func conclude() async throws {
    let (jobs, connections) = (memory.jobs.survey?.displayName, memory.connections.survey?.displayName)
    if !failures.isEmpty {
      throw Discovery.SomeFailed(failures: failures, label: "connection", table: jobs ?? Discovery.table)
    }
    if swallowed > 0 {
      let table = memory.jobs.survey
      let answer = try await session.query(
        PostgresStatement(ConnectionStatements.obstacles, ["\(table?.identifier ?? 0)"]))
      throw SweepRefusal.swallowed(
        swallowed, table: jobs ?? Discovery.table, hasTriggers: answer[row: 0, column: 0] == "t",
        uniqueIndexes: answer[row: 0, column: 1])
    }
    if unmarked > 0 { throw SweepRefusal.kept(unmarked, table: connections ?? ConnectionDiscovery.table) }
  }

  private func enqueue() async throws {
    var statements = try await survey(isFresh: false)
    var pages = ConnectionPages()
    var isFirst = true
    while let page = pages.next {
      let answer = try await session.query(
        PostgresStatement(statements.due, ["\(page.limit)", "\(page.skipping)"], isPrepared: true))
      guard answer.rowCount > 0 else { return }
      // The names may refer to other tables by now, whose jobs the agents claim.
      if isFirst { statements = try await survey(isFresh: true) }
      isFirst = false
      let due = (0..<answer.rowCount).compactMap { answer[row: $0, column: 0] }
      pages.read(found: due.count, claimed: try await claim(due, statements))
    }
  }

  /// The statements for the tables as last surveyed, or as they are now.
  private func survey(isFresh: Bool) async throws -> ConnectionStatements {
    func surveyed(
      _ table: String, _ key: String, _ moments: [String], _ event: TableSurvey.Event, _ memory: TableMemory
    ) async throws -> TableSurvey {
      let known = isFresh ? nil : memory.checkable(at: session.clock.now)
      let survey =
        if let known {
          known
        } else {
          try await session.surveyAgain(table, key: key, moments: moments, event: event, for: memory)
        }
      if let refusal = survey.refusal(allowsRowSecurity: allowsRowSecurity) { throw refusal }
      return survey
    }
    let jobs = try await surveyed(Discovery.table, "created_at", [], .insert, memory.jobs)
    let connections = try await surveyed(
      ConnectionDiscovery.table, "last_discover_at", ConnectionDiscovery.moments, .update, memory.connections)
    session.schema = connections.schema
    return discovery.statements(on: connections, jobs)
  }

  /// Claims the connections whose lock is free.
  ///
  /// - Returns: how many were claimed.
  private func claim(_ due: [String], _ statements: ConnectionStatements) async throws -> Int {
    let held = try await locks.take(due)
    tally.count.skipped += due.count - held.connections.count
    var claimed = 0
    do {
      if !held.connections.isEmpty { claimed = try await claimTogether(held, statements) }
    } catch {
      // If it may still be committed, the locks are left to expire.
      if Self.isOverOnServer(error) { await locks.release(held) }
      throw error
    }
    await locks.release(held)
    return claimed
  }

  /// If the claim fails for a row, claims one by one.
  private func claimTogether(_ held: DiscoverLocks.Held, _ statements: ConnectionStatements) async throws -> Int {
    do {
      return try await claim(held.connections, until: held.usableUntil, statements)
    } catch let error as PostgresError where Self.isAboutRows(error) {
      var claimed = 0
      for connection in held.connections {
        do {
          claimed += try await claim([connection], until: held.usableUntil, statements)
        } catch let error as PostgresError where Self.isAboutRows(error) {
          failures.append((connection, error))
        }
      }
      return claimed
    }
  }

  private func claim(
    _ connections: [String], until limit: MonotonicInstant, _ statements: ConnectionStatements
  ) async throws -> Int {
    let list = PostgresArray.words(connections)
    let results = try await session.batch(
      [
        TableStatements.settings(flushes: true, statementLimit: Self.statementLimit),
        PostgresStatement(statements.insert, [list]), PostgresStatement(statements.mark),
      ], notAfter: limit
    ).results
    let (wanted, fresh) = (results[1].number(0), results[1].number(1))
    let (enqueued, marked) = (results[2].number(0), results[2].number(1))
    tally.count.changed += max(0, fresh - (wanted - enqueued))
    swallowed += wanted - enqueued
    unmarked += enqueued - marked
    tally.count.kept += wanted - marked
    return marked
  }

  /// Whether the claim is over on the server too: it answered that nothing was done, or the claim was never sent.
  private static func isOverOnServer(_ error: any Error) -> Bool {
    switch error {
    case is RunInterruption: true
    case PostgresError.server: true
    default: false
    }
  }

  /// Whether the statement failed because of a row's values (classes 22 and 23) or a trigger's error.
  private static func isAboutRows(_ error: PostgresError) -> Bool {
    guard case .server(let state, _, _, _) = error else { return false }
    return error.isRaised || state.hasPrefix("22") || state.hasPrefix("23")
  }

  // MARK: Targets that are connections, too

  private func compareTargets(_ report: @EventLoop ([String]) -> Void) async throws {
    let targets = discovery.targets.targets
    guard !memory.hasComparedTargets, !targets.isEmpty else { return }
    _ = try await survey(isFresh: false)
    guard let connections = memory.connections.survey else { return }
    var pairs = JSONWriter()
    pairs.beginArray()
    for target in targets {
      pairs.beginArray()
      pairs.string(target.cluster)
      pairs.string(target.providerType)
      pairs.endArray()
    }
    pairs.endArray()
    let answer: PostgresResult
    do {
      answer = try await session.query(
        PostgresStatement(
          ConnectionStatements.covered(by: connections.quotedName), [String(decoding: pairs.bytes, as: UTF8.self)]))
    } catch let error as PostgresError where Self.isAboutRows(error) {
      // The database cannot store a name: discover-scheduler's run reports it.
      memory.hasComparedTargets = true
      return
    }
    memory.hasComparedTargets = true
    let covered = (0..<answer.rowCount).compactMap { answer[row: $0, column: 0].flatMap { Int($0) } }
    if !covered.isEmpty { report(covered.map { targets[$0 - 1].name }) }
  }
}
