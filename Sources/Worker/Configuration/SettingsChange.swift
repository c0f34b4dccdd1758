// What a reload changes: which settings take effect now, and which at the next start. Pure.
// Invariant: a setting that takes effect at the next start keeps its value until then.

import Reactor

extension SettingRow {
  /// The settings that take effect in a running process. Of a server's URL only user and password do, unless it names
  /// another server: the current one is not sent the other's login.
  static let reloadable =
    [Setting.logLevel.row] + notifications.filter { $0.name != Setting.outageAfter.name } + sweepers
}

/// The settings after a reload, and how they differ from those before.
struct SettingsChange: Sendable {
  /// In effect from now on.
  private(set) var settings: Settings
  /// The names of the settings that take effect now.
  private(set) var applied: [String] = []
  /// The names of those that take effect at the next start.
  private(set) var deferred: [String] = []

  init(from old: Settings, to new: Settings, rows: [SettingRow] = SettingRow.all) {
    settings = old
    let reloadable = SettingRow.reloadable.map(\.name)
    for name in new.differences(from: old, among: rows) {
      switch name {
      case Setting.databaseURL.name: changeLogin(.databaseURL, from: old, to: new)
      case Setting.redisURL.name: changeLogin(.redisURL, from: old, to: new)
      default:
        let isReloadable = reloadable.contains(name)
        if isReloadable { settings.take(name, from: new) }
        note(name, isApplied: isReloadable, isDeferred: !isReloadable)
      }
    }
  }

  private mutating func changeLogin(
    _ setting: Setting<some ServerConfiguration>, from old: Settings, to new: Settings
  ) {
    let url = old[setting].withNewLogin(from: new[setting]) ?? old[setting]
    note(setting.name, isApplied: url != old[setting], isDeferred: url != new[setting])
    settings.set(setting, to: url)
  }

  private mutating func note(_ name: String, isApplied: Bool, isDeferred: Bool) {
    if isApplied { applied.append(name) }
    if isDeferred { deferred.append(name) }
  }

  /// Whether one of these takes effect now.
  func applies(_ rows: [SettingRow]) -> Bool { rows.contains { applied.contains($0.name) } }
}
