// Why a run failed, in words for operators, and whether a retry can help. Pure.
// Invariants: a reason contains no row's data, host or password; what counts as permanent is listed here.

import Coordination
import Reactor

extension RunFailure {
  /// - Parameter place: operation and relation, such as "DELETE on public.secret_wraps".
  init(_ error: any Error, on place: String? = nil) {
    switch error {
    case let error as Discovery.SomeFailed:
      let isOutage = error.failures.allSatisfy { RunFailure($0.error).isOutage }
      let first = error.failures.first.map { RunFailure($0.error).errorClass }
      self.init(
        reason: error.reason, isPermanent: error.isPermanent, isOutage: isOutage, errorClass: first ?? "other")
    case let error as SweepRefusal:
      // The cause does not disappear before the next slot.
      self.init(reason: error.reason, isPermanent: true, errorClass: error.errorClass)
    case let error as PostgresError:
      let isStatement = if case .server = error { true } else { false }
      self.init(
        reason: error.publicReason + (isStatement ? place.map { ": \($0)" } ?? "" : ""),
        isPermanent: error.sqlState.map(Self.isPermanent(sqlState:)) ?? false, isOutage: Self.isOutage(error),
        errorClass: Self.errorClass(of: error))
    case let error as RedisError:
      let isRefusal = if case .server = error { true } else { false }
      self.init(
        reason: "Redis: \(error.publicReason)", isPermanent: isRefusal, isOutage: !isRefusal,
        errorClass: isRefusal ? "redis-refused" : "redis-unavailable")
    case RunInterruption.leaseLost:
      self.init(reason: "the lease was lost", isPermanent: false, errorClass: "lease-lost")
    case RunInterruption.foreignWorker(let process):
      self.init(
        reason: "another worker sweeps these tables with another REDIS_NAMESPACE or Redis: pid \(process)",
        isPermanent: true,
        errorClass: "foreign-worker")
    case RunInterruption.preparedTransaction:
      self.init(
        reason:
          "a prepared transaction holds this sweeper's advisory lock: find it in pg_prepared_xacts, and end it with "
          + "COMMIT PREPARED or ROLLBACK PREPARED", isPermanent: true, errorClass: "prepared-transaction")
    case RunInterruption.superseded(let process):
      self.init(
        reason: "another run's session holds this sweeper's advisory lock"
          + (process.map { ": pid \($0)" } ?? ""), isPermanent: false,
        errorClass: "superseded")
    default:
      self.init(reason: "unexpected: \(error)", isPermanent: false)
    }
  }

  private static func errorClass(of error: PostgresError) -> String {
    if let state = error.sqlState { return state }
    return switch error {
    case .unavailable, .timedOut(.resolving), .timedOut(.connecting): "unavailable"
    case .connectionLost: "connection-lost"
    case .timedOut(.statement): "timed-out"
    case .server, .poolExhausted, .poolClosed, .busy: "other"
    }
  }

  /// Whether a ping has to tell if this is an outage: a connection that broke or hung may be the sweep's own fault.
  static func isInDoubt(_ error: any Error) -> Bool {
    switch error {
    case let error as Discovery.SomeFailed: error.failures.contains { isInDoubt($0.error) }
    case PostgresError.connectionLost, PostgresError.timedOut(.statement): true
    default: false
    }
  }

  /// Whether a table or a column was not found.
  static func isAboutSchema(_ error: any Error) -> Bool {
    switch error {
    case SweepRefusal.noTable: true
    case let error as PostgresError: error.sqlState == "42P01" || error.sqlState == "42703"
    default: false
    }
  }

  /// Whether no statement was sent. A failure during a statement may be the statement's own fault.
  private static func isOutage(_ error: PostgresError) -> Bool {
    switch error {
    case .unavailable, .timedOut(.resolving), .timedOut(.connecting): true
    default: false
    }
  }

  /// By the classes of PostgreSQL's appendix A. An error that recurs until someone changes the schema, a privilege or a
  /// row is permanent, and waits for the next slot. All others may be over in a second: lost connections (08),
  /// deadlocks (40), locks (55), resources (53), restarts and cancelled statements (57), internal errors (58, XX), a
  /// standby being promoted (25006), and a role or database being re-created (28, 3D).
  static func isPermanent(sqlState: String) -> Bool {
    switch sqlState.prefix(2) {
    case "0A": true  // feature not supported
    case "22": true  // data exception
    case "23": true  // constraint violated
    case "3F": true  // no such schema
    case "42": true  // no such table or column, wrong type, missing privilege
    default: false
    }
  }
}
