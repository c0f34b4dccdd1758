// The development schema and its sample rows, at each migration.

import TestSupport
import Testing

@testable import Worker

@Suite struct DevelopmentSchemaTests {
  /// Columns, constraints, indexes and triggers, as text.
  private static let shape = """
    SELECT md5(string_agg(line, chr(10) ORDER BY line)) FROM (
      SELECT concat_ws(' ', table_name, column_name, data_type, is_nullable, column_default)
        FROM information_schema.columns WHERE table_schema = 'public'
      UNION ALL SELECT concat_ws(' ', conrelid::regclass, pg_get_constraintdef(oid)) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace
      UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
      UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal) AS lines (line)
    """

  @Test func loadingItTwiceChangesNothing() async throws {
    let plane = try await ControlPlane.fresh()
    let shape = try await plane.sql(Self.shape)
    try await plane.sql(DevelopmentSchema.newest.sql)
    #expect(try await plane.sql(Self.shape) == shape)
  }

  @Test func aMigratedOneIsLikeANewOne() async throws {
    let plane = try await ControlPlane.fresh()
    let migrated = try await ControlPlane.fresh(at: .eleven)
    try await migrated.sql(DevelopmentSchema.eleven.sampleRows)
    try await migrated.sql(DevelopmentSchema.twentyEight.sql)
    try await migrated.sql(DevelopmentSchema.newest.sql)
    #expect(try await migrated.sql(Self.shape) == (try await plane.sql(Self.shape)))
  }

  @Test(arguments: DevelopmentSchema.allCases)
  func everyTableHasSampleRows(migration: DevelopmentSchema) async throws {
    let plane = try await ControlPlane.fresh(at: migration)
    try await plane.sql(migration.sampleRows)
    let tables = try await plane.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").split(
      separator: "\n")
    #expect(tables.count >= 5)
    for table in tables { #expect(try await plane.sql("SELECT EXISTS (SELECT FROM \(table))") == "t", "\(table)") }
  }

  @Test func theAuditTrailCanOnlyBeAddedTo() async throws {
    let plane = try await ControlPlane.fresh()
    try await plane.sql(DevelopmentSchema.newest.sampleRows)
    for change in ["UPDATE audit_events SET actor = 'someone'", "DELETE FROM audit_events"] {
      await #expect(throws: PrivatePostgresError.self, "\(change)") { try await plane.sql(change) }
    }
  }
}
