// The ids of discover jobs.

import Testing

@testable import Worker

@Suite struct DiscoveryTests {
  @Test func aTargetsSlotAlwaysHasTheSameVersion5UUID() {
    let first = Discovery.jobID(target: "payments", slot: 1_700_000_000_000)
    #expect(first == Discovery.jobID(target: "payments", slot: 1_700_000_000_000))
    #expect(first != Discovery.jobID(target: "payments", slot: 1_700_003_600_000))
    #expect(first != Discovery.jobID(target: "payment", slot: 1_700_000_000_000))
    let digits = Array(first.utf8)
    #expect(digits.count == 36)
    #expect(digits[14] == UInt8(ascii: "5"))
    #expect(Array("89ab".utf8).contains(digits[19]))
  }
}
