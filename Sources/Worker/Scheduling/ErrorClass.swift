// Explains the classes of failures to operators. Pure.
// Invariant: every class whose name is not clear by itself has a text. Used by `status` and the status page.

import Coordination

/// The class of a failure: a SQLSTATE, several for refused rows, or a word such as `lease-lost`. The relation that
/// refused follows the SQLSTATE if it is not the swept table: `23514:public.audit_events`.
enum ErrorClass {
  /// The meaning of `errorClass`; nil if its name is clear, or it is unknown.
  static func meaning(of errorClass: String) -> String? {
    // The first of several SQLSTATEs.
    let parts = errorClass.prefix { $0 != "," }.split(separator: ":", maxSplits: 1)
    guard let code = parts.first else { return nil }
    return meaning(ofCode: code).map { parts.count > 1 ? "\($0) of \(parts[1])" : $0 }
  }

  private static func meaning(ofCode code: Substring) -> String? {
    switch code {
    case "42501": "a privilege is missing"
    case "42P01", "42703", "no-table": "a table or a column is missing"
    case "55P03": "a lock was not granted in time"
    case "57014": "a statement took too long or was cancelled"
    case "23502", "23514": "a constraint refuses rows"
    case "23503": "a foreign key refuses rows"
    case "23505": "a unique index refuses rows"
    case "P0001": "a trigger refuses rows"
    case "share": "too large a share of the rows looks due: look at the api, the network and PostgreSQL's clock"
    case "uncounted": "the share of due rows could not be counted in time"
    case "kept": "a trigger or rule keeps due rows"
    case "settings-reset": "a trigger resets the session's settings"
    case "lines-discarded": "a trigger discards the worker's lines in the audit trail"
    case "locked": "other sessions lock all due rows"
    case "row-security": "row security hides rows from the role"
    case "foreign-worker": "a worker with another REDIS_NAMESPACE or Redis sweeps these tables"
    default: nil
    }
  }

  /// Whether the schema or a privilege is the cause, so that `check` finds it.
  static func isAboutSchema(_ errorClass: String) -> Bool {
    switch errorClass.prefix(2) {
    case "23", "3F", "42", "P0": true
    default: ["no-table", "kept", "row-security", "refused", "settings-reset", "lines-discarded"].contains(errorClass)
    }
  }
}

extension SweepRefusal {
  /// Its name in the history.
  var errorClass: String {
    switch self {
    case .rows(_, let refusals): Self.errorClass(of: refusals)
    case .share: "share"
    case .uncounted: "uncounted"
    case .kept, .swallowed: "kept"
    case .locked: "locked"
    case .noTable: "no-table"
    case .rowSecurity, .hiddenReferences: "row-security"
    case .settingsReset: Self.word(of: .settingsReset)
    case .missingLines(let refusal): Self.word(of: refusal)
    case .notATable, .unusableMoments, .cannotLock, .changing, .foreignParts, .unprovableTrail, .rule,
      .refusedAsReadOnly, .noTransactionNumbers:
      "refused"
    }
  }

  /// The classes, without spaces, which separate the words of a record.
  private static func errorClass(of refusals: [RowRefusal]) -> String {
    var text = ""
    for refusal in refusals {
      let word = Self.word(of: refusal)
      text += text.isEmpty ? word : "," + word
    }
    return text.isEmpty ? "refused" : text
  }

  /// `23514:public.audit_events` if another relation refused. Omits a name with characters that need quoting: commas
  /// and spaces separate the words.
  private static func word(of refusal: RowRefusal) -> String {
    switch refusal {
    case .sqlState(let state, let relation?) where isPlain(relation): "\(state):\(relation)"
    case .sqlState(let state, _): state
    case .settingsReset: "settings-reset"
    case .discardedLines: "lines-discarded"
    case .unprovenLines: "lines-unproven"
    }
  }

  private static func isPlain(_ name: String) -> Bool {
    name.utf8.allSatisfy { byte in
      (48...57).contains(byte) || (97...122).contains(byte | 0x20) || byte == UInt8(ascii: ".")
        || byte == UInt8(ascii: "_")
    }
  }
}
