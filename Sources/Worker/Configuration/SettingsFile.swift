// The settings file: settings in the form of an environment. Unlike the environment, it can change while the process
// runs. Invariant: a fault names the line, and repeats nothing of it except a setting's name. Read by Settings, at
// startup and at each reload.

import Reactor

extension Setting where Value == String? {
  static var settingsFile: Setting {
    .optional(
      "SB_WORKER_SETTINGS_FILE", kind: "path",
      help: "File of further settings, one NAME=value per line, read again on SIGHUP. The environment takes precedence."
    ) { _ in nil }
  }
}

/// An environment, and what the settings file adds to it.
struct SettingsFile {
  static let variable = Setting.settingsFile.name
  /// After this many faults the rest is not read: it is another kind of file.
  private static let faultLimit = 20
  /// Variables needed before the file is read.
  private static let ofEnvironment = [variable, "SB_WORKER_SANDBOX"]

  /// The environment with the file's settings.
  private(set) var environment: [String: String]
  /// The variables that the file sets.
  private(set) var names: [String] = []
  private(set) var faults: [ConfigurationFault] = []
  private let checksOtherLines: Bool
  private(set) var warnings: [ConfigurationWarning] = []

  /// Reads the file that `environment` names, if any.
  ///
  /// - Parameters:
  ///   - rows: the settings that are read from it; others are skipped.
  ///   - checksOtherLines: whether lines without one of them can be faults.
  init(
    mergedInto environment: [String: String], rows: [SettingRow] = SettingRow.all, checksOtherLines: Bool = true
  ) {
    self.environment = environment
    self.checksOtherLines = checksOtherLines
    guard let path = environment[Self.variable], !path.isEmpty else { return }
    do {
      let bytes = try SmallFile.contents(of: path, byteLimit: SettingRow.byteLimit)
      if FileText.isUTF16(bytes) {
        fault("names a file in UTF-16; it must be in UTF-8")
      } else {
        read(FileText.content(of: bytes), rows: rows)
      }
    } catch {
      fault("names a file that cannot be read: \(error.reason)")
    }
  }

  private mutating func read(_ content: ArraySlice<UInt8>, rows: [SettingRow]) {
    let known = SettingRow.all.flatMap(\.variables)
    let wanted = rows.flatMap(\.variables)
    var lines: [String: Int] = [:]
    var number = 0
    var rest = content
    while !rest.isEmpty {
      guard faults.count < Self.faultLimit else { return fault("was read up to line \(number)") }
      number += 1
      let line = Self.nextLine(of: &rest)
      guard let first = line.first, first != UInt8(ascii: "#") else { continue }
      guard let equals = line.firstIndex(of: UInt8(ascii: "=")) else {
        if checksOtherLines { fault("line \(number) is not of the form NAME=value") }
        continue
      }
      let name = String(decoding: line[..<equals], as: UTF8.self)
      guard checksOtherLines || wanted.contains(name) else { continue }
      guard known.contains(name) else {
        fault("line \(number): \(Self.rule(forUnknown: name, among: known))")
        continue
      }
      if Self.ofEnvironment.contains(name) {
        fault("line \(number): \(name) must be set in the environment")
      } else if let earlier = lines.updateValue(number, forKey: name) {
        fault("line \(number): \(name) is set in line \(earlier), too")
      } else if wanted.contains(name) {
        take(name, String(decoding: line[(equals + 1)...], as: UTF8.self), rows: rows)
      }
    }
  }

  /// Without its end and its indentation.
  private static func nextLine(of rest: inout ArraySlice<UInt8>) -> ArraySlice<UInt8> {
    let line = rest.prefix { $0 != UInt8(ascii: "\n") }
    rest = rest.dropFirst(line.count + 1)
    return (line.last == UInt8(ascii: "\r") ? line.dropLast() : line).drop(while: isBlank)
  }

  private static func isBlank(_ byte: UInt8) -> Bool { byte == UInt8(ascii: " ") || byte == UInt8(ascii: "\t") }

  private static func rule(forUnknown name: String, among known: [String]) -> String {
    if name.utf8.last.map(isBlank) ?? false { return "must have no space before =" }
    if name.hasPrefix("export ") { return "must be NAME=value without export" }
    return "no setting has this name" + (NearestName.of(name, among: known).map { ". Did you mean \($0)?" } ?? "")
  }

  /// An empty value counts as unset, as in the environment.
  private mutating func take(_ name: String, _ value: String, rows: [SettingRow]) {
    guard !value.isEmpty else { return }
    let variables = rows.first { $0.variables.contains(name) }?.variables ?? []
    if variables.contains(where: { !names.contains($0) && environment[$0]?.isEmpty == false }) {
      warnings.append(
        ConfigurationWarning(
          variable: name, text: "it is in the settings file and in the environment, which takes precedence"))
      return
    }
    environment[name] = value
    names.append(name)
  }

  private mutating func fault(_ rule: String) {
    faults.append(ConfigurationFault(variable: Self.variable, rule: rule, given: nil))
  }
}
