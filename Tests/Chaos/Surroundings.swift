// The fleet's environment: database settings, the tables' shape, the path to the servers, other fleets.
// Invariant: pure; the same seed gives the same surroundings, whatever faults are chosen. Made by SurroundingsMaker.

import Reactor
import TestSupport

/// What is between the fleet and its servers, and how the servers are configured.
struct Surroundings: Sendable, Equatable {
  /// How the fleet reaches PostgreSQL.
  enum Way: String, CaseIterable, Sendable {
    case direct
    case sessionPool = "PgBouncer, session pooling"
    case transactionPool = "PgBouncer, transaction pooling"
  }

  /// The kind of the swept tables.
  enum Shape: String, CaseIterable, Sendable {
    case plain = "plain tables"
    case partitioned = "partitioned tables"
    case inherited = "tables with children"
  }

  /// The privileges of the worker's role.
  enum Role: String, CaseIterable, Sendable {
    case tables = "grants on tables"
    case columns = "grants on columns only"
    /// The login role has no privileges: its sessions switch to a role that does.
    case switched = "another role by its settings"
  }

  /// A PostgreSQL setting, and whether it applies to the database or the role.
  struct ServerSetting: Sendable, Equatable, CustomStringConvertible {
    let name: String
    let value: String
    var isOfRole = false

    var description: String { "\(name)=\(value)\(isOfRole ? " (role)" : "")" }
  }

  var way = Way.direct
  var shape = Shape.plain
  var role = Role.tables
  /// Whether a schema that shadows the catalogue's functions, operators and types comes first in the search path.
  var hasTraps = false
  var settings: [ServerSetting] = []
  /// The constant delay of the path to each server, in ms.
  var postgresDelay = 0
  var redisDelay = 0
  /// The number of replicas of a second control plane in a schema of the same database; 0: none.
  var neighbours = 0

  static let plain = Surroundings()

  /// How long the sweep of a load takes: a batch changes about nine of its rows, and takes two round trips.
  var loadTime: Duration { Workload.loadTime + .milliseconds(postgresDelay * 4 * Workload.loadRows / 9) }

  /// The tolerance of time checks: some round trips, and
  /// a pooler that waits a second after a failed login.
  var slack: Duration { .milliseconds(16 * max(postgresDelay, redisDelay) + (way == .direct ? 0 : 1_500)) }

  var description: String {
    var words = [way.rawValue, shape.rawValue, role.rawValue]
    if hasTraps { words.append("traps in the search path") }
    if postgresDelay > 0 { words.append("\(postgresDelay) ms a way to PostgreSQL") }
    if redisDelay > 0 { words.append("\(redisDelay) ms a way to Redis") }
    if neighbours > 0 { words.append("a second control plane with \(neighbours) replica\(neighbours > 1 ? "s" : "")") }
    return (words + settings.map(\.description)).joined(separator: "; ")
  }
}

extension Surroundings {
  /// Values that change a careless statement's meaning or plan; none prevents a sweep.
  static let choices: [(name: String, values: [String])] = [
    ("DateStyle", ["SQL, DMY", "German", "Postgres, MDY", "ISO, YMD"]),
    ("TimeZone", ["Asia/Kolkata", "America/St_Johns", "Pacific/Kiritimati", "Europe/Dublin"]),
    ("IntervalStyle", ["sql_standard", "iso_8601", "postgres_verbose"]),
    ("default_transaction_isolation", ["serializable", "repeatable read", "read uncommitted"]),
    ("default_transaction_deferrable", ["on"]),
    // A statement takes at most one second here.
    ("statement_timeout", ["5s"]),
    ("lock_timeout", ["100ms"]),
    ("idle_in_transaction_session_timeout", ["1s"]),
    // With local, a failover loses commits, and with them discover jobs.
    ("synchronous_commit", ["remote_write", "remote_apply"]),
    ("bytea_output", ["escape"]),
    ("extra_float_digits", ["-15"]),
    ("standard_conforming_strings", ["off"]),
    ("transform_null_equals", ["on"]),
    ("array_nulls", ["off"]),
    ("quote_all_identifiers", ["on"]),
    ("client_encoding", ["LATIN1", "SQL_ASCII"]),
    ("client_min_messages", ["debug5", "error"]),
    ("exit_on_error", ["on"]),
    ("enable_tidscan", ["off"]),
    ("enable_indexscan", ["off"]),
    ("enable_seqscan", ["off"]),
    ("enable_partition_pruning", ["off"]),
    ("constraint_exclusion", ["off"]),
    ("plan_cache_mode", ["force_generic_plan", "force_custom_plan"]),
    ("force_parallel_mode", ["regress", "on"]),
    ("row_security", ["off"]),
    ("jit_above_cost", ["0"]),
    ("work_mem", ["64kB"]),
    ("from_collapse_limit", ["1"]),
    ("default_table_access_method", ["heap"]),
  ]

  /// A separate seed, so that the fault plan does not depend on it.
  private static let salt: UInt64 = 0x7375_7272_6f75_6e64

  static func draw(seed: UInt64) -> Surroundings {
    var random = SeededRandom(seed: seed ^ salt)
    func number(_ range: ClosedRange<Int>) -> Int { Int.random(in: range, using: &random) }
    func one<Element>(_ elements: [Element]) -> Element { elements[number(0...(elements.count - 1))] }
    var drawn = Surroundings()
    drawn.way = one(Way.allCases)
    drawn.shape = one(Shape.allCases)
    drawn.role = one(Role.allCases)
    drawn.hasTraps = number(0...1) == 1
    // With 85 ms each way, the batches of a load of slow rows took longer than the quiet time.
    drawn.postgresDelay = one([0, 0, number(1...20), number(20...40)])
    drawn.redisDelay = one([0, 0, number(1...20), number(20...150)])
    drawn.neighbours = one([0, 1, 2])
    // The first three change how dates are read: one of them is always set.
    let first = number(0...2)
    var names = [first]
    for _ in 0..<number(2...7) { names.append(number(0...(choices.count - 1))) }
    for index in Set(names).sorted() {
      drawn.settings.append(
        ServerSetting(
          name: choices[index].name, value: one(choices[index].values), isOfRole: number(0...1) == 1))
    }
    return drawn
  }
}
