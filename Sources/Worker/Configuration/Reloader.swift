// Reads the settings again while the worker runs, and reports the result. Invariants: a fault leaves all unchanged; no
// line has a secret. The loop around ReloadSchedule and LoginRenewal; the service applies changes.

import Logging
import Reactor

/// The settings in effect, and their changes.
@EventLoop
final class Reloader {
  /// Servers that can refuse a login.
  enum Server: String {
    case postgres = "PostgreSQL"
    case redis = "Redis"
  }

  private(set) var settings: Settings
  /// Applies a change, even an empty one: certificates are read again. Throws if it cannot be applied.
  var apply: (@EventLoop (SettingsChange) throws(ConfigurationFaults) -> Void)?
  private let readEnvironment: @Sendable () -> [String: String]
  private let manager: ManagerReport
  private let shutdown: Shutdown
  private let clock: LoopClock
  private let logger: Logger
  private var schedule = ReloadSchedule()
  private var logins: [Server: LoginRenewal] = [.postgres: LoginRenewal(), .redis: LoginRenewal()]
  private let wakeUp = WakeUp()

  init(
    _ settings: Settings, readEnvironment: @escaping @Sendable () -> [String: String], manager: ManagerReport,
    shutdown: Shutdown, clock: LoopClock, logger: Logger
  ) {
    self.settings = settings
    self.readEnvironment = readEnvironment
    self.manager = manager
    self.shutdown = shutdown
    self.clock = clock
    self.logger = logger
  }

  /// SIGHUP came.
  func request() {
    schedule.request()
    wakeUp.fire()
  }

  /// Reads the settings again on each request, until cancelled. Called once the worker has booted.
  func run() async {
    schedule.booted()
    do {
      while true {
        switch schedule.next(at: clock.now, isDraining: shutdown.isDraining) {
        case .read: reload()
        case .wait(let until): try await clock.sleep(until: until, orUntil: wakeUp)
        case .idle: try await clock.sleep(until: .never, orUntil: wakeUp)
        }
      }
    } catch {
      // Cancelled: the worker has ended.
    }
  }

  private func reload() {
    manager.reloads()
    defer {
      manager.reloaded()
      LoadedCode.giveBackPages()
    }
    do throws(ConfigurationFaults) {
      let file = SettingsFile(mergedInto: readEnvironment())
      let (new, warnings) = try Settings.load(file)
      let change = SettingsChange(from: settings, to: new)
      try apply?(change)
      settings = change.settings
      for warning in warnings {
        logger.warning(
          "configuration warning", metadata: ["variable": "\(warning.variable)", "detail": "\(warning.text)"])
      }
      report(change, file.environment)
    } catch {
      logger.error(
        "not reloaded: the configuration is invalid, and nothing has changed",
        metadata: ["error": "\(error.faults.map(\.description).joined(separator: "; "))"])
    }
  }

  private func report(_ change: SettingsChange, _ environment: [String: String]) {
    if !change.applied.isEmpty {
      var values: Logger.Metadata = [:]
      for row in SettingRow.all where change.applied.contains(row.name) {
        values[row.name] = "\(Self.shown(row, change.settings, environment))"
      }
      logger.info("reloaded", metadata: ["changed": .dictionary(values)])
    }
    if !change.deferred.isEmpty {
      logger.warning(
        "changed settings take effect at the next start",
        metadata: ["settings": .array(change.deferred.map { "\($0)" })])
    }
    if change.applied.isEmpty, change.deferred.isEmpty { logger.info("reloaded: no setting has changed") }
  }

  /// A setting's value without secrets; for a server's URL, the one in effect.
  private static func shown(_ row: SettingRow, _ settings: Settings, _ environment: [String: String]) -> String {
    switch row.name {
    case Setting.databaseURL.name: return settings[.databaseURL].redactedURL
    case Setting.redisURL.name: return settings[.redisURL].redactedURL
    default: break
    }
    guard case .text(let text, _) = row.given(in: environment) else { return row.defaultText ?? "unset" }
    return row.isSecret ? ConfigReport.hidden : text
  }

  // MARK: - Logins

  /// PostgreSQL refused the login. Returns its URL with a new one, if there is one.
  func postgresLogin() -> PostgresConfiguration? { renewed(.databaseURL, of: .postgres) }

  /// Redis refused the login. Returns its URL with a new one, if there is one.
  func redisLogin() -> RedisConfiguration? { renewed(.redisURL, of: .redis) }

  /// The server is ready.
  func recovered(_ server: Server) { logins[server]?.recovered() }

  private func renewed<Configuration: ServerConfiguration>(
    _ setting: Setting<Configuration>, of server: Server
  ) -> Configuration? {
    guard !shutdown.isDraining, logins[server]?.refused(at: clock.now) == true else { return nil }
    let old = settings[setting]
    let environment = readEnvironment()
    let row = setting.row
    do throws(ConfigurationFaults) {
      // Faults in other settings' lines must not block a new password.
      let file = SettingsFile(mergedInto: environment, rows: [row], checksOtherLines: false)
      guard let new = old.withNewLogin(from: try Settings.load(file, rows: [row]).settings[setting]) else {
        report(.elsewhere, of: server, row.name)
        return nil
      }
      guard new != old else {
        let isFromFile = environment[setting.name]?.isEmpty ?? true
        report(.same(isFromFile: isFromFile), of: server, row.name)
        return nil
      }
      settings.set(setting, to: new)
      report(.changed, of: server, row.name)
      return new
    } catch {
      report(.invalid(error.faults.map(\.description).joined(separator: "; ")), of: server, row.name)
      return nil
    }
  }

  private func report(_ outcome: LoginRenewal.Outcome, of server: Server, _ name: String) {
    guard logins[server]?.read(outcome) == true else { return }
    switch outcome {
    case .changed:
      logger.info(
        "\(server.rawValue) refused the login: connecting with the one that was read again",
        metadata: ["variable": "\(name)"])
    case .same:
      logger.warning(
        "\(server.rawValue) refused the login, and the one that was read again is the same",
        metadata: ["variable": "\(name)"])
    case .elsewhere:
      logger.warning(
        """
        \(server.rawValue) refused the login, and the URL that was read again leads to another server: it takes effect \
        at the next start
        """,
        metadata: ["variable": "\(name)"])
    case .invalid(let reason):
      logger.error(
        "\(server.rawValue) refused the login, and it cannot be read again",
        metadata: ["variable": "\(name)", "error": "\(reason)"])
    }
  }
}
