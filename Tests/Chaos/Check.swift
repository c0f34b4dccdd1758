// A claim about a chaos run and whether it held, printed as a line.
// Invariant: a check without cases says so in its figures, and fails if cases were expected.

/// The outcome of a check.
struct Check: Sendable, CustomStringConvertible {
  /// A short name without spaces, which the broken builds refer to.
  let name: String
  let claim: String
  let figures: String
  /// What contradicts the claim.
  let faults: [String]

  var isOK: Bool { faults.isEmpty }

  var description: String {
    let word = isOK ? "ok  " : "FAIL"
    let more = faults.prefix(5).map { "\n       \($0)" }.joined()
    let rest = faults.count > 5 ? "\n       and \(faults.count - 5) more" : ""
    return "\(word) \(name): \(claim) (\(figures))\(more)\(rest)"
  }
}
