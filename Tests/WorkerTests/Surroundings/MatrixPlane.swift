// A control plane whose rows have a known outcome, swept by a role with only the grants that docs/sweepers.md lists.
// Invariant: what loads and compares the rows is a session that began before any setting of the surroundings was made.

import Coordination
import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

/// What the five sweepers did, or why not.
struct MatrixSweep: Sendable, Equatable {
  /// Rows that each sweeper changed.
  var changed: [String: Int] = [:]
  /// Why each of those that failed did.
  var failures: [String: String] = [:]
}

/// A database, its rows and its minimal role. Call `close()` at the end.
@EventLoop
final class MatrixPlane {
  nonisolated let plane: ControlPlane
  /// The database as the least role logs in to it.
  nonisolated let least: ControlPlane
  /// As SQL writes it.
  nonisolated let schema: String
  private let admin: PostgresPool
  private let sweepers: [Sweeper]
  private let truncates: Bool
  private var loader: String?

  /// What the least role may do: the grants of docs/sweepers.md.
  nonisolated static func grants(in schema: String) -> [String] {
    [
      "USAGE ON SCHEMA \(schema)", "SELECT, DELETE ON \(schema).secret_wraps", "SELECT, UPDATE ON \(schema).secrets",
      "SELECT, UPDATE ON \(schema).agents", "SELECT, UPDATE, INSERT ON \(schema).sync_jobs",
    ]
  }

  /// - Parameters:
  ///   - rights: of the least role; nil for those of docs/sweepers.md.
  ///   - query: of the least role's URL.
  ///   - truncates: rows are loaded again and again.
  nonisolated init(
    _ plane: ControlPlane, schema: String = "public", rights: [String]? = nil, query: String = "",
    targets: String = FixedRows.targets, truncates: Bool = false
  ) async throws {
    let least = try await plane.limited(rights ?? Self.grants(in: schema), query: query)
    let sweepers = Sweepers.all(try plane.settings(["SB_DISCOVER_TARGETS_JSON": targets])).filter(\.requires.isEmpty)
    try await plane.sql(FixedRows.wanted(targets: targets))
    let admin = try await onLoop { try plane.pool(connections: 1) }
    (self.plane, self.least, self.schema, self.sweepers, self.admin) = (plane, least, schema, sweepers, admin)
    self.truncates = truncates
  }

  func close() async { await admin.close() }

  // MARK: Rows

  /// Puts all rows back to where they were.
  func load() async throws {
    let results = try await run(FixedRows.load(into: schema, truncates: truncates))
    loader = results[results.count - 1][row: 0, column: 0]
  }

  /// What is not as it should be after a sweep, in words; nil if all is.
  ///
  /// - Parameter isPartial: rows that are due may have stayed as they were.
  func difference(isPartial: Bool = false) async throws -> String? {
    let loader = try #require(loader)
    let statement = PostgresStatement(FixedRows.difference(in: schema), [loader, isPartial ? "true" : "false"])
    return try await run([statement])[0][row: 0, column: 0]
  }

  /// Runs statements as the superuser, in a session that no setting of the surroundings reaches.
  @discardableResult
  func run(_ statements: [PostgresStatement]) async throws -> [PostgresResult] {
    let limit = LoopClock.system.now.advanced(by: .seconds(30))
    let kept = Kept()
    try await admin.withConnection(by: limit) { kept.results = try await $0.pipeline(statements, by: limit) }
    return kept.results
  }

  @EventLoop private final class Kept {
    var results: [PostgresResult] = []
  }

  // MARK: Sweeping

  /// Runs each sweeper once, one after the other, over the connection at `url` (the least role's own if nil), and once
  /// more where all succeeded: that second run must find nothing.
  func sweep(at url: String? = nil, allowsRowSecurity: Bool = false) async throws -> MatrixSweep {
    let pool = PostgresPool(
      try PostgresConfiguration(url: url ?? least.url, applicationName: "test"), maximumConnections: 1,
      connectionLifetime: .seconds(1_800), clock: .system)
    var done = MatrixSweep()
    var memories: [String: TableMemory] = [:]
    for isFirst in [true, false] where isFirst || done.failures.isEmpty {
      for sweeper in sweepers {
        let memory = memories[sweeper.name] ?? TableMemory()
        memories[sweeper.name] = memory
        let tally = RunTally()
        do {
          _ = try await plane.sweep(
            sweeper, through: pool, noting: tally, knowing: memory, allowsRowSecurity: allowsRowSecurity)
        } catch {
          done.failures[sweeper.name] = Self.reason(error)
        }
        done.changed[sweeper.name, default: 0] += tally.count.changed
        if !isFirst, tally.count.changed > 0 { done.failures[sweeper.name] = "changed rows twice" }
      }
    }
    await pool.close()
    return done
  }

  /// What operators are told, and what the server said, which tests show.
  private static func reason(_ error: any Error) -> String {
    let reason = RunFailure(error).reason
    return if case PostgresError.server(_, let message, _, _) = error { "\(reason): \(message)" } else { reason }
  }

  /// Loads the rows, sweeps them, and answers what is wrong: rows that are not as they should be, a failure, a count
  /// that does not say what was done. Nil if nothing is.
  func fault(at url: String? = nil, allowsRowSecurity: Bool = false) async throws -> String? {
    try await load()
    let done = try await sweep(at: url, allowsRowSecurity: allowsRowSecurity)
    if !done.failures.isEmpty {
      let wrong = try await difference(isPartial: true)
      return (wrong.map { "WRONG ROWS: \($0); " } ?? "") + MatrixPlane.text(done.failures)
    }
    if let difference = try await difference() { return "WRONG ROWS: \(difference)" }
    return done.changed == FixedRows.due ? nil : "WRONG COUNT: \(done.changed)"
  }

  nonisolated static func text(_ failures: [String: String]) -> String {
    // Most often all sweepers fail alike.
    let reasons = Set(failures.values)
    if failures.count == FixedRows.due.count, reasons.count == 1 { return "all: \(reasons.first!)" }
    return failures.sorted { $0.key < $1.key }.map { "\($0.key): \($0.value)" }.joined(separator: "; ")
  }
}
