// One statement about a run of the chaos, and whether it was true: printed as a line.
// Invariant: a check that looked at nothing says so in its figures, and where it must have looked it fails.

/// The outcome of a check.
struct Check: Sendable, CustomStringConvertible {
  /// Short, without blanks: what the broken builds name.
  let name: String
  let claim: String
  let figures: String
  /// What contradicts the claim, as words.
  let faults: [String]

  var isOK: Bool { faults.isEmpty }

  var description: String {
    let verdict = isOK ? "ok  " : "FAIL"
    let more = faults.prefix(5).map { "\n       \($0)" }.joined()
    let rest = faults.count > 5 ? "\n       and \(faults.count - 5) more" : ""
    return "\(verdict) \(name): \(claim) (\(figures))\(more)\(rest)"
  }
}
