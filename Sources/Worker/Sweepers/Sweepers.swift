// The sweepers that a worker has, in one list. A new one is its file and a line here.

/// What a sweeper's file declares: its settings, and the sweeper that follows from them.
struct SweeperDeclaration: Sendable {
  /// In the order in which they are shown.
  let settings: [SettingRow]
  /// Nil where the settings turn it off.
  let sweeper: @Sendable (Settings) -> Sweeper?
  /// What is said where they do.
  var absence: Absence?

  struct Absence: Sendable {
    /// The sweeper's name.
    let name: String
    /// Why it is off, by the name of the setting.
    let reason: String
  }
}

/// The sweepers of this worker.
package enum Sweepers {
  static let declarations: [SweeperDeclaration] = [
    .wrapsExpired,
    .secretsStale,
    .agentsStale,
    .jobsRecovery,
    .discoverScheduler,
  ]

  package static func all(_ settings: Settings) -> [Sweeper] {
    declarations.compactMap { $0.sweeper(settings) }
  }

  /// Those that the settings turn off.
  static func absent(_ settings: Settings) -> [SweeperDeclaration.Absence] {
    declarations.compactMap { $0.sweeper(settings) == nil ? $0.absence : nil }
  }

  /// The names of all sweepers, on or off.
  static var names: [String] {
    guard let settings = Settings.defaults(SettingRow.sweepers) else { return [] }
    return declarations.compactMap { $0.sweeper(settings)?.name ?? $0.absence?.name }
  }
}

extension SettingRow {
  /// The sweepers' settings, in the order in which they are shown.
  static let sweepers: [SettingRow] = [Setting.allowRowSecurity.row] + Sweepers.declarations.flatMap(\.settings)
}
