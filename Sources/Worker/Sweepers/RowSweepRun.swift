// Runs a row sweep: batch after batch, as its route says. Called by the scheduler's run.
// Invariant: a run that finds nothing due in a small table, or by its index, is one round trip.

import Reactor

/// One run of one row sweep.
@EventLoop
final class RowSweepRun {
  /// Of so many batches, which take a second or two, one waits until the disk has it and all that came before it; as
  /// does the last one. What a crash of the server takes back is swept again, but how far the run got must not be told
  /// too early.
  static let batchesPerFlush = 64

  /// How long a statement may take. A slow disk or trigger makes the next ones smaller, long before the lease ends.
  static let statementLimit = Duration.seconds(1)

  private let sweep: RowSweep
  private let session: GuardedSession
  private let tally: RunTally
  private var route: SweepRoute
  private var batches = 0
  /// Its text is put together once a run.
  private lazy var write = sweep.write
  private lazy var writePart = sweep.writePart

  /// - Parameters:
  ///   - interval: between two runs.
  ///   - progress: what earlier runs left in the schedule record.
  init(
    _ sweep: RowSweep, in session: GuardedSession, every interval: Duration, progress: String?, noting tally: RunTally
  ) {
    self.sweep = sweep
    self.session = session
    self.tally = tally
    route = SweepRoute(
      hasIndex: sweep.index != nil,
      pass: sweep.index?.fullPassWithin.map { FullPass(promise: $0, interval: interval, record: progress) })
  }

  /// Sweeps what is due.
  ///
  /// - Throws: `RunInterruption`, or `PostgresError` as a batch failed. What earlier batches changed stays changed.
  func run() async throws {
    do {
      try await sweepAll()
    } catch let trouble as Trouble {
      throw trouble.cause
    }
  }

  private func sweepAll() async throws {
    try await open()
    while let step = route.next {
      do {
        let done = try await batch([step], measures: route.isLastRange)
        try await note(step, done.answers, done)
      } catch let trouble as Trouble {
        try await meet(trouble, at: step)
      }
    }
  }

  /// The first batch also measures the table.
  private func open() async throws {
    var steps = route.opening
    var done: Batch
    do {
      done = try await batch(steps, measures: true)
    } catch let trouble as Trouble {
      steps = trouble.kind == .locked ? [steps[0].skippingLocked] : []
      done = try await batch(steps, measures: true)
    }
    if let table = done.table { route.measured(table, at: done.beganAt) }
    for (step, answer) in zip(steps, done.answers) { try await note(step, [answer], done) }
  }

  /// Goes on after a batch that failed, or throws why it failed.
  private func meet(_ trouble: Trouble, at step: SweepRoute.Step) async throws {
    switch (trouble.kind, step.reads, step.skipsLocked) {
    case (.tooLong, _, _):
      guard route.tookTooLong(step) else { throw trouble.cause }
    case (.locked, .look, _):
      // Someone has locked the table: the pages find out for how long.
      _ = route.tookTooLong(step)
    case (.locked, .pages(let range), false):
      route.stayedLocked(range)
    case (.locked, .walk, false), (.locked, .gather, false):
      let again = step.skippingLocked
      let done = try await batch([again], measures: false)
      try await note(again, done.answers, done)
    case (.locked, _, true):
      // Not a row is locked but the table.
      throw trouble.cause
    }
  }

  /// Notes what a step's statement answered, or its parts' statements.
  private func note(_ step: SweepRoute.Step, _ answers: [PostgresResult], _ done: Batch) async throws {
    let answer = answers[0]
    switch step.reads {
    case .walk, .gather:
      let found = Found(answer)
      tally.count.changed += found.changed
      tally.count.skipped += found.due - found.free
      route.found(
        entries: found.entries, due: found.due, changed: found.changed, lowestKey: found.lowestKey,
        isPlenty: found.isPlenty,
        wasStopped: done.wasStopped && found.changed < found.free)
    case .look:
      let page = answer[row: 0, column: 0].flatMap(Self.page(ofPlace:))
      route.looked(firstDue: page, in: done.duration, file: done.table?.file)
    case .pages(let range) where step.skipsLocked:
      let (due, changed) = (answer.number(0), answer.number(1))
      tally.count.changed += changed
      tally.count.skipped += max(0, due - changed)
      route.swept(range, changed: changed, in: done.duration, file: done.table?.file)
    case .pages(let range) where step.parts > 1:
      let changes = answers.map(\.affectedRows)
      let changed = changes.reduce(0, +)
      tally.count.changed += changed
      let page = PageRanges.stop(of: range, changes: changes, in: done.duration)
      route.swept(range, until: page, changed: changed, in: done.duration, file: done.table?.file)
    case .pages(let range):
      let changed = answer.affectedRows
      tally.count.changed += changed
      let page = done.wasStopped ? try await firstDuePage(in: range) : nil
      route.swept(range, until: page, changed: changed, in: done.duration, file: done.table?.file)
    }
    tally.count.cutoff = session.cutoff
    if done.isFlushed, let record = route.record { tally.count.progress = record }
  }

