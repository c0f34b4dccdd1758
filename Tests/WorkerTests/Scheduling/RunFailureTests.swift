// Which failures wait for the next slot, and their reasons.

import Coordination
import Reactor
import Testing

@testable import Worker

@Suite struct RunFailureTests {
  @Test(arguments: ["42P01", "42501", "42804", "22P02", "23514", "3F000", "0A000"])
  func whatTheSameStatementMeetsAgainWaitsForTheNextSlot(state: String) {
    #expect(RunFailure(PostgresError.server(sqlState: state, message: "")).isPermanent)
  }

  @Test(arguments: [
    "40P01", "40001", "55P03", "53300", "53200", "57014", "57P01", "57P03", "25006", "28P01", "3D000", "XX000", "08006",
  ])
  func whatMayBeOverInASecondIsTriedAgain(state: String) {
    #expect(!RunFailure(PostgresError.server(sqlState: state, message: "")).isPermanent)
  }

  @Test func aRunIsRetriedIfOneOfItsTargetsMayRecover() {
    let deadlock = PostgresError.server(sqlState: "40P01", message: "")
    let broken = PostgresError.server(sqlState: "23514", message: "")
    let failure = RunFailure(Discovery.SomeFailed(failures: [("a", broken), ("b", deadlock)]))
    #expect(!failure.isPermanent)
    #expect(failure.reason == "target=a: \(broken.publicReason); target=b: \(deadlock.publicReason)")
  }

  @Test func aServerThatCannotBeReachedIsNotAFailureOfTheSweeper() {
    for error in [PostgresError.unavailable(reason: "connection refused"), .timedOut(.connecting)] {
      #expect(RunFailure(error).isOutage)
      #expect(RunFailure(Discovery.SomeFailed(failures: [("a", error)])).isOutage)
    }
    for error in [PostgresError.connectionLost(reason: "broken pipe"), .timedOut(.statement), .poolExhausted()] {
      #expect(!RunFailure(error).isOutage)
    }
  }

  @Test(arguments: [PostgresError.connectionLost(reason: "broken pipe"), .timedOut(.statement)])
  func aConnectionThatBrokeOrHangsIsAnOutageOnlyWhereTheServerDoesNotAnswer(error: PostgresError) {
    #expect(RunFailure.isInDoubt(error) && RunFailure.isInDoubt(Discovery.SomeFailed(failures: [("a", error)])))
    #expect(RunFailure(error).asOutage(if: true).isOutage)
    #expect(!RunFailure(error).asOutage(if: false).isOutage)
  }

  @Test func anErrorThatIsNotInDoubtNeedsNoPing() {
    #expect(!RunFailure.isInDoubt(RunInterruption.leaseLost))
    #expect(!RunFailure.isInDoubt(PostgresError.server(sqlState: "57014", message: "")))
    #expect(RunFailure(PostgresError.unavailable(reason: "")).asOutage(if: false).isOutage)
  }

  @Test func aReasonDoesNotQuoteTheServersMessage() {
    let error = PostgresError.server(sqlState: "23514", message: "row for relation agents: s3cret")
    #expect(RunFailure(error).reason == "check constraint violated (SQLSTATE 23514)")
  }
}
