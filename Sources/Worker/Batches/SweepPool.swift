// What the worker needs of PostgreSQL: a connection, statements on it, and whether it accepts writes. Implemented by
// the pool on sockets, and by a model in virtual time.

import Reactor

/// PostgreSQL, as the sweeps need it.
@EventLoop
package protocol SweepPool: AnyObject, Sendable {
  /// Whether the server answers but refuses writes.
  var isReadOnly: Bool { get }
  /// Why it is unavailable, without secrets; nil if it is available.
  var outage: String? { get }
  /// Whether statements may be answered, even if it counts as unavailable because it lost some.
  var isWorthAsking: Bool { get }

  func waitUntilWritable(by deadline: MonotonicInstant) async throws -> Bool

  /// Checks that the server answers.
  func ping(by deadline: MonotonicInstant) async throws

  /// Lends a connection to `body`. If none is free, waits until `deadline`.
  func withSweepConnection(
    by deadline: MonotonicInstant, _ body: @EventLoop (any SweepConnection) async throws -> Void
  ) async throws
}

/// A connection lent to one run.
@EventLoop
package protocol SweepConnection: AnyObject, Sendable {
  /// In libpq's form: 170004 is 17.4.
  var serverVersion: Int { get }
  /// Precedes the statements of each transaction.
  var prelude: [PostgresStatement] { get }
  /// A value of its user.
  var attachment: (any Sendable)? { get set }

  /// Runs statements in one round trip and one transaction.
  func pipeline(_ statements: [PostgresStatement], by deadline: MonotonicInstant) async throws -> [PostgresResult]

  func close()
}

extension PostgresConnection: SweepConnection {}

extension PostgresPool: SweepPool {
  package func withSweepConnection(
    by deadline: MonotonicInstant, _ body: @EventLoop (any SweepConnection) async throws -> Void
  ) async throws {
    try await withConnection(by: deadline) { try await body($0) }
  }
}
