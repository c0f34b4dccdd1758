// The workers' writes in commit order, from records that triggers wrote in the same transactions.
// Invariant: pure but for one query; a rolled-back transaction left no record and no effect.

import Foundation
import Reactor

/// A worker's transaction.
struct WriteTransaction: Sendable {
  /// The group of workers that share a namespace and a Redis.
  let scope: String
  let sweeper: String
  let epoch: Int64
  let began: Moment
  let committed: Moment
  let changed: Int
  let wrong: Int
  /// Whether it held its sweeper's advisory lock.
  let isGuarded: Bool

  /// A transaction that its guard refused changes nothing and is not part of the run's work.
  var isEffective: Bool { isGuarded || changed > 0 }
}

/// All of them, in commit order.
struct WriteHistory: Sendable {
  private(set) var transactions: [WriteTransaction] = []
  /// Writes whose application_name names no sweeper and epoch.
  private(set) var nameless: [String] = []

  /// Rows: application, began (µs), committed (µs), changed, wrong, guarded (1 or 0).
  static func query(schema: String) -> String {
    """
    SELECT application, (extract(epoch FROM min(began)) * 1000000)::bigint,
           (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint, sum(changed), sum(wrong),
           bool_or(guarded)::int
      FROM chaos.writes WHERE schema = '\(schema)' GROUP BY application, xmin ORDER BY 3
    """
  }

  init(rows text: String) throws {
    for line in text.split(separator: "\n") {
      let columns = line.split(separator: "|", omittingEmptySubsequences: false)
      guard columns.count == 6, let began = Int64(columns[1]), let committed = Int64(columns[2]),
        let changed = Int(columns[3]), let wrong = Int(columns[4])
      else { throw HarnessFault("a note of a write cannot be read: \(line)") }
      guard let (scope, sweeper, epoch) = Self.run(named: columns[0]) else {
        nameless.append(String(line))
        continue
      }
      transactions.append(
        WriteTransaction(
          scope: scope, sweeper: sweeper, epoch: epoch, began: Moment(microseconds: began),
          committed: Moment(microseconds: committed), changed: changed, wrong: wrong,
          isGuarded: columns[5] == "1"))
    }
  }

  /// The scope, the sweeper and the epoch in "sb-worker 5c0de123 wraps-expired 1700000000000".
  static func run(named application: Substring) -> (String, String, Int64)? {
    let words = application.split(separator: " ")
    guard words.count == 4, words[0] == "sb-worker", let epoch = Int64(words[3]) else { return nil }
    return (String(words[1]), String(words[2]), epoch)
  }
}

/// PostgreSQL's statement log, kept as evidence and searched for statements without an epoch.
struct StatementLog: Sendable {
  private(set) var statements = 0
  /// Workers' statements that would change a control plane table without a run's name.
  private(set) var nameless: [String] = []

  init(_ files: [URL], role: String) throws {
    for file in files {
      for line in try String(contentsOf: file, encoding: .utf8).split(separator: "\n") {
        guard let fields = try? JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any],
          fields["user"] as? String == role, let message = fields["message"] as? String,
          message.hasPrefix("execute ") || message.hasPrefix("statement: ")
        else { continue }
        statements += 1
        let application = fields["application_name"] as? String ?? ""
        let writes = ["DELETE FROM ", "UPDATE ", "INSERT INTO "].contains { message.contains($0) }
        if writes, WriteHistory.run(named: application[...]) == nil { nameless.append("\(application): \(message)") }
      }
    }
  }
}
