// What the worker gives up once started: system calls and files. CWorkerStart has the kernel's side; this file lists
// what the configuration still reads. Invariant: a file that the settings name, or that libpq finds by itself, stays
// readable, even after it is replaced.

import Reactor

extension Setting where Value == SandboxSetting {
  static var sandbox: Setting {
    .choice(
      "SB_WORKER_SANDBOX", default: .on,
      help: """
        Confine the process with seccomp and Landlock once it has started. Turn it off for a profiler or a debugger.
        """)
  }
}

/// Whether the worker confines itself. CWorkerStart reads the same variable at the start of main.
enum SandboxSetting: String, CaseIterable, Sendable {
  case on, off
}

/// The confinement of this process.
package struct Sandbox: Sendable {
  /// The parts that are in effect. The raw values are CWorkerStart's.
  package struct Parts: OptionSet, Sendable {
    package let rawValue: Int32
    package static let systemCalls = Parts(rawValue: 1)
    package static let files = Parts(rawValue: 2)

    package init(rawValue: Int32) { self.rawValue = rawValue }
  }

  /// Confines the process permanently; the files at or below these paths stay readable.
  package typealias Confine = @Sendable (_ readable: [String]) -> Parts

  /// Variables that the libraries read themselves. Each names a file, a directory, or a colon-separated list of them;
  /// Kerberos puts a type and a colon before the name.
  private static let variables = [
    "SSL_CERT_FILE", "SSL_CERT_DIR", "OPENSSL_CONF", "OPENSSL_MODULES", "OPENSSL_ENGINES", "PGSERVICEFILE",
    "PGSYSCONFDIR", "HOSTALIASES", "KRB5_CONFIG", "KRB5CCNAME", "KRB5_KTNAME", "KRB5_CLIENT_KTNAME",
  ]

  /// Nil if the sandbox is off.
  private let confine: Confine?
  let readablePaths: [String]

  init(_ settings: Settings, environment: [String: String], confine: @escaping Confine) {
    self.confine = settings[.sandbox] == .on ? confine : nil
    var paths = settings[.databaseURL].filePaths
    if let authorities = settings[.notifyAuthorityFile] { paths.append(authorities) }
    paths += Self.reloadedPaths(environment)
    for name in Self.variables {
      guard let value = environment[name], !value.isEmpty else { continue }
      paths.append(value)
      // A value that is not a path permits nothing.
      let parts = value.utf8.split(separator: UInt8(ascii: ":"))
      if parts.count > 1 { paths += parts.map { String(decoding: $0, as: UTF8.self) } }
    }
    readablePaths = paths
  }

  /// What a reload reads again: the settings file, secret files, and systemd's credentials.
  private static func reloadedPaths(_ environment: [String: String]) -> [String] {
    let given = SettingsFile(mergedInto: environment).environment
    let names = [SettingsFile.variable, "CREDENTIALS_DIRECTORY"] + SettingRow.all.compactMap(\.fileVariable)
    return names.compactMap { given[$0] }.filter { !$0.isEmpty }
  }

  /// Enters the sandbox, and returns what is in effect, for the log.
  func enter() -> String {
    guard let confine else { return "off" }
    return switch confine(readablePaths) {
    case [.systemCalls, .files]: "system calls and files"
    case .systemCalls: "system calls"
    case .files: "files"
    default: "not available"
    }
  }
}
