// The findings of the verb check: lines under headings, each ok, a warning, or a fault with its remedy. Pure.

import Reactor

/// One line of a check.
struct CheckFinding: Equatable, Sendable {
  enum Verdict: String, Sendable {
    case ok, warning, fault
  }

  let verdict: Verdict
  let text: String
  /// The command that fixes it, such as a GRANT.
  var remedy: String?

  static func ok(_ text: String) -> CheckFinding { CheckFinding(verdict: .ok, text: text) }
  static func warning(_ text: String, run remedy: String? = nil) -> CheckFinding {
    CheckFinding(verdict: .warning, text: text, remedy: remedy)
  }
  static func fault(_ text: String, run remedy: String? = nil) -> CheckFinding {
    CheckFinding(verdict: .fault, text: text, remedy: remedy)
  }
}

/// The findings about one subject.
struct CheckSection: Equatable, Sendable {
  let name: String
  var findings: [CheckFinding]
}

/// All findings, in display order.
struct CheckReport: Sendable {
  static let faultStatus: Int32 = 1
  static let warningStatus: Int32 = 2

  let sections: [CheckSection]

  private func count(_ verdict: CheckFinding.Verdict) -> Int {
    sections.reduce(0) { sum, section in sum + section.findings.count { $0.verdict == verdict } }
  }

  var exitStatus: Int32 {
    if count(.fault) > 0 { return Self.faultStatus }
    return count(.warning) > 0 ? Self.warningStatus : 0
  }

  func text(as format: ReportTable.Format, isColoured: Bool) -> String {
    switch format {
    case .text: return lines(isColoured: isColoured)
    case .json:
      var table = ReportTable(["section", "verdict", "text", "run"])
      for section in sections {
        for finding in section.findings {
          table.rows.append(
            [.text(section.name), .text(finding.verdict.rawValue), .text(finding.text), .init(finding.remedy)])
        }
      }
      return table.text(as: .json)
    }
  }

  private func lines(isColoured: Bool) -> String {
    let margin = String(repeating: " ", count: 11)
    var text = ""
    for section in sections {
      text += section.name + "\n"
      for finding in section.findings {
        let word = finding.verdict.rawValue
        let padding = String(repeating: " ", count: 9 - word.count)
        let shown = isColoured ? "\u{1B}[\(finding.verdict.colour)m\(word)\u{1B}[0m" : word
        text += "  \(shown)\(padding)\(ReportTable.printable(finding.text))\n"
        if let remedy = finding.remedy { text += "\(margin)run: \(ReportTable.printable(remedy))\n" }
      }
    }
    func number(_ count: Int, _ word: String) -> String { "\(count) \(word)\(count == 1 ? "" : "s")" }
    return text + "\(number(count(.fault), "fault")), \(number(count(.warning), "warning"))\n"
  }
}

extension CheckFinding.Verdict {
  /// ANSI X3.64 colours: green, yellow, red.
  fileprivate var colour: Int {
    switch self {
    case .ok: 32
    case .warning: 33
    case .fault: 31
    }
  }
}
