// Which tables and columns that sweepers require are missing, read from the catalogue for all of them at once.
// Invariant: sweepers that ask at the same time share one query. Called by SweeperLoop.

import Reactor

/// Checks the schema for all sweepers of a process.
@EventLoop
package final class SchemaCheck {
  /// How long a query may take, including the wait for a connection.
  static let timeout = Duration.seconds(2)

  private let pool: any SweepPool
  private let clock: LoopClock
  private var required: [(sweeper: String, table: RequiredTable)] = []
  /// What each sweeper lacks, and when the query was sent.
  private var answer: (missing: [String: String], askedAt: MonotonicInstant)?
  /// Opens when the current query ends.
  private var pending: Latch?

  init(_ sweepers: [Sweeper], pool: any SweepPool, clock: LoopClock) {
    self.pool = pool
    self.clock = clock
    require(sweepers)
  }

  /// Checks for what these sweepers require from now on.
  func require(_ sweepers: [Sweeper]) {
    required = sweepers.flatMap { sweeper in sweeper.requires.map { (sweeper.name, $0) } }
    answer = nil
  }

  /// Another sweeper's query, which this one waited for, failed.
  struct Unanswered: Error {}

  /// What the schema lacks for the sweeper, such as "table sessions" or "column sessions.ip"; nil if nothing.
  ///
  /// - Parameter maximumAge: how old another sweeper's answer may be.
  /// - Throws: `PostgresError`, `Unanswered`, `CancellationError`.
  func missing(for sweeper: String, maximumAge: Duration) async throws -> String? {
    let oldest = clock.now.advanced(by: .zero - maximumAge)
    if let answer, answer.askedAt >= oldest { return answer.missing[sweeper] }
    guard let pending else {
      try await query()
      return answer?.missing[sweeper]
    }
    try await clock.sleep(until: clock.now.advanced(by: Self.timeout), orUntil: pending)
    guard let answer, answer.askedAt >= oldest else { throw Unanswered() }
    return answer.missing[sweeper]
  }

  private func query() async throws {
    let askedAt = clock.now
    let latch = Latch()
    pending = latch
    defer {
      pending = nil
      latch.open()
    }
    let limit = askedAt.advanced(by: Self.timeout)
    // It can change before the answer arrives.
    let required = required
    try await pool.withSweepConnection(by: limit) { connection in
      let begin = connection.prelude + [PostgresStatement(GuardStatements.readLimits)]
      let results = try await connection.pipeline(begin + [Self.statement(required.map(\.table))], by: limit)
      self.record(results[results.count - 1], of: required, askedAt)
    }
  }

  private func record(
    _ result: PostgresResult, of required: [(sweeper: String, table: RequiredTable)], _ askedAt: MonotonicInstant
  ) {
    var missing: [String: String] = [:]
    for (index, lack) in Self.lacks(in: result, of: required.map(\.table)) where missing[required[index].sweeper] == nil
    {
      missing[required[index].sweeper] = lack
    }
    answer = (missing, askedAt)
  }

  /// The query for these tables.
  static func statement(_ tables: [RequiredTable]) -> PostgresStatement {
    var (numbers, names, columns) = ("", "", "")
    for (index, table) in tables.enumerated() {
      for column in table.columns {
        let separator = numbers.isEmpty ? "" : ","
        numbers += "\(separator)\(index)"
        names += separator + table.name
        columns += separator + column
      }
    }
    return PostgresStatement(check, ["{\(numbers)}", "{\(names)}", "{\(columns)}"])
  }

  /// What is missing according to the query's answer, by index into `tables`.
  static func lacks(in answer: PostgresResult, of tables: [RequiredTable]) -> [(index: Int, lack: String)] {
    (0..<answer.rowCount).compactMap { row in
      guard let index = answer[row: row, column: 0].flatMap({ Int($0) }), tables.indices.contains(index) else {
        return nil
      }
      let name = tables[index].name
      return (index, answer[row: row, column: 1].map { "column \(name).\($0)" } ?? "table \(name)")
    }
  }

  /// Parameters: for each required column a number, the table's name and the column's. Answers the numbers of missing
  /// columns in order, and the column's name if its table exists.
  ///
  /// Tables are found as `TableSurvey.query` finds them.
  package static let check = CatalogSQL.qualified(
    """
    SELECT required.number, CASE WHEN (named.oid IS NOT NULL) THEN required.name END
      FROM ROWS FROM (unnest($1::int[]), unnest($2::name[]), unnest($3::name[])) WITH ORDINALITY
        AS required (number, relation, name, position)
      LEFT JOIN LATERAL (
        SELECT class.oid
          FROM unnest(current_schemas(false)) WITH ORDINALITY AS path (schema, number)
          JOIN "pg_catalog"."pg_namespace" AS space ON (space.nspname = path.schema)
          JOIN "pg_catalog"."pg_class" AS class
            ON (class.relnamespace = space.oid) AND (class.relname = required.relation)
         WHERE (class.relkind = ANY ('{r,p,f,v,m}'::"char"[])) AND (class.relpersistence <> 't')
         ORDER BY path.number LIMIT 1) AS named ON true
     WHERE NOT EXISTS (
       SELECT FROM "pg_catalog"."pg_attribute" AS "column"
        WHERE ("column".attrelid = named.oid) AND ("column".attname = required.name) AND NOT "column".attisdropped)
     ORDER BY required.position
    """)
}
