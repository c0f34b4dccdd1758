// The tables that commands print.

import Reactor
import Testing

@testable import Worker

@Suite struct ReportTableTests {
  private static let table: ReportTable = {
    var table = ReportTable(["name", "rows", "notes"])
    table.rows = [
      [.text("wraps-expired"), .number(7), .list(["a", "b"])], [.text("jobs"), .number(1_200), .missing],
      [.text("none"), .missing, .list([])],
    ]
    return table
  }()

  @Test func columnsAreAlignedAndNumbersOnTheRight() {
    #expect(
      Self.table.text(as: .text) == """
        name           rows  notes
        wraps-expired     7  a; b
        jobs           1200  -
        none              -  -

        """)
  }

  @Test func theSameRowsAreAnArrayOfObjectsInJSON() {
    #expect(
      Self.table.text(as: .json)
        == #"[{"name":"wraps-expired","rows":7,"notes":["a","b"]},{"name":"jobs","rows":1200,"notes":null},"#
        + #"{"name":"none","rows":null,"notes":[]}]"# + "\n")
  }

  @Test func controlCharactersAreReplacedForATerminalAndKeptInJSON() {
    var table = ReportTable(["value"])
    table.rows = [[.text("a\u{1B}[2Jb\nc\u{9B}")]]
    #expect(table.text(as: .text) == "value\na\u{FFFD}[2Jb\u{FFFD}c\u{FFFD}\n")
    #expect(table.text(as: .json) == "[{\"value\":\"a\\u001b[2Jb\\nc\u{9B}\"}]\n")
  }

  @Test func colourIsForTerminalsWithoutNoColor() {
    func isColoured(_ environment: [String: String], isTerminal: Bool = true) -> Bool {
      CommandContext(
        readEnvironment: { environment }, clock: LoopClock.virtual(),
        log: LogOutput.standardError(LoopClock.virtual()), isTerminal: isTerminal
      ).isColoured
    }
    #expect(isColoured([:]) && isColoured(["NO_COLOR": ""]))
    #expect(!isColoured([:], isTerminal: false))
    #expect(!isColoured(["NO_COLOR": "1"]) && !isColoured(["TERM": "dumb"]))
  }
}
