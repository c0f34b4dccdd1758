// The sweeper queue-watch: warns while queued jobs wait for too long, which is what a fleet of agents that is away, too
// small or stuck looks like. It changes no rows.

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
      // Often enough that an alert is late by half of what it waits for at the most.
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
      help: "Warn when the oldest queued job of a type has waited for this long, and notify when none does any more.")
  }
}

/// Reads how long queued jobs have waited.
package struct QueueWatch: Sendable {
  static let table = "sync_jobs"
  /// What is read of it.
  static let columns = ["status", "job_type", "created_at"]
  /// The types of job that the schema knows.
  static let jobTypes = ["sync", "discover", "verify", "delete", "patch", "read"]
  /// The most types that are told apart: the schema has six.
  private static let typeLimit = 16

  let alertAfter: Duration

  /// Parameter: how long a job may wait, in µs. Answers the type, the number of jobs that have waited for longer, and
  /// for how many seconds the oldest has.
  static func look(at table: String) -> String {
    CatalogSQL.qualified(
      """
      SELECT job.job_type, count(*),
             (extract(epoch FROM (clock_timestamp() - min(greatest(job.created_at, 'epoch'::timestamptz)))))::bigint
        FROM \(table) AS job
       WHERE (job.status = 'queued')
         AND (job.created_at <= (SELECT (clock_timestamp() - ($1::float8 * '1 microsecond'::interval))))
       GROUP BY job.job_type ORDER BY job.job_type LIMIT \(typeLimit)
      """)
  }

  func statement(on table: TableSurvey) -> PostgresStatement {
    PostgresStatement(Self.look(at: table.quotedName), ["\(alertAfter.nanoseconds / 1_000)"])
  }

  /// Notes how long jobs have waited, and what of it is news.
  ///
  /// - Parameter progress: what the run before left.
  /// - Throws: `SweepRefusal`, or `PostgresError`.
  @EventLoop
  func run(
    in session: GuardedSession, knowing memory: TableMemory, allowsRowSecurity: Bool, progress: String?,
    noting tally: RunTally
  ) async throws {
    let survey = try await session.survey(Self.table, key: "created_at", event: .update, knownTo: memory)
    if let refusal = survey.refusal(allowsRowSecurity: allowsRowSecurity) { throw refusal }
    do {
      let found = Self.waits(in: try await session.query(statement(on: survey)))
      var alerts = QueueAlerts(progress)
      tally.count.waits = alerts.update(found)
      tally.count.progress = alerts.text
    } catch {
      // Perhaps the table is not what it was: the next run looks at it again.
      memory.survey = nil
      throw error
    }
  }

  @EventLoop
  static func waits(in answer: PostgresResult) -> [QueueWait] {
    (0..<answer.rowCount).map { row in
      let type = answer[row: row, column: 0]
      let (jobs, seconds) = (answer[row: row, column: 1], answer[row: row, column: 2])
      return QueueWait(
        jobType: jobType(type), jobs: jobs.flatMap { Int($0) } ?? 0,
        oldest: .seconds(seconds.flatMap { Int64($0) } ?? 0))
    }
  }

  /// A word as it is, and anything else, which no schema has, as "other": it becomes a label and part of a record.
  private static func jobType(_ text: String?) -> String {
    let isWord = text?.utf8.allSatisfy { (0x61...0x7a).contains($0) || $0 == 0x5f } ?? false
    guard let text, isWord, (1...32).contains(text.utf8.count) else { return "other" }
    return text
  }
}

/// Which types of job people have been warned of, as a pure struct. The schedule record keeps it for the next run.
struct QueueAlerts: Equatable, Sendable {
  private static let mark = "q:"

  private(set) var jobTypes: [String] = []

  init(_ text: String? = nil) {
    guard let text, text.hasPrefix(Self.mark) else { return }
    var word = ""
    for scalar in text.unicodeScalars.dropFirst(Self.mark.unicodeScalars.count) {
      if scalar != "," {
        word.unicodeScalars.append(scalar)
      } else {
        jobTypes.append(word)
        word = ""
      }
    }
    if !word.isEmpty { jobTypes.append(word) }
  }

  /// Not empty, for that would leave the record as it is.
  var text: String { Self.mark + jobTypes.joined(separator: ",") }

  /// Marks the waits that began, and adds those that are over.
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
