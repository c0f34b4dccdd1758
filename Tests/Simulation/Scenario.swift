// The parameters of one seed: replicas, intervals, leases, amount of work, and the rule that is omitted.
// Invariant: it depends only on the seed.

import Coordination
import Reactor
import Worker

/// A rule omitted on purpose, to check that the simulation notices.
package enum Mutation: String, CaseIterable, Sendable {
  /// The lease is not renewed.
  case renewalOff = "renewal-off"
  /// A run may go on after its lease.
  case negativeMargin = "negative-margin"
  /// A lock is renewed and deleted regardless of its holder.
  case noTokenCheck = "no-token-check"
  /// Batches have no deadline on PostgreSQL's clock.
  case noDeadline = "no-deadline"
  /// The epoch restarts at 1 when Redis loses its data.
  case epochFromOne = "epoch-from-one"
  /// Discover jobs have random ids.
  case randomIDs = "random-ids"
  /// A new record allows the lock to be taken at once.
  case noNotBefore = "no-not-before"
  /// A take is granted however late it arrives.
  case noNotAfter = "no-not-after"
  /// Batches do without the advisory lock.
  case noAdvisoryLock = "no-advisory-lock"
  /// A predecessor's frozen session is left alone.
  case noEviction = "no-eviction"
  /// A batch whose guard refused counts as done.
  case verdictIgnored = "verdict-ignored"
  /// A lock that an unanswered take may hold is not released.
  case noRelease = "no-release"
  /// A paused sweeper is swept.
  case pauseIgnored = "pause-ignored"
  /// A trigger outlasts its run.
  case triggerKept = "trigger-kept"
  /// A reveal session ends though one of its wraps is locked.
  case wrapsLeft = "wraps-left"
  /// PostgreSQL says that nothing is due while something is.
  case nothingDue = "nothing-due"
  /// A replica that finds a new record does not ask for its other sweepers.
  case lossUnnoticed = "loss-unnoticed"
  /// A connection is claimed under another's lock.
  case connectionLockIgnored = "connection-lock-ignored"
  /// A claim may outlast its connections' locks.
  case connectionLockOutlived = "connection-lock-outlived"
  /// A connection's lock is not released.
  case connectionLockKept = "connection-lock-kept"
  /// A connection is due while its discovery is running.
  case runningIgnored = "running-ignored"
  /// A connection is due while a job of it is queued.
  case queuedIgnored = "queued-ignored"
  /// A discovery is given up before its time.
  case givenUpEarly = "given-up-early"
  /// Retention deletes a row that has not ended.
  case liveDeleted = "live-deleted"
  /// Retention deletes a row as soon as it has ended.
  case youngDeleted = "young-deleted"
  /// Retention deletes a row that another refers to.
  case referencesIgnored = "references-ignored"
  /// Retention deletes a row without having locked it.
  case unlockedDeleted = "unlocked-deleted"
  /// Retention does not notice a foreign key that is added during its run.
  case newReferenceIgnored = "new-reference-ignored"
}

/// The parameters of one virtual run. Times in ms.
@EventLoop
struct Scenario {
  /// SB_WORKER_SHUTDOWN_GRACE, in µs.
  static let grace: Int64 = 15_000_000

  /// How long a run trusts an expired lease under `negativeMargin`, in ms.
  nonisolated static let marginLeftOut: Int64 = 4_000

  /// Sweepers that only some fleets run, because they are slow to simulate.
  enum Later { case reveals, connections }

  let replicas: Int
  let leaseMilliseconds: Int64
  /// By sweeper.
  let intervals: [Int64]
  let targets: Int
  /// The cost of a page of the swept tables in µs, and their maximum number of pages.
  let microsecondsPerPage: Int64
  let tablePages: Int
  let hasTransactionTimeout: Bool
  let isFaultless: Bool
  /// In µs of true time.
  let length: Int64
  let runsOnStart: Bool
  /// Range of a clock's drift, in parts per million.
  let drifts: ClosedRange<Int64>
  /// The worker's own settings and sweepers.
  let settings: Settings
  let sweepers: [Sweeper]
  let statements: KnownStatements
  let later: Later?
  private let names: [String]
  private let lockKeys: [String]

