// The sweepers that a worker has, in one list. A new one is its file and a line here.

/// The sweepers of this worker.
enum Sweepers {
  static func all(_ settings: Settings) -> [Sweeper] {
    [
      .wrapsExpired(settings),
      .secretsStale(settings),
      .agentsStale(settings),
      .jobsRecovery(settings),
      .discoverScheduler(settings),
    ].compactMap { $0 }
  }
}
