// The sweepers' own settings: intervals, cutoff ages, and what jobs-recovery and discovery are told.
// Each belongs to one sweeper and moves into that sweeper's file. Read through Settings.

/// What jobs-recovery does with a job whose agent's claim has run out. Agents claim queued jobs and claimed ones whose
/// claim has run out, never expired ones.
enum JobsRecoveryAction: String, CaseIterable, Sendable {
  /// Takes it out of the queue for good: agents claim no expired job.
  case expire
  /// Puts it back into the queue.
  case requeue
}

extension Setting where Value == Duration {
  static var wrapsExpiredInterval: Setting {
    .duration(
      "SB_WORKER_WRAPS_EXPIRED_INTERVAL", default: .seconds(60), help: "How often expired wraps are purged.")
  }

  static var wrapsFullSweep: Setting {
    .duration(
      "SB_WORKER_WRAPS_FULL_SWEEP", default: .seconds(900),
      help: """
        How long after its expiry a consumed wrap is gone at the latest where the table is large: no index leads to \
        it, so the table is read whole that often.
        """)
  }

  static var secretsStaleInterval: Setting {
    .duration(
      "SB_WORKER_SECRETS_STALE_INTERVAL", default: .seconds(300), help: "How often stale secrets are looked for.")
  }

  static var secretsStaleAfter: Setting {
    .duration(
      "SB_WORKER_SECRETS_STALE_AFTER", default: .seconds(24 * 3_600),
      help: "A secret that no discovery saw for this long is marked missing.")
  }

  static var agentsStaleInterval: Setting {
    .duration(
      "SB_WORKER_AGENTS_STALE_INTERVAL", default: .seconds(60), help: "How often silent agents are looked for.")
  }

  static var agentsStaleAfter: Setting {
    .duration(
      "SB_WORKER_AGENTS_STALE_AFTER", default: .seconds(300),
      help: "An agent without a heartbeat for this long is flagged stale.")
  }

  static var jobsRecoveryInterval: Setting {
    .duration(
      "SB_WORKER_JOBS_RECOVERY_INTERVAL", default: .seconds(30), help: "How often stuck jobs are looked for.")
  }

  static var jobsRecoveryGrace: Setting {
    .duration(
      "SB_WORKER_JOBS_RECOVERY_GRACE", default: .zero, in: zeroOrMore,
      help: "How long after a claim's expiry a job is left to the agents, which may claim it again.")
  }

  static var discoverInterval: Setting {
    .duration(
      "SB_WORKER_DISCOVER_INTERVAL", default: .seconds(3_600), help: "How often discovery is enqueued for each target.")
  }
}

extension Setting where Value == JobsRecoveryAction {
  static var jobsRecoveryAction: Setting {
    .choice(
      "SB_WORKER_JOBS_RECOVERY_ACTION", default: .expire,
      help: "What becomes of a stuck job: expire takes it out of the queue for good, requeue puts it back.")
  }
}

extension Setting where Value == DiscoverTargets {
  static var discoverTargets: Setting {
    Setting(
      name: "SB_DISCOVER_TARGETS_JSON", kind: "JSON array", absence: .value(DiscoverTargets()),
      help: """
        Where discovery looks: [{"name", "cluster", "provider_type", "provider_config", "scope"}, …]; \
        the last two are optional objects. Unset: the discover scheduler is off.
        """,
      // A provider's configuration should hold no credential; where one does, it is not for the log.
      isSecret: true, read: DiscoverTargets.read)
  }
}

extension Setting where Value == Bool {
  static var discoverPileUp: Setting {
    .boolean(
      "SB_WORKER_DISCOVER_PILE_UP", default: false,
      help: "Whether a target gets another discover job while an equal one is still queued, its agent being away.")
  }
}

extension SettingRow {
  /// The sweepers' settings, in the order in which they are shown.
  static let sweepers: [SettingRow] = [
    Setting.wrapsExpiredInterval.row, Setting.wrapsFullSweep.row, Setting.secretsStaleInterval.row,
    Setting.secretsStaleAfter.row,
    Setting.agentsStaleInterval.row, Setting.agentsStaleAfter.row, Setting.jobsRecoveryInterval.row,
    Setting.jobsRecoveryAction.row, Setting.jobsRecoveryGrace.row, Setting.discoverInterval.row,
    Setting.discoverTargets.row, Setting.discoverPileUp.row,
  ]
}
