// Which slots must have a successful run despite earlier and concurrent faults.
// Invariant: pure; a slot is guaranteed only if no fault can still affect it.

import Reactor

/// All faults, as the guarantee needs them.
struct Disturbances: Sendable {
  /// How long a fault's aftermath lasts: a lease's expiry, a command's deadline, the pause between two connects (at
  /// most 2 s each).
  static let plainTraces = Duration.seconds(3) + .seconds(4)
  /// How much of a slot must be undisturbed: a run starts after jitter of at most 5% of the interval, and is short.
  static let plainUndisturbed = Duration.milliseconds(1_500)

  let incidents: [Incident]
  let loads: [LoadIncident]
  var stalls: [ClosedRange<Moment>]
  let replicas: Int
  /// The additional time in these surroundings.
  var slack = Duration.zero
  /// How long sweeping a load takes without faults.
  var loadTime = Workload.loadTime

  var traces: Duration { Self.plainTraces + slack }
  var undisturbed: Duration { Self.plainUndisturbed + slack }
  /// From each load's insertion until it must have been swept. A load waits for the previous one on its table and for
  /// the end of each fault that it encounters.
  private var sweptLoads: [(table: String, span: ClosedRange<Moment>)] {
    var ends: [String: Moment] = [:]
    return loads.sorted { $0.began < $1.began }.map { load in
      let table = load.load.table
      var start = max(load.began, ends[table] ?? load.began)
      for incident in incidents.sorted(by: { $0.began < $1.began })
      where incident.span.overlaps(start...start.advanced(by: loadTime)) {
        start = max(start, incident.ended)
      }
      let end = start.advanced(by: loadTime)
      ends[table] = end
      return (table, load.began...end)
    }
  }

  /// When the last load must have been swept.
  var loadsEnd: Moment? { sweptLoads.map(\.span.upperBound).max() }

  /// Whether a load on this sweeper's table can delay its slots then: until it is swept, with all retries.
  private func isLoaded(_ sweep: Sweep, _ window: ClosedRange<Moment>) -> Bool {
    sweptLoads.contains { load in
      load.table == sweep.table
        && (load.span.lowerBound...load.span.upperBound.advanced(by: traces + slack)).overlaps(window)
    }
  }

  /// The effect on a neighbour, which has its own replicas and tables.
  func ofServers(replicas: Int) -> Disturbances {
    Disturbances(
      incidents: incidents.filter { $0.fault.replica == nil && $0.fault.table == nil }, loads: [], stalls: stalls,
      replicas: replicas, slack: slack, loadTime: loadTime)
  }

  /// Whether no other fault could affect this sweeper during `incident`, and no load was being swept.
  func isAlone(_ incident: Incident, _ sweep: Sweep) -> Bool {
    let span = felt(incident.span)
    return !stalls.contains { $0.overlaps(span) }
      && !incidents.contains {
        $0.fault.number != incident.fault.number && touches($0, sweep.rawValue) && felt($0.span).overlaps(span)
      }
      && !isLoaded(sweep, span)
  }

  /// Whether a fault explains this sweeper's run, or a lock left to expire.
  func explain(_ sweeper: String, _ span: ClosedRange<Moment>) -> Bool {
    stalls.contains { felt($0).overlaps(span) }
      || incidents.contains { touches($0, sweeper) && felt($0.span).overlaps(span) }
  }

  /// The slots of `sweep` beginning in `span` that must have a successful run.
  func promised(_ sweep: Sweep, in span: ClosedRange<Moment>) -> [Int64] {
    sweep.grid.slots(in: span).filter { slot in
      let start = Moment(milliseconds: slot)
      let window = start.advanced(by: .zero - traces)...start.advanced(by: undisturbed)
      return window.lowerBound >= span.lowerBound && window.upperBound <= span.upperBound
        && isPromised(sweep, window)
    }
  }

  private func isPromised(_ sweep: Sweep, _ window: ClosedRange<Moment>) -> Bool {
    if stalls.contains(where: { $0.overlaps(window) }) { return false }
    if isLoaded(sweep, window) { return false }
    var healthy = Set(0..<replicas)
    for incident in incidents where touches(incident, sweep.rawValue) && incident.span.overlaps(window) {
      // With one faulty replica the others run the slot, unless the fault just began: that replica may hold the lock.
      guard let hit = incident.fault.replicas, incident.began < window.lowerBound else { return false }
      healthy.subtract(hit)
    }
    return !healthy.isEmpty
  }

  private func touches(_ incident: Incident, _ sweeper: String) -> Bool {
    guard let table = incident.fault.table else { return true }
    return Sweep.tables(of: sweeper).contains(table)
  }

  private func felt(_ span: ClosedRange<Moment>) -> ClosedRange<Moment> {
    span.lowerBound.advanced(by: .milliseconds(-50))...span.upperBound.advanced(by: traces)
  }
}
