// Performs a plan on a cluster: each fault breaks something, waits, and repairs it.
// Invariant: everything is repaired when `perform` returns, each fault's real times are recorded, and faults with the
// same claim never overlap, even if one takes longer than planned.

import Foundation
import Reactor
import Synchronization
import TestSupport

/// A fault as it happened.
struct Incident: Sendable {
  let fault: PlannedFault
  let began: Moment
  let ended: Moment
  /// Due rows left beside poisoned ones when those were removed, although there was time to sweep them.
  var neglected = 0

  var span: ClosedRange<Moment> { began...ended }
}

/// A load as it happened: when it was inserted.
struct LoadIncident: Sendable {
  let load: PlannedLoad
  let began: Moment
}

/// Injects and ends faults.
struct FaultDriver: Sendable {
  let cluster: Cluster
  let say: @Sendable (String) -> Void

  /// Performs the whole plan, starting now.
  func perform(_ plan: FaultPlan) async throws -> (incidents: [Incident], loads: [LoadIncident]) {
    let begin = Moment.now
    return try await withThrowingTaskGroup(of: ([Incident], LoadIncident?).self) { group in
      for faults in Dictionary(grouping: plan.faults, by: \.claim).values {
        group.addTask {
          var incidents: [Incident] = []
          for fault in faults { incidents.append(try await perform(fault, from: begin)) }
          return (incidents, nil)
        }
      }
      for load in plan.loads {
        group.addTask {
          try await sleep(until: begin.advanced(by: load.start))
          let began = Moment.now
          try await Workload.put(load.table, on: cluster)
          say("\(began) a load of due rows, \(load.table)")
          return ([], LoadIncident(load: load, began: began))
        }
      }
      var incidents: [Incident] = []
      var loads: [LoadIncident] = []
      for try await (some, load) in group {
        incidents += some
        if let load { loads.append(load) }
      }
      return (incidents.sorted { $0.began < $1.began }, loads.sorted { $0.began < $1.began })
    }
  }

  private func perform(_ fault: PlannedFault, from begin: Moment) async throws -> Incident {
    try await sleep(until: begin.advanced(by: fault.start))
    // A standby is built while everything works, so this is no part of the fault.
    let standby = try await Standby.build(for: fault.kind, of: cluster)
    let began = Moment.now
    say("\(began) begins: #\(fault.number) \(fault)")
    var neglected = 0
    switch fault.kind {
    case .blackHole, .refuse, .delay, .cut, .reset: try await breakLink(fault)
    case .kill, .terminate, .freeze: try await breakProcess(fault)
    case .pauseRedis, .restartRedis, .flushRedis, .killRedisClients, .fillRedis, .isolateRedis:
      try await breakRedis(fault)
    case .strangersLock: try await takeLock(fault)
    case .moveSlot: try await moveSlot(fault)
    case .pausePostgres, .restartPostgres, .endSessions, .readOnly, .fillDisk: try await breakPostgres(fault)
    case .lockTable, .lockRows, .failStatements: try await breakTable(fault)
    case .poison: neglected = try await poison(fault)
    case .failOverRedis, .failOverPostgres: try await standby?.takeOver(in: cluster, after: fault.length)
    }
    let ended = Moment.now
    say("\(ended) ended:  #\(fault.number)")
    return Incident(fault: fault, began: began, ended: ended, neglected: neglected)
  }

  private func breakLink(_ fault: PlannedFault) async throws {
    guard let replica = fault.replica, let link = fault.link else { return }
    if fault.kind == .reset { return cluster.links.proxy(replica, link).resetConnections() }
    var laid = LinkFault()
    let broken: FaultProxy.Fault =
      switch fault.kind {
      case .blackHole: .blackHole
      case .delay: .delay(.milliseconds(fault.amount))
      case .cut: .cut(afterBytes: fault.amount)
      default: .pass
      }
    laid.isRefused = fault.kind == .refuse
    if fault.direction != .toClient { laid.toServer = broken }
    if fault.direction != .toServer { laid.toClient = broken }
    cluster.links.lay(laid, number: fault.number, replica: replica, link: link)
    try await Task.sleep(for: fault.length)
    cluster.links.lift(number: fault.number, replica: replica, link: link)
  }

  private func breakProcess(_ fault: PlannedFault) async throws {
    guard let index = fault.replica else { return }
    let replica = cluster.replicas[index]
    switch fault.kind {
    case .freeze:
      replica.process?.signal(SIGSTOP)
      try await Task.sleep(for: fault.length)
      replica.process?.signal(SIGCONT)
    default:
      replica.end(by: fault.kind == .kill ? SIGKILL : SIGTERM)
      try await replica.process?.waitForExit(within: Cluster.grace + .seconds(20))
      try await Task.sleep(for: fault.length)
      try await replica.start()
    }
  }

  private func breakTable(_ fault: PlannedFault) async throws {
    guard let table = fault.table else { return }
    let seconds = fault.length.seconds
    switch fault.kind {
    case .lockTable:
      try await insist("BEGIN; LOCK TABLE \(table); SELECT pg_sleep(\(seconds)); COMMIT")
    case .lockRows:
      let due = Sweep.allCases.first { $0.table == table }?.due(lag: .zero) ?? "true"
      try await insist(
        """
        BEGIN; SELECT count(*) FROM (SELECT FROM \(table) WHERE \(due) LIMIT 20 FOR UPDATE) AS held;
        SELECT pg_sleep(\(seconds)); COMMIT
        """)
    default:
      try await insist(
        """
        INSERT INTO chaos.failing VALUES ('\(table)', clock_timestamp() + interval '\(seconds) s')
          ON CONFLICT (relation) DO UPDATE SET until = excluded.until; SELECT pg_sleep(\(seconds))
        """)
    }
  }

  /// Inserts a due row that cannot be changed, and removes it. Returns how many other rows were left that had been due
  /// for two intervals.
  private func poison(_ fault: PlannedFault) async throws -> Int {
    guard let table = fault.table, let sweep = Sweep.allCases.first(where: { $0.table == table }) else { return 0 }
    let (row, condition) = Workload.poison(table)
    guard await succeeds(row) else { return 0 }
    try await Task.sleep(for: fault.length)
    let lag = sweep.interval * 2 + cluster.options.surroundings.slack
    var neglected = 0
    if fault.length > lag, let due = sweep.due(lag: lag) {
      let answer = try? await cluster.sql("SELECT count(*) FROM \(table) WHERE \(due) AND NOT (\(condition))")
      neglected = answer.flatMap { Int($0) } ?? 0
    }
    try await mend("DELETE FROM \(table) WHERE \(condition)")
    return neglected
  }

  func succeeds(_ sql: String) async -> Bool {
    do {
      try await cluster.sql(sql)
      return true
    } catch {
      say("\(Moment.now) refused: \(String(describing: error).prefix { $0 != "\n" }.prefix(120))")
      return false
    }
  }

  /// If another fault affects PostgreSQL, this one has no effect or ends early.
  func insist(_ sql: String) async throws {
    do {
      try await cluster.sql(sql)
    } catch {
      say("\(Moment.now) cut short: \(String(describing: error).prefix { $0 != "\n" }.prefix(120))")
    }
  }

  /// Ends a fault, even while another one affects PostgreSQL.
  func mend(_ sql: String) async throws {
    for _ in 0..<400 {
      if await succeeds(sql) { return }
      try await Task.sleep(for: .milliseconds(50))
    }
    throw HarnessFault("not mended: \(sql)")
  }
}
