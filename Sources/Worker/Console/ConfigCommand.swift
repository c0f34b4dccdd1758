// The verb config: every setting with its value, the value's source, and its faults; the settings in which replicas
// differ.
// Invariants: no secret is shown, and URLs only without passwords; an invalid configuration is also shown.

import Coordination
import Reactor

extension CommandOption {
  static let diff = CommandOption(
    name: "diff", help: "Show only settings that differ from their defaults or are invalid.")
  static let replicas = CommandOption(
    name: "replicas", help: "Also show the fleet's replicas, and the settings in which they differ. Needs Redis.")
}

extension Verb {
  static let config = Verb(
    name: "config",
    help: """
      Show the settings, or only the named ones: value, source and default, and what is wrong with them. Secrets are \
      hidden, URLs are shown without passwords. Contacts no server, except Redis with --replicas.
      """,
    operands: Operands(
      name: "SETTING", count: 0...SettingRow.all.count, words: { SettingRow.all.map(\.name) }),
    options: [.diff, .replicas, .json],
    statuses: [
      ExitStatus(0, "The configuration is valid."),
      ExitStatus(FleetStatus.unreachableStatus, "With --replicas: Redis cannot be asked."),
      ExitStatus(FleetStatus.attentionStatus, "With --replicas: replicas differ in settings or version."),
      ExitStatus(ConfigurationFaults.exitStatus, "The configuration is invalid: run would refuse it."),
    ],
    perform: { arguments, context in
      var report = ConfigReport(environment: context.environment)
      let isValid = report.isValid
      if arguments.has(.diff) { report.rows.removeAll { !$0.isDifferent } }
      if !arguments.operands.isEmpty {
        report.rows.removeAll { !arguments.operands.contains($0.name) }
        report.unknown = []
      }
      let format: ReportTable.Format = arguments.has(.json) ? .json : .text
      guard arguments.has(.replicas) else { return report.show(as: format, in: context) }
      let own = report
      return EventLoop.run {
        var report = own
        report.replicas = await .read(environment: context.environment, clock: context.clock)
        return report.show(as: format, in: context)
      }
    })
}

/// The settings as an environment gives them.
struct ConfigReport: Sendable {
  enum Source: String, Sendable {
    case environment, file, credential, `default`
    case settingsFile = "settings file"
  }

  struct Row: Sendable {
    let name: String
    /// Nil if there is none, or if it cannot be read.
    let value: String?
    let source: Source
    let defaultText: String?
    let faults: [String]
    let warnings: [String]
    /// Whether the value differs from the default or is invalid.
    let isDifferent: Bool
  }

  /// Shown in place of a secret.
  static let hidden = "(hidden)"

  var rows: [Row]
  /// Variables that look like settings but are not.
  var unknown: [ConfigurationWarning]
  let isValid: Bool
  /// Nil if they were not asked for.
  var replicas: Replicas?

  init(environment: [String: String], table: [SettingRow] = SettingRow.all) {
    let faults: [ConfigurationFault]
    let warnings: [ConfigurationWarning]
    let file = SettingsFile(mergedInto: environment, rows: table)
    do throws(ConfigurationFaults) {
      (faults, warnings) = ([], try Settings.load(file, rows: table).warnings)
    } catch {
      (faults, warnings) = (error.faults, error.warnings)
    }
    isValid = faults.isEmpty
    var known: [String] = []
    rows = table.map { row in
      let names = [row.name] + [row.fileVariable, row.credential].compactMap { $0 }
      known += names
      return Row(
        row, file, faults: faults.filter { names.contains($0.variable) }.map(\.rule),
        warnings: warnings.filter { names.contains($0.variable) }.map(\.text))
    }
    unknown = warnings.filter { !known.contains($0.variable) }
  }

  /// Prints it, and returns the exit status.
  fileprivate func show(as format: ReportTable.Format, in context: CommandContext) -> Int32 {
    let status = context.show(text(as: format))
    guard isValid else { return ConfigurationFaults.exitStatus }
    return status == 0 ? replicas?.exitStatus ?? 0 : status
  }

