// All sinks of a process: created from the settings, started and stopped together. Invariants: the log is always one of
// them; libcurl is loaded only if another one is configured. Called by main and Service.

import Logging
import Reactor

/// The configured sinks.
struct SinkSet: Sendable {
  let sinks: [any Sink]

  init(_ settings: Settings, origin: NotificationOrigin) {
    let overall = settings[.notifyMinSeverity]
    var sinks: [any Sink] = []
    if let url = settings[.webhookURL].map(WebURL.normal) {
      let severity = settings[.webhookMinSeverity] ?? overall
      sinks.append(
        settings[.webhookSlackFormat]
          ? SlackFormatSink(minSeverity: severity, url: url)
          : WebhookSink(minSeverity: severity, url: url, key: settings[.webhookSecret]))
    }
    if let url = settings[.slackURL].map(WebURL.normal) {
      sinks.append(SlackSink(minSeverity: settings[.slackMinSeverity] ?? overall, url: url, origin: origin))
    }
    if let key = settings[.pagerDutyRoutingKey] {
      sinks.append(
        PagerDutySink(
          minSeverity: settings[.pagerDutyMinSeverity] ?? overall, url: WebURL.normal(settings[.pagerDutyURL]),
          routingKey: key,
          origin: origin))
    }
    if let url = settings[.smtpURL].map(WebURL.normal), let sender = settings[.smtpFrom] {
      let named = settings[.smtpHelo] ?? (WebURL.hasPath(url) ? nil : Self.mailName)
      sinks.append(
        MailSink(
          minSeverity: settings[.smtpMinSeverity] ?? overall, url: url, encryption: settings[.smtpStartTLS],
          sender: sender, recipients: settings[.smtpTo], clientName: named, origin: origin))
    }
    self.sinks = sinks
  }

  /// This host's name for mail servers. Many refuse a name without a dot, such as a pod's.
  private static var mailName: String {
    let name = HostProcess.hostName
    return MailAddress.isClientName(name) ? name : HostProcess.addressLiteral
  }
}

/// The configured sinks and the client that sends to them.
@EventLoop
struct Notifications {
  let sinks: [any Sink]
  /// Nil without sinks.
  let client: (any EventSender)?

  init(sinks: [any Sink], client: (any EventSender)?) {
    self.sinks = sinks
    self.client = client
  }

  /// - Throws: `TransferLibrary.Missing` if a sink is configured and libcurl cannot be loaded.
  init(_ settings: Settings, proxies: ProxyRules, clock: LoopClock) throws(TransferLibrary.Missing) {
    let origin = NotificationOrigin(replica: HostProcess.hostName, namespace: settings[.redisNamespace])
    sinks = SinkSet(settings, origin: origin).sinks
    client =
      sinks.isEmpty
      ? nil
      : TransferClient(
        try TransferLibrary(), proxies: proxies,
        authorityFile: settings[.notifyAuthorityFile], userAgent: "\(Version.program)/\(Version.number)", clock: clock)
  }
}

/// Passes every event to the log and to all sinks.
@EventLoop
final class Notifier: EventReceiver {
  private let log: LogSink
  /// Includes those of sinks that the settings no longer have.
  private var deliveries: [SinkDelivery] = []
  private(set) var client: (any EventSender)?
  private let clock: LoopClock
  private let random: Random
  private let registry: MetricsRegistry
  private let logger: Logger
  /// Fires when a delivery was added that `run` has yet to start.
  private let changed = WakeUp()

  init(
    _ notifications: Notifications, clock: LoopClock, random: Random, registry: MetricsRegistry, logger: Logger
  ) {
    log = LogSink(logger)
    client = notifications.client
    (self.clock, self.random, self.registry, self.logger) = (clock, random, registry, logger)
    change(to: notifications)
  }

  func accept(_ event: Event) {
    log.accept(event)
    for delivery in deliveries { delivery.accept(event) }
  }

  /// Sends to these sinks from now on. Events that are queued for a sink go to the new one of the same name.
  func change(to notifications: Notifications) {
    client = client ?? notifications.client
    for delivery in deliveries {
      delivery.change(to: notifications.sinks.first { $0.name == delivery.name })
    }
    for sink in notifications.sinks where !deliveries.contains(where: { $0.name == sink.name }) {
      guard let client else { continue }
      deliveries.append(
        SinkDelivery(sink, client: client, clock: clock, random: random, registry: registry, logger: logger))
      changed.fire()
    }
  }

  /// Delivers until it is cancelled or `finish` has returned.
  func run() async {
    var running = 0
    await withDiscardingTaskGroup { group in
      do {
        while true {
          for delivery in deliveries[running...] { group.addTask { await delivery.run() } }
          running = deliveries.count
          try await clock.sleep(until: .never, orUntil: changed)
        }
      } catch {
        // Cancelled, like the deliveries.
      }
    }
  }

  /// Delivers queued events to all sinks concurrently until `deadline`. Cancel `run` afterwards.
  func finish(by deadline: MonotonicInstant) async {
    await withTaskGroup { group in
      for delivery in deliveries { group.addTask { await delivery.finish(by: deadline) } }
    }
  }
}
