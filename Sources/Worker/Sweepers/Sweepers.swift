// The list of the worker's sweepers. A new one is its file and a line here.

/// What a sweeper's file declares: its settings, and the sweeper made from them.
struct SweeperDeclaration: Sendable {
  /// Turns the sweeper on; nil is off.
  let interval: Setting<Duration?>
  /// The other settings, in display order.
  var settings: [SettingRow] = []
  let sweeper: @Sendable (Settings) -> Sweeper
  /// Why it is off despite its interval, by the name of the setting.
  var absence = ""
}

/// The sweepers of this worker.
package enum Sweepers {
  static let declarations: [SweeperDeclaration] = [
    .wrapsExpired,
    .secretsStale,
    .agentsStale,
    .jobsRecovery,
    .discoverScheduler,
    .discoverConnections,
    .crossTeamFillWindowExpired,
    .connectionsStuck,
    .revealSessionsExpired,
    .requestsExpired,
    .queueWatch,
    .sessionsRetention,
    .enrollmentTokensRetention,
    .revealSessionsRetention,
    .jobsRetention,
    .secretsMissingRetention,
    .gitopsObservationsRetention,
  ]

  /// Those that are on.
  package static func all(_ settings: Settings) -> [Sweeper] {
    declared(settings).filter { $0.interval != nil }
  }

  /// All of them; one that is off has no interval.
  static func declared(_ settings: Settings) -> [Sweeper] {
    declarations.map { $0.sweeper(settings) }
  }

  /// Those that the settings turn off, and why.
  static func absent(_ settings: Settings) -> [(name: String, reason: String)] {
    declarations.compactMap { declaration in
      let sweeper = declaration.sweeper(settings)
      guard sweeper.interval == nil else { return nil }
      let isTurnedOff = settings[declaration.interval] == nil
      let reason = isTurnedOff ? "\(declaration.interval.name)=\(Setting.off)" : declaration.absence
      return (sweeper.name, reason)
    }
  }

  /// The names of all sweepers, on or off.
  static let names = Settings.defaults(SettingRow.sweepers).map { declared($0).map(\.name) } ?? []

  /// Those that the default settings turn off, and why.
  static let absentByDefault = Settings.defaults(SettingRow.sweepers).map { absent($0) } ?? []
}

extension SettingRow {
  /// The sweepers' settings, in display order.
  static let sweepers: [SettingRow] =
    [
      Setting.allowRowSecurity.row, Setting.auditEvents.row, Setting.pace.row, Setting.maximumRowsPerRun.row,
      Setting.maximumReplicationLag.row,
    ]
    + Sweepers.declarations.flatMap { [$0.interval.row] + $0.settings }
}
