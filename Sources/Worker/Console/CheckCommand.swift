// The verb check: whether the worker could do its work with this configuration, from this host, as this role.
// Invariants: it only reads, except for what --send sends; each part has a deadline, and a failed part does not
// prevent the others.

import Reactor

extension CommandOption {
  static let send = CommandOption(
    name: "send", help: "Also send a test notification to every sink, as notify-test does.")
}

extension Verb {
  static let check = Verb(
    name: "check",
    help: """
      Check whether the worker could do its work with these settings from this host: settings, names, TLS, versions, \
      tables, privileges, triggers, locks, Redis's ACL and memory, clocks. Prints a line for each, with the GRANT or \
      ACL to run. Changes nothing.
      """,
    options: [.send, .json],
    statuses: [
      ExitStatus(0, "Everything is well."),
      ExitStatus(CheckReport.faultStatus, "There are faults: the worker could not do all of its work."),
      ExitStatus(CheckReport.warningStatus, "There are only warnings."),
    ],
    needsValidSettings: false,
    perform: { arguments, context in
      EventLoop.run {
        let report = await DeploymentCheck(context: context, sends: arguments.has(.send)).report()
        let format: ReportTable.Format = arguments.has(.json) ? .json : .text
        let status = context.show(report.text(as: format, isColoured: context.isColoured))
        return status == 0 ? report.exitStatus : CheckReport.faultStatus
      }
    })
}

/// A check of all parts.
@EventLoop
struct DeploymentCheck {
  /// Total time limit of each part. Servers that respond take at most a second, and get some 30 queries.
  nonisolated static let partLimit = Duration.seconds(60)
  /// Time limit of one name lookup and of one query.
  nonisolated static let answerLimit = Duration.seconds(5)
  /// A larger clock difference is a warning: log lines of two hosts could not be ordered.
  private static let clockLimit = Duration.seconds(2)

  let context: CommandContext
  let sends: Bool

  func report() async -> CheckReport {
    async let postgres = checkPostgres()
    async let redis = checkRedis()
    async let sinks = checkSinks()
    let (server, tables, postgresClock) = await postgres
    let (store, redisClock) = await redis
    var sections = [CheckSection(name: "settings", findings: settingsFindings)]
    sections += [CheckSection(name: "PostgreSQL", findings: server)] + tables
    sections.append(CheckSection(name: "Redis", findings: store))
    sections.append(CheckSection(name: "clocks", findings: Self.clocks(postgres: postgresClock, redis: redisClock)))
    sections.append(CheckSection(name: "sinks", findings: await sinks))
    return CheckReport(sections: sections)
  }

  private var settingsFindings: [CheckFinding] {
    let config = ConfigReport(environment: context.environment)
    var findings: [CheckFinding] = []
    for row in config.rows {
      findings += row.faults.map { .fault("\(row.name) \($0)") }
      findings += row.warnings.map { .warning("\(row.name): \($0)") }
    }
    findings += config.unknown.map { .warning("\($0.variable): \($0.text)") }
    return findings.isEmpty ? [.ok("\(config.rows.count) settings are valid")] : findings
  }

  /// The settings of these rows, treating invalid ones as unset. Nil if that is not enough.
  private func settings(_ rows: [SettingRow]) -> Settings? {
    var environment = context.environment
    do throws(ConfigurationFaults) {
      return try Settings.load(environment: environment, rows: rows).settings
    } catch {
      for fault in error.faults { environment[fault.variable] = nil }
    }
    do throws(ConfigurationFaults) {
      return try Settings.load(environment: environment, rows: rows).settings
    } catch {
      return nil
    }
  }

  // MARK: The parts

  private func checkPostgres() async -> ([CheckFinding], [CheckSection], ServerClock?) {
    guard let url = settings([Setting.databaseURL.row, Setting.databaseConnectTimeout.row]),
      let settings = settings(SettingRow.sweepers)
    else {
      return ([.fault("not checked: DATABASE_URL is missing or invalid")], [], nil)
    }
    let check = PostgresCheck(
      configuration: url[.databaseURL], connectTimeout: url[.databaseConnectTimeout], sweepers: Sweepers.all(settings),
      allowsRowSecurity: settings[.allowRowSecurity], waitsForStandbys: settings[.maximumReplicationLag] != nil,
      clock: context.clock,
      deadline: context.clock.now.advanced(by: Self.partLimit))
    await check.run()
    return (check.findings, check.tables, check.serverClock)
  }

