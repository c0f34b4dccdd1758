// Reports one server's outages: the loop around OutageWatch. Invariant: if several replicas see an outage, one of them
// reports it, or each of them once if Redis cannot decide which.

import Reactor

/// Watches one server. Call `run`, and report each change to it.
@EventLoop
final class OutageNotice {
  private let component: String
  private let server: String
  private let ledger: OutageClaim?
  private let sink: any EventReceiver
  private let clock: LoopClock
  private let random: Random
  private var watch: OutageWatch
  private let wakeUp = WakeUp()

  /// - Parameter ledger: where replicas agree on who reports; nil for the server that this needs.
  init(
    component: String, server: String, patience: Duration, ledger: OutageClaim?, sink: any EventReceiver,
    clock: LoopClock, random: Random
  ) {
    self.component = component
    self.server = server
    self.ledger = ledger
    self.sink = sink
    self.clock = clock
    self.random = random
    watch = OutageWatch(patience: patience, sharesNotes: ledger != nil)
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
        case .tellAway(let reason, let lasting):
          tell(.failure, .error, "\(server) is away", "for \(GoDuration.text(wholeSecondsOf: lasting)): \(reason)")
        case .tellBack(let length):
          let detail = length.map { "it was away for \(GoDuration.text(wholeSecondsOf: $0))" }
          tell(.recovery, .info, "\(server) is back", detail ?? "")
        case .ask(let question):
          let reply = await ledger?.ask(question, abandonedAfter: watch.abandonedAfter)
          try Task.checkCancellation()
          watch.answered(reply, at: clock.now)
        case .wait(let until):
          try await clock.sleep(until: until, orUntil: wakeUp)
        case .rest:
          try await clock.sleep(until: .never, orUntil: wakeUp)
        }
      }
    } catch {
      // Cancelled: the worker is shutting down.
    }
  }

  private func tell(_ kind: Event.Kind, _ severity: Event.Severity, _ title: String, _ detail: String) {
    sink.accept(
      Event(
        id: Token.random(random), kind: kind, time: clock.wallTime, severity: severity, component: component,
        title: title,
        detail: detail))
  }
}
