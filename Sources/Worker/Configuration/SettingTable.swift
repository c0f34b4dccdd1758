// The table of all settings, in display order. A setting is declared beside what it configures; a test finds those
// without a row here.

extension SettingRow {
  /// The complete table.
  static let all = core + notifications + sweepers

  /// The settings that belong to no sweeper and no sink.
  static let core: [SettingRow] =
    [Setting.settingsFile.row] + postgres + redis + [
      Setting.environment.row, Setting.logLevel.row, Setting.localAddress.row, Setting.statusPage.row,
    ]
    + scheduling
    + [Setting.sandbox.row] + gitOps
}
