// Prometheus's standard metrics of the process, the build's, and the loop's. Read when they are rendered.
// Invariant: the host is queried at most once a second, however often /metrics is.

import Reactor

/// The resource usage of the process, up to a second old.
@EventLoop
final class ProcessMetrics {
  /// The maximum age of the figures.
  private static let freshness: Duration = .seconds(1)

  private let clock: LoopClock
  private let read: @EventLoop () -> ProcessStatistics
  private var statistics = ProcessStatistics()
  private var readAt: MonotonicInstant?

  init(clock: LoopClock, read: @escaping @EventLoop () -> ProcessStatistics = { .current }) {
    self.clock = clock
    self.read = read
  }

  private var current: ProcessStatistics {
    let now = clock.now
    if let readAt, readAt.duration(to: now) < Self.freshness { return statistics }
    readAt = now
    statistics = read()
    return statistics
  }

  /// Adds the process_* metrics and worker_build_info.
  ///
  /// - Parameter namespace: the prefix of the control plane's keys in Redis. Replicas with different ones do not
  ///   exclude each other.
  func register(in registry: MetricsRegistry, namespace: String) {
    registry.gauge(
      "worker_build_info", help: "A constant 1, labelled by the build.",
      labels: [
        "version": Version.number, "swift": Version.swift, "build": Version.configuration, "namespace": namespace,
      ]
    ).set(1)
    registry.counter("process_cpu_seconds_total", help: "Total user and system CPU time spent in seconds.") {
      self.current.cpuSeconds
    }
    registry.gauge("process_open_fds", help: "Number of open file descriptors.") {
      Double(self.current.openDescriptors)
    }
    registry.gauge("process_max_fds", help: "Maximum number of open file descriptors.") {
      Double(self.current.maximalDescriptors)
    }
    registry.gauge("process_virtual_memory_bytes", help: "Virtual memory size in bytes.") {
      Double(self.current.virtualBytes)
    }
    registry.gauge(
      "process_virtual_memory_max_bytes", help: "Maximum amount of virtual memory available in bytes."
    ) { Double(self.current.maximalVirtualBytes) }
    registry.gauge("process_resident_memory_bytes", help: "Resident memory size in bytes.") {
      Double(self.current.residentBytes)
    }
    registry.gauge("process_start_time_seconds", help: "Start time of the process since unix epoch in seconds.") {
      self.current.startSeconds
    }
  }

  /// Adds the event loop's metrics.
  static func registerLoop(in registry: MetricsRegistry) {
    registry.counter("worker_loop_turns_total", help: "Iterations of the event loop.") {
      Double(EventLoop.statistics.turns)
    }
    registry.counter("worker_loop_busy_seconds_total", help: "Time the event loop spent running handlers, in seconds.")
    {
      EventLoop.statistics.busy.seconds
    }
    registry.gauge("worker_loop_lag_seconds", help: "Longest wait of an event in the last iteration, in seconds.") {
      EventLoop.statistics.lastTurn.seconds
    }
    registry.gauge(
      "worker_loop_longest_lag_seconds", help: "Longest wait of an event since the process started, in seconds."
    ) {
      EventLoop.statistics.longestTurn.seconds
    }
  }
}
