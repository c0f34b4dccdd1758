// Sends one sink's events in order: the loop around SinkQueue. Invariants: `accept` never waits; no log line contains a
// part of the sink's URL; an event that is dropped is logged and counted.

import Logging
import Reactor

/// One sink's delivery. It delivers while `run` runs.
@EventLoop
final class SinkDelivery: EventReceiver {
  /// The time limit of a request: name resolution, connecting, TLS, the answer.
  static let requestLimit = Duration.seconds(10)

  let name: String
  /// Nil once the settings no longer have it.
  private var sink: (any Sink)?
  private let client: any EventSender
  private let clock: LoopClock
  private let random: Random
  private var metrics: NotificationMetrics?
  private var logger: Logger
  private var queue = SinkQueue()
  /// Fires when there is something to do.
  private let wakeUp = WakeUp()
  private var isEnding = false
  /// Opens when nothing more will be sent.
  private let ended = Latch()

  init(
    _ sink: any Sink, client: any EventSender, clock: LoopClock, random: Random, registry: MetricsRegistry,
    logger: Logger
  ) {
    name = sink.name
    self.sink = sink
    self.client = client
    self.clock = clock
    self.random = random
    self.logger = logger
    self.logger[metadataKey: "sink"] = "\(sink.name)"
    metrics = NotificationMetrics(sink: sink.name, registry: registry) { [weak self] in self?.queue.count ?? 0 }
  }

  func accept(_ event: Event) {
    guard let sink, sink.accepts(event) else { return }
    if let dropped = queue.add(event, at: clock.now) { drop(dropped, "the queue was full") }
    wakeUp.fire()
  }

  /// Sends to `sink` from now on. A delayed retry happens at once.
  ///
  /// - Parameter sink: nil if the settings no longer have it.
  func change(to sink: (any Sink)?) {
    self.sink = sink
    queue.retryNow()
    wakeUp.fire()
  }

  /// Delivers until `finish` or cancellation. Events that are left are dropped.
  func run() async {
    do {
      while try await step() {}
    } catch {
      // Cancelled: the time for the shutdown is over.
    }
    for event in queue.removeAll() { drop(event, "undelivered: the worker ended") }
    ended.open()
  }

  /// Delivers queued events until `deadline`.
  func finish(by deadline: MonotonicInstant) async {
    isEnding = true
    queue.retryNow()
    wakeUp.fire()
    do {
      try await clock.sleep(until: deadline, orUntil: ended)
    } catch {
      // Cancelled, like the delivery.
    }
  }

  /// Performs the queue's next action; returns whether there may be more.
  private func step() async throws -> Bool {
    switch queue.next(at: clock.now) {
    case .send(let event):
      guard let sink else {
        for event in queue.removeAll() { drop(event, "the sink was removed") }
        return true
      }
      try await send(event, to: sink)
    case .drop(let event):
      drop(event, "not delivered for \(GoDuration.text(SinkQueue.ageLimit))")
    case .wait(let until):
      try await clock.sleep(until: until, orUntil: wakeUp)
    case .idle:
      if isEnding { return false }
      try await clock.sleep(until: .never, orUntil: wakeUp)
    }
    return true
  }

  private func send(_ event: Event, to sink: any Sink) async throws {
    let request = sink.request(for: event, at: clock.wallTime)
    let result = try await client.result(of: request, by: clock.now.advanced(by: Self.requestLimit))
    let wasFailing = queue.failures > 0
    let outcome = SinkQueue.Outcome(result, of: request)
    let delay = queue.ended(outcome, at: clock.now, jitter: random.fraction())
    switch outcome {
    case .delivered:
      metrics?.delivered(after: delay ?? .zero)
      if wasFailing { logger.info("notification delivery recovered") }
      if case .success(let answer) = result, !answer.refusedRecipients.isEmpty {
        log(.error, "some recipients were refused", event, answer.refusalSummary)
      }
    case .rejected:
      metrics?.count(.rejected)
      log(.error, "a notification was rejected", event, result.summary)
    case .failed:
      metrics?.count(.retried)
      // Once per series of failures, not per attempt.
      if !wasFailing { log(.warning, "notification delivery is failing", event, result.summary) }
    }
  }

  private func drop(_ event: Event, _ reason: String) {
    metrics?.count(.dropped)
    log(.error, "a notification was dropped", event, reason)
  }

  private func log(_ level: Logger.Level, _ message: Logger.Message, _ event: Event, _ reason: String) {
    logger.log(
      level: level, message,
      metadata: [
        "error": "\(reason)", "component": "\(event.component)", "title": "\(event.title)", "event": "\(event.id)",
      ])
  }
}

/// Sends requests to sinks.
@EventLoop
package protocol EventSender: AnyObject, Sendable {
  /// The result of a request.
  ///
  /// - Throws: `CancellationError` only.
  func result(
    of request: TransferRequest, by deadline: MonotonicInstant
  ) async throws -> Result<TransferAnswer, TransferError>
}

extension TransferClient: EventSender {
  package func result(
    of request: TransferRequest, by deadline: MonotonicInstant
  ) async throws -> Result<TransferAnswer, TransferError> {
    do {
      return .success(try await send(request, by: deadline))
    } catch let error as TransferError {
      return .failure(error)
    }
  }
}

extension Result where Success == TransferAnswer, Failure == TransferError {
  /// A status, or the reason for having none, in words for operators.
  var summary: String {
    switch self {
    case .success(let answer):
      "status \(answer.status)" + (answer.refusedRecipients.isEmpty ? "" : ", but \(answer.refusalSummary)")
    case .failure(let error): error.publicReason + Self.hint(error)
    }
  }

  /// A hint, if a setting may fix it.
  private static func hint(_ error: TransferError) -> String {
    switch error {
    case .mailRefused(at: .hello, _): ": SB_WORKER_SMTP_HELO sets the worker's name in EHLO"
    // Servers that do not accept the name reply 504 (RFC 5321, 4.2.3), some of them only to a recipient.
    case .mailRefused(at: .sender, let reply), .mailRefused(at: .recipients, let reply):
      reply.status == 504 ? ": the name in EHLO may be the cause; SB_WORKER_SMTP_HELO sets it" : ""
    default: ""
    }
  }
}

extension TransferAnswer {
  /// The recipients that do not get the mail, and the server's replies.
  fileprivate var refusalSummary: String {
    refusedRecipients.map { "\($0.address) was refused (\($0.reply.text))" }.joined(separator: ", ")
  }
}
