// What a reload changes in a running worker. Invariant: whatever can fail comes first, so that a change takes effect
// as a whole or not at all.

import Logging
import Reactor

extension Service {
  /// Reloads the settings on SIGHUP, and a server's login when the server refuses it.
  func prepareReloads() {
    reloader.apply = { [weak self] change throws(ConfigurationFaults) in try self?.apply(change) }
    pool.onLoginRefused = { [weak self] in
      guard let self, let login = self.reloader.postgresLogin() else { return }
      self.pool.logIn(as: login)
    }
    redis.onLoginRefused = { [weak self] in
      guard let self, let login = self.reloader.redisLogin() else { return }
      self.redis.logIn(as: login)
    }
  }

  private func apply(_ change: SettingsChange) throws(ConfigurationFaults) {
    let settings = change.settings
    if change.applies(SettingRow.notifications) { notifier.change(to: try notifications(settings)) }
    (notifier.client as? TransferClient)?.renewAuthorities(file: settings[.notifyAuthorityFile])
    redis.renewAuthorities()
    log.level = settings[.logLevel].level
    pool.logIn(as: settings[.databaseURL])
    redis.logIn(as: settings[.redisURL])
    // Even if only the digest of the settings has changed, which each sweeper reports to the fleet.
    if change.applied.contains(where: SettingDigest.names.contains) || change.applies(SettingRow.sweepers) {
      sweeping.change(to: Sweepers.declared(settings), settings)
    }
  }

  /// The sinks of these settings, using the existing client.
  private func notifications(_ settings: Settings) throws(ConfigurationFaults) -> Notifications {
    if let client = notifier.client {
      let origin = NotificationOrigin(replica: HostProcess.hostName, namespace: settings[.redisNamespace])
      return Notifications(sinks: SinkSet(settings, origin: origin).sinks, client: client)
    }
    do throws(TransferLibrary.Missing) {
      return try Notifications(settings, proxies: ProxyRules(environment: readEnvironment()), clock: clock)
    } catch {
      let rule = "cannot be sent without libcurl: \(error.description)"
      throw ConfigurationFaults(
        faults: [ConfigurationFault(variable: "notifications", rule: rule, given: nil)], warnings: [])
    }
  }
}
