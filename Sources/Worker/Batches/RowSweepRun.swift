// Runs a row sweep: surveys its table, then sends batches as its route says. Called by SweepRunner.
// Invariants: once the process knows the table, a run with nothing due in a small table, or by its index, takes one
// round trip; changes are counted however the run ends; a row that cannot be changed does not stop the others.

import Coordination
import Reactor

/// One run of one row sweep.
@EventLoop
final class RowSweepRun {
  /// How often a run restarts because its table was replaced or altered.
  private static let surveyLimit = 5

  private let sweep: RowSweep
  private let session: GuardedSession
  private let memory: TableMemory
  private let allowsRowSecurity: Bool
  private let acceptsAnyShare: Bool
  private let interval: Duration
  private let tally: RunTally
  private var progress: SweepProgress

  /// - Parameters:
  ///   - acceptsAnyShare: whether an operator allows the run to change more than the sweep's maximum share.
  ///   - interval: between two runs.
  ///   - progress: what earlier runs left in the schedule record.
  init(
    _ sweep: RowSweep, in session: GuardedSession, knowing memory: TableMemory, allowsRowSecurity: Bool = false,
    acceptsAnyShare: Bool = false, every interval: Duration, progress: String?, noting tally: RunTally
  ) {
    self.sweep = sweep
    self.session = session
    self.memory = memory
    self.allowsRowSecurity = allowsRowSecurity
    self.acceptsAnyShare = acceptsAnyShare
    self.interval = interval
    self.tally = tally
    self.progress = SweepProgress(progress)
    tally.attempts = sweep.attemptLimit.map { AttemptCounts(limit: $0.count, self.progress.attempts) }
  }

  /// Sweeps all due rows.
  ///
  /// - Throws: `RunInterruption`; `SweepRefusal` if some due rows could not be changed; `PostgresError` if a batch
  ///   failed. The changes of earlier batches remain, and are in the tally.
  func run() async throws {
    defer { noteAttempts() }
    let survey = try await session.survey(
      sweep.table, key: sweep.key, moments: sweep.moments, event: sweep.event, knownTo: memory)
    for _ in 0..<Self.surveyLimit {
      let table = memory.survey ?? survey
      if let refusal = table.refusal(allowsRowSecurity: allowsRowSecurity) { throw refusal }
      do {
        try await sweepAll(table)
      } catch let error as PostgresError where error.sqlState != nil {
        // A table may have changed, so the next run surveys it again.
        memory.survey = nil
        memory.linkedTable = nil
        throw rule(error, table) ?? error
      }
      let knowsLinkedTable = sweep.linked == nil || memory.linkedTable != nil
      guard let seen = memory.survey, !(knowsLinkedTable && seen.hasSameShape(as: table)) else {
        try await forgetAttempts(in: table)
        return try conclude(table)
      }
    }
    throw SweepRefusal.changing(survey.displayName)
  }

  /// The refusal if a statement failed because of a rule on the table or on the audit trail.
  private func rule(_ error: PostgresError, _ table: TableSurvey) -> SweepRefusal? {
    guard (sweep.audit == nil ? table : table.countingChanges).isRefusedByRule(error) else { return nil }
    let trail = sweep.audit == nil ? nil : memory.related?.tables[AuditNote.table]
    return .rule(table.displayName + (trail.map { " or \($0.displayName)" } ?? ""))
  }

  private func sweepAll(_ table: TableSurvey) async throws {
    let linkedTable = try await linkedTable()
    let related = try await session.related(
      to: table, for: sweep, knownTo: memory, allowsRowSecurity: allowsRowSecurity)
    if sweep.leavesReferenced, !table.canLockRows { throw SweepRefusal.cannotLock(table.displayName) }
    // An audit line or an attempt is recorded per changed row, so changes are counted. Linked rows always are.
    let table = (sweep.audit == nil && sweep.attemptLimit == nil) || sweep.linked != nil ? table : table.countingChanges
    let targets = try await targets(of: table)
    memory.keepPasses(of: targets)
    // Otherwise it does not matter that an index has more due rows than the declared condition covers.
    let indexHasAll = sweep.index?.fullPassWithin != nil && sweep.isDueByKey && table.indexes.serve(sweep.due)
    // The record has no room for a pass per part, so the pages of several parts are read in each run.
    let isByParts = targets.count > 1 && table.foreignParts == nil
    let hasIndex = sweep.index.map { !isByParts && (indexHasAll || table.indexes.serve($0.reaches)) } ?? false
    try await limitShare(of: table, targets, related)
    for target in targets where !tally.count.isPartial {
      let statements = memory.statements(
        of: target, in: table, for: sweep, related: related, indexHasAll: indexHasAll)
      if let linked = sweep.linked, let linkedTable {
        try await LinkedSweep(
          linked, statements, of: table, linkedTable: linkedTable, hasIndex: hasIndex, in: session, knowing: memory,
          noting: tally
        ).run()
      } else if table.canReadPlaces {
        let record = table.foreignParts == nil ? progress.pass : memory.passes[target]
        let pass =
          indexHasAll || isByParts
          ? nil : sweep.index?.fullPassWithin.map { FullPass(promise: $0, interval: interval, record: record) }
        let run = PageSweep(
          statements, of: table, in: session, knowing: memory,
          route: SweepRoute(hasIndex: hasIndex, pass: pass, passesSuffice: sweep.index?.passesSuffice ?? false),
          noting: tally)
        defer { note(run.record, of: target, in: table) }
        try await run.run()
      } else {
        try await KeySweep(statements, of: table, in: session, knowing: memory, noting: tally).run()
      }
    }
  }

