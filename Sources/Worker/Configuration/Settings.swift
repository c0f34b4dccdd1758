// The configuration: the settings table, read from an environment as a whole.
// Invariant: a value has its setting's type and is valid, and a fault shows no secret. Called by main at startup.

/// The settings of this process.
package struct Settings: Sendable {
  /// Variables with this prefix are ours. An unknown one is probably a mistake and worth a warning.
  static let prefix = "SB_WORKER_"

  private var values: [String: any Sendable]
  /// Four hexadecimal digits for each setting without a credential, in the table's order. Replicas compare their
  /// settings by them.
  private(set) var digest: String

  /// The value of a setting. Its row must have been loaded.
  subscript<Value>(_ setting: Setting<Value>) -> Value {
    guard let stored = values[setting.name] as? SettingValue<Value> else {
      preconditionFailure("\(setting.name) is not in the settings table")
    }
    return stored.value
  }

  /// Reads an environment that has no faults.
  ///
  /// - Throws: all faults in it.
  package init(environment: [String: String]) throws {
    self = try Self.load(environment: environment).settings
  }

  /// The defaults of these rows; nil if one of them is required.
  static func defaults(_ rows: [SettingRow]) -> Settings? {
    do throws(ConfigurationFaults) {
      return try load(environment: [:], rows: rows).settings
    } catch {
      return nil
    }
  }

  private init(values: [String: any Sendable], digest: String) {
    self.values = values
    self.digest = digest
  }

  /// Reads all `rows` from `environment` and the settings file that it names. An empty variable counts as unset.
  ///
  /// - Throws: all faults: the file's, and the others in the order of the table.
  static func load(
    environment: [String: String], rows: [SettingRow] = SettingRow.all
  ) throws(ConfigurationFaults) -> (settings: Settings, warnings: [ConfigurationWarning]) {
    try load(SettingsFile(mergedInto: environment, rows: rows), rows: rows)
  }

  /// The same for a settings file that has been read.
  static func load(
    _ file: SettingsFile, rows: [SettingRow] = SettingRow.all
  ) throws(ConfigurationFaults) -> (settings: Settings, warnings: [ConfigurationWarning]) {
    do throws(ConfigurationFaults) {
      let (settings, warnings) = try read(file.environment, rows: rows)
      guard file.faults.isEmpty else { throw ConfigurationFaults(faults: [], warnings: warnings) }
      return (settings, file.warnings + warnings)
    } catch {
      throw ConfigurationFaults(faults: file.faults + error.faults, warnings: file.warnings + error.warnings)
    }
  }

  private static func read(
    _ environment: [String: String], rows: [SettingRow]
  ) throws(ConfigurationFaults) -> (settings: Settings, warnings: [ConfigurationWarning]) {
    var values: [String: any Sendable] = [:]
    var digest = ""
    var warnings: [ConfigurationWarning] = []
    var faults: [ConfigurationFault] = []
    for row in rows {
      precondition(values[row.name] == nil, "two rows named \(row.name)")
      let given: String?
      var variable = row.name
      switch row.isUsed(in: environment, rows: rows) ? row.given(in: environment) : .nothing {
      case .nothing: given = nil
      case .text(let text, let source): (given, variable) = (text, source)
      case .fault(let fault):
        faults.append(fault)
        continue
      }
      switch row.load(given) {
      case .accepted(let value, let texts):
        values[row.name] = value
        if !row.isSecret {
          digest += SettingDigest.text(of: value, of: row.name, given: given ?? row.defaultText ?? "")
        }
        for text in texts { warnings.append(ConfigurationWarning(variable: variable, text: text)) }
      case .refused(let rules):
        for rule in rules {
          faults.append(ConfigurationFault(variable: variable, rule: rule, given: row.isSecret ? nil : given))
        }
      }
      guard let given else { continue }
      faults += missingCompanions(of: row, in: environment, rows: rows)
      if given != row.defaultText, let fault = missingValue(for: row, in: environment, rows: rows) {
        faults.append(fault)
      }
    }
    warnings += unknownVariables(environment, rows: rows)
    guard faults.isEmpty else { throw ConfigurationFaults(faults: faults, warnings: warnings) }
    return (Settings(values: values, digest: digest), warnings)
  }

  private static func missingCompanions(
    of row: SettingRow, in environment: [String: String], rows: [SettingRow]
  ) -> [ConfigurationFault] {
    var faults: [ConfigurationFault] = []
    for needed in rows where row.needs.contains(needed.name) {
      guard case .nothing = needed.given(in: environment) else { continue }
      faults.append(
        ConfigurationFault(variable: needed.name, rule: "is required when \(row.name) is set", given: nil))
    }
    return faults
  }

  /// A setting that has no effect without another one's value would go unnoticed.
  private static func missingValue(
    for row: SettingRow, in environment: [String: String], rows: [SettingRow]
  ) -> ConfigurationFault? {
    guard let required = row.requiredValue, let other = rows.first(where: { $0.name == required.name }) else {
      return nil
    }
    let text: String? =
      switch other.given(in: environment) {
      case .nothing: other.defaultText
      case .text(let text, _): text
      case .fault: nil
      }
    if text == required.text { return nil }
    return ConfigurationFault(variable: row.name, rule: "needs \(required.name)=\(required.text)", given: nil)
  }

  private static func unknownVariables(
    _ environment: [String: String], rows: [SettingRow]
  ) -> [ConfigurationWarning] {
    var known = [SettingsFile.variable]
    for row in rows { known += [row.name] + (row.fileVariable.map { [$0] } ?? []) }
    var warnings: [ConfigurationWarning] = []
    for name in environment.keys.sorted() where name.hasPrefix(prefix) && !known.contains(name) {
      if ServiceVariable.isOne(name, value: environment[name] ?? "") { continue }
      let nearest = NearestName.of(name, among: known)
      let hint = nearest.map { ". Did you mean \($0)?" } ?? ""
      warnings.append(
        ConfigurationWarning(variable: NearestName.shortened(name), text: "no setting has this name" + hint))
    }
    return warnings
  }
}

