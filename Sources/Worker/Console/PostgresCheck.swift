// The part of check that is about PostgreSQL itself: its name, TLS, version, role, and the settings of a session.
// Invariant: it reads in read-only transactions, and what it cannot read is a finding, not a failure.

import Reactor

/// A check of PostgreSQL and of the sweepers' tables.
@EventLoop
final class PostgresCheck {
  /// The oldest supported version.
  private static let oldestVersion = 130_000
  /// A shorter statement_timeout can cancel scans of large tables.
  private static let shortestStatement = 5_000

  private let configuration: PostgresConfiguration
  private let connectTimeout: Duration
  private let sweepers: [Sweeper]
  private let allowsRowSecurity: Bool
  /// Whether sweeps wait for standbys, which the role must then be able to see.
  private let waitsForStandbys: Bool
  private let clock: LoopClock
  private let deadline: MonotonicInstant
  private(set) var findings: [CheckFinding] = []
  private(set) var tables: [CheckSection] = []
  private(set) var serverClock: DeploymentCheck.ServerClock?
  private var isLocal = true

  init(
    configuration: PostgresConfiguration, connectTimeout: Duration, sweepers: [Sweeper], allowsRowSecurity: Bool,
    waitsForStandbys: Bool, clock: LoopClock, deadline: MonotonicInstant
  ) {
    self.configuration = configuration
    self.connectTimeout = connectTimeout
    self.sweepers = sweepers
    self.allowsRowSecurity = allowsRowSecurity
    self.waitsForStandbys = waitsForStandbys
    self.clock = clock
    self.deadline = deadline
  }

  func run() async {
    await resolveNames()
    do {
      let connection = try await connect()
      defer { connection.close() }
      findings.append(.ok("connected to \(configuration.redactedURL)"))
      checkTLS(connection)
      checkVersion(connection)
      try await check(
        ReadOnlySession(
          connection: connection, clock: clock, deadline: deadline, answerLimit: DeploymentCheck.answerLimit))
    } catch {
      let reason = (error as? PostgresError)?.publicReason ?? "cancelled"
      findings.append(.fault("\(configuration.redactedURL): \(CertificateHint.added(to: reason))"))
      if tables.count < sweepers.count { findings.append(.fault("the sweepers' tables were not checked")) }
    }
  }

  /// Connects to the host that the worker would use, or otherwise to a read-only one, to examine it.
  private func connect() async throws -> PostgresConnection {
    func limit() -> MonotonicInstant { min(deadline, clock.now.advanced(by: connectTimeout)) }
    do {
      return try await PostgresConnection.connect(configuration, by: limit(), on: clock, mustBeWritable: true)
    } catch let error as PostgresError where error.isReadOnly {
      return try await PostgresConnection.connect(configuration, by: limit(), on: clock)
    }
  }

  private func resolveNames() async {
    for (host, port) in configuration.endpoints {
      let finding = await NameCheck.finding(host: host, port: port, by: deadline, on: clock)
      isLocal = isLocal && finding.isLocal
      if let text = finding.finding { findings.append(text) }
    }
  }

  private func checkTLS(_ connection: PostgresConnection) {
    guard let peer = connection.tlsPeer(at: clock.wallTime) else {
      let text = "the connection is not encrypted"
      findings.append(isLocal ? .ok("\(text); it stays on this host") : .warning("\(text): set sslmode=verify-full"))
      return
    }
    findings += CertificateCheck.findings(of: peer)
    if !peer.bearsName {
      findings.append(
        .warning("the certificate is not for the host in DATABASE_URL: sslmode=verify-full would refuse it"))
    }
    if !peer.isVerified {
      findings.append(.warning("the certificate is not verified: set sslmode=verify-full"))
    }
  }

  private func checkVersion(_ connection: PostgresConnection) {
    let version = connection.serverVersion
    let text = "PostgreSQL \(version / 10_000).\(version % 10_000)"
    findings.append(
      version >= Self.oldestVersion ? .ok(text) : .fault("\(text) is too old: 13 or later is needed"))
    if connection.isPooled {
      findings.append(
        .ok("connected through a pooler: statements are not prepared, everything else works as without one"))
    }
  }

  private func check(_ session: ReadOnlySession) async throws {
    let askedAt = clock.wallTime
    // Without limits, in order to read the session's own.
    let role = try await session.query(PostgresStatement(SessionSQL.role), isLimited: false)
    serverClock = role[row: 0, column: 6].flatMap { Int64($0) }.map {
      DeploymentCheck.ServerClock(microseconds: $0, askedAt: askedAt, answeredAt: clock.wallTime)
    }
    let user = role[row: 0, column: 0] ?? ""
    let login = role[row: 0, column: 1] ?? ""
    let database = role[row: 0, column: 2] ?? ""
    let isSuper = role[row: 0, column: 3] == "t"
    findings.append(
      .ok("role \(user)\(user == login ? "" : ", logged in as \(login)")\(isSuper ? ", a superuser" : "")"))
    if role[row: 0, column: 5] == "t" {
      findings.append(.fault("the server is a standby: nothing is swept until DATABASE_URL points to the primary"))
    }
    let settings = try await session.query(PostgresStatement(SessionSQL.settings), isLimited: false)
    check(settings, SettingOwner(login: login, database: database))
    if waitsForStandbys { try await checkStandbys(session, role: user) }
    for sweeper in sweepers {
      let answer = try await session.query(SchemaCheck.statement(sweeper.requires))
      if let lack = SchemaCheck.lacks(in: answer, of: sweeper.requires).first?.lack {
        tables.append(CheckSection(name: sweeper.name, findings: [.ok("off: the schema has no \(lack)")]))
        continue
      }
      var section = CheckSection(name: sweeper.name, findings: [])
      for needs in SweepNeeds.all(sweeper.work) {
        let table = TableCheck(needs: needs, role: user, database: database, allowsRowSecurity: allowsRowSecurity)
        section.findings += try await table.findings(in: session)
      }
      tables.append(section)
    }
  }

