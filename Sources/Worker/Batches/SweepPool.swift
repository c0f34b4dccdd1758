// What the worker asks of PostgreSQL: a connection, statements on it, and whether it can be written to. The pool on
// sockets is one that can answer, a model in virtual time another one.

import Reactor

/// A PostgreSQL, as the sweeps need it.
@EventLoop
package protocol SweepPool: AnyObject, Sendable {
  /// Whether the server answers and lets nothing be written.
  var isReadOnly: Bool { get }
  /// Why it cannot be used, fit to be shown to anyone; nil while it can.
  var outage: String? { get }

  func waitUntilWritable(by deadline: MonotonicInstant) async throws -> Bool

  /// Asks whether the server answers.
  func ping(by deadline: MonotonicInstant) async throws

  /// Lends a connection to `body`, and waits for one until `deadline` if none is free.
  func withSweepConnection(
    by deadline: MonotonicInstant, _ body: @EventLoop (any SweepConnection) async throws -> Void
  ) async throws
}

/// A connection in the hands of one run.
@EventLoop
package protocol SweepConnection: AnyObject, Sendable {
  /// As libpq has it: 170004 is 17.4.
  var serverVersion: Int { get }
  /// What goes before the statements of each transaction.
  var prelude: [PostgresStatement] { get }
  /// What its user keeps with it.
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
