// A sink: a name, a threshold, and how an event becomes a request. Invariant: a sink only renders. SinkDelivery sends,
// retries and drops requests, in the same way for all sinks.

import Reactor

/// A destination of events.
protocol Sink: Sendable {
  /// Its name in metrics and log lines. It contains no part of the URL.
  var name: String { get }
  /// The minimum severity of its events.
  var minSeverity: Event.Severity { get }

  /// The request that sends `event`, for the first time or again, at `time`.
  func request(for event: Event, at time: WallClockTime) -> TransferRequest

  /// The request that undoes a delivered test event; nil if it leaves nothing.
  func requestAfterTest(_ event: Event) -> TransferRequest?
}

extension Sink {
  func requestAfterTest(_ event: Event) -> TransferRequest? { nil }

  func accepts(_ event: Event) -> Bool {
    switch event.kind {
    case .test: true
    // A sink that received a failure also receives its recovery, which is less severe.
    case .recovery: event.endedSeverity >= minSeverity
    case .report, .failure: event.severity >= minSeverity
    }
  }
}

/// The sender, the same for all events of a process.
struct NotificationOrigin: Sendable {
  /// The host's name; in Kubernetes the pod's.
  let replica: String
  /// The control plane, identified by its namespace in Redis.
  let namespace: String
}

extension TransferRequest {
  /// A POST of JSON.
  static func json(_ json: JSONWriter, to url: String, headers: [String] = []) -> TransferRequest {
    TransferRequest(
      url: url, content: .post(headers: ["Content-Type: application/json"] + headers, body: json.bytes))
  }
}

extension SinkQueue.Outcome {
  /// Network errors and the statuses 408, 425, 429 and 5xx are temporary; other refusals are permanent. A mail server's
  /// 4yz is temporary and its 5yz permanent.
  init(_ result: Result<TransferAnswer, TransferError>, of request: TransferRequest) {
    switch result {
    case .success(let answer):
      switch answer.status {
      case 200..<300: self = .delivered
      case 408, 425, 429, 500...: self = .failed(retryAfter: answer.retryAfter)
      default: self = .rejected
      }
    case .failure(.malformedURL), .failure(.malformedRequest), .failure(.malformedProxy), .failure(.noCommonLogin),
      .failure(.redirected):
      self = .rejected
    case .failure(.mailRefused(_, let reply)):
      self = reply.status >= 500 ? .rejected : .failed(retryAfter: nil)
    case .failure(.failed(_, _, let status)):
      if case .mail = request.content, status >= 500 { self = .rejected } else { self = .failed(retryAfter: nil) }
    case .failure(.unresolved), .failure(.timedOut):
      self = .failed(retryAfter: nil)
    }
  }
}
