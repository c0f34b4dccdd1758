// The verb notify-test: sends one event to every sink, concurrently, and prints a line about each.

import Reactor

extension Verb {
  static let notifyTest = Verb(
    name: "notify-test",
    help: """
      Send a test notification to every sink and print each result. Exit status 1 if any failed. Needs the settings of \
      notifications only.
      """,
    statuses: [
      ExitStatus(0, "Every sink accepted the notification."),
      ExitStatus(1, "A sink failed, or no sink is configured."),
    ],
    perform: { _, context in
      let rows = SettingRow.notifications + [Setting.redisNamespace.row, Setting.logLevel.row]
      guard let settings = context.settings(rows, isAlone: true) else { return ConfigurationFaults.exitStatus }
      return context.withNotifications(settings) { await NotificationTest.run($0, clock: context.clock) }
    })
}

/// Tests the sinks.
@EventLoop
enum NotificationTest {
  /// A sink's answer.
  struct Outcome: Sendable {
    let line: String
    let isDelivered: Bool
  }

  /// Sends, prints, and returns the exit status: 1 unless every sink accepted the event.
  static func run(_ notifications: Notifications, clock: LoopClock) async -> Int32 {
    guard !notifications.sinks.isEmpty else {
      say("no sink is configured", clock)
      return 1
    }
    let results = await results(of: event(at: clock.wallTime), notifications, clock: clock)
    for result in results { say(result.line, clock) }
    return results.allSatisfy(\.isDelivered) ? 0 : 1
  }

  static func event(at time: WallClockTime) -> Event {
    Event(
      id: Token.random(.system), kind: .test, time: time, severity: .info, component: Verb.notifyTest.name,
      title: "test notification",
      detail: "sent by \(Version.program) \(Verb.notifyTest.name) on \(HostProcess.hostName)")
  }

  /// Sends `event` to all sinks concurrently; the results are in the sinks' order.
  static func results(of event: Event, _ notifications: Notifications, clock: LoopClock) async -> [Outcome] {
    guard let client = notifications.client else { return [] }
    return await withTaskGroup(of: (Int, Outcome).self) { group in
      for (index, sink) in notifications.sinks.enumerated() {
        group.addTask {
          let (text, isDelivered) = await send(event, to: sink, by: client, clock)
          return (index, Outcome(line: "\(sink.name): \(text)", isDelivered: isDelivered))
        }
      }
      var results = notifications.sinks.map { Outcome(line: $0.name, isDelivered: false) }
      for await (index, result) in group { results[index] = result }
      return results
    }
  }

  private static func send(
    _ event: Event, to sink: any Sink, by client: any EventSender, _ clock: LoopClock
  ) async -> (text: String, isDelivered: Bool) {
    let request = sink.request(for: event, at: clock.wallTime)
    do {
      let result = try await client.result(of: request, by: clock.now.advanced(by: SinkDelivery.requestLimit))
      switch SinkQueue.Outcome(result, of: request) {
      case .delivered:
        guard let trace = try await clearance(after: event, at: sink, by: client, clock) else {
          return ("delivered, \(result.summary)", true)
        }
        return ("delivered, \(result.summary), but its incident is still open: \(trace)", false)
      case .rejected: return ("rejected, \(result.summary)", false)
      case .failed: return ("failed, \(result.summary)", false)
      }
    } catch {
      return ("cancelled", false)
    }
  }

  /// Undoes what the test left at the sink; returns why that failed, or nil.
  private static func clearance(
    after event: Event, at sink: any Sink, by client: any EventSender, _ clock: LoopClock
  ) async throws -> String? {
    guard let request = sink.requestAfterTest(event) else { return nil }
    let result = try await client.result(of: request, by: clock.now.advanced(by: SinkDelivery.requestLimit))
    return SinkQueue.Outcome(result, of: request) == .delivered ? nil : result.summary
  }

  private static func say(_ line: String, _ clock: LoopClock) {
    let bytes = Array((line + "\n").utf8)
    // If stdout is closed, the exit status suffices.
    _ = StandardStream.output.write(bytes[...], patience: .seconds(10), on: clock)
  }
}
