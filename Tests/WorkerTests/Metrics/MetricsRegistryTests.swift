// The metrics' values and their text in Prometheus' format.

import Coordination
import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@EventLoop func text(_ registry: MetricsRegistry) -> String {
  let bytes = [UInt8](unsafeUninitializedCapacity: registry.byteLimit) { buffer, count in
    count = registry.write(to: UnsafeMutableRawBufferPointer(buffer))
  }
  return String(decoding: bytes, as: UTF8.self)
}

@Suite struct MetricsRegistryTests {
  @Test func aCounterAndAGaugeAreShownWithTheirValues() async throws {
    try await onLoop {
      let registry = MetricsRegistry()
      let counter = registry.counter("runs_total", help: "Runs.", labels: ["task": "a", "outcome": "b"])
      let other = registry.counter("runs_total", help: "Runs.", labels: ["task": "c", "outcome": "b"])
      let gauge = registry.gauge("depth", help: "Depth.")
      counter.increment()
      counter.increment(by: 41)
      gauge.set(-0.25)
      #expect(
        text(registry) == """
          # HELP runs_total Runs.
          # TYPE runs_total counter
          runs_total{task="a",outcome="b"} 42
          runs_total{task="c",outcome="b"} 0
          # HELP depth Depth.
          # TYPE depth gauge
          depth -0.25

          """)
      #expect(counter.value == 42 && other.value == 0 && gauge.value == -0.25)
    }
  }

  @Test func theHelpOfRunsListsTheOutcomesThatThereAre() async throws {
    try await onLoop {
      let registry = MetricsRegistry()
      _ = TaskMetrics(task: "a", registry: registry)
      let line = try #require(
        text(registry).split(separator: "\n").first { $0.hasPrefix("# HELP worker_scheduler_runs_total ") })
      let list = try #require(line.firstMatch(of: /\((.*)\)/)).1
      #expect(list.split(separator: "|").map(String.init) == SlotOutcome.allCases.map(\.rawValue))
    }
  }

  @Test func aHistogramCountsUpToEachBoundAndSums() async throws {
    try await onLoop {
      let registry = MetricsRegistry()
      let histogram = registry.histogram("took_seconds", help: "Time.", labels: ["task": "a"], bounds: [0.005, 1, 2.5])
      for value in [0.005, 0.006, 1, 2, 100] { histogram.observe(value) }
      #expect(
        text(registry) == """
          # HELP took_seconds Time.
          # TYPE took_seconds histogram
          took_seconds_bucket{task="a",le="0.005"} 1
          took_seconds_bucket{task="a",le="1"} 3
          took_seconds_bucket{task="a",le="2.5"} 4
          took_seconds_bucket{task="a",le="+Inf"} 5
          took_seconds_sum{task="a"} 103.011
          took_seconds_count{task="a"} 5

          """)
      #expect(histogram.count == 5)
    }
  }

  @Test func labelValuesAndHelpAreEscaped() async throws {
    try await onLoop {
      let registry = MetricsRegistry()
      _ = registry.gauge("g", help: "a\\b\n\"c\"", labels: ["l": "a\\b\n\"c\"é"])
      #expect(text(registry).hasPrefix(#"# HELP g a\\b\n"c""# + "\n"))
      #expect(text(registry).hasSuffix(#"g{l="a\\b\n\"c\"é"} 0"# + "\n"))
    }
  }

  @Test func aCallbackIsReadAtEachRender() async throws {
    try await onLoop {
      let registry = MetricsRegistry()
      // From another registry: a metric read by its own callback is never removed.
      let counter = MetricsRegistry().counter("c_total", help: "C.")
      registry.gauge("g", help: "G.") { Double(counter.value) * 2 }
      counter.increment()
      #expect(text(registry).contains("\ng 2\n"))
      counter.increment()
      #expect(text(registry).contains("\ng 4\n"))
    }
  }

  @Test func aMetricThatComesLaterIsShownToo() async throws {
    try await onLoop {
      let registry = MetricsRegistry()
      #expect(text(registry).isEmpty)
      let first = registry.counter("a_total", help: "A.")
      first.increment()
      _ = text(registry)
      _ = registry.counter("b_total", help: "B.")
      #expect(text(registry).contains("a_total 1\n"))
      #expect(text(registry).contains("b_total 0\n"))
    }
  }

  @Test func everyNumberComesBackAsItWas() async throws {
    try await onLoop {
      let registry = MetricsRegistry()
      let gauge = registry.gauge("g", help: "G.")
      let counter = registry.counter("c_total", help: "C.")
      for value in [
        0, -0.0, 1, -1, 0.1, 1e-9, 123456.789, 1e15, 1e16, 1e300, -1e300, .pi, .leastNonzeroMagnitude,
        .greatestFiniteMagnitude, 999_999_999_999_999, 9_007_199_254_740_992,
      ] {
        gauge.set(value)
        let shown = text(registry).split(separator: "\n").first { $0.hasPrefix("g ") }
        #expect(Double(shown?.dropFirst(2) ?? "") == value)
      }
      for (value, name) in [(Double.infinity, "+Inf"), (-.infinity, "-Inf"), (.nan, "NaN")] {
        gauge.set(value)
        #expect(text(registry).contains("\ng \(name)\n"))
      }
      counter.increment(by: .max)
      #expect(text(registry).contains("c_total 18446744073709551615\n"))
    }
  }

  @Test func theLimitHoldsTheLongestValues() async throws {
    try await onLoop {
      let registry = MetricsRegistry()
      let counters = (0..<100).map { registry.counter("c\($0)_total", help: "C.") }
      let gauges = (0..<100).map { registry.gauge("g\($0)", help: "G.") }
      for counter in counters { counter.increment(by: .max) }
      for gauge in gauges { gauge.set(-2.2250738585072014e-308) }
      let limit = registry.byteLimit
      #expect(text(registry).utf8.count <= limit)
    }
  }
}

