// The sink that always exists: an event as a log line.

import Foundation
import Logging
import Reactor
import Synchronization
import TestSupport
import Testing

@testable import Worker

@Suite struct LogSinkTests {
  @Test func anEventIsLoggedWithItsCountsAsNumbers() async throws {
    let written = Written()
    try await onLoop {
      let sink = LogSink(Logger.worker(output: LogOutput(.system) { bytes, _ in written.append(bytes) }))
      sink.accept(
        Event(
          id: "id", time: LoopClock.system.wallTime, severity: .warn, component: "agents-stale",
          title: "agents flagged stale",
          detail: "cutoff=now",
          metadata: [Event.Count("flipped", 3)]))
    }
    let line = try #require(JSONSerialization.jsonObject(with: written.data) as? [String: Any])
    #expect(line["level"] as? String == "WARN")
    #expect(line["component"] as? String == "agents-stale")
    #expect(line["title"] as? String == "agents flagged stale")
    #expect(line["detail"] as? String == "cutoff=now")
    #expect(line["flipped"] as? Int == 3)
  }
}

/// Records log lines.
final class Written: Sendable {
  private let bytes = Mutex<[UInt8]>([])

  var data: Data { bytes.withLock { Data($0) } }

  func append(_ more: ArraySlice<UInt8>) -> Int {
    bytes.withLock { $0 += more }
    return more.count
  }
}
