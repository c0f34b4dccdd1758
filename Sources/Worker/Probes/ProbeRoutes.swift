// The responses of the probe listener: /healthz, /readyz, /metrics, and the fleet's status. Invariant: /healthz and
// /metrics query no server and never wait, and no probe costs more for what comes after it.

import Reactor

/// The probe listener's routes.
@EventLoop
struct ProbeRoutes {
  private static let json = "application/json"
  private static let healthy = HTTPResponse(contentType: json, text: #"{"status":"ok"}"#)
  private static let ready = HTTPResponse(contentType: json, text: #"{"status":"ready"}"#)
  private static let booting = HTTPResponse(
    status: .serviceUnavailable, contentType: json, text: #"{"status":"booting"}"#)
  private static let draining = HTTPResponse(
    status: .serviceUnavailable, contentType: json, text: #"{"status":"draining"}"#)

  private let readiness: Readiness
  private let metrics: HTTPLiveResponse
  /// Nil if it is disabled.
  private let status: StatusRoutes?

  init(readiness: Readiness, metrics: MetricsRegistry, status: StatusRoutes?) {
    self.readiness = readiness
    self.status = status
    self.metrics = HTTPLiveResponse(
      contentType: MetricsRegistry.contentType, byteLimit: { metrics.byteLimit }, write: { metrics.write(to: $0) })
  }

  func answer(_ request: borrowing HTTPRequest) -> HTTPReply {
    if request.hasPath("/healthz") { return .now(Self.healthy) }
    if request.hasPath("/readyz") {
      if let known = readiness.knownState { return .now(Self.response(to: known)) }
      let readiness = readiness
      return .later { Self.response(to: await readiness.state()) }
    }
    if request.hasPath("/metrics") { return .live(metrics) }
    guard let status else { return .now(.notFound) }
    if request.hasPath("/") { return status.page.reply }
    return request.hasPath("/status") ? status.json.reply : .now(.notFound)
  }

  static func response(to state: Readiness.State) -> HTTPResponse {
    switch state {
    case .ready: return ready
    case .booting: return booting
    case .draining: return draining
    case .notReady(let failing):
      var json = JSONWriter()
      json.beginObject()
      json.field("status", "not_ready")
      json.key("failing")
      json.beginObject()
      for (server, reason) in failing.sorted(by: { $0.key < $1.key }) { json.field(server, reason) }
      json.endObject()
      json.endObject()
      return HTTPResponse(status: .serviceUnavailable, contentType: Self.json, body: json.bytes)
    }
  }
}
