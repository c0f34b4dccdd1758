// The sweeper jobs-recovery: gives up a job whose claim has run out, or requeues it up to the attempt limit. Skips a
// claim without an expiry.

import Reactor

extension SweeperDeclaration {
  static let jobsRecovery = SweeperDeclaration(
    interval: .jobsRecoveryInterval,
    settings: [
      Setting.jobsRecoveryAction.row, Setting.jobsRecoveryMaxAttempts.row, Setting.jobsRecoveryGrace.row,
    ],
    sweeper: Sweeper.jobsRecovery)
}

extension Sweeper {
  static func jobsRecovery(_ settings: Settings) -> Sweeper {
    let requeues = settings[.jobsRecoveryAction] == .requeue
    let limit = requeues ? settings[.jobsRecoveryMaxAttempts] : nil
    // The branch that is never taken gives the constants the column's type, which may be an enum.
    let status =
      limit == nil ? "'queued'" : "CASE WHEN false THEN target.status WHEN :exhausted THEN 'failed' ELSE 'queued' END"
    return Sweeper(
      name: "jobs-recovery",
      summary: "Expires jobs whose claim ran out, or puts them back in the queue.",
      interval: settings[.jobsRecoveryInterval],
      work: .rows(
        RowSweep(
          table: "sync_jobs",
          change: .update(
            set: requeues
              ? "status = \(status), claimed_by = NULL, claim_expires_at = NULL"
              : "status = 'expired'"),
          due: "status = 'claimed' AND claim_expires_at < :cutoff",
          key: "claim_expires_at",
          age: settings[.jobsRecoveryGrace],
          // The schema has no column for attempts.
          attemptLimit: limit.map { .init(count: $0, comesBack: "(status = 'queued') OR (status = 'claimed')") })),
      report: Report(
        severity: .warn, title: requeues ? "stuck jobs requeued" : "stuck jobs marked expired", countName: "flipped",
        detail: "the claim's expiry (claim_expires_at) has passed: the agent has likely crashed in mid-execution",
        exhausted: limit.map { count in
          .init(
            title: "stuck jobs failed (requeued too often)", countName: "failed",
            detail: "requeued \(count) time\(count == 1 ? "" : "s"), and the claim's expiry has passed again")
        },
        failureTitle: "recover stuck jobs failed"))
  }
}

extension Setting where Value == Duration? {
  static var jobsRecoveryInterval: Setting {
    .interval(
      "SB_WORKER_JOBS_RECOVERY_INTERVAL", default: .seconds(30), help: "Interval between searches for stuck jobs.")
  }
}

extension Setting where Value == Duration {
  static var jobsRecoveryGrace: Setting {
    .duration(
      "SB_WORKER_JOBS_RECOVERY_GRACE", default: .zero, in: zeroOrMore,
      help: "How long after its claim has expired a job is recovered.")
  }
}

extension Setting where Value == Int? {
  /// How often a job is requeued; nil for no limit.
  static var jobsRecoveryMaxAttempts: Setting {
    var setting = Setting.orOff(
      .integer(
        "SB_WORKER_JOBS_RECOVERY_MAX_ATTEMPTS", default: 1, in: 1...1_000,
        help: "How often a stuck job is requeued before it is marked failed. Only with requeue."),
      absent: "off")
    setting.requiredValue = RequiredValue(
      name: Setting<JobsRecoveryAction>.jobsRecoveryAction.name, text: JobsRecoveryAction.requeue.rawValue)
    return setting
  }
}

/// What jobs-recovery does with a job whose claim has run out. Agents claim queued jobs, and claimed ones whose claim
/// has run out, but never expired ones.
enum JobsRecoveryAction: String, CaseIterable, Sendable {
  /// Takes it out of the queue for good.
  case expire
  /// Puts it back into the queue.
  case requeue
}

extension Setting where Value == JobsRecoveryAction {
  static var jobsRecoveryAction: Setting {
    .choice(
      "SB_WORKER_JOBS_RECOVERY_ACTION", default: .expire,
      help: "Action for stuck jobs: expire (take them out of the queue for good) or requeue.")
  }
}
