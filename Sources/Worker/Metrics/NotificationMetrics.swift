// Metrics of notifications. Invariant: every series of every sink exists from the start. Updated by SinkDelivery.

import Reactor

/// The metrics of one sink.
@EventLoop
struct NotificationMetrics {
  /// The outcome of an event, or of an attempt to send it.
  enum Outcome: String, CaseIterable {
    case delivered
    /// A failed attempt that will be repeated.
    case retried
    /// Given up: the queue was full, an hour had passed, or the process ended.
    case dropped
    /// The sink's server refused it permanently.
    case rejected
  }

  /// Upper bounds of the buckets, in seconds: from one request to the hour after which an event is given up.
  static let deliveryBounds: [Double] = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3_600]

  private let outcomes: [Outcome: Counter]
  private let delivery: Histogram

  init(sink: String, registry: MetricsRegistry, queueLength: @escaping @EventLoop () -> Int) {
    var outcomes: [Outcome: Counter] = [:]
    for outcome in Outcome.allCases {
      outcomes[outcome] = registry.counter(
        "worker_notifications_total",
        help: "Notifications by sink and outcome; each failed attempt that is repeated counts as retried.",
        labels: ["sink": sink, "outcome": outcome.rawValue])
    }
    self.outcomes = outcomes
    registry.gauge(
      "worker_notification_queue_length", help: "Notifications waiting for delivery.", labels: ["sink": sink]
    ) { Double(queueLength()) }
    delivery = registry.histogram(
      "worker_notification_delivery_seconds", help: "Time from an event to its delivery, in seconds.",
      labels: ["sink": sink],
      bounds: Self.deliveryBounds)
  }

  func count(_ outcome: Outcome, _ times: Int = 1) {
    outcomes[outcome]?.increment(by: UInt64(times))
  }

  func delivered(after delay: Duration) {
    count(.delivered)
    delivery.observe(delay.seconds)
  }
}