  /// Where a range that the clock stopped is to be taken up; nil where nothing of it is left.
  private func firstDuePage(in range: Range<Int>) async throws -> Int? {
    do {
      let done = try await session.batch([
        Self.settings(flushes: true, plansOnce: true), sweep.statement(sweep.firstDue, range),
      ])
      return done.results[1][row: 0, column: 0].flatMap(Self.page(ofPlace:))
    } catch let error as PostgresError where error.sqlState == GuardedSession.cancelledState {
      return range.lowerBound
    }
  }

  /// The page of a row's place, "(page,number)".
  private static func page(ofPlace text: String) -> Int? {
    var page = 0
    for byte in text.utf8.dropFirst() {
      guard byte >= UInt8(ascii: "0"), byte <= UInt8(ascii: "9"), page < 1 << 32 else { return page }
      page = page * 10 + Int(byte - UInt8(ascii: "0"))
    }
    return nil
  }
}

// MARK: - One batch

extension RowSweepRun {
  /// What the statements of a batch answered.
  private struct Batch {
    let answers: [PostgresResult]
    /// Where it was measured.
    let table: TableSize?
    let beganAt: Int64
    let duration: Duration
    /// Whether the disk has it.
    let isFlushed: Bool

    /// Whether the clock may have stopped it.
    var wasStopped: Bool { duration >= PageRanges.writeLimit }
  }

  /// Why a batch failed that may succeed in another way.
  private struct Trouble: Error {
    enum Kind { case locked, tooLong }
    let kind: Kind
    let cause: any Error
  }

  /// What a search by the index answered.
  @EventLoop
  private struct Found {
    let entries, due, free, changed: Int
    let lowestKey: String?
    let isPlenty: Bool

    init(_ answer: PostgresResult) {
      entries = answer.number(0)
      due = answer.number(1)
      free = answer.number(2)
      changed = answer.number(3)
      lowestKey = answer[row: 0, column: 4]
      isPlenty = answer.number(5) > 0
    }
  }

  /// - Throws: `Trouble` where the same can be tried in another way, else the failure itself.
  private func batch(_ steps: [SweepRoute.Step], measures: Bool) async throws -> Batch {
    let flushes = measures || batches % Self.batchesPerFlush == 0
    batches += 1
    let plansOnce = steps.allSatisfy { if case .pages = $0.reads { true } else { false } }
    var statements = [Self.settings(flushes: flushes, plansOnce: plansOnce)]
    if measures { statements.append(PostgresStatement(sweep.size, isKept: true)) }
    let first = statements.count
    for step in steps { statements += self.statements(for: step) }
    let beganAt = session.now
    do {
      let done = try await session.batch(statements)
      let table = measures ? TableSize(pages: done.results[1].number(0), file: done.results[1].number(1)) : nil
      return Batch(
        answers: Array(done.results[first...]), table: table, beganAt: done.beganAt, duration: done.duration,
        isFlushed: flushes)
    } catch let error as PostgresError where error.sqlState == GuardedSession.lockTimeoutState {
      throw Trouble(kind: .locked, cause: error)
    } catch let error as PostgresError
      where error.sqlState == GuardedSession.cancelledState
      && beganAt.duration(to: session.now) >= Self.statementLimit
    {
      throw Trouble(kind: .tooLong, cause: error)
    }
  }

  /// What a step sends.
  private func statements(for step: SweepRoute.Step) -> [PostgresStatement] {
    switch (step.reads, sweep.index) {
    case (.walk(let key), let index?):
      [PostgresStatement(sweep.walk(index, skippingLocked: step.skipsLocked), [key])]
    case (.gather(let key), let index?):
      [PostgresStatement(sweep.gather(index, skippingLocked: step.skipsLocked), [key])]
    case (.pages(let range), _) where step.parts > 1:
      PageRanges.parts(of: range, count: step.parts).map { sweep.statement(writePart, $0) }
    case (.pages(let range), _):
      [sweep.statement(step.skipsLocked ? sweep.writeSkippingLocked : write, range)]
    case (.look, _):
      [PostgresStatement(sweep.look)]
    case (.walk, nil), (.gather, nil):
      preconditionFailure("a route without an index walks none")
    }
  }

  /// - Parameter plansOnce: any range of pages has the same plan, though a small one is estimated to cost less than the
  ///   plan that was kept; a walk's depends on what it looks for.
  private static func settings(flushes: Bool, plansOnce: Bool) -> PostgresStatement {
    PostgresStatement(
      RowSweep.batchSettings,
      [flushes ? "on" : "off", "\(statementLimit.milliseconds)", plansOnce ? "force_generic_plan" : "auto"],
      isKept: true)
  }
}

extension PostgresResult {
  /// The first row's value in this column, as a whole number; 0 where it is none.
  fileprivate func number(_ column: Int) -> Int {
    self[row: 0, column: column].flatMap { Int($0) } ?? 0
  }
}