  func text(as format: ReportTable.Format) -> String {
    switch format {
    case .text:
      var table = ReportTable(["setting", "value", "source", "default", "note"])
      for row in rows {
        let notes = row.faults.map { "invalid: \($0)" } + row.warnings.map { "warning: \($0)" }
        table.rows.append(row.cells + [notes.isEmpty ? .text("") : .list(notes)])
      }
      var text = table.text(as: .text)
      for warning in unknown { text += "warning: \(ReportTable.printable(warning.variable)): \(warning.text)\n" }
      return text + (replicas.map { "\n" + $0.text } ?? "")
    case .json:
      var table = ReportTable(["setting", "value", "source", "default", "faults", "warnings"])
      for row in rows { table.rows.append(row.cells + [.list(row.faults), .list(row.warnings)]) }
      var others = ReportTable(["variable", "warning"])
      for warning in unknown { others.rows.append([.text(warning.variable), .text(warning.text)]) }
      var json = JSONWriter()
      json.beginObject()
      json.field("valid", isValid)
      json.key("settings")
      table.write(to: &json)
      json.key("unknown")
      others.write(to: &json)
      replicas?.write(to: &json)
      json.endObject()
      return String(decoding: json.bytes, as: UTF8.self) + "\n"
    }
  }
}

extension ConfigReport {
  /// The fleet's replicas, or why they are unknown.
  enum Replicas: Sendable {
    case known(FleetReplicas, at: Int64)
    case unknown(String)

    @EventLoop
    static func read(environment: [String: String], clock: LoopClock) async -> Replicas {
      let settings: Settings
      do throws(ConfigurationFaults) {
        settings = try Settings.load(environment: environment, rows: RedisVisit.rows).settings
      } catch {
        return .unknown("its settings are invalid")
      }
      do {
        let (time, records) = try await RedisVisit(settings, clock: clock).use { client in
          try await client.readRecords(namespace: settings[.redisNamespace], clock: clock)
        }
        return .known(FleetReplicas(records.flatMap { $0.attending(at: time) }), at: time)
      } catch {
        return .unknown(RedisVisit.reason(error))
      }
    }

    var exitStatus: Int32 {
      switch self {
      case .known(let fleet, _): fleet.differ ? FleetStatus.attentionStatus : 0
      case .unknown: FleetStatus.unreachableStatus
      }
    }

    var text: String {
      switch self {
      case .known(let fleet, let time):
        fleet.all.isEmpty ? FleetReplicas.none + ".\n" : fleet.table(at: time).text(as: .text)
      case .unknown(let reason): "Redis cannot say in which settings the replicas differ: \(reason)\n"
      }
    }

    func write(to json: inout JSONWriter) {
      json.key("replicas")
      switch self {
      case .known(let fleet, _): fleet.jsonTable.write(to: &json)
      case .unknown(let reason):
        json.null()
        json.field("replicas_fault", reason)
      }
    }
  }
}

extension ConfigReport.Row {
  fileprivate init(_ row: SettingRow, _ settings: SettingsFile, faults: [String], warnings: [String]) {
    name = row.name
    defaultText = row.defaultText
    self.faults = faults
    self.warnings = warnings
    switch row.given(in: settings.environment) {
    case .nothing:
      (source, value, isDifferent) = (.default, row.defaultText, !faults.isEmpty)
    case .fault:
      (source, value, isDifferent) = (.file, nil, true)
    case .text(let text, let variable):
      if variable == row.name {
        source = settings.names.contains(variable) ? .settingsFile : .environment
      } else {
        source = variable == row.credential ? .credential : .file
      }
      value = row.shown(text)
      isDifferent = !faults.isEmpty || !row.isDefault(text)
    }
  }

  fileprivate var cells: [ReportTable.Cell] {
    [.text(name), .init(value), .text(source.rawValue), .init(defaultText)]
  }
}

extension SettingRow {
  /// The text as it may be shown to anyone.
  func shown(_ text: String) -> String {
    guard isSecret else { return text }
    guard case .accepted(let value, _) = load(text) else { return ConfigReport.hidden }
    return switch value {
    case let url as SettingValue<PostgresConfiguration>: url.value.redactedURL
    case let url as SettingValue<RedisConfiguration>: url.value.redactedURL
    default: kind.hasSuffix("URL") ? WebURL.redacted(text) : ConfigReport.hidden
    }
  }

  /// Whether the text is equivalent to the default: 60s is 1m.
  fileprivate func isDefault(_ text: String) -> Bool {
    guard case .accepted(let given, _) = load(text) else { return false }
    guard case .accepted(let absent, _) = load(nil) else { return false }
    return (given as? any ComparableValue)?.isEqual(to: absent) ?? false
  }
}
