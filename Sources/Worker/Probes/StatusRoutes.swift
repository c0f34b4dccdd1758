// The responses at / and /status: the fleet, as a page and as JSON.
// Invariants: nothing is made, and Redis is not asked, until somebody wants one; then once a second at most, by one
// script, in bounded time. Nothing can be changed here, and no host, user or URL of a server is shown.

import Coordination
import Reactor

extension Setting where Value == Bool {
  static var statusPage: Setting {
    .boolean(
      "SB_WORKER_STATUS_PAGE", default: true,
      help: "Serve the status of the fleet at / and /status, beside the probes: sweepers, replicas, reasons of pauses.")
  }
}

/// A response that is made when it is wanted and kept for a second: callers meanwhile get the same one.
@EventLoop
final class CachedResponse {
  /// How old a response may be.
  static let freshFor = Duration.seconds(1)

  private let clock: LoopClock
  private let make: @EventLoop @Sendable () async -> HTTPResponse
  private var last: (response: HTTPResponse, at: MonotonicInstant)?
  private var waiting: [OneShot<HTTPResponse>] = []
  private var isInFlight = false

  init(clock: LoopClock, make: @escaping @EventLoop @Sendable () async -> HTTPResponse) {
    self.clock = clock
    self.make = make
  }

  var reply: HTTPReply {
    if let fresh { return .now(fresh) }
    return .later { await self.answer() }
  }

  private var fresh: HTTPResponse? {
    guard let last, last.at.duration(to: clock.now) < Self.freshFor else { return nil }
    return last.response
  }

  private func answer() async -> HTTPResponse {
    if let fresh { return fresh }
    if isInFlight {
      let result = OneShot<HTTPResponse>()
      waiting.append(result)
      // A cancelled caller stays until the answer is made, which its deadline bounds.
      guard let answer = await result.waitThroughCancellation() else { preconditionFailure("the answer has been made") }
      return answer
    }
    isInFlight = true
    let made = await make()
    isInFlight = false
    last = (made, clock.now)
    let waiters = waiting
    waiting = []
    for waiter in waiters { waiter.fire(made) }
    return made
  }
}

/// The routes of the fleet's status.
@EventLoop
final class StatusRoutes {
  private let settings: Settings
  private let redis: any RedisScripts
  private let postgresOutage: @EventLoop () -> String?
  private let clock: LoopClock
  private let lacks: @EventLoop () -> [String: String]
  private(set) lazy var page = CachedResponse(clock: clock) { [weak self] in
    guard let self else { return .notFound }
    let (status, runs) = await self.fleet()
    let page = StatusPage(
      status: status, runs: runs, namespace: self.settings[.redisNamespace], time: self.clock.wallTime)
    return HTTPResponse(
      contentType: "text/html; charset=utf-8", body: page.html, headers: StatusPageStyle.headers)
  }
  private(set) lazy var json = CachedResponse(clock: clock) { [weak self] in
    guard let self else { return .notFound }
    return HTTPResponse(
      contentType: "application/json", text: await self.fleet().status.text(as: .json),
      headers: [HTTPField("Cache-Control", "no-store")])
  }

  /// - Parameters:
  ///   - postgresOutage: why PostgreSQL cannot be asked; nil while it can.
  ///   - lacks: what the schema lacks, by the names of the sweepers that need it.
  init(
    _ settings: Settings, redis: any RedisScripts, postgresOutage: @escaping @EventLoop () -> String?,
    lacks: @escaping @EventLoop () -> [String: String], clock: LoopClock
  ) {
    self.settings = settings
    self.redis = redis
    self.postgresOutage = postgresOutage
    self.lacks = lacks
    self.clock = clock
  }

  /// What Redis knows of the fleet, and the last runs of each sweeper.
  private func fleet() async -> (status: FleetStatus, runs: [[RunMark]]) {
    var status = FleetStatus()
    var runs: [[RunMark]] = []
    var fault = redis.outage
    if fault == nil {
      do {
        let (time, sweepers) = try await look()
        status.redisTime = time
        status.sweepers = SweeperStatus.all(
          sweepers.map(\.record), at: time, settings, lacks: lacks(),
          whose: "by this replica's settings")
        runs = sweepers.map(\.runs)
      } catch {
        fault = RedisVisit.reason(error)
      }
    }
    status.servers = [
      FleetStatus.Server(name: "PostgreSQL", fault: postgresOutage()), FleetStatus.Server(name: "Redis", fault: fault),
    ]
    return (status, runs)
  }

  private func look() async throws -> (Int64, [SweeperOverview]) {
    let names = Sweepers.names
    let keys = names.flatMap { name in
      let keys = CoordinationScripts.keys(namespace: settings[.redisNamespace], sweeper: name)
      return [keys.lock, keys.record, keys.history]
    }
    let answer = try await redis.evaluate(
      CoordinationScripts.overview, keys: keys, arguments: SweeperRecord.fields, isRepeatable: true,
      by: clock.now.advanced(by: Coordinator.commandLimit))
    guard let parts = answer.array, parts.count == names.count + 1, let time = parts[0].integer else {
      throw Coordinator.UnexpectedAnswer()
    }
    return (time, zip(names, parts.dropFirst()).map { SweeperOverview(sweeper: $0, $1) })
  }
}
