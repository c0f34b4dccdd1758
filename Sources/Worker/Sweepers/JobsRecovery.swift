// The sweeper jobs-recovery: a job whose claim ran out is given up, or put back in the queue. A claim without expiry
// is left alone.

import Reactor

extension Sweeper {
  static func jobsRecovery(_ settings: Settings) -> Sweeper {
    let requeues = settings[.jobsRecoveryAction] == .requeue
    return Sweeper(
      name: "jobs-recovery",
      summary: "Expires jobs whose claim ran out, or puts them back in the queue.",
      interval: settings[.jobsRecoveryInterval],
      work: .rows(
        RowSweep(
          table: "sync_jobs",
          change: .update(
            set: requeues
              ? "status = 'queued', claimed_by = NULL, claim_expires_at = NULL"
              : "status = 'expired'"),
          due: "status = 'claimed' AND claim_expires_at < :cutoff",
          age: settings[.jobsRecoveryGrace])),
      report: Report(
        severity: .warn, title: requeues ? "stuck jobs requeued" : "stuck jobs marked expired", countName: "flipped",
        failureTitle: "recover stuck jobs failed"))
  }
}
