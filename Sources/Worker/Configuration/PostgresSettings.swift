// How PostgreSQL is reached. Parsing contacts no server.
// Invariant: a URL may contain a password and is shown only in its redacted form.

import Reactor

/// The name of a worker's sessions between runs: it has the Redis namespace, so that workers with different ones can be
/// told apart.
enum WorkerSession {
  /// PostgreSQL truncates names to this length.
  private static let limit = 63
  static let prefix = "\(Version.program) "

  static func name(namespace: String) -> String {
    var bytes: [UInt8] = []
    for byte in (prefix + namespace).utf8.prefix(limit) {
      // Different PostgreSQL versions show other bytes differently.
      bytes.append((0x20...0x7E).contains(byte) ? byte : UInt8(ascii: "_"))
    }
    return String(decoding: bytes, as: UTF8.self)
  }
}

extension Settings {
  /// The database, for a worker's connections.
  var workerDatabase: PostgresConfiguration {
    var configuration = self[.databaseURL]
    configuration.rename(application: Version.program, to: WorkerSession.name(namespace: self[.redisNamespace]))
    return configuration
  }
}

extension Setting where Value == PostgresConfiguration {
  static var databaseURL: Setting {
    Setting(
      name: "DATABASE_URL", kind: "PostgreSQL URL", absence: .fault,
      help: "URL of the control plane's database: postgres://user:password@host:port/database?parameters",
      isSecret: true
    ) { text in
      do throws(PostgresURLFault) {
        let configuration = try PostgresConfiguration(url: text, applicationName: Version.program)
        if configuration.expectsReadOnly {
          return .refused(["is invalid: target_session_attrs selects servers that cannot be written to"])
        }
        return .accepted(configuration, warnings: configuration.warnings)
      } catch {
        return .refused(error.faults.map { "is invalid: \($0)" })
      }
    }
  }
}

extension Setting where Value == Int {
  // PostgreSQL itself allows at most 262,143 connections.
  static var databaseMaxConnections: Setting {
    .inheritedInteger(
      "DATABASE_MAX_CONNS", default: 10, upTo: 262_143,
      help: "Maximum number of PostgreSQL connections, opened on demand. pool_max_conns in the URL takes precedence.")
  }
}

extension Setting where Value == Duration {
  static var databaseConnectionLifetime: Setting {
    .inheritedDuration(
      "DATABASE_CONN_LIFETIME", default: .seconds(30 * 60), zeroOrBelow: .isDefault,
      help: "Maximum age of a PostgreSQL connection. pool_max_conn_lifetime in the URL takes precedence.")
  }

  static var databaseConnectTimeout: Setting {
    .duration(
      "DATABASE_CONNECT_TIMEOUT", default: .seconds(10),
      help: """
        Timeout for connecting to PostgreSQL, including TLS and login, over all addresses. connect_timeout in the URL \
        limits each address.
        """)
  }
}

extension SettingRow {
  static let postgres: [SettingRow] = [
    Setting.databaseURL.row, Setting.databaseMaxConnections.row, Setting.databaseConnectionLifetime.row,
    Setting.databaseConnectTimeout.row,
  ]
}
