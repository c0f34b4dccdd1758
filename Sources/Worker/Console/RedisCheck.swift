// The Redis part of check: its name, version, role, memory and the rights of the worker's user.
// Invariant: no key is written; a right is checked with ACL DRYRUN, or tried with a command that changes nothing.

import Coordination
import Reactor

/// A check of Redis.
@EventLoop
final class RedisCheck {
  /// Higher memory usage is a warning.
  private static let fullShare = 0.9
  private static let oldestVersion = 5

  private let configuration: RedisConfiguration
  private let namespace: String
  private let sweepers: [String]
  private let reportsOutages: Bool
  private let clock: LoopClock
  private let deadline: MonotonicInstant
  private var client: RedisClient
  private(set) var findings: [CheckFinding] = []
  private(set) var serverClock: DeploymentCheck.ServerClock?
  private var user: String

  init(
    configuration: RedisConfiguration, namespace: String, sweepers: [String], reportsOutages: Bool, clock: LoopClock,
    deadline: MonotonicInstant
  ) {
    self.configuration = configuration
    // Until the server reports the user, which it may refuse to do.
    user = configuration.loginUser ?? "USER"
    self.namespace = namespace
    self.sweepers = sweepers
    self.reportsOutages = reportsOutages
    self.clock = clock
    self.deadline = deadline
    client = RedisClient(configuration, clock: clock)
  }

  func run() async {
    for (host, port) in configuration.endpoints {
      let name = await NameCheck.finding(host: host, port: port, by: deadline, on: clock)
      if let finding = name.finding { findings.append(finding) }
    }
    if configuration.isCluster { return await checkCluster() }
    await checkNode(configuration.redactedURL)
  }

  /// Checks each master. A cluster without masters is a fault.
  private func checkCluster() async {
    let masters: (nodes: [(name: String, configuration: RedisConfiguration)], coveredSlots: Int)
    do throws(RedisError) {
      masters = try await RedisCluster.masters(configuration, by: deadline, on: clock)
    } catch {
      findings.append(.fault("\(configuration.redactedURL): \(CertificateHint.added(to: error.publicReason))"))
      return
    }
    let isWhole = masters.coveredSlots == RedisCluster.slotCount
    let title = "\(masters.nodes.count) masters have \(masters.coveredSlots) of \(RedisCluster.slotCount) slots"
    findings.append(isWhole ? .ok(title) : .fault(title))
    for node in masters.nodes {
      client = RedisClient(node.configuration, clock: clock)
      await checkNode(node.name)
    }
  }

  private func checkNode(_ name: String) async {
    await withTaskGroup { group in
      group.addTask { await self.client.run() }
      await self.check(name)
      group.cancelAll()
    }
  }

  private func check(_ name: String) async {
    do throws(RedisError) {
      try await connect()
      findings.append(.ok("connected to \(name)"))
      if let peer = client.tlsPeer(at: clock.wallTime) { findings += CertificateCheck.findings(of: peer) }
    } catch {
      findings.append(.fault("\(name): \(CertificateHint.added(to: error.publicReason))"))
      return
    }
    await checkServer()
    await checkMemory()
    await checkClock()
    if let name = await answer("ACL", "WHOAMI")?.text { user = name }
    let outcome = await RedisRights(
      namespace: namespace, sweepers: sweepers, reportsOutages: reportsOutages, isCluster: configuration.isCluster
    ).check {
      await self.send($0)
    }
    findings += outcome.findings(user: user)
  }

  /// One attempt: its failure is the finding.
  private func connect() async throws(RedisError) {
    let dialTimeout = configuration.dialTimeout ?? RedisConfiguration.defaultDialTimeout
    let limit = min(deadline, clock.now.advanced(by: dialTimeout + .seconds(1)))
    try await client.firstConnection(by: limit, on: clock)
  }

  private func send(_ command: [String]) async -> Result<RedisValue, RedisError> {
    do throws(RedisError) {
      let limit = min(deadline, clock.now.advanced(by: DeploymentCheck.answerLimit))
      return .success(try await client.command(command, by: limit))
    } catch {
      return .failure(error)
    }
  }

  /// The answer; nil if the server refused or did not answer.
  private func answer(_ command: String...) async -> RedisValue? {
    if case .success(let value) = await send(command) { value } else { nil }
  }

  /// A section of INFO; a finding and nil if the user may not read it.
  private func information(_ section: String) async -> String? {
    switch await send(["INFO", section]) {
    case .success(let value): return value.text ?? ""
    case .failure(let error):
      findings.append(
        .warning(
          "INFO \(section) was refused, so this was not checked: \(error.publicReason)",
          run: "ACL SETUSER \(user) +info"))
      return nil
    }
  }

  private func checkServer() async {
    if let text = await information("server") {
      let version = Self.value(of: "redis_version", in: text) ?? "unknown"
      let major = Int(version.prefix { $0 != "." }) ?? 0
      let title = "Redis \(version)"
      findings.append(
        major >= Self.oldestVersion ? .ok(title) : .fault("\(title) is too old: Redis 5 or later is needed"))
      let mode = Self.value(of: "redis_mode", in: text) ?? "standalone"
      if mode == "cluster", !configuration.isCluster {
        findings.append(.fault("the server runs in cluster mode: REDIS_URL must begin with redis+cluster://"))
      } else if mode != "standalone", !configuration.isCluster {
        findings.append(
          .fault("the server runs in \(mode) mode: REDIS_URL must point to a standalone server or a proxy"))
      }
    }
    guard let text = await information("replication") else { return }
    if Self.value(of: "role", in: text) == "master" {
      findings.append(.ok("the server is a master"))
    } else {
      findings.append(.fault("the server is a read-only replica: REDIS_URL must point to its master"))
    }
  }

  private func checkMemory() async {
    guard let text = await information("memory") else { return }
    let limit = Self.value(of: "maxmemory", in: text).flatMap { Double($0) } ?? 0
    let used = Self.value(of: "used_memory", in: text).flatMap { Double($0) } ?? 0
    let policy = Self.value(of: "maxmemory_policy", in: text) ?? "noeviction"
    let command = "CONFIG SET maxmemory-policy noeviction"
    if policy == "noeviction" {
      findings.append(.ok("maxmemory-policy is noeviction"))
    } else if limit > 0 {
      findings.append(.fault("maxmemory-policy is \(policy): a full server may drop locks and records", run: command))
    } else {
      findings.append(.warning("maxmemory-policy is \(policy), which has no effect without maxmemory", run: command))
    }
    guard limit > 0 else { return }
    let percent = Int(used / limit * 100)
    let share = "\(percent) % of maxmemory is in use"
    findings.append(used < limit * Self.fullShare ? .ok(share) : .warning("\(share): a full server refuses locks"))
  }

  private func checkClock() async {
    let askedAt = clock.wallTime
    guard let parts = await answer("TIME")?.array, parts.count == 2, let seconds = parts[0].integer,
      let microseconds = parts[1].integer
    else { return }
    serverClock = DeploymentCheck.ServerClock(
      microseconds: seconds * 1_000_000 + microseconds, askedAt: askedAt, answeredAt: clock.wallTime)
  }

  /// The value of a line `name:value` of INFO.
  nonisolated static func value(of name: String, in text: String) -> String? {
    let prefix = Array((name + ":").utf8)
    for line in text.utf8.split(whereSeparator: { $0 == 13 || $0 == 10 }) where line.starts(with: prefix) {
      return String(Substring(line.dropFirst(prefix.count)))
    }
    return nil
  }
}
