// The SQL of a row sweep, put together from its declaration. Pure text.
// Invariant: every write names its range of pages, checks the row's condition again, and has the guard's verdict as a
// one-time filter.

import Reactor

extension RowSweep {
  /// Changes the due rows of pages $1 ≤ page < $2.
  var write: String {
    "\(verb) WHERE \(GuardStatements.filter) AND \(range) AND \(condition(due))"
  }

  /// The same for a range in which a row stayed locked: leaves locked rows out, and answers how many rows were due and
  /// how many were changed.
  var writeSkippingLocked: String {
    """
    WITH free AS MATERIALIZED (
        SELECT ctid AS row_id FROM \(table)
         WHERE \(GuardStatements.filter) AND \(range) AND \(condition(due)) FOR UPDATE SKIP LOCKED),
      changed AS (\(verbUsingFree) RETURNING 1)
    SELECT (SELECT count(*) FROM \(table) WHERE \(range) AND \(condition(due))), (SELECT count(*) FROM changed)
    """
  }

  /// Answers the table's size in pages.
  var size: String {
    "SELECT pg_relation_size('\(table)', 'main') / current_setting('block_size')::int"
  }

  /// Answers how many entries of the index were looked at, and whether a due row was among them.
  func look(_ probe: Probe) -> String {
    """
    SELECT count(*), coalesce(bool_or(is_due), false) FROM (
      SELECT \(condition(due)) AS is_due FROM \(table) WHERE \(condition(probe.indexed))
       ORDER BY \(probe.order) LIMIT \(Probe.limit)) AS looked_at
    """
  }

  private var range: String {
    "\(table).ctid >= $1::tid AND \(table).ctid < $2::tid"
  }

  private var verb: String {
    switch change {
    case .delete: "DELETE FROM \(table)"
    case .update(let set): "UPDATE \(table) SET \(set)"
    }
  }

  private var verbUsingFree: String {
    switch change {
    case .delete: "DELETE FROM \(table) USING free WHERE \(table).ctid = free.row_id AND \(condition(due))"
    case .update(let set):
      "UPDATE \(table) SET \(set) FROM free WHERE \(table).ctid = free.row_id AND \(condition(due))"
    }
  }

  private func condition(_ text: String) -> String {
    "(" + text.replacingFirst(":cutoff", with: GuardStatements.cutoff) + ")"
  }
}

extension String {
  /// The text with the first occurrence of `pattern` replaced. (The standard library's `replacing` brings a megabyte of
  /// regular expressions along.)
  func replacingFirst(_ pattern: String, with replacement: String) -> String {
    let text = Array(utf8)
    let sought = Array(pattern.utf8)
    guard !sought.isEmpty, text.count >= sought.count else { return self }
    for start in 0...(text.count - sought.count) where text[start..<(start + sought.count)].elementsEqual(sought) {
      let tail = text[(start + sought.count)...]
      return String(decoding: text[..<start], as: UTF8.self) + replacement + String(decoding: tail, as: UTF8.self)
    }
    return self
  }
}
