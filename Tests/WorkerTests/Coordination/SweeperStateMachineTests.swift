// A replica's state machine for a sweeper's slots, in isolation: each step, and what an unanswered command leads to.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct SweeperStateMachineTests {
  static let grid = SlotGrid(sweeper: "wraps-expired", interval: .seconds(60))
  /// A slot's start, in ms of Redis's clock; the replica's own clock shows 0 then.
  static let slot = grid.slot(at: 1_700_000_000_000)

  static func at(_ milliseconds: Int64) -> MonotonicInstant {
    MonotonicInstant(nanoseconds: milliseconds * 1_000_000)
  }

  static func machine(_ mode: TakeMode = .due, once: Bool = false) -> SweeperStateMachine {
    SweeperStateMachine(grid: grid, leaseDuration: .seconds(15), mode: mode, once: once, at: at(0))
  }

  static let lost = SweeperStateMachine.LostTake(token: "lost", executableUntil: at(2_000))
  static let run = Run(
    epoch: 7, slot: slot, nextSlot: slot + 60_000, failures: 0, origin: "o", token: "t", takenAt: at(0))

  /// One that was given the slot, and whose run ended at `end` ms.
  static func ran(
    _ result: RunResult, at end: Int64 = 100, failures: Int = 0
  ) -> SweeperStateMachine {
    var machine = machine()
    var run = run
    run.failures = failures
    _ = machine.answered(.taken(run), redisTime: slot + 1, at: at(1), jitter: 0.5)
    machine.ended(EndedRun(run, result), at: at(end), jitter: 0.5)
    return machine
  }

  static func completion(_ machine: SweeperStateMachine) throws -> EndedRun {
    let step = machine.next(at: at(200), isDraining: false)
    guard case .complete(let completion) = step else { return try #require(nil, "not a completion: \(step)") }
    return completion
  }

  @Test func itAsksAtOnceAndSleepsUntilWhatIsDueWithALittleJitter() {
    var machine = Self.machine()
    #expect(machine.next(at: Self.at(0), isDraining: false) == .take(.due))
    _ = machine.answered(
      .idle(slot: Self.slot, due: Self.slot + 60_000), redisTime: Self.slot,
      at: Self.at(1), jitter: 0.5)
    #expect(machine.next(at: Self.at(1), isDraining: false) == .wait(until: Self.at(60_501)))
    #expect(machine.next(at: Self.at(60_501), isDraining: false) == .take(.due))
  }

  @Test func anotherIntervalEndsAWaitAndARunFinishesInItsOwnSlot() throws {
    let grid = SlotGrid(sweeper: "wraps-expired", interval: .seconds(10))
    var machine = Self.machine()
    _ = machine.answered(
      .idle(slot: Self.slot, due: Self.slot + 60_000), redisTime: Self.slot, at: Self.at(1), jitter: 0.5)
    #expect(machine.changed(to: Self.grid, at: Self.at(2)) == [])
    #expect(machine.next(at: Self.at(2), isDraining: false) == .wait(until: Self.at(60_501)), "the same slots")
    #expect(machine.changed(to: grid, at: Self.at(3)) == [])
    #expect(machine.next(at: Self.at(3), isDraining: false) == .take(.due))
    _ = machine.answered(.taken(Self.run), redisTime: Self.slot, at: Self.at(5), jitter: 0)
    #expect(!machine.mayChangeSlots)
    machine.ended(EndedRun(Self.run, .success(SweepCount())), at: Self.at(6), jitter: 0)
    #expect(!machine.mayChangeSlots, "Redis does not know of its end")
    machine.confirmed(redisTime: Self.slot, at: Self.at(7), jitter: 0)
    #expect(machine.mayChangeSlots)
  }

  @Test func anOpenSlotIsCountedOnceWhenTheIntervalChanges() {
    var machine = Self.machine()
    _ = machine.answered(
      .idle(slot: Self.slot, due: Self.slot + 60_000), redisTime: Self.slot, at: Self.at(1), jitter: 0.5)
    let next = Self.slot + 60_000
    _ = machine.answered(.held(slot: next, remaining: 5_000), redisTime: next, at: Self.at(60_501), jitter: 0)
    let grid = SlotGrid(sweeper: "wraps-expired", interval: .seconds(10))
    #expect(machine.changed(to: grid, at: Self.at(60_600)) == [.skippedLock])
    #expect(machine.finished() == [])
  }

  @Test func aTriggerEndsAWaitButNeitherARunNorAWaitForRedis() {
    var machine = Self.machine()
    _ = machine.answered(
      .idle(slot: Self.slot, due: Self.slot + 60_000), redisTime: Self.slot, at: Self.at(1), jitter: 0.5)
    machine.askNow(at: Self.at(2))
    #expect(machine.next(at: Self.at(2), isDraining: false) == .take(.due))
    _ = machine.answered(.taken(Self.run), redisTime: Self.slot, at: Self.at(5), jitter: 0)
    machine.askNow(at: Self.at(6))
    #expect(machine.next(at: Self.at(6), isDraining: false) == .run(Self.run))
    var silent = Self.machine()
    _ = silent.unanswered(redisTime: Self.slot, at: Self.at(0), jitter: 0.5)
    let step = silent.next(at: Self.at(1), isDraining: false)
    silent.askNow(at: Self.at(1))
    #expect(silent.next(at: Self.at(1), isDraining: false) == step)
  }

  @Test func aTriggerCountsOnceAndNotBeforeTheFirstAnswer() {
    var counter = TriggerCounter()
    #expect(!counter.observe(newest: 5) && counter.count == 0)
    #expect(!counter.observe(newest: 5) && !counter.observe(newest: 0))
    #expect(counter.observe(newest: 6) && counter.count == 1)
    #expect(!counter.observe(newest: 6) && !counter.observe(newest: 5))
  }

  @Test func aLossCountsOnceHoweverManySweepersSeeIt() {
    var counter = TriggerCounter()
    func isNewLoss(_ seenAt: Int64, _ now: Int64) -> Bool {
      counter.lostRecord(seenAt: Self.at(seenAt), at: Self.at(now))
    }
    #expect(isNewLoss(10, 30))
    #expect(!isNewLoss(20, 31), "another sweeper's record was lost with it")
    #expect(isNewLoss(30, 40), "lost again")
    #expect(!isNewLoss(31, 41))
    #expect(isNewLoss(41, 41))
    #expect(counter.count == 3)
  }

  @Test func aGrantIsRunWithItsTokenAndTheMomentOfItsSending() {
    var machine = Self.machine()
    _ = machine.answered(
      .taken(Self.run), redisTime: Self.slot, at: Self.at(5), jitter: 0)
    #expect(machine.next(at: Self.at(5), isDraining: false) == .run(Self.run))
  }

  @Test func anEndedRunIsReportedUntilConfirmedBeforeAnythingElse() throws {
    var machine = Self.ran(.success())
    let completion = try Self.completion(machine)
    var now: Int64 = 200
    for _ in 0..<20 {
      _ = machine.unanswered(redisTime: Self.slot + now, at: Self.at(now), jitter: 0.5)
      now += 3_000
      #expect(machine.next(at: Self.at(now), isDraining: false) == .waitForRedis(until: Self.at(60_000)))
      machine.redisWaitEnded(at: Self.at(now), jitter: 0.5)
      #expect(machine.next(at: Self.at(now), isDraining: false) == .complete(completion))
    }
  }

  @Test func aTakeWithoutAnAnswerIsReleasedByItsTokenBeforeTheNextOne() {
    var machine = Self.machine()
    _ = machine.unanswered(Self.lost, redisTime: nil, at: Self.at(2_000), jitter: 0.5)
    machine.redisWaitEnded(at: Self.at(2_500), jitter: 0)
    #expect(machine.next(at: Self.at(2_500), isDraining: false) == .release(token: "lost"))
    machine.released()
    #expect(machine.next(at: Self.at(2_500), isDraining: false) == .wait(until: Self.at(2_700)))
    #expect(machine.next(at: Self.at(2_700), isDraining: false) == .take(.due))
  }

  /// Its connection broke before its time was over: what was sent can still arrive.
  @Test func aLostTakeIsNotReleasedBeforeRedisWouldRefuseIt() {
    var machine = Self.machine()
    _ = machine.unanswered(Self.lost, redisTime: nil, at: Self.at(300), jitter: 0.5)
    machine.redisWaitEnded(at: Self.at(400), jitter: 0)
    #expect(machine.next(at: Self.at(400), isDraining: false) == .pause(until: Self.at(2_001)))
    #expect(machine.next(at: Self.at(2_001), isDraining: false) == .release(token: "lost"))
  }

  @Test func aDrainingReplicaStillGivesBackWhatItMayHoldButForNoLongerThanALease() {
    var machine = Self.machine()
    _ = machine.unanswered(Self.lost, redisTime: nil, at: Self.at(2_000), jitter: 0.5)
    #expect(machine.next(at: Self.at(2_000), isDraining: true) == .pause(until: Self.at(2_200)))
    #expect(machine.next(at: Self.at(2_200), isDraining: true) == .release(token: "lost"))
    #expect(machine.next(at: Self.at(17_000), isDraining: true) == .end)
  }

  @Test func aDrainingReplicaWithNothingOpenEndsAtOnce() {
    var machine = Self.machine()
    #expect(machine.next(at: Self.at(0), isDraining: true) == .end)
    _ = machine.unanswered(redisTime: nil, at: Self.at(0), jitter: 0.5)
    #expect(machine.next(at: Self.at(0), isDraining: true) == .end)
  }

  @Test func theDelayAfterAFailureIsTheOneThatRedisGets() throws {
    var machine = Self.ran(.failed, failures: 2)
    let completion = try Self.completion(machine)
    #expect(completion.retryDelay == .seconds(4))
    machine.confirmed(redisTime: Self.slot + 300, at: Self.at(300), jitter: 0.5)
    // What is added lies from 80% to all of a twentieth of it: others, who add less, come first.
    #expect(machine.next(at: Self.at(300), isDraining: false) == .wait(until: Self.at(4_301 + 180)))
  }

  @Test func noRetryIsLaterThanTheNextSlot() {
    var machine = Self.ran(.failed, failures: 20)
    machine.confirmed(redisTime: Self.slot + 300, at: Self.at(300), jitter: 0)
    #expect(machine.next(at: Self.at(300), isDraining: false) == .wait(until: Self.at(60_800)))
  }

  @Test func aPermanentFailureWaitsForTheNextSlot() throws {
    var machine = Self.ran(.permanentlyFailed)
    #expect(try Self.completion(machine).retryDelay == .seconds(60))
    machine.confirmed(redisTime: Self.slot + 300, at: Self.at(300), jitter: 0)
    #expect(machine.next(at: Self.at(300), isDraining: false) == .wait(until: Self.at(60_800)))
  }

  /// What a replica adds to the start of a slot at the least and at the most, by what it heard before.
  static func delays(_ prepare: (inout SweeperStateMachine, _ jitter: Double) -> Void) throws -> ClosedRange<Int64> {
    let both = try [0, 0.999].map { jitter in
      var machine = machine()
      prepare(&machine, jitter)
      let step = machine.next(at: at(300), isDraining: false)
      guard case .wait(let until) = step else { return try #require(nil as Int64?, "not a wait: \(step)") }
      return until.nanoseconds / 1_000_000 - 60_000
    }
    return both[0]...both[1]
  }

  static func runSlot(_ machine: inout SweeperStateMachine, _ result: RunResult, _ jitter: Double) {
    _ = machine.answered(.taken(run), redisTime: slot, at: at(0), jitter: jitter)
    machine.ended(EndedRun(run, result), at: at(100), jitter: jitter)
    machine.confirmed(redisTime: slot + 300, at: at(300), jitter: jitter)
  }

  static func answered(_ machine: inout SweeperStateMachine, _ answer: TakeAnswer, _ jitter: Double) {
    _ = machine.answered(answer, redisTime: slot + 300, at: at(300), jitter: jitter)
  }

  /// Whoever asked during another one's run would be told that it is held, and had to ask again.
  @Test func whoRanLastAsksFirstAndTheOthersWhenItsRunIsUsuallyOver() throws {
    let incumbent = try Self.delays { Self.runSlot(&$0, .success(), $1) }
    let other = try Self.delays { Self.answered(&$0, .idle(slot: Self.slot, due: Self.slot + 60_000), $1) }
    let failed = try Self.delays { Self.runSlot(&$0, .permanentlyFailed, $1) }
    #expect(incumbent == 0...0)
    #expect(other == 200...799)
    #expect(failed == 800...999)
  }

  @Test func itsPlaceIsLostToWhoRunsALaterSlotAndToNobodyElse() throws {
    let (earlier, later) = (Self.slot - 60_000, Self.slot)
    func afterwards(_ answer: TakeAnswer) throws -> ClosedRange<Int64> {
      try Self.delays { machine, jitter in
        var run = Self.run
        (run.slot, run.nextSlot) = (earlier, later)
        _ = machine.answered(
          .taken(run), redisTime: earlier, at: Self.at(0), jitter: jitter)
        machine.ended(EndedRun(run, .success()), at: Self.at(100), jitter: jitter)
        machine.confirmed(redisTime: earlier + 100, at: Self.at(200), jitter: jitter)
        Self.answered(&machine, answer, jitter)
      }
    }
    #expect(try afterwards(.idle(slot: later, due: Self.slot + 60_000)) == 200...799)
    #expect(try afterwards(.held(slot: later, remaining: 60_000)) == 200...799)
    // Its timer fired slightly before the slot began on Redis's clock.
    #expect(try afterwards(.idle(slot: earlier, due: Self.slot + 60_000)) == 0...0)
    #expect(try afterwards(.paused(slot: later, Pause(origin: "o", text: "1"))) == 0...0)
  }

  @Test func aPauseIsRememberedUntilARecordWithoutItIsSeen() {
    var machine = Self.machine()
    let pause = Pause(origin: "o", text: "maintenance")
    #expect(machine.pause == nil)
    Self.answered(&machine, .paused(slot: Self.slot, pause), 0)
    #expect(machine.pause == pause)
    Self.answered(&machine, .late, 0)
    _ = machine.unanswered(redisTime: Self.slot, at: Self.at(400), jitter: 0)
    #expect(machine.pause == pause, "neither says anything of the record")
    for answer in [
      TakeAnswer.idle(slot: Self.slot, due: Self.slot + 60_000), .held(slot: Self.slot, remaining: 5),
      .stuck(slot: Self.slot), .settling(slot: Self.slot, notBefore: Self.slot + 5), .taken(Self.run),
    ] {
      var machine = machine
      Self.answered(&machine, answer, 0)
      #expect(machine.pause == nil, "\(answer)")
    }
  }

  @Test func aRunLongerThanItsSlotIsFollowedByTheNextOneAtOnce() {
    var machine = Self.ran(.success(), at: 70_000)
    machine.confirmed(redisTime: Self.slot + 70_000, at: Self.at(70_000), jitter: 0.9)
    #expect(machine.next(at: Self.at(70_000), isDraining: false) == .take(.due))
  }

  @Test func aRunThatIsAskedForAtBootIsAskedForUntilRedisHasAnswered() {
    var machine = Self.machine(.start)
    #expect(machine.next(at: Self.at(0), isDraining: false) == .take(.start))
    _ = machine.unanswered(redisTime: nil, at: Self.at(0), jitter: 0.5)
    machine.redisWaitEnded(at: Self.at(1_000), jitter: 0)
    #expect(machine.next(at: Self.at(1_200), isDraining: false) == .take(.start))
    _ = machine.answered(
      .settling(slot: Self.slot, notBefore: Self.slot + 15_000),
      redisTime: Self.slot, at: Self.at(1_000), jitter: 0)
    #expect(machine.next(at: Self.at(16_150), isDraining: false) == .take(.start))
    _ = machine.answered(
      .idle(slot: Self.slot, due: Self.slot + 60_000),
      redisTime: Self.slot + 15_000, at: Self.at(16_000), jitter: 0)
    #expect(machine.next(at: Self.at(90_000), isDraining: false) == .take(.due))
  }

  @Test(arguments: [
    TakeAnswer.held(slot: slot, remaining: 5_000), .stuck(slot: slot), .idle(slot: slot, due: slot + 60_000),
    .paused(slot: slot, Pause(origin: "o", text: "1")),
  ])
  func onceIsOverWhenAnotherReplicaHasTheSlotOrNothingIsDue(answer: TakeAnswer) {
    var machine = Self.machine(once: true)
    _ = machine.answered(answer, redisTime: Self.slot, at: Self.at(0), jitter: 0)
    #expect(machine.next(at: Self.at(0), isDraining: false) == .end)
  }

  @Test func onceWaitsForANewRedisAndEndsWithTheConfirmationOfItsRun() throws {
    var machine = Self.machine(once: true)
    _ = machine.answered(
      .settling(slot: Self.slot, notBefore: Self.slot + 15_000), redisTime: Self.slot,
      at: Self.at(0), jitter: 0)
    #expect(machine.next(at: Self.at(0), isDraining: false) == .wait(until: Self.at(15_150)))
    _ = machine.answered(
      .taken(Self.run), redisTime: Self.slot + 15_000, at: Self.at(15_000),
      jitter: 0)
    machine.ended(EndedRun(Self.run, .success()), at: Self.at(15_100), jitter: 0)
    _ = try Self.completion(machine)
    machine.confirmed(redisTime: Self.slot + 15_100, at: Self.at(15_101), jitter: 0)
    #expect(machine.next(at: Self.at(15_101), isDraining: false) == .end)
  }

  @Test func anErrorOfAConnectedRedisIsNotAskedAgainInAHotLoop() {
    var machine = Self.machine()
    var questions = 0
    var now = Self.at(0)
    while now < Self.at(60_000) {
      switch machine.next(at: now, isDraining: false) {
      case .take:
        questions += 1
        _ = machine.unanswered(redisTime: Self.slot, at: now, jitter: 0.5)
      case .wait(let until): now = until
      // It is connected, so nothing is waited for.
      case .waitForRedis: machine.redisWaitEnded(at: now, jitter: 0)
      default: Issue.record("unexpected step")
      }
    }
    #expect(questions < 45)
  }

  /// As one that is out of memory does, or lacks replicas.
  @Test func aRedisThatRefusesTakesAndGivesBackLocksIsSilentAllTheWhileAndAskedEverMoreSeldom() {
    var machine = Self.machine()
    var now = Self.at(0)
    var (questions, changes) = (0, 0)
    while now < Self.at(60_000) {
      switch machine.next(at: now, isDraining: false) {
      case .take:
        questions += 1
        if !machine.isSilent { changes += 1 }
        let lost = SweeperStateMachine.LostTake(token: "t", executableUntil: now.advanced(by: .seconds(2)))
        _ = machine.unanswered(lost, redisTime: Self.slot, at: now, jitter: 0.5)
      case .release: machine.released()
      case .wait(let until), .pause(let until): now = until
      case .waitForRedis: machine.redisWaitEnded(at: now, jitter: 0)
      default: Issue.record("unexpected step")
      }
    }
    #expect(changes == 1, "what changes once is said once")
    #expect((20...30).contains(questions))
    _ = machine.answered(
      .idle(slot: Self.slot, due: Self.slot + 60_000), redisTime: Self.slot, at: now,
      jitter: 0)
    #expect(!machine.isSilent)
  }

  /// The rule: whatever happens, there is a next step, nothing is asked while an account is open, and no wait lies
  /// beyond the next slot by more than the jitter.
  @Test func noOrderOfEventsAsksWhileAnAccountIsOpenOrWaitsTooLong() {
    for seed in UInt64(0)..<2_000 {
      var random = SeededRandom(seed: seed)
      var machine = Self.machine()
      var now: Int64 = 0
      var open = 0
      for _ in 0..<200 {
        let time = Self.slot + now
        let jitter = Double.random(in: 0..<1, using: &random)
        let isAnswered = Bool.random(using: &random)
        switch machine.next(at: Self.at(now), isDraining: false) {
        case .take:
          if open != 0 { Issue.record("seed \(seed): asks with an open account") }
          now += Int64.random(in: 0...2_000, using: &random)
          guard isAnswered else {
            open = 1
            _ = machine.unanswered(
              SweeperStateMachine.LostTake(token: "t", executableUntil: Self.at(now)), redisTime: time,
              at: Self.at(now),
              jitter: jitter)
            continue
          }
          let slot = Self.grid.slot(at: time)
          let answer: TakeAnswer =
            switch Int.random(in: 0..<4, using: &random) {
            case 0: .idle(slot: slot, due: Self.grid.slot(after: time))
            case 1: .held(slot: slot, remaining: 9_000)
            case 2: .late
            default:
              .taken(
                Run(
                  epoch: time, slot: slot, nextSlot: slot + 60_000, failures: 3, origin: "o", token: "t",
                  takenAt: Self.at(now)))
            }
          _ = machine.answered(
            answer, redisTime: time, at: Self.at(now), jitter: jitter)
        case .run(let run):
          now += Int64.random(in: 0...100_000, using: &random)
          open = 1
          let result: RunResult = Bool.random(using: &random) ? .success() : .failed
          machine.ended(EndedRun(run, result), at: Self.at(now), jitter: jitter)
        case .complete:
          if isAnswered {
            open = 0
            machine.confirmed(redisTime: time, at: Self.at(now), jitter: jitter)
          } else {
            _ = machine.unanswered(redisTime: time, at: Self.at(now), jitter: jitter)
          }
        case .release:
          if isAnswered {
            open = 0
            machine.released()
          } else {
            _ = machine.unanswered(redisTime: time, at: Self.at(now), jitter: jitter)
          }
        case .wait(let until), .pause(let until):
          if until > Self.at(now + 61_002) { Issue.record("seed \(seed): waits \(until) at \(now)") }
          now = until.nanoseconds / 1_000_000 + 1
        case .waitForRedis(let until):
          now += Int64.random(in: 0...max(0, until.nanoseconds / 1_000_000 - now), using: &random)
          machine.redisWaitEnded(at: Self.at(now), jitter: jitter)
        case .end: Issue.record("seed \(seed): ended")
        }
      }
    }
  }
}
