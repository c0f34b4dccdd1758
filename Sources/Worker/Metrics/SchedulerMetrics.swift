// The scheduler's metrics. Invariant: every series of every task exists from the start, and one call counts one run.
// Updated by the scheduler; names, labels and buckets are those of the existing worker.

import Coordination
import Reactor

/// The metrics of one task's runs.
@EventLoop
struct TaskMetrics {
  /// Upper bounds of the duration's buckets, in seconds.
  static let durationBounds = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]

  private let runs: [SlotOutcome: Counter]
  private let duration: Histogram
  private let skippedLocks: Counter
  private let leftRows: Counter
  private let rows: [RowResult: Counter]
  private let lastSuccess: Gauge
  private let nextDue: Gauge
  private let oldestDue: Gauge
  private let enabled: Gauge
  private let interval: Gauge
  /// Where the task watches the queue.
  let queue: QueueMetrics?
  private let paused: Gauge

  /// What became of a due row.
  enum RowResult: String, CaseIterable {
    case found, changed, skipped, refused
  }

  /// - Parameters:
  ///   - interval: between two slots; zero for a sweeper that is not attended.
  ///   - enabled: of a sweeper that was off until now.
  init(
    task: String, every interval: Duration = .zero, watchesQueue: Bool = false, enabled: Gauge? = nil,
    registry: MetricsRegistry
  ) {
    queue = watchesQueue ? QueueMetrics(registry: registry) : nil
    var runs: [SlotOutcome: Counter] = [:]
    for outcome in SlotOutcome.allCases {
      runs[outcome] = registry.counter(
        "worker_scheduler_runs_total",
        help: "Number of scheduled task runs, labelled by outcome (success|failure|skipped_lock|paused).",
        labels: ["task": task, "outcome": outcome.rawValue])
    }
    self.runs = runs
    duration = registry.histogram(
      "worker_scheduler_run_duration_seconds", help: "Wall-clock duration of scheduled task runs.",
      labels: ["task": task], bounds: Self.durationBounds)
    skippedLocks = registry.counter(
      "worker_scheduler_lock_skipped_total", help: "Number of ticks where the lock was held by another replica.",
      labels: ["task": task])
    leftRows = registry.counter(
      "worker_sweep_skipped_total",
      help: """
        Due items skipped: rows locked by another session, targets whose identical job is still queued, connections \
        whose lock is held.
        """,
      labels: ["task": task])
    rows = Dictionary(
      uniqueKeysWithValues: RowResult.allCases.map { result in
        let counter = registry.counter(
          "worker_sweep_rows_total", help: "Rows that this replica's runs found due, and what became of them.",
          labels: ["task": task, "result": result.rawValue])
        return (result, counter)
      })
    lastSuccess = registry.gauge(
      "worker_sweep_last_success_timestamp_seconds",
      help: "When a run of any replica last succeeded, in seconds since 1970; 0 if none has.", labels: ["task": task])
    nextDue = registry.gauge(
      "worker_sweep_next_due_timestamp_seconds",
      help: "When the next run is due, in seconds since 1970; 0 if unknown.", labels: ["task": task])
    oldestDue = registry.gauge(
      "worker_sweep_oldest_due_seconds",
      help: """
        How long the oldest due row had been due, at least, when the last run began, on the replica that ran it; 0 on \
        the others, if no row was due, or if no index on when it became due tells.
        """,
      labels: ["task": task])
    paused = registry.gauge(
      "worker_sweeper_paused", help: "1 while an operator has paused the sweeper, else 0.", labels: ["task": task])
    self.interval = registry.gauge(
      "worker_sweep_interval_seconds", help: "Interval between two runs by this replica's settings, in seconds.",
      labels: ["task": task])
    self.interval.set(interval.seconds)
    self.enabled = enabled ?? Self.enabled(task: task, registry: registry)
    self.enabled.set(1)
  }

  /// Records another interval; nil where the settings turn the sweeper off.
  func changed(to interval: Duration?) {
    self.interval.set((interval ?? .zero).seconds)
  }

  /// Records that the settings have turned the sweeper on or off.
  func turned(on isOn: Bool, isPaused: Bool) {
    setEnabled(isOn)
    setPaused(isPaused)
    guard !isOn else { return }
    nextDue.set(0)
    forgetLastRun()
  }

  /// Whether a sweeper is on: registered alone for one that the settings turn off.
  @discardableResult
  static func enabled(task: String, registry: MetricsRegistry) -> Gauge {
    registry.gauge(
      "worker_sweeper_enabled",
      help: "Whether the sweeper is on: 0 if the settings turn it off or the schema lacks what it requires.",
      labels: ["task": task])
  }

  /// Records whether the schema has what the sweeper requires.
  func setEnabled(_ isEnabled: Bool) {
    enabled.set(isEnabled ? 1 : 0)
  }

  /// Records whether the sweeper is paused.
  func setPaused(_ isPaused: Bool) {
    paused.set(isPaused ? 1 : 0)
  }

  /// Counts an attended slot, or a retry within one.
  func record(_ outcome: SlotOutcome) {
    runs[outcome]?.increment()
    guard outcome == .skippedLock else { return }
    skippedLocks.increment()
    forgetLastRun()
  }

  /// Another replica has run since, or a check found that nothing was due.
  func forgetLastRun() {
    oldestDue.set(0)
    queue?.set([])
  }

  /// Records the duration of a run that held the lock.
  func observe(_ duration: Duration) {
    self.duration.observe(duration.seconds)
  }

  /// Records what a run found and changed.
  func record(_ count: SweepCount) {
    leftRows.increment(by: UInt64(count.skipped))
    rows[.found]?.increment(by: UInt64(count.found))
    rows[.changed]?.increment(by: UInt64(count.changed))
    rows[.skipped]?.increment(by: UInt64(count.skipped))
    rows[.refused]?.increment(by: UInt64(count.refused))
    // A run that failed before its first answer says nothing.
    if count.cutoffMicroseconds != nil { oldestDue.set(count.oldestDue.seconds) }
  }

  /// Records when a run last succeeded, in ms since 1970.
  func succeeded(at milliseconds: Int64) {
    lastSuccess.set(Double(milliseconds) / 1_000)
  }

  /// Records when the next run is due, in ms since 1970.
  func setNextDue(_ milliseconds: Int64) {
    nextDue.set(Double(milliseconds) / 1_000)
  }

  func count(_ outcome: SlotOutcome) -> UInt64 {
    runs[outcome]?.value ?? 0
  }
}
