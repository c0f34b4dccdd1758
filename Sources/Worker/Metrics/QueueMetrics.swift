// The metrics of the job queue. Invariant: of all replicas the one that looked last shows what it saw, the others 0.
// Updated by the scheduler.

import Coordination
import Reactor

/// How long the oldest queued job of each type has waited.
@EventLoop
struct QueueMetrics {
  private static let other = "other"

  private let oldest: [String: Gauge]

  init(registry: MetricsRegistry) {
    var oldest: [String: Gauge] = [:]
    for type in QueueWatch.jobTypes + [Self.other] {
      oldest[type] = registry.gauge(
        "worker_queue_oldest_seconds",
        help: "Age of the oldest queued job of a type in seconds; 0 below SB_WORKER_QUEUE_ALERT_AFTER.",
        labels: ["job_type": type])
    }
    self.oldest = oldest
  }

  func set(_ waits: [QueueWait]) {
    for gauge in oldest.values { gauge.set(0) }
    for wait in waits {
      let gauge = oldest[wait.jobType] ?? oldest[Self.other]
      gauge?.set(max(gauge?.value ?? 0, wait.oldest.seconds))
    }
  }
}
