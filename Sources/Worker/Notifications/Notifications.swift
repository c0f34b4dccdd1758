// All sinks of a process: created from the settings, fed and stopped together. Invariants: the log is always among
// them; libcurl is loaded only if there is another. Called by main and Service.

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

/// The client for all sinks; nil if there is none.
@EventLoop
struct Notifications {
  let sinks: [any Sink]
  let client: (any EventSender)?

  init(sinks: [any Sink], client: (any EventSender)?) {
    self.sinks = sinks
    self.client = client
  }

  /// - Throws: `TransferLibrary.Missing` if a configured sink cannot be served.
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
  private let deliveries: [SinkDelivery]

  init(
    _ notifications: Notifications, clock: LoopClock, random: Random, registry: MetricsRegistry, logger: Logger
  ) {
    log = LogSink(logger)
    deliveries = notifications.sinks.compactMap { sink in
      notifications.client.map {
        SinkDelivery(sink, client: $0, clock: clock, random: random, registry: registry, logger: logger)
      }
    }
  }

  func accept(_ event: Event) {
    log.accept(event)
    for delivery in deliveries { delivery.accept(event) }
  }

  /// Delivers until it is cancelled or `finish` has returned.
  func run() async {
    await withTaskGroup { group in
      for delivery in deliveries { group.addTask { await delivery.run() } }
    }
  }

  /// Delivers what is queued until `deadline`, all sinks concurrently. Cancel `run` afterwards.
  func finish(by deadline: MonotonicInstant) async {
    await withTaskGroup { group in
      for delivery in deliveries { group.addTask { await delivery.finish(by: deadline) } }
    }
  }
}
