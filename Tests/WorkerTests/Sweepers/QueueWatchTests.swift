// The sweeper queue-watch: which jobs it warns about, when, and what operators see.

import Coordination
import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite(.serialized) struct QueueWatchTests {
  private static let on = ["SB_WORKER_QUEUE_ALERT_AFTER": "10m"]

  @Test(arguments: DevelopmentSchema.allCases)
  func itSeesWhatHasWaitedForTooLongByTypeAndChangesNothing(migration: DevelopmentSchema) async throws {
    let plane = try await ControlPlane.fresh(at: migration)
    try await plane.sql(
      """
      INSERT INTO sync_jobs (job_type, correlation_id, status, created_at) VALUES
        ('sync', gen_random_uuid(), 'queued', now() - interval '2 hours'),
        ('sync', gen_random_uuid(), 'queued', now() - interval '10 minutes'),
        ('sync', gen_random_uuid(), 'queued', now() - interval '9 minutes'),
        ('read', gen_random_uuid(), 'queued', '-infinity'),
        ('patch', gen_random_uuid(), 'queued', now() - interval '9 minutes'),
        ('verify', gen_random_uuid(), 'claimed', now() - interval '2 hours'),
        ('delete', gen_random_uuid(), 'failed', now() - interval '2 hours')
      """)
    let before = try await plane.sql("SELECT md5(string_agg(j::text, ',' ORDER BY id)) FROM sync_jobs AS j")
    let sweeper = Sweeper.queueWatch(try plane.settings(Self.on))
    let count = try await onLoop { try await plane.sweep(sweeper) }
    #expect(count.waits.map(\.jobType) == ["read", "sync"] && count.waits.map(\.jobs) == [1, 2])
    #expect(count.waits.allSatisfy { $0.change == .began } && count.found == 3 && count.changed == 0)
    #expect((7_200...7_260).contains(count.waits[1].oldest.components.seconds))
    #expect(try await plane.sql("SELECT md5(string_agg(j::text, ',' ORDER BY id)) FROM sync_jobs AS j") == before)
    // The next run, even another replica's, knows what was already notified.
    try await plane.sql("UPDATE sync_jobs SET status = 'claimed' WHERE job_type = 'read'")
    let next = try await onLoop { try await plane.sweep(sweeper, progress: count.progress) }
    #expect(next.waits.map(\.jobType) == ["sync", "read"] && next.waits.map(\.change) == [.none, .ended])
    let last = try await onLoop { try await plane.sweep(sweeper, progress: next.progress) }
    #expect(last.waits.map(\.change) == [.none])
  }

  @Test func anAlertAndItsEndAreReportedOnceWhateverIsInTheRecord() {
    func wait(_ type: String) -> QueueWait { QueueWait(jobType: type, jobs: 1, oldest: .seconds(9)) }
    var alerts = QueueAlerts("l3 1:2:3")
    #expect(alerts == QueueAlerts() && QueueAlerts("q:") == QueueAlerts())
    #expect(
      alerts.update([wait("sync"), wait("other"), wait("other")]) == [
        wait("sync").with(.began), wait("other").with(.began),
      ])
    #expect(alerts.text == "q:sync,other" && QueueAlerts(alerts.text) == alerts)
    #expect(
      alerts.update([wait("sync")]) == [wait("sync"), QueueWait(jobType: "other", jobs: 0, oldest: .zero).with(.ended)])
    #expect(alerts.update([]).map(\.change) == [.ended])
    #expect(alerts.update([]).isEmpty && alerts.text == "q:")
    let long = String(repeating: "a", count: 33)
    #expect(QueueAlerts("q:sync,sync,Not a type,\(long),,read,").jobTypes == ["sync", "read"])
  }

  @Test func anAlertAndItsEndAreNotifiedAndTheGaugeFollows() async throws {
    let stage = try await WorkerStage.set()
    try await stage.plane.sql(
      """
      INSERT INTO sync_jobs (job_type, correlation_id, created_at)
      VALUES ('patch', gen_random_uuid(), now() - interval '1 hour')
      """)
    let gauge = #"worker_queue_oldest_seconds{job_type="patch"}"#
    let worker = try await stage.start(["SB_WORKER_QUEUE_ALERT_AFTER": "1s"])
    func reported(_ title: String) -> Int { worker.log.count { $0["title"] == title } }
    try await onLoop {
      try await eventually("the gauge shows it", within: .seconds(20)) { try await worker.metric(gauge) ?? 0 >= 3_600 }
      #expect(try await worker.metric(#"worker_queue_oldest_seconds{job_type="sync"}"#) == 0)
      try await stage.plane.sql("UPDATE sync_jobs SET status = 'claimed'")
      try await eventually("it is over", within: .seconds(20)) { try await worker.metric(gauge) == 0 }
      try await eventually("its end is told", within: .seconds(20)) {
        reported("queued jobs no longer wait for too long") == 1
      }
    }
    #expect(reported("queued jobs wait for too long") == 1)
    let warning = try #require(worker.log.first { $0["title"] == "queued jobs wait for too long" })
    #expect(warning["component"] == "queue-watch/patch" && warning["level"] == "WARN", "\(warning.text)")
    #expect(warning["detail"]?.hasPrefix("job_type=patch: the oldest has waited for 1h") == true, "\(warning.text)")
    worker.signal(SIGTERM)
    try await worker.waitForExit(within: .seconds(20))
  }

  @Test func aSinkThatGotNoWarningGetsNoEndOfIt() {
    var event = Event(
      id: "", kind: .recovery, time: WallClockTime(seconds: 0, nanoseconds: 0), severity: .info, component: "c",
      title: "t")
    let sink = SeveritySink(minSeverity: .error)
    #expect(sink.accepts(event))
    event.endedSeverity = .warn
    #expect(!sink.accepts(event) && SeveritySink(minSeverity: .warn).accepts(event))
  }

  private struct SeveritySink: Sink {
    let name = "test"
    let minSeverity: Event.Severity

    func request(for event: Event, at time: WallClockTime) -> TransferRequest {
      .json(JSONWriter(), to: "http://127.0.0.1")
    }
  }
}
