// The report of the verb status: both servers, the sweepers, the replicas, and the sessions that block a sweep. Pure.

import Coordination
import Reactor

/// What is known about the fleet.
struct FleetStatus: Sendable {
  static let unreachableStatus: Int32 = 1
  static let attentionStatus: Int32 = 2

  /// A server, and why it cannot be queried.
  struct Server: Sendable {
    let name: String
    var fault: String?
    /// Details such as its version.
    var detail = ""
  }

  /// A PostgreSQL session that a run uses, as the role sees it.
  struct Run: Sendable {
    let process: String
    let sweeper: String
    let epoch: String
    let state: String?
    let seconds: Int?
    /// The sessions whose locks it waits for.
    let blockers: [String]
  }

  /// A session that locks a swept table, or has long held locks on its rows.
  struct Holder: Sendable {
    /// Empty for a prepared transaction, which has no session.
    let process: String
    /// The prepared transaction's gid.
    let prepared: String?
    let user: String?
    /// Nil if the role may not see it, or if the transaction is prepared.
    let state: String?
    let seconds: Int?
    let relation: String
    let mode: String
    /// The first word of its last statement.
    let statement: String?
    var isBlocking = false

    /// Locks on the whole table block every sweep.
    var isOfTable: Bool { !mode.hasPrefix("Row") }

    /// Brief row locks are normal.
    var needsAttention: Bool { isBlocking || seconds != nil || isOfTable }
  }

  /// Sessions of workers with another Redis namespace, of one user and from one address.
  struct Stranger: Sendable {
    /// One of them.
    let process: String
    let user: String?
    let namespace: String
    /// Nil for a socket, and if the role may not see it.
    let address: String?
    let sessions: Int
  }

  var servers: [Server] = []
  /// Redis's time in ms; nil if Redis did not answer.
  var redisTime: Int64?
  var sweepers: [SweeperStatus] = [] {
    didSet { fleet = FleetReplicas(sweepers.flatMap(\.replicas)) }
  }
  private var fleet = FleetReplicas()
  /// The replicas, each as last seen by any sweeper.
  var replicas: [SweeperRecord.Replica] { fleet.all }
  /// Nil if PostgreSQL did not answer.
  var runs: [Run]?
  var holders: [Holder] = []
  /// Workers on the same database that do not share this fleet's schedule.
  var strangers: [Stranger] = []
  /// The GRANT that lets the role see other roles' sessions; nil if it can.
  var grant: String?

  /// As `FleetReplicas.differences`.
  func differences(of replica: SweeperRecord.Replica) -> [String]? { fleet.differences(of: replica) }

  var exitStatus: Int32 {
    if servers.contains(where: { $0.fault != nil }) { return Self.unreachableStatus }
    let needsAttention = sweepers.contains(where: \.needsAttention) || holders.contains(where: \.needsAttention)
    return needsAttention || fleet.differ || !strangers.isEmpty ? Self.attentionStatus : 0
  }

  // MARK: Text

  func text(as format: ReportTable.Format) -> String { format == .json ? json : lines }

  private var lines: String {
    var table = ReportTable(["server", "state", "detail"])
    for server in servers {
      table.rows.append([.text(server.name), .text(server.fault ?? "ok"), .text(server.detail)])
    }
    var text = table.text(as: .text)
    if let redisTime {
      text += "\n" + sweeperTable.text(as: .text)
      // A replica that waits for a server asks for no sweeper.
      let isWaiting = servers.contains { $0.fault != nil }
      let notes = sweepers.filter { !$0.isOffByDefault && !(isWaiting && $0.state == .unattended) }.flatMap { status in
        status.notes.map { "\(status.record.sweeper): \(ReportTable.printable($0))\n" }
      }
      if !notes.isEmpty { text += "\n" + notes.joined() }
      let others = sweepers.filter(\.isOffByDefault).map(\.record.sweeper)
      if !others.isEmpty { text += "\nOff by default: \(others.joined(separator: ", "))\n" }
      let absence = FleetReplicas.none + (isWaiting ? "; any that run wait for the server.\n" : ".\n")
      text += "\n" + (replicas.isEmpty ? absence : fleet.table(at: redisTime).text(as: .text))
    }
    if !strangers.isEmpty {
      text += "\nWorkers on this database that share neither schedule nor pauses with these replicas:\n"
      text += strangerTable.text(as: .text)
    }
    if let runs, !runs.isEmpty { text += "\nRuns in PostgreSQL:\n" + Self.table(of: runs).text(as: .text) }
    if !holders.isEmpty { text += "\nSessions that lock swept tables:\n" + holderTable.text(as: .text) }
    for gid in preparedTransactions {
      let end = ReportTable.printable(PreparedTransaction.end(gid))
      text += "A prepared transaction lasts until it is ended. Run: \(end)\n"
    }
    if let grant { text += "The role may not see what these sessions do. Run: \(grant)\n" }
    return text
  }

