// The form in which moments travel between statements and the worker. Invariant: an integer of µs since 1970, which no
// session setting changes; '-infinity' has one, too. Pure text.

/// A key of a sweep: a moment as an integer.
enum MomentKey {
  /// Before all moments: the key of '-infinity'.
  private static let beforeAll = "'\(Int64.min)'::bigint"

  /// SQL for a moment's key.
  static func key(of moment: String) -> String {
    "CASE WHEN (\(moment) = '-infinity'::timestamptz) THEN \(beforeAll)"
      + " ELSE \(GuardStatements.microseconds(moment)) END"
  }

  /// SQL for the moment that a parameter with a key stands for.
  static func moment(of parameter: String) -> String {
    """
    (CASE WHEN (\(parameter)::bigint = \(beforeAll)) THEN '-infinity'::timestamptz
          ELSE \(GuardStatements.moment("\(parameter)::bigint")) END)
    """
  }
}