// MARK: - Changes

extension Settings {
  /// The names of these settings whose values differ.
  func differences(from other: Settings, among rows: [SettingRow]) -> [String] {
    rows.map(\.name).filter { name in
      guard let own = values[name] as? any ComparableValue, let value = other.values[name] else { return true }
      return !own.isEqual(to: value)
    }
  }

  /// Copies a setting's value.
  mutating func take(_ name: String, from other: Settings) {
    values[name] = other.values[name]
    guard let index = SettingDigest.names.firstIndex(of: name) else { return }
    var digits = Array(digest.utf8)
    let others = Array(other.digest.utf8)
    let range = index * SettingDigest.length..<(index + 1) * SettingDigest.length
    guard range.upperBound <= min(digits.count, others.count) else { return }
    digits.replaceSubrange(range, with: others[range])
    digest = String(decoding: digits, as: UTF8.self)
  }

  /// Replaces the value of a setting that has no digest.
  mutating func set<Value>(_ setting: Setting<Value>, to value: Value) {
    precondition(setting.isSecret, "\(setting.name) has a digest")
    values[setting.name] = SettingValue(value: value)
  }
}

extension SettingRow {
  /// Whether the text is used: not if the setting that it depends on is off or invalid.
  fileprivate func isUsed(in environment: [String: String], rows: [SettingRow]) -> Bool {
    guard let onlyWith, let owner = rows.first(where: { $0.name == onlyWith }) else { return true }
    guard case .text(let text, _) = owner.given(in: environment) else { return false }
    return GoBoolean.parse(text) ?? false
  }
}

/// A fault of the configuration.
struct ConfigurationFault: Equatable, Sendable {
  /// The longest value that is shown to the operator, in characters.
  private static let givenLimit = 100

  let variable: String
  /// The rule that the value breaks. It completes the variable's name: "must be …", "is required …".
  let rule: String
  /// The value; nil if there was none or it may contain a secret.
  let given: String?

  init(variable: String, rule: String, given: String?) {
    self.variable = variable
    self.rule = rule
    self.given = given.map { text in
      let start = text.prefix(Self.givenLimit)
      return start.utf8.count < text.utf8.count ? start + "…" : text
    }
  }

  var description: String {
    let end = given.map { " (got \"\($0)\")" } ?? ""
    return "\(variable) \(rule)\(end)"
  }
}

/// Something odd that is not a fault.
struct ConfigurationWarning: Equatable, Sendable {
  let variable: String
  let text: String
}

/// All faults and warnings of the configuration.
struct ConfigurationFaults: Error, Equatable {
  /// EX_CONFIG of sysexits.h: the exit status for an invalid configuration.
  static let exitStatus: Int32 = 78

  let faults: [ConfigurationFault]
  let warnings: [ConfigurationWarning]
}
