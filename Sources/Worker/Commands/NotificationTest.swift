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
  /// Sends, prints, and returns the exit status: 1 unless every sink accepted the event.
  static func run(_ notifications: Notifications, clock: LoopClock) async -> Int32 {
    guard let client = notifications.client else {
      say("no sink is configured", clock)
      return 1
    }
    let event = Event(
      id: Token.random(.system), kind: .test, time: clock.wallTime, severity: .info, component: Verb.notifyTest.name,
      title: "test notification",
      detail: "sent by \(Version.program) \(Verb.notifyTest.name) on \(HostProcess.hostName)")
    return await withTaskGroup(of: (Int, String, Bool).self) { group in
      for (index, sink) in notifications.sinks.enumerated() {
        group.addTask {
          let (text, isDelivered) = await send(event, to: sink, by: client, clock)
          return (index, text, isDelivered)
        }
      }
      var lines = notifications.sinks.map(\.name)
      var areAllDelivered = true
      for await (index, text, isDelivered) in group {
        lines[index] += ": " + text
        areAllDelivered = areAllDelivered && isDelivered
      }
      for line in lines { say(line, clock) }
      return areAllDelivered ? 0 : 1
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
          return ("delivered, \(result.inWords)", true)
        }
        return ("delivered, \(result.inWords), but its incident is still open: \(trace)", false)
      case .rejected: return ("rejected, \(result.inWords)", false)
      case .failed: return ("failed, \(result.inWords)", false)
      }
    } catch {
      return ("cancelled", false)
    }
  }

  /// Undoes what the test left at the sink; returns why that failed, nil if nothing is left.
  private static func clearance(
    after event: Event, at sink: any Sink, by client: any EventSender, _ clock: LoopClock
  ) async throws -> String? {
    guard let request = sink.requestAfterTest(event) else { return nil }
    let result = try await client.result(of: request, by: clock.now.advanced(by: SinkDelivery.requestLimit))
    return SinkQueue.Outcome(result, of: request) == .delivered ? nil : result.inWords
  }

  private static func say(_ line: String, _ clock: LoopClock) {
    let bytes = Array((line + "\n").utf8)
    // If stdout is closed, the exit status suffices.
    _ = StandardStream.output.write(bytes[...], patience: .seconds(10), on: clock)
  }
}