  private func checkRedis() async -> ([CheckFinding], ServerClock?) {
    guard let url = settings([Setting.redisURL.row]), let others = settings(SettingRow.core.filter { !$0.isRequired }),
      let sweeping = settings(SettingRow.sweepers)
    else { return ([.fault("not checked: REDIS_URL is missing or invalid")], nil) }
    var configuration = url[.redisURL]
    configuration.dialTimeout = configuration.dialTimeout ?? others[.redisDialTimeout]
    let check = RedisCheck(
      configuration: configuration, namespace: others[.redisNamespace],
      sweepers: Sweepers.all(sweeping).map(\.name), reportsOutages: hasSinks, clock: context.clock,
      deadline: context.clock.now.advanced(by: Self.partLimit))
    await check.run()
    return (check.findings, check.serverClock)
  }

  private var hasSinks: Bool {
    let rows = SettingRow.notifications + [Setting.redisNamespace.row]
    guard let settings = settings(rows) else { return true }
    return !SinkSet(settings, origin: NotificationOrigin(replica: "", namespace: "")).sinks.isEmpty
  }

  private func checkSinks() async -> [CheckFinding] {
    let rows = SettingRow.notifications + [Setting.redisNamespace.row]
    guard let settings = settings(rows) else { return [.fault("not checked: the settings of a sink are invalid")] }
    let notifications: Notifications
    do throws(TransferLibrary.Missing) {
      notifications = try Notifications(
        settings, proxies: ProxyRules(environment: context.environment), clock: context.clock)
    } catch {
      return [.fault("notifications cannot be sent without libcurl: \(error.description)")]
    }
    if notifications.sinks.isEmpty { return [.ok("no sink is configured: notifications are only logged")] }
    guard sends else { return notifications.sinks.map { .ok("\($0.name): configured; --send tests it") } }
    let event = NotificationTest.event(at: context.clock.wallTime)
    return await NotificationTest.results(of: event, notifications, clock: context.clock).map {
      $0.isDelivered ? .ok($0.line) : .fault($0.line)
    }
  }

  // MARK: Clocks

  /// A server's clock compared with this host's.
  struct ServerClock: Sendable {
    /// How far the server's clock is ahead of this host's.
    let ahead: Duration
    /// Half of the round trip in which it was read.
    let uncertainty: Duration

    init(microseconds: Int64, askedAt: WallClockTime, answeredAt: WallClockTime) {
      let (asked, answered) = (askedAt.microseconds, answeredAt.microseconds)
      ahead = .microseconds(microseconds - (asked + answered) / 2)
      uncertainty = .microseconds((answered - asked) / 2)
    }
  }

  static func clocks(postgres: ServerClock?, redis: ServerClock?) -> [CheckFinding] {
    func finding(_ name: String, _ other: String, _ ahead: Duration, _ uncertainty: Duration) -> CheckFinding {
      let milliseconds = ahead.milliseconds
      let distance = milliseconds < 0 ? -milliseconds : milliseconds
      let text = "\(name)'s clock is \(distance) ms \(milliseconds < 0 ? "behind" : "ahead of") \(other)"
      guard distance > (clockLimit + uncertainty).milliseconds else { return .ok(text) }
      return .warning(text + ": synchronize them with NTP; ages follow PostgreSQL's clock, schedules Redis's")
    }
    var findings: [CheckFinding] = []
    if let postgres { findings.append(finding("PostgreSQL", "this host's", postgres.ahead, postgres.uncertainty)) }
    if let redis { findings.append(finding("Redis", "this host's", redis.ahead, redis.uncertainty)) }
    if let postgres, let redis {
      findings.append(
        finding("PostgreSQL", "Redis's", postgres.ahead - redis.ahead, postgres.uncertainty + redis.uncertainty))
    }
    return findings.isEmpty ? [.ok("not compared: no server answered")] : findings
  }
}

extension WallClockTime {
  /// µs since 1970.
  var microseconds: Int64 { seconds * 1_000_000 + nanoseconds / 1_000 }
}
