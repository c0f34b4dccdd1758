// Makes the drawn surroundings: schemas, parts of tables, recorders, rights and settings of a database, and a pooler.
// Invariant: the harness's own sessions, the superuser's, keep the settings that the server had before.

import Foundation
import TestSupport

/// Prepares one database.
struct SurroundingsMaker: Sendable {
  /// The tables that sweepers write.
  static let tables = ["secret_wraps", "secrets", "agents", "sync_jobs"]
  /// A small file system of its own holds the first control plane's tables: a disk that can be full.
  static let diskSize = 96 << 20

  let surroundings: Surroundings
  let postgres: PrivatePostgres
  let database: String
  /// Where the small file system is mounted; nil: the tables lie where all lies.
  let disk: String?

  /// Creates the control planes in `schemas`, and all around them.
  func make(schemas: [String]) async throws {
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
      try await sql("SET search_path = \(schema); \(Workload.connections)")
      try await sql("CALL chaos.record('\(schema)'); \(grants(in: schema))")
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

  /// The worker's role may do what its sweeps need, and nothing else.
  private func grants(in schema: String) -> String {
    let role = surroundings.role == .switched ? "sweeping" : PrivatePostgres.lockedUser
    let rights =
      surroundings.role == .columns
      ? [
        "SELECT (expires_at), DELETE ON \(schema).secret_wraps",
        "SELECT (status, last_seen_at), UPDATE (status) ON \(schema).secrets",
        "SELECT (status, last_seen_at), UPDATE (status) ON \(schema).agents",
        "SELECT (status, claim_expires_at, correlation_id, job_type, agent_scope, payload), UPDATE (status), INSERT "
          + "ON \(schema).sync_jobs",
        "SELECT, UPDATE (last_discover_status, last_discover_started_at, last_discover_error) "
          + "ON \(schema).provider_connections",
      ]
      : [
        "SELECT, DELETE, UPDATE ON \(schema).secret_wraps", "SELECT, UPDATE ON \(schema).secrets",
        "SELECT, UPDATE ON \(schema).agents", "SELECT, UPDATE, INSERT ON \(schema).sync_jobs",
        "SELECT, UPDATE ON \(schema).provider_connections",
      ]
    let setup =
      surroundings.role == .switched
      ? """
      DO $$ BEGIN CREATE ROLE sweeping; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
      GRANT sweeping TO \(PrivatePostgres.lockedUser);
      """ : ""
    return setup + (["USAGE ON SCHEMA \(schema)"] + rights).map { "GRANT \($0) TO \(role);" }.joined()
  }

  private func set() async throws {
    let own = "ROLE \(PrivatePostgres.user) IN DATABASE \(database)"
    let role = "ROLE \(PrivatePostgres.lockedUser) IN DATABASE \(database)"
    for setting in surroundings.settings {
      let target = setting.isOfRole ? role : "DATABASE \(database)"
      // A setting that this version of PostgreSQL does not have is left out.
      try await sql(
        """
        DO $$ DECLARE kept TEXT := current_setting('\(setting.name)', true); BEGIN
          IF kept IS NULL THEN RETURN; END IF;
          EXECUTE format('ALTER \(own) SET \(setting.name) = %L', kept);
          ALTER \(target) SET \(setting.name) = '\(setting.value)';
        END $$
        """)
    }
    // For a while the database will be read-only, for others than the harness.
    try await sql("ALTER \(own) SET default_transaction_read_only = off")
    if surroundings.hasTraps {
      try await sql(Self.text(of: "Tests/Chaos/traps.sql"))
      try await sql("ALTER \(role) SET search_path = trap, public, pg_catalog")
    }
    if surroundings.role == .switched { try await sql("ALTER \(role) SET role = 'sweeping'") }
  }

  /// A pooler in front of the server, where one was drawn.
  func pooler() async throws -> PrivatePgBouncer? {
    let mode: PrivatePgBouncer.Mode
    switch surroundings.way {
    case .direct: return nil
    case .sessionPool: mode = .session
    case .transactionPool: mode = .transaction
    }
    // After a failed login the pooler tries again as soon as it can.
    return try await PrivatePgBouncer.start(
      to: postgres, mode: mode, login: .scram, poolSize: mode == .session ? 60 : 12,
      settings: ["server_login_retry = 1", "max_client_conn = 500"])
  }

  private func sql(_ text: String) async throws { try await postgres.psql(text, database: database) }

  private static func text(of file: String) throws -> String {
    try Repository.text(file)
  }
}