  private func checkStandbys(_ session: ReadOnlySession, role: String) async throws {
    guard try await session.query(PostgresStatement(SessionSQL.seesStandbys))[row: 0, column: 0] != "t" else {
      return findings.append(.ok("the role sees how far standbys are behind"))
    }
    findings.append(
      .warning(
        "the role may not see how far standbys are behind: SB_WORKER_MAX_REPLICATION_LAG has no effect",
        run: "GRANT pg_read_all_stats TO \(SQLName.quoted(role));"))
  }

  private func check(_ settings: PostgresResult, _ owner: SettingOwner) {
    for row in 0..<settings.rowCount {
      let name = settings[row: row, column: 0] ?? ""
      let value = settings[row: row, column: 1] ?? ""
      let source = settings[row: row, column: 2] ?? ""
      let remedy = owner.reset(name, from: source)
      let text = "\(name) is \(value)\(owner.place(source))"
      switch name {
      case "default_transaction_read_only" where value == "on" && !configuration.isReadWrite:
        findings.append(.fault("\(text): nothing is swept", run: remedy))
      case "session_replication_role" where value == "replica":
        findings.append(.warning("\(text): the tables' triggers do not run, so updated_at is not set", run: remedy))
      case "row_security" where value == "off":
        findings.append(.warning("\(text): a sweep of a table with policies fails", run: remedy))
      case "statement_timeout", "transaction_timeout":
        guard let limit = Int(value), (1..<Self.shortestStatement).contains(limit) else { continue }
        let cause = "\(name) is \(value) ms\(owner.place(source)): scans of large tables may be cancelled"
        findings.append(.warning(cause, run: remedy))
      default: continue
      }
    }
  }
}

/// The owner of a session's settings, and how they are reset.
private struct SettingOwner {
  let login: String
  let database: String

  /// The display name of a pg_settings source.
  func place(_ source: String) -> String {
    switch source {
    case "user": ", set for role \(login)"
    case "database": ", set for database \(database)"
    case "database user": ", set for role \(login) in database \(database)"
    case "session": ", set by DATABASE_URL"
    case "configuration file", "command line": ", set for the server"
    default: ""
    }
  }

  func reset(_ name: String, from source: String) -> String? {
    let (role, database) = (SQLName.quoted(login), SQLName.quoted(database))
    return switch source {
    case "user": "ALTER ROLE \(role) RESET \(name);"
    case "database": "ALTER DATABASE \(database) RESET \(name);"
    case "database user": "ALTER ROLE \(role) IN DATABASE \(database) RESET \(name);"
    default: nil
    }
  }
}

/// The queries about a session.
enum SessionSQL {
  /// Returns role, login, database, whether the role is a superuser, whether it bypasses row security, whether the
  /// server is a standby, and the clock in µs since 1970.
  static let role = CatalogSQL.qualified(
    """
    SELECT current_user::text, session_user::text, current_database()::text, role.rolsuper, role.rolbypassrls,
           pg_is_in_recovery(), \(GuardStatements.nowMicroseconds)
      FROM "pg_catalog"."pg_roles" AS role WHERE (role.rolname = current_user)
    """)

  /// Returns whether the role can read all of pg_stat_replication.
  static let seesStandbys = CatalogSQL.qualified("SELECT pg_has_role('pg_read_all_stats', 'USAGE')")

  /// Returns name, value and source of the settings that sweeps depend on.
  static let settings = CatalogSQL.qualified(
    """
    SELECT setting.name, setting.setting, setting.source FROM "pg_catalog"."pg_settings" AS setting
     WHERE (setting.name = ANY ('{default_transaction_read_only,row_security,session_replication_role,\
    statement_timeout,transaction_timeout}'::text[]))
     ORDER BY setting.name
    """)
}

/// Quotes an identifier.
enum SQLName {
  /// A text as an SQL literal.
  static func literal(_ text: String) -> String {
    var literal = "'"
    for scalar in text.unicodeScalars {
      if scalar == "'" { literal += "'" }
      literal.unicodeScalars.append(scalar)
    }
    return literal + "'"
  }

  static func quoted(_ name: String) -> String { TableSurvey.quoted(name) }
}

/// What a host name resolves to.
@EventLoop
enum NameCheck {
  /// The finding about a name, nil for an address; and whether it resolves only to this host.
  static func finding(
    host: String, port: String, by deadline: MonotonicInstant, on clock: LoopClock
  ) async -> (finding: CheckFinding?, isLocal: Bool) {
    do {
      let limit = min(deadline, clock.now.advanced(by: DeploymentCheck.answerLimit))
      let addresses = try await NameResolver.addresses(of: host, by: limit, on: clock)
      let isLocal = addresses.allSatisfy { $0.hasPrefix("127.") || $0 == "::1" }
      if addresses == [host] { return (nil, isLocal) }
      var list = ""
      for address in addresses { list += list.isEmpty ? address : ", \(address)" }
      return (.ok("\(host) resolves to \(list), port \(port)"), isLocal)
    } catch {
      let reason = (error as? NameResolutionError)?.publicReason ?? "cancelled"
      return (.fault("\(host): \(reason): check the name and this host's DNS"), false)
    }
  }
}