@Suite struct WorkerMetricsTests {
  private static let tasks = ["wraps-expired", "secrets-stale", "agents-stale", "jobs-recovery", "discover-scheduler"]

  @EventLoop private static func registry() -> (MetricsRegistry, [TaskMetrics]) {
    let registry = MetricsRegistry()
    let metrics = tasks.map { TaskMetrics(task: $0, registry: registry) }
    ProcessMetrics(clock: .system).register(in: registry, namespace: #"a"b\c"#)
    ProcessMetrics.registerLoop(in: registry)
    return (registry, metrics)
  }

  @Test func everySeriesOfEveryTaskExistsFromTheStart() async throws {
    try await onLoop {
      let shown = text(Self.registry().0)
      for task in Self.tasks {
        for outcome in ["success", "failure", "skipped_lock", "paused"] {
          #expect(shown.contains("worker_scheduler_runs_total{task=\"\(task)\",outcome=\"\(outcome)\"} 0\n"))
        }
        #expect(shown.contains("worker_scheduler_lock_skipped_total{task=\"\(task)\"} 0\n"))
        for bound in ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf"] {
          #expect(
            shown.contains("worker_scheduler_run_duration_seconds_bucket{task=\"\(task)\",le=\"\(bound)\"} 0\n"))
        }
      }
    }
  }

  @Test func theOldestDueRowIsShownByTheReplicaThatRanLast() async throws {
    try await onLoop {
      let (registry, metrics) = Self.registry()
      @EventLoop func shows(_ value: String) -> Bool {
        text(registry).contains("worker_sweep_oldest_due_seconds{task=\"agents-stale\"} \(value)\n")
      }
      var count = SweepCount(changed: 3)
      count.cutoffMicroseconds = 10_000_000
      count.noteOldestDue(7_500_000)
      count.noteOldestDue(8_000_000)
      count.noteOldestDue(nil)
      #expect(shows("0"))
      metrics[2].record(count)
      metrics[2].record(.success)
      #expect(shows("2.5"))
      metrics[2].record(SweepCount())
      metrics[2].record(.failure)
      #expect(shows("2.5"))
      metrics[2].record(.skippedLock)
      #expect(shows("0"))
    }
  }

  @Test func aSlotIsCountedOnce() async throws {
    try await onLoop {
      let (registry, metrics) = Self.registry()
      metrics[0].record(.success)
      metrics[0].observe(.milliseconds(30))
      metrics[0].record(.failure)
      metrics[0].observe(.seconds(3))
      metrics[0].record(.skippedLock)
      metrics[0].record(.paused)
      for outcome in SlotOutcome.allCases { #expect(metrics[0].count(outcome) == 1) }
      let shown = text(registry)
      #expect(shown.contains("worker_scheduler_lock_skipped_total{task=\"wraps-expired\"} 1\n"))
      #expect(shown.contains("worker_scheduler_run_duration_seconds_count{task=\"wraps-expired\"} 2\n"))
      #expect(shown.contains("worker_scheduler_run_duration_seconds_sum{task=\"wraps-expired\"} 3.03\n"))
    }
  }

  @Test func theHostIsAskedOnceASecondAtMost() async throws {
    try await onLoop {
      let clock = LoopClock.manual()
      let asked = Asked()
      let registry = MetricsRegistry()
      ProcessMetrics(clock: clock) {
        asked.count += 1
        return ProcessStatistics()
      }.register(in: registry, namespace: "a")
      for _ in 0..<10 { _ = text(registry) }
      #expect(asked.count == 1)
      clock.advance(by: .seconds(1))
      _ = text(registry)
      #expect(asked.count == 2)
    }
  }

  @EventLoop private final class Asked {
    var count = 0
  }

  @Test func everyLineIsReadBack() async throws {
    let shown = try await onLoop { text(Self.registry().0) }
    #expect(shown.hasSuffix("\n"))
    let sample = /[a-z_]+(\{[a-z]+="([^"\\]|\\.)*"(,[a-z]+="([^"\\]|\\.)*")*\})? [-+0-9.einfNa]+/
    #expect(shown.contains(#"namespace="a\"b\\c""#))
    var seen: Set<Substring> = []
    for line in shown.split(separator: "\n") where !line.hasPrefix("# ") {
      #expect(line.wholeMatch(of: sample) != nil, "\(line)")
      #expect(seen.insert(line[..<line.lastIndex(of: " ")!]).inserted, "\(line) is there twice")
    }
    for name in [
      "worker_build_info", "process_cpu_seconds_total", "process_open_fds", "process_max_fds",
      "process_virtual_memory_bytes", "process_virtual_memory_max_bytes", "process_resident_memory_bytes",
      "process_start_time_seconds",
    ] {
      #expect(shown.contains("\n# TYPE \(name) "))
    }
  }

  @Test(.enabled(if: Promtool.isThere, "promtool is not there; scripts/test fetches it"))
  func promtoolFindsNothing() async throws {
    let shown = try await onLoop { text(Self.registry().0) }
    #expect(try await Promtool.findings(in: shown) == "")
  }
}
