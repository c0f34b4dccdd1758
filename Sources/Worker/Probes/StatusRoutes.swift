// The responses at / and /status: the fleet, as a page and as JSON.
// Invariants: Redis is queried only on request, at most once a second, by one script, in bounded time. Nothing can be
// changed here, and no host, user or URL of a server is shown.

import Coordination
import Reactor

extension Setting where Value == Bool {
  static var statusPage: Setting {
    .boolean(
      "SB_WORKER_STATUS_PAGE", default: true,
      help: "Serve the fleet's status at / and /status on the probe listener.")
  }
}

extension Coalesced<HTTPResponse> {
  var reply: HTTPReply {
    if let fresh { return .now(fresh) }
    return .later { await self.value() }
  }
}

/// The routes of the fleet's status.
@EventLoop
final class StatusRoutes {
  private let current: @EventLoop () -> Settings
  private var settings: Settings { current() }
  private let redis: any RedisScripts
  private let postgresOutage: @EventLoop () -> String?
  private let clock: LoopClock
  private let lacks: @EventLoop () -> [String: String]
  private(set) lazy var page = Coalesced<HTTPResponse>(clock: clock) { [weak self] in
    guard let self else { return .notFound }
    let (status, runs) = await self.fleet()
    let page = StatusPage(
      status: status, runs: runs, namespace: self.settings[.redisNamespace], time: self.clock.wallTime)
    return HTTPResponse(
      contentType: "text/html; charset=utf-8", body: page.html, headers: StatusPageStyle.headers)
  }
  private(set) lazy var json = Coalesced<HTTPResponse>(clock: clock) { [weak self] in
    guard let self else { return .notFound }
    return HTTPResponse(
      contentType: "application/json", text: await self.fleet().status.text(as: .json),
      headers: [HTTPField("Cache-Control", "no-store")])
  }

  /// - Parameters:
  ///   - settings: those in effect.
  ///   - postgresOutage: why PostgreSQL cannot be asked; nil while it can.
  ///   - lacks: what the schema lacks, by the names of the sweepers that need it.
  init(
    _ settings: @escaping @EventLoop () -> Settings, redis: any RedisScripts,
    postgresOutage: @escaping @EventLoop () -> String?,
    lacks: @escaping @EventLoop () -> [String: String], clock: LoopClock
  ) {
    current = settings
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
        let (time, sweepers) = try await readOverviews()
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

  private func readOverviews() async throws -> (Int64, [SweeperOverview]) {
    let names = Sweepers.names
    let keys = names.map { name in
      let keys = CoordinationScripts.keys(namespace: settings[.redisNamespace], sweeper: name)
      return [keys.lock, keys.record, keys.history]
    }
    let (time, parts) = try await redis.readAll(
      CoordinationScripts.overview, keys: keys, arguments: SweeperRecord.fields,
      by: clock.now.advanced(by: Coordinator.commandLimit))
    return (time, zip(names, parts).map { SweeperOverview(sweeper: $0, $1) })
  }
}
