// The sweeper queue-watch: warns while queued jobs wait for too long, a sign that the agents are down, too few or
// stuck. It changes no rows.

import Coordination
import Reactor

extension SweeperDeclaration {
  static let queueWatch = SweeperDeclaration(interval: .queueAlertAfter, sweeper: Sweeper.queueWatch)
}

extension Sweeper {
  static func queueWatch(_ settings: Settings) -> Sweeper {
    let alertAfter = settings[.queueAlertAfter]
    return Sweeper(
      name: "queue-watch",
      summary: "Warns while the oldest queued job of a type has waited for too long; changes no rows.",
      // An alert is late by half of its waiting time at most.
      interval: alertAfter.map { min(.seconds(60), max(.seconds(1), $0 / 2)) },
      work: .watch(QueueWatch(alertAfter: alertAfter ?? .zero)),
      report: Report(
        severity: .warn, title: "queued jobs wait for too long", countName: "jobs", failureTitle: "watch queue failed"))
  }
}

extension Setting where Value == Duration? {
  static var queueAlertAfter: Setting {
    .interval(
      "SB_WORKER_QUEUE_ALERT_AFTER", default: nil,
      help: "Warn when the oldest queued job of a type has waited for this long.")
  }
}

/// Reads how long queued jobs have waited.
package struct QueueWatch: Sendable {
  static let table = "sync_jobs"
  /// Its columns.
  static let columns = ["status", "job_type", "created_at"]
  /// The job types of the schema.
  static let jobTypes = ["sync", "discover", "verify", "delete", "patch", "read"]
  /// The most types that are distinguished: the schema has six.
  fileprivate static let typeLimit = 16

  let alertAfter: Duration

  /// The moment columns that it reads.
  static let moments = ["created_at"]

  /// Parameter: the allowed wait in µs. Answers per type the number of jobs that have waited longer, and the seconds
  /// that the oldest has waited; a single row without a type if there are none. The last column says whether `moments`
  /// are unchanged.
  static func query(of table: String, _ moments: MomentColumns) -> String {
    CatalogSQL.qualified(
      """
      SELECT wait.job_type, wait.jobs, wait.seconds, checked.is_unchanged
        FROM (SELECT \(moments.isUnchanged) AS is_unchanged) AS checked
        LEFT JOIN LATERAL (
          SELECT job.job_type, count(*) AS jobs,
                 (extract(epoch FROM (clock_timestamp() - min(greatest(job.created_at, 'epoch'::timestamptz)))))::bigint
                   AS seconds
            FROM \(table) AS job
           WHERE (job.status = 'queued')
             AND (job.created_at <= (SELECT (clock_timestamp() - ($1::float8 * '1 microsecond'::interval))))
           GROUP BY job.job_type ORDER BY job.job_type LIMIT \(typeLimit)) AS wait ON checked.is_unchanged
       ORDER BY wait.job_type
      """)
  }

  func statement(on table: TableSurvey) -> PostgresStatement {
    PostgresStatement(Self.query(of: table.quotedName, table.moments), ["\(alertAfter.nanoseconds / 1_000)"])
  }

  /// Records how long jobs have waited, and which alerts begin or end.
  ///
  /// - Parameter progress: the last run's progress.
  /// - Throws: `SweepRefusal`, or `PostgresError`.
  @EventLoop
  func run(
    in session: GuardedSession, knowing memory: TableMemory, allowsRowSecurity: Bool, progress: String?,
    noting tally: RunTally
  ) async throws {
    do {
      let found = try await findWaits(in: session, knowing: memory, allowsRowSecurity)
      var alerts = QueueAlerts(progress)
      tally.count.waits = alerts.update(found)
      tally.count.progress = alerts.text
    } catch {
      // The table may have changed, so the next run surveys it again.
      memory.survey = nil
      throw error
    }
  }

  /// How often a run retries on a table that keeps changing.
  private static let surveyLimit = 3

  @EventLoop
  private func findWaits(
    in session: GuardedSession, knowing memory: TableMemory, _ allowsRowSecurity: Bool
  ) async throws -> [QueueWait] {
    for _ in 0..<Self.surveyLimit {
      let survey = try await session.survey(
        Self.table, key: "created_at", moments: Self.moments, event: .update, knownTo: memory)
      if let refusal = survey.refusal(allowsRowSecurity: allowsRowSecurity) { throw refusal }
      let answer = try await session.query(statement(on: survey))
      if answer[row: 0, column: 3] == "t" { return Self.waits(in: answer) }
      memory.survey = nil
    }
    throw SweepRefusal.changing(Self.table)
  }

  @EventLoop
  static func waits(in answer: PostgresResult) -> [QueueWait] {
    (0..<answer.rowCount).filter { answer[row: $0, column: 1] != nil }.map { row in
      let type = answer[row: row, column: 0]
      let (jobs, seconds) = (answer[row: row, column: 1], answer[row: row, column: 2])
      return QueueWait(
        jobType: jobType(type), jobs: jobs.flatMap { Int($0) } ?? 0,
        oldest: .seconds(seconds.flatMap { Int64($0) } ?? 0))
    }
  }

  /// A valid word unchanged; "other" for anything else, which no schema has. It becomes a label and part of a record.
  fileprivate static func jobType(_ text: String?) -> String {
    let isWord = text?.utf8.allSatisfy { (0x61...0x7a).contains($0) || $0 == 0x5f } ?? false
    guard let text, isWord, (1...32).contains(text.utf8.count) else { return "other" }
    return text
  }
}

/// The job types that a warning was sent for, as a pure struct. The schedule record keeps it for the next run.
struct QueueAlerts: Equatable, Sendable {
  private static let mark = "q:"

  private(set) var jobTypes: [String] = []

  /// Reads a record's text. Skips words that no run wrote: each would be notified and become a label.
  init(_ text: String? = nil) {
    guard let text, text.utf8.starts(with: Self.mark.utf8) else { return }
    for word in text.utf8.dropFirst(Self.mark.utf8.count).split(separator: UInt8(ascii: ",")) {
      let type = String(decoding: word, as: UTF8.self)
      guard QueueWatch.jobType(type) == type, !jobTypes.contains(type), jobTypes.count < QueueWatch.typeLimit else {
        continue
      }
      jobTypes.append(type)
    }
  }

  /// Never empty: an empty text leaves the record unchanged.
  var text: String { Self.mark + jobTypes.joined(separator: ",") }

  /// Marks waits that began, and adds those that have ended.
  mutating func update(_ found: [QueueWait]) -> [QueueWait] {
    var waits: [QueueWait] = []
    for wait in found where !waits.contains(where: { $0.jobType == wait.jobType }) {
      waits.append(jobTypes.contains(wait.jobType) ? wait : wait.with(.began))
    }
    let over = jobTypes.filter { type in !waits.contains { $0.jobType == type } }
    jobTypes = waits.map(\.jobType)
    return waits + over.map { QueueWait(jobType: $0, jobs: 0, oldest: .zero).with(.ended) }
  }
}
