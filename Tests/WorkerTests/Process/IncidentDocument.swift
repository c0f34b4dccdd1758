// docs/incidents.md, read: what an operator runs in each incident, and what is printed.

import Foundation
import TestSupport

/// One of the incidents.
struct Incident {
  /// A command, and lines that it prints, among others.
  struct Step {
    let command: String
    var output: [String] = []
  }

  let title: String
  /// What finds it, and what ends it.
  var steps: [Step] = []

  static func all() throws -> [Incident] {
    var incidents: [Incident] = []
    var isCode = false
    for line in try Repository.text("docs/incidents.md").components(separatedBy: "\n") {
      if line.hasPrefix("## ") { incidents.append(Incident(title: String(line.dropFirst(3)))) }
      if line == "```" { isCode.toggle() }
      guard isCode, line != "```", !line.isEmpty, let last = incidents.indices.last else { continue }
      if line.hasPrefix("$ ") {
        incidents[last].steps.append(Step(command: String(line.dropFirst(2))))
      } else if let step = incidents[last].steps.indices.last {
        incidents[last].steps[step].output.append(line)
      }
    }
    return incidents
  }

  /// A line without what differs between runs: times, counts, addresses, actors, and widths.
  static func normalized(_ line: String) -> String {
    var text = line
    text.replace(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ/, with: "TIME")
    text.replace(/(postgresql|redis):\/\/\S+/, with: "URL")
    text.replace(/\b\d+\.\d+\.\d+\.\d+\b/, with: "ADDRESS")
    text.replace(/\([^ ()]+@[^()]+\)/, with: "(WHO)")
    text.replace(/\b(\d+(\.\d+)?(ms|[hms]))+\b/, with: "SPAN")
    text.replace(/pod-[ab]/, with: "POD")
    // SQLSTATEs stay.
    text.replace(/\b\d+\b/) { ["42501", "23503"].contains(String($0.output)) ? String($0.output) : "N" }
    text.replace(#/  +/#, with: " ")
    return text.trimmingCharacters(in: .whitespaces)
  }

  /// The lines of the step that are not among those of `output`.
  static func missing(of step: Step, in output: String) -> [String] {
    let printed = Set(output.components(separatedBy: "\n").map(normalized))
    return step.output.filter { !printed.contains(normalized($0)) }
  }
}