  private var sweeperTable: ReportTable {
    var table = ReportTable([
      "sweeper", "state", "every", "last run", "by", "outcome", "found", "changed", "took", "next due",
    ])
    for status in sweepers where !status.isOffByDefault {
      let record = status.record
      table.rows.append([
        .text(record.sweeper), .text(status.state.rawValue), .init(status.interval.map(Self.duration)),
        .init(record.number("ended").map(Self.time)), .init(record.text("by")), .init(record.text("outcome")),
        .init(record.number("found")), .init(record.number("rows")),
        .init(record.number("duration").map(Self.duration)),
        .init(status.due.map(whenDue)),
      ])
    }
    return table
  }

  private func whenDue(_ due: Int64) -> String {
    let left = due - (redisTime ?? due)
    return left <= 0 ? "now" : "in " + GoDuration.text(wholeSecondsOf: .milliseconds(left + 999))
  }

  private static func table(of runs: [Run]) -> ReportTable {
    var table = ReportTable(["pid", "sweeper", "epoch", "state", "for", "waits for"])
    for run in runs {
      table.rows.append([
        .text(run.process), .text(run.sweeper), .text(run.epoch), .init(run.state), .init(run.seconds.map(seconds)),
        .list(run.blockers),
      ])
    }
    return table
  }

  private var holderTable: ReportTable {
    var table = ReportTable(["pid", "user", "state", "for", "relation", "lock", "statement", "blocks a sweep"])
    for holder in holders {
      table.rows.append([
        holder.prepared == nil ? .text(holder.process) : .missing, .init(holder.user),
        .init(holder.prepared == nil ? holder.state : "prepared"), .init(holder.seconds.map(Self.seconds)),
        .text(holder.relation), .text(holder.mode), .init(holder.statement), .text(holder.isBlocking ? "yes" : "no"),
      ])
    }
    return table
  }

  /// Each listed once, although it may lock several tables.
  private var preparedTransactions: [String] {
    var known: [String] = []
    for gid in holders.compactMap(\.prepared) where !known.contains(gid) { known.append(gid) }
    return known
  }

  private var strangerTable: ReportTable {
    var table = ReportTable(["pid", "user", "REDIS_NAMESPACE", "address", "sessions"])
    for stranger in strangers {
      table.rows.append([
        .text(stranger.process), .init(stranger.user), .text(stranger.namespace), .init(stranger.address),
        .number(stranger.sessions),
      ])
    }
    return table
  }

  static func time(_ milliseconds: Int64) -> String {
    WallClockTime(millisecondsSince1970: milliseconds).rfc3339Seconds
  }

  static func duration(_ milliseconds: Int64) -> String { GoDuration.text(.milliseconds(milliseconds)) }

  private static func seconds(_ count: Int) -> String { GoDuration.text(.seconds(count)) }

  // MARK: JSON

  private var json: String {
    var json = JSONWriter()
    json.beginObject()
    json.field("exit_status", exitStatus)
    json.key("redis_time")
    if let redisTime { json.string(Self.time(redisTime)) } else { json.null() }
    for (name, table) in jsonTables {
      json.key(name)
      table.write(to: &json)
    }
    json.endObject()
    return String(decoding: json.bytes, as: UTF8.self) + "\n"
  }

  private var jsonTables: [(String, ReportTable)] {
    var servers = ReportTable(["server", "fault", "detail"])
    for server in self.servers { servers.rows.append([.text(server.name), .init(server.fault), .text(server.detail)]) }
    var runs = Self.table(of: self.runs ?? [])
    runs.columns = ["pid", "sweeper", "epoch", "state", "age", "blocking_pids"]
    var holders = holderTable
    holders.columns = [
      "pid", "user", "state", "age", "relation", "lock", "statement", "blocks", "prepared_transaction",
    ]
    for (row, holder) in self.holders.enumerated() { holders.rows[row].append(.init(holder.prepared)) }
    var strangers = strangerTable
    strangers.columns = ["pid", "user", "namespace", "address", "sessions"]
    return [
      ("servers", servers), ("sweepers", sweeperJSON), ("replicas", fleet.jsonTable), ("runs", runs),
      ("lock_holders", holders), ("other_workers", strangers),
    ]
  }

  private var sweeperJSON: ReportTable {
    var table = ReportTable([
      "sweeper", "state", "needs_attention", "interval_ms", "last_run", "by", "outcome", "found", "changed", "skipped",
      "refused", "error", "duration_ms", "last_success", "next_due", "failing_since", "failures", "paused",
      "running_on",
      "epoch", "started", "changed_so_far", "notes",
    ])
    for status in sweepers {
      let (record, isRunning) = (status.record, status.record.isRunning)
      func number(_ field: String) -> ReportTable.Cell { .init(record.number(field)) }
      func time(_ field: String) -> ReportTable.Cell { .init(record.number(field).map(Self.time)) }
      table.rows.append([
        .text(record.sweeper), .text(status.state.rawValue), .text(status.needsAttention ? "yes" : "no"),
        .init(status.interval), time("ended"), .init(record.text("by")), .init(record.text("outcome")),
        number("found"), number("rows"), number("skipped"), number("refused"), .init(record.text("error")),
        number("duration"), time("succeeded"), .init(status.due.map(Self.time)), time("failing_since"),
        number("failures"), .init(record.pause), .init(isRunning ? record.text("replica") : nil), number("epoch"),
        isRunning ? time("started") : .missing, isRunning ? number("rows_so_far") : .missing, .list(status.notes),
      ])
    }
    return table
  }
}
