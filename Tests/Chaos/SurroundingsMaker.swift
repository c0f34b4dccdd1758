// Creates the drawn surroundings: schemas, table partitions and children, recorders, privileges, settings, a pooler.
// Invariant: the harness's own (superuser) sessions keep the server's previous settings.

import Foundation
import TestSupport

/// Prepares one database.
struct SurroundingsMaker: Sendable {
  /// The tables that are partitioned, or get children.
  static let tables = ["secret_wraps", "secrets", "agents", "sync_jobs"]
  /// The first control plane's tables have their own small file system: a disk that can fill up.
  static let diskSize = 96 << 20

  let surroundings: Surroundings
  let postgres: PrivatePostgres
  let database: String
  /// The mount point of the small file system; nil: the tables are in the default location.
  let disk: String?
  /// The worker executable, which prints its minimal grants, and its settings.
  let worker: String
  let environment: [String: String]

  /// Creates the control planes in `schemas`, and their surroundings.
  func make(schemas: [String]) async throws {
    let printed = try await printedGrants()
    if let disk { try await sql("CREATE TABLESPACE small LOCATION '\(disk)'") }
    try await sql(Self.text(of: "Tests/Chaos/audit.sql"))
    for (number, schema) in schemas.enumerated() {
      let isSmall = disk != nil && number == 0
      try await sql(
        """
        CREATE SCHEMA IF NOT EXISTS \(schema); SET search_path = \(schema);
        SET default_tablespace = '\(isSmall ? "small" : "")';
        \(DevelopmentSchema.newest.sql)
        """)
      let shaping = Self.tables.map { shape($0, in: schema) }.joined()
      try await sql("SET search_path = \(schema); SET default_tablespace = '\(isSmall ? "small" : "")'; \(shaping)")
      try await sql("SET search_path = \(schema); \(Workload.beginning)")
      try await sql("CALL chaos.record('\(schema)')")
      try await sql("SET search_path = \(schema); \(grants(printed, in: schema))")
    }
    try await set()
  }

  private func shape(_ table: String, in schema: String) -> String {
    switch surroundings.shape {
    case .plain: ""
    case .partitioned: "CALL chaos.partition('\(schema)', '\(table)');"
    case .inherited: "CALL chaos.inherit('\(schema)', '\(table)');"
    }
  }

  /// The role of the workers' sessions.
  private var role: String { surroundings.role == .switched ? "sweeping" : PrivatePostgres.lockedUser }

  /// Gives the worker's role only what its sweeps need: what `grants` prints, or less.
  private func grants(_ printed: String, in schema: String) -> String {
    switch surroundings.role {
    case .tables: return printed
    case .switched:
      return """
        DO $$ BEGIN CREATE ROLE sweeping; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
        GRANT sweeping TO \(PrivatePostgres.lockedUser); \(printed)
        """
    case .columns:
      let rights = [
        "SELECT (id, consumed_at, expires_at), UPDATE (expires_at), DELETE ON secret_wraps",
        "SELECT (status, last_seen_at), UPDATE (status) ON secrets",
        "SELECT (status, last_seen_at), UPDATE (status) ON agents",
        "SELECT (status, claim_expires_at, created_at, correlation_id, job_type, agent_scope, payload), "
          + "UPDATE (status), INSERT ON sync_jobs",
        "SELECT, UPDATE (last_discover_status, last_discover_started_at, last_discover_finished_at, "
          + "last_discover_error) ON provider_connections",
        "SELECT (id, expires_at, expired_at, wrap_ids), UPDATE (expired_at, expired_reason) ON reveal_sessions",
        "SELECT (id, type, status, created_at, workflow_id, fill_expires_at), UPDATE (status) ON access_requests",
        "SELECT (id, request_ttl) ON workflow_definitions",
        "INSERT (actor, action, resource, status, correlation_id, metadata) ON audit_events",
      ]
      let kept = Retained.sweptByColumns.map { "SELECT, DELETE, UPDATE (id) ON \($0)" }
      return (["USAGE ON SCHEMA \(schema)"] + rights + kept).map { "GRANT \($0) TO \(role);" }.joined()
    }
  }

  private func printedGrants() async throws -> String {
    let process = try await WorkerProcess.start(["grants", role], environment: environment, executable: worker)
    try await process.waitForExit(within: .seconds(20))
    guard process.ending == .exited(0), !process.output.isEmpty else {
      throw HarnessFault("the worker printed no grants: \(process.everything)")
    }
    return process.output
  }

  private func set() async throws {
    let own = "ROLE \(PrivatePostgres.user) IN DATABASE \(database)"
    let role = "ROLE \(PrivatePostgres.lockedUser) IN DATABASE \(database)"
    for setting in surroundings.settings {
      let target = setting.isOfRole ? role : "DATABASE \(database)"
      // Skip settings that this PostgreSQL version does not have.
      try await sql(
        """
        DO $$ DECLARE kept TEXT := current_setting('\(setting.name)', true); BEGIN
          IF kept IS NULL THEN RETURN; END IF;
          EXECUTE format('ALTER \(own) SET \(setting.name) = %L', kept);
          ALTER \(target) SET \(setting.name) = '\(setting.value)';
        END $$
        """)
    }
    // The database will be read-only for a while, except for the harness.
    try await sql("ALTER \(own) SET default_transaction_read_only = off")
    if surroundings.hasTraps {
      try await sql(Self.text(of: "Tests/Chaos/traps.sql"))
      try await sql("ALTER \(role) SET search_path = trap, public, pg_catalog")
    }
    if surroundings.role == .switched { try await sql("ALTER \(role) SET role = 'sweeping'") }
  }

  /// A pooler in front of the server at `address`, if one was drawn.
  func pooler(at address: UInt16) async throws -> PrivatePgBouncer? {
    let mode: PrivatePgBouncer.Mode
    switch surroundings.way {
    case .direct: return nil
    case .sessionPool: mode = .session
    case .transactionPool: mode = .transaction
    }
    // After a failed login the pooler retries as soon as it can.
    return try await PrivatePgBouncer.start(
      to: postgres, mode: mode, login: .scram, poolSize: mode == .session ? 60 : 12, upstream: Int(address),
      settings: ["server_login_retry = 1", "max_client_conn = 500"])
  }

  private func sql(_ text: String) async throws { try await postgres.psql(text, database: database) }

  private static func text(of file: String) throws -> String {
    try Repository.text(file)
  }
}