  /// - Parameters:
  ///   - later: which of the later sweepers the fleet also runs.
  ///   - calmFleet: number of replicas in a fleet with little to do and no faults, in place of the drawn one.
  init(_ world: World, hours: Double, later: Later?, calmFleet: Int?, _ mutation: Mutation?) {
    replicas = calmFleet ?? Int(world.any(1...5))
    leaseMilliseconds = world.any(of: [3_000, 5_000, 15_000])
    let interval: Int64 = world.any(of: [20_000, 30_000, 60_000])
    // A sweeper as rare as discovery waits so long that its clock samples become stale.
    let seldom = calmFleet == nil ? world.any(of: [interval, 45_000, 90_000]) : 3_600_000
    self.later = later
    let laterIntervals: [Int64] =
      switch later {
      case .reveals: [world.any(of: [10_000, 20_000]), 3_600_000]
      case .connections: [30_000, 60_000, 3_600_000]
      case nil: []
      }
    intervals = [interval, seldom] + laterIntervals
    names = Self.names + (later.flatMap { Self.laterNames[$0] } ?? [])
    targets = Int(world.any(1...3))
    // A full run takes from milliseconds to almost half the interval, often longer than a lease: many quick pages, or a
    // few that each take at least as long as a transaction should.
    let isSlow = world.oneIn(2)
    let longestRun = interval * 10 * (calmFleet == nil ? world.any(of: isSlow ? [10, 45] : [1, 2]) : 0)
    tablePages = Int(world.any(1...(isSlow ? 40 : 4_000)))
    microsecondsPerPage = min(isSlow ? 300_000 : 5_000, max(1, longestRun / Int64(tablePages)))
    hasTransactionTimeout = world.oneIn(2)
    isFaultless = calmFleet != nil || world.oneIn(20)
    length = Int64(hours * 3_600) * 1_000_000
    runsOnStart = world.oneIn(8)
    // A calm fleet's clocks drift like unsynchronized hardware clocks.
    drifts = calmFleet == nil ? -300...300 : -25...25
    let lease = leaseMilliseconds + (mutation == .negativeMargin ? Self.marginLeftOut : 0)
    let targetList = (0..<targets).map { target in
      #"{"name":"\#(target)","cluster":"c","provider_type":"vault"}"#
    }
    do {
      settings = try Settings(environment: [
        "DATABASE_URL": "postgres://worker@127.0.0.1/none", "REDIS_URL": "redis://127.0.0.1",
        "REDIS_NAMESPACE": Self.namespace, "SB_WORKER_LEASE": "\(lease)ms",
        "SB_WORKER_RUN_ON_START": "\(runsOnStart)", "SB_WORKER_PACE": runsOnStart ? "1/2" : "full",
        "SB_WORKER_SHUTDOWN_GRACE": "\(Self.grace / 1_000)ms",
        "SB_WORKER_WRAPS_EXPIRED_INTERVAL": "\(intervals[0])ms", "SB_WORKER_DISCOVER_INTERVAL": "\(intervals[1])ms",
        "SB_WORKER_REVEAL_SESSIONS_EXPIRED_INTERVAL": "\(later == .reveals ? intervals[Self.reveal] : 5_000)ms",
        "SB_WORKER_REQUESTS_EXPIRED_INTERVAL": "1h",
        "SB_WORKER_RETAIN_SECRETS_MISSING": "\(SecretTable.retention / 1_000)ms",
        "SB_DISCOVER_TARGETS_JSON": "[\(targetList.joined(separator: ","))]",
        "SB_WORKER_WEBHOOK_URL": "http://127.0.0.1/hook",
      ])
    } catch {
      preconditionFailure("the scenario is not a configuration: \(error)")
    }
    let all = Sweepers.all(settings)
    sweepers = names.map { name in all.first { $0.name == name }! }
    statements = KnownStatements(sweepers)
    lockKeys = names.map { CoordinationScripts.keys(namespace: Self.namespace, sweeper: $0).lock }
  }

  var description: String {
    "\(replicas) replicas, lease \(leaseMilliseconds) ms, intervals \(intervals) ms, \(targets) targets, "
      + "\(tablePages) pages of \(microsecondsPerPage) us\(hasTransactionTimeout ? ", transaction_timeout" : "")"
  }

  /// No fault, and no run that delays others for long.
  var isCalm: Bool { isFaultless && microsecondsPerPage * Int64(tablePages) < 300_000 }

  /// When a newly started fleet has learned its slots, in µs.
  static let learned: Int64 = 300_000_000

  /// How many slots all replicas together attend from then on.
  var replicaSlots: Double {
    intervals.reduce(0) { $0 + Double((length - Self.learned) / 1_000) / Double($1) } * Double(replicas)
  }

  static let discovery = 1
  /// Sweepers in some seeds only. Of the reveal sessions: one that asks PostgreSQL first.
  static let reveal = 2
  /// Of the connections: one that also takes locks of single rows in Redis, one that works on the same rows, and one
  /// that deletes rows of another table and runs on demand.
  static let connections = 2
  static let stuck = 3
  static let retention = 4
  /// Their last sweeper, whose slots are farther apart than a simulated run is long.
  var rare: Int { intervals.count - 1 }
  private static let namespace = "simulated"
  private static let names = ["wraps-expired", "discover-scheduler"]
  private static let laterNames: [Later: [String]] = [
    .reveals: ["reveal-sessions-expired", "requests-expired"],
    .connections: ["discover-connections", "connections-stuck", "secrets-missing-retention"],
  ]

  func name(_ sweeper: Int) -> String { names[sweeper] }

  /// Whether a slot with nothing due is attended without a run.
  func probesFirst(_ sweeper: Int) -> Bool {
    if case .rows(let sweep) = sweepers[sweeper].work { sweep.probesFirst } else { false }
  }

  func grid(_ sweeper: Int) -> SlotGrid {
    SlotGrid(sweeper: name(sweeper), interval: .milliseconds(intervals[sweeper]))
  }

  func sweeper(named name: String) -> Int? { names.firstIndex(of: name) }

  func sweeper(ofLock key: String) -> Int {
    guard let sweeper = lockKeys.firstIndex(of: key) else { preconditionFailure("no sweeper has the lock \(key)") }
    return sweeper
  }

  /// The key of a provider connection's lock.
  static func lockKey(ofConnection connection: String) -> String {
    DiscoverLocks.key(namespace: namespace, connection: connection)
  }

  /// The sweeper named by a run's application_name or a prefix of it.
  func sweeper(inRunName text: String) -> Int {
    let words = text.split(separator: " ")
    guard words.count >= 3, let sweeper = sweeper(named: String(words[2])) else {
      preconditionFailure("this names no run: \(text)")
    }
    return sweeper
  }
}
