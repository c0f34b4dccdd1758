// The environment of the settings matrix: a database with traps, a least-privilege role, and a pooler if it has one.
// Invariant: each surrounding begins with sessions of its own on the server.

import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

/// One way to reach the server, and what the surroundings are made of.
@EventLoop
final class SettingsStage {
  nonisolated let way: SettingsMatrixTests.Way
  nonisolated let plane: MatrixPlane
  private nonisolated let pooler: PrivatePgBouncer?

  private nonisolated init(_ way: SettingsMatrixTests.Way, _ plane: MatrixPlane, _ pooler: PrivatePgBouncer?) {
    self.way = way
    self.plane = plane
    self.pooler = pooler
  }

  nonisolated static func make(_ way: SettingsMatrixTests.Way) async throws -> SettingsStage {
    let plane = try await MatrixPlane(ControlPlane.fresh(), truncates: true)
    let role = plane.least.user
    let rights = MatrixPlane.grants(in: "public").map { "GRANT \($0) TO \(role)_group" }
    // Some dozens of pages, as few rows have them: a plan that reads them all is another one.
    let spread = FixedRows.tables.map { "ALTER TABLE \($0) SET (fillfactor = 10)" }
    try await plane.plane.sql(
      """
      \(spread.joined(separator: ";")); \(Traps.sql); CREATE ROLE \(role)_group; CREATE ROLE \(role)_nobody;
      GRANT \(role)_group, \(role)_nobody TO \(role); \(rights.joined(separator: ";"))
      """)
    let mode: PrivatePgBouncer.Mode? =
      switch way {
      case .direct: nil
      case .session: .session
      case .transaction: .transaction
      }
    guard let mode else { return SettingsStage(way, plane, nil) }
    let pooler = try await PrivatePgBouncer.start(
      to: .shared, mode: mode, users: [PrivatePostgres.user, role],
      settings: ["admin_users = \(PrivatePostgres.user)", "server_login_retry = 0"])
    return SettingsStage(way, plane, pooler)
  }

  nonisolated func end() async {
    await plane.close()
    await pooler?.stop()
  }

  /// All settings that the server has for a user, a role or a database.
  func settings() async throws -> [ServerSetting] {
    // Its settings are there once it is loaded, and it is what triggers are written in.
    let results = try await plane.run([PostgresStatement("DO 'BEGIN END'"), PostgresStatement(ServerSetting.all)])
    return (0..<results[1].rowCount).map { row in
      let text = { @EventLoop (column: Int) -> String? in results[1][row: row, column: column] }
      return ServerSetting(
        name: text(0) ?? "", type: text(1) ?? "", current: text(2) ?? "", minimum: text(3), maximum: text(4),
        choices: (text(5) ?? "").split(separator: ",").map { String($0) })
    } + ServerSetting.unlisted
  }

  /// Makes these settings of the role or of the database, and takes those before back. Answers which the server took.
  func set(_ values: [HostileValue]) async throws -> [Bool] {
    let role = "ROLE \(plane.least.user)"
    let database = "DATABASE \(plane.plane.name)"
    try await plane.run(["ALTER \(role) RESET ALL", "ALTER \(database) RESET ALL"].map { PostgresStatement($0) })
    var taken: [Bool] = []
    for value in values {
      do {
        try await plane.run([
          PostgresStatement("ALTER \(value.isForRole ? role : database) SET \(value.name) = \(value.value)")
        ])
        taken.append(true)
      } catch PostgresError.server {
        taken.append(false)
      }
    }
    // Sessions that are there are ended before they are used again.
    try await pooler?.order("RECONNECT")
    return taken
  }

  /// What is wrong in the present surrounding; nil if nothing is.
  func fault() async throws -> String? {
    guard let pooler else { return try await plane.fault() }
    let url = pooler.url(user: plane.least.user, database: plane.plane.name)
    let before: SessionState
    do {
      before = try await SessionState(at: url)
    } catch let error as PostgresError {
      return try await plane.fault(at: url) ?? "only the worker can connect: \(error)"
    }
    if let fault = try await plane.fault(at: url) { return fault }
    return try await SessionState(at: url).difference(to: before)
  }
}

/// What a pooler's session is like for the client that gets it.
struct SessionState: Equatable, Sendable {
  private let process: String
  private let lines: [String]

  /// Whatever the worker could leave behind. Names of pg_catalog's, for there are traps.
  private static let query = CatalogSQL.qualified(
    """
    SELECT pg_backend_pid(),
           (SELECT string_agg(concat(name, '=', setting), ';;' ORDER BY name)
              FROM "pg_catalog"."pg_settings" WHERE NOT starts_with(name, 'plpgsql.')),
           concat('role=', current_setting('role'), ';;guard=', current_setting('sb.guard', true), ';;deadline=',
             current_setting('sb.deadline', true), ';;cutoff=', current_setting('sb.cutoff', true), ';;prepared=',
             (SELECT count(*) FROM "pg_catalog"."pg_prepared_statements"), ';;advisory=',
             (SELECT count(*) FROM "pg_catalog"."pg_locks" AS lock
               WHERE (lock.locktype = 'advisory') AND (lock.pid = pg_backend_pid())), ';;user=', current_user)
    """)

  @EventLoop
  init(at url: String) async throws {
    let limit = LoopClock.system.now.advanced(by: .seconds(10))
    let connection = try await PostgresConnection.connect(
      try PostgresConfiguration(url: url, applicationName: "test"), by: limit, on: .system)
    defer { connection.close() }
    let answer = try await connection.query(PostgresStatement(Self.query), by: limit)
    process = answer[row: 0, column: 0] ?? ""
    lines = [1, 2].flatMap { (answer[row: 0, column: $0] ?? "").components(separatedBy: ";;") }
  }

  /// What has changed; nil if nothing has.
  func difference(to before: SessionState) -> String? {
    if process != before.process { return "the pooler gave another session: nothing was compared" }
    let changed = zip(before.lines, lines).filter { $0 != $1 }.map { "\($0) became \($1)" }
    return lines == before.lines ? nil : "LEFT BEHIND: \(changed.joined(separator: ", "))"
  }
}
