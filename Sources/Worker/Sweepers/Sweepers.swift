// The sweepers that a worker has, in one list. A new one is its file and a line here.

/// What a sweeper's file declares: its settings, and the sweeper that follows from them.
struct SweeperDeclaration: Sendable {
  /// In the order in which they are shown.
  let settings: [SettingRow]
  /// Nil where the settings turn it off.
  let sweeper: @Sendable (Settings) -> Sweeper?
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
}

extension SettingRow {
  /// The sweepers' settings, in the order in which they are shown.
  static let sweepers: [SettingRow] = [Setting.allowRowSecurity.row] + Sweepers.declarations.flatMap(\.settings)
}
