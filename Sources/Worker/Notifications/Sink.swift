// What a sink is: a name, a threshold, and how an event becomes a request. Invariant: a sink only renders; how requests
// are sent, repeated and given up is SinkDelivery's affair, for all sinks the same.

import Reactor

/// A place where events go.
protocol Sink: Sendable {
  /// In metrics and log lines: never a part of its URL.
  var name: String { get }
  /// The least severe events that it gets.
  var minSeverity: Event.Severity { get }

  /// What to send for `event`, for the first time or again, at `time`.
  func request(for event: Event, at time: WallClockTime) -> TransferRequest

  /// What undoes a test event that was delivered; nil where nothing is left of one.
  func requestAfterTest(_ event: Event) -> TransferRequest?
}

extension Sink {
  func requestAfterTest(_ event: Event) -> TransferRequest? { nil }

  func wants(_ event: Event) -> Bool {
    switch event.kind {
    case .test: true
    // Whoever heard of a failure hears of its end, which is none itself.
    case .recovery: minSeverity <= .error
    case .report, .failure: event.severity >= minSeverity
    }
  }
}

/// Who tells: the same for all events of a process.
struct NotificationOrigin: Sendable {
  /// The host's name: in Kubernetes the pod's.
  let replica: String
  /// The control plane, by its namespace in Redis.
  let namespace: String
}

extension TransferRequest {
  /// A POST of a JSON text.
  static func json(_ json: JSONWriter, to url: String, headers: [String] = []) -> TransferRequest {
    TransferRequest(
      url: url, content: .post(headers: ["Content-Type: application/json"] + headers, body: json.bytes))
  }
}

extension SinkQueue.Outcome {
  /// What an answer, or none, means: network errors, 408, 425, 429 and 5xx pass; whatever else a server refuses does
  /// not. A mail server says it the other way round: 4yz passes, 5yz does not.
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
