// Which slots have to have a successful run, whatever was broken before or beside them.
// Invariant: pure; a slot is promised only where nothing that was broken can still be felt.

import Reactor

/// Everything that was broken, as the promise needs it.
struct Disturbances: Sendable {
  /// How long the traces of a fault may last: a lease that has to run out, a command's deadline, the pause between
  /// two connects (at most 2 s each).
  static let traces = Duration.seconds(3) + .seconds(4)
  /// How long slots can be late after a load: until it is swept, with all retries.
  static let loadTime = Workload.loadTime + traces
  /// How much of a slot has to be undisturbed: a run begins with at most 5% of the interval as jitter, and is short.
  static let undisturbed = Duration.milliseconds(1_500)

  let incidents: [Incident]
  let loads: [LoadIncident]
  let stalls: [ClosedRange<Moment>]
  let replicas: Int

  /// Whether a run of this sweeper, or a lock that was left to expire, can be explained by something broken.
  func explain(_ sweeper: String, _ span: ClosedRange<Moment>) -> Bool {
    stalls.contains { felt($0).overlaps(span) }
      || incidents.contains { touches($0, sweeper) && felt($0.span).overlaps(span) }
  }

  /// Slots of `sweep` among those that begin in `span` which have to have a successful run.
  func promised(_ sweep: Sweep, in span: ClosedRange<Moment>) -> [Int64] {
    sweep.grid.slots(in: span).filter { slot in
      let start = Moment(milliseconds: slot)
      let window = start.advanced(by: .zero - Self.traces)...start.advanced(by: Self.undisturbed)
      return window.lowerBound >= span.lowerBound && window.upperBound <= span.upperBound
        && isPromised(sweep, window)
    }
  }

  private func isPromised(_ sweep: Sweep, _ window: ClosedRange<Moment>) -> Bool {
    if stalls.contains(where: { $0.overlaps(window) }) { return false }
    let isBusy = loads.contains { load in
      load.load.table == sweep.table && (load.began...load.began.advanced(by: Self.loadTime)).overlaps(window)
    }
    if isBusy { return false }
    var healthy = Set(0..<replicas)
    for incident in incidents where touches(incident, sweep.rawValue) && incident.span.overlaps(window) {
      // One replica's fault leaves the slot to the others, unless it began just now: that one may hold the lock.
      guard let hit = incident.fault.replicas, incident.began < window.lowerBound else { return false }
      healthy.subtract(hit)
    }
    return !healthy.isEmpty
  }

  private func touches(_ incident: Incident, _ sweeper: String) -> Bool {
    guard let table = incident.fault.table else { return true }
    return Sweep(rawValue: sweeper)?.table == table
  }

  private func felt(_ span: ClosedRange<Moment>) -> ClosedRange<Moment> {
    span.lowerBound.advanced(by: .milliseconds(-50))...span.upperBound.advanced(by: Self.traces)
  }
}
