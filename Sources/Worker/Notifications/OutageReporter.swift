// Reports one server's outages: the loop around OutageWatch. Invariant: of several replicas that see an outage one
// reports it; if Redis cannot decide which, each reports it once.

import Reactor

/// Reports the outages of one server. Call `run`, and pass each change of the server to `changed`.
@EventLoop
final class OutageReporter {
  private let component: String
  private let server: String
  private let claim: OutageClaim?
  private let sink: any EventReceiver
  private let clock: LoopClock
  private let random: Random
  private var watch: OutageWatch
  private let wakeUp = WakeUp()

  /// - Parameter claim: nil for Redis itself, which holds the claims: each replica then reports the outage.
  init(
    component: String, server: String, reportAfter: Duration, claim: OutageClaim?, sink: any EventReceiver,
    clock: LoopClock, random: Random
  ) {
    self.component = component
    self.server = server
    self.claim = claim
    self.sink = sink
    self.clock = clock
    self.random = random
    watch = OutageWatch(reportAfter: reportAfter, sharesClaim: claim != nil)
  }

  /// The server is unavailable for a reason, or (nil) available. Called once per change.
  func changed(to outage: String?) {
    watch.changed(to: outage, at: clock.now)
    wakeUp.fire()
  }

  /// Reports until it is cancelled.
  func run() async {
    do {
      while !Task.isCancelled {
        switch watch.next(at: clock.now) {
        case .reportOutage(let reason, let lasting):
          let length = GoDuration.text(wholeSecondsOf: lasting)
          report(.failure, .error, "\(server) is unavailable", "for \(length): \(reason)")
        case .reportRecovery(let length):
          let detail = length.map { "it was unavailable for \(GoDuration.text(wholeSecondsOf: $0))" }
          report(.recovery, .info, "\(server) is available again", detail ?? "")
        case .send(let request):
          let reply = await claim?.send(request, abandonedAfter: watch.abandonedAfter)
          try Task.checkCancellation()
          watch.answered(reply, at: clock.now)
        case .wait(let until):
          try await clock.sleep(until: until, orUntil: wakeUp)
        case .idle:
          try await clock.sleep(until: .never, orUntil: wakeUp)
        }
      }
    } catch {
      // Cancelled: the worker is shutting down.
    }
  }

  private func report(_ kind: Event.Kind, _ severity: Event.Severity, _ title: String, _ detail: String) {
    sink.accept(
      Event(
        id: Token.random(random), kind: kind, time: clock.wallTime, severity: severity, component: component,
        title: title, detail: detail))
  }
}