  /// Counts before the first change, for a sweep with a maximum share.
  private func limitShare(of table: TableSurvey, _ targets: [String], _ related: RelatedTables) async throws {
    guard let limit = sweep.shareLimit, limit.percent < 100 else { return }
    let parts = targets.map { target in
      TableStatements(sweep: sweep, table: target, moments: table.moments, countsDue: false, related: related)
    }
    let batches = SweepBatches(sweep, on: table, in: session, knowing: memory, noting: tally)
    let count = try await batches.count(limit, in: parts, acceptedBefore: progress.acceptedCutoff)
    if acceptsAnyShare {
      // Includes rows that this run does not reach.
      progress.memory = session.cutoffMicroseconds.map { .accepted(cutoff: $0) } ?? .nothing
      tally.count.progress = progress.text
    } else if limit.isExceeded(by: count) {
      tally.count.refused = count.due
      throw SweepRefusal.share(count.silent, of: count.live, warning: limit.warning)
    }
  }

  /// The table of linked rows; nil for a sweep without one.
  private func linkedTable() async throws -> TableSurvey? {
    guard let linked = sweep.linked else { return nil }
    let table = try await session.survey(linked, knownTo: memory)
    if let refusal = table.refusal(allowsRowSecurity: allowsRowSecurity) { throw refusal }
    return table
  }

  /// The schedule record has room for one pass. The process remembers the passes of parts that are swept separately;
  /// another process starts new ones, sooner than necessary.
  private func note(_ record: String?, of target: String, in table: TableSurvey) {
    guard let record else { return }
    guard table.foreignParts == nil else {
      memory.passes[target] = record
      return
    }
    progress.memory = .fullPass(record)
    tally.count.progress = progress.text
  }

  /// What is swept separately: the table with all its parts, or each part if some have no pages or rows are identified
  /// by their place.
  private func targets(of table: TableSurvey) async throws -> [String] {
    guard table.foreignParts != nil || (sweep.leavesReferenced && table.hasParts) else { return [table.quotedName] }
    let parts = try await session.query(PostgresStatement(TableSurvey.pagedParts, ["\(table.identifier)"]))
    return (0..<parts.rowCount).map { row in
      "ONLY " + TableSurvey.quoted(parts[row: row, column: 0] ?? "", parts[row: row, column: 1] ?? "")
    }
  }

  /// Forgets the attempts of rows that cannot become due again.
  private func forgetAttempts(in table: TableSurvey) async throws {
    guard let limit = sweep.attemptLimit, let attempts = tally.attempts, !attempts.counts.isEmpty else { return }
    let answer = try await session.query(
      PostgresStatement(TableStatements.comingBack(limit, in: table.quotedName), [attempts.rows]))
    tally.attempts?.keep((0..<answer.rowCount).compactMap { answer[row: $0, column: 0] })
  }

  /// Records for the next run how often rows were changed, however this run ended.
  private func noteAttempts() {
    guard let attempts = tally.attempts else { return }
    tally.count.exhausted = attempts.exhaustedCount
    guard attempts.isChanged else { return }
    progress.memory = .attempts(attempts.text)
    tally.count.progress = progress.text
  }

  /// Throws a refusal if rows stayed due.
  private func conclude(_ table: TableSurvey) throws {
    let count = tally.count
    let isLocked = count.skipped > 0 && count.changed == 0
    tally.count.isLocked = isLocked
    let lockedSlots = isLocked ? min(progress.lockedSlots + 1, 1_000) : 0
    let wasLocked = progress.lockedSlots > 0
    progress.lockedSlots = lockedSlots
    if progress.pass != nil || lockedSlots > 0 || wasLocked { tally.count.progress = progress.text }
    if count.refused > 0 { throw SweepRefusal.rows(count.refused, count.refusals) }
    if count.kept > 0 {
      let linked = memory.linkedTable.map { " or \($0.displayName)" } ?? ""
      throw SweepRefusal.kept(count.kept, table: table.displayName + linked)
    }
    if let parts = table.foreignParts { throw SweepRefusal.foreignParts(parts) }
    if lockedSlots >= SweepProgress.lockedSlotLimit { throw SweepRefusal.locked(count.skipped, slots: lockedSlots) }
  }
}
