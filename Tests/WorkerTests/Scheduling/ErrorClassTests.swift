// The classes of failures in the history and in `status`.

import Coordination
import Reactor
import Testing

@testable import Worker

@Suite struct ErrorClassTests {
  @Test func refusedRowsAreClassifiedByTheirSQLSTATEs() {
    #expect(RunFailure(SweepRefusal.rows(1, [.sqlState("23503")])).errorClass == "23503")
    let several = SweepRefusal.rows(3, [.sqlState("23514"), .settingsReset]).errorClass
    #expect(several == "23514,settings-reset")
    #expect(ErrorClass.meaning(of: several) == "a constraint refuses rows")
  }

  @Test func aRefusalByAnotherTableNamesIt() {
    let missing = SweepRefusal.rows(3, [.sqlState("23514", on: "public.audit_events"), .sqlState("23503")]).errorClass
    #expect(missing == "23514:public.audit_events,23503" && ErrorClass.isAboutSchema(missing))
    #expect(ErrorClass.meaning(of: missing) == "a constraint refuses rows of public.audit_events")
    // What no word of a record can hold is left out.
    #expect(SweepRefusal.rows(1, [.sqlState("23502", on: "public.my, own")]).errorClass == "23502")
  }

  @Test func aClassIsOneWord() {
    let refusals: [SweepRefusal] = [
      .noTable("agents"), .rowSecurity("agents"), .rows(1, []), .kept(1, table: "agents"), .settingsReset,
      .locked(1, slots: 3), .share(25, of: 30, warning: "agents look silent"), .uncounted("agents"), .rule("agents"),
    ]
    for refusal in refusals {
      #expect(!refusal.errorClass.isEmpty && !refusal.errorClass.contains(" "), "\(refusal)")
    }
  }

  @Test(arguments: [
    ("42501", true), ("23503", true), ("P0001", true), ("kept", true), ("lines-discarded", true),
    ("settings-reset", true), ("55P03", false), ("share", false),
  ])
  func tablesAreCheckedIfTheyMayBeTheCause(errorClass: String, expected: Bool) {
    #expect(ErrorClass.isAboutSchema(errorClass) == expected && ErrorClass.meaning(of: errorClass) != nil)
  }
}
