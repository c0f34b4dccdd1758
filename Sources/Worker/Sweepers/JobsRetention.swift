// The sweeper jobs-retention: deletes jobs that finished long ago, except those that a request refers to.

import Reactor

extension SweeperDeclaration {
  static let jobsRetention = SweeperDeclaration(interval: .retainJobs, sweeper: Sweeper.jobsRetention)
}

extension Sweeper {
  /// A job ends when it becomes succeeded, failed or expired. Nothing changes it after that, so updated_at is its end.
  static func jobsRetention(_ settings: Settings) -> Sweeper {
    .retention(
      "jobs-retention", of: "finished jobs", in: "sync_jobs", retained: settings[.retainJobs],
      ended: "(status = 'succeeded' OR status = 'failed' OR status = 'expired') AND updated_at <= :cutoff",
      key: "updated_at")
  }
}

extension Setting where Value == Duration? {
  static var retainJobs: Setting {
    .retention("SB_WORKER_RETAIN_JOBS", of: "finished jobs", note: " Jobs that a request refers to stay.")
  }
}
