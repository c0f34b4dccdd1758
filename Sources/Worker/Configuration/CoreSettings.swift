// The core settings: servers, listener, logs, lease. Sweepers and notifications have their own files.
// Invariant: names, meanings and defaults are those of the existing worker. Read through Settings.

import Coordination

/// Whether this is a developer's machine. Nothing depends on it.
enum DeploymentEnvironment: String, CaseIterable, Sendable {
  case dev, production
}

/// The minimum level that is logged.
enum LogLevelSetting: String, CaseIterable, Sendable {
  case debug, info, warn, error
}

/// The help text of the GitOps settings.
private let gitOpsHelp = "Ignored; accepted for compatibility. This version has no GitOps sweepers."

extension Setting {
  /// The same setting, validated only if GitOps is on, as in the existing worker.
  fileprivate var ofGitOps: Setting {
    var setting = self
    setting.onlyWith = "SB_WORKER_GITOPS_ENABLED"
    return setting
  }
}

extension Setting where Value == Int {
  // PostgreSQL itself allows no more than 262,143 connections.
  static var databaseMaxConnections: Setting {
    .inheritedInteger(
      "DATABASE_MAX_CONNS", default: 10, upTo: 262_143,
      help: """
        Maximum number of connections to PostgreSQL. pool_max_conns in the URL takes precedence. Connections are \
        opened on demand; an idle worker holds at most one.
        """)
  }

  static var redisPoolSize: Setting {
    .inheritedInteger(
      "REDIS_POOL_SIZE", default: 10, upTo: .max,
      help: "Ignored; accepted for compatibility. The worker uses one pipelined connection.")
  }

  static var gitOpsBatchSize: Setting {
    .integer("SB_WORKER_GITOPS_BATCH_SIZE", default: 20, in: 1...10_000, help: gitOpsHelp).ofGitOps
  }
}

extension Setting where Value == Duration {
  static var databaseConnectionLifetime: Setting {
    .inheritedDuration(
      "DATABASE_CONN_LIFETIME", default: .seconds(30 * 60), zeroOrBelow: .isDefault,
      help: """
        Maximum age of a PostgreSQL connection; an older one is replaced when it becomes idle. pool_max_conn_lifetime \
        in the URL takes precedence.
        """)
  }

  static var databaseConnectTimeout: Setting {
    .duration(
      "DATABASE_CONNECT_TIMEOUT", default: .seconds(10),
      help: """
        Timeout for connecting to PostgreSQL, including TLS and login, over all addresses. connect_timeout in the URL \
        limits each address.
        """)
  }

  static var redisDialTimeout: Setting {
    .inheritedDuration(
      "REDIS_DIAL_TIMEOUT", default: .seconds(5),
      help: "Timeout for connecting to Redis. dial_timeout in the URL takes precedence.")
  }

  static var lease: Setting {
    .duration(
      "SB_WORKER_LEASE", default: .seconds(15),
      in: .seconds(3)...(.milliseconds(CoordinationScripts.longestLeaseMilliseconds)),
      help: "Lifetime of a sweeper's lock in Redis. The lock is renewed after a third of it.")
  }

  static var shutdownGrace: Setting {
    .inheritedDuration(
      "SB_WORKER_SHUTDOWN_GRACE", default: .seconds(15), zeroOrBelow: .isZero,
      help: "How long a running batch may take to finish after SIGTERM before it is cancelled.")
  }

  static var gitOpsPollInterval: Setting {
    .duration("SB_WORKER_GITOPS_POLL_INTERVAL", default: .seconds(15), help: gitOpsHelp).ofGitOps
  }

  static var gitOpsTimeoutInterval: Setting {
    .duration("SB_WORKER_GITOPS_TIMEOUT_INTERVAL", default: .seconds(60), help: gitOpsHelp).ofGitOps
  }

  static var gitOpsHTTPTimeout: Setting {
    .duration("SB_WORKER_GITOPS_HTTP_TIMEOUT", default: .seconds(15), help: gitOpsHelp).ofGitOps
  }
}

extension Setting where Value == Bool {
  static var runOnStart: Setting {
    .boolean(
      "SB_WORKER_RUN_ON_START", default: false,
      help: "Run every sweeper at startup, unless its last run began less than a minute ago.")
  }

  /// Refused at startup rather than silently ignored.
  static var gitOpsEnabled: Setting {
    let boolean = Setting.boolean(
      "SB_WORKER_GITOPS_ENABLED", default: false,
      help: "Must be false: this version has no GitOps sweepers.")
    return Setting(name: boolean.name, kind: boolean.kind, absence: boolean.absence, help: boolean.help) { text in
      guard case .accepted(true, _) = boolean.read(text) else { return boolean.read(text) }
      return .mustBe("false, because this version has no GitOps sweepers (the previous worker has them)")
    }
  }
}

extension Setting where Value == DeploymentEnvironment {
  static var environment: Setting {
    .choice(
      "SB_ENV", default: .production, help: "Ignored; accepted for compatibility.")
  }
}

extension Setting where Value == LogLevelSetting {
  static var logLevel: Setting {
    var setting = Setting(
      name: "LOG_LEVEL", kind: "debug, info, warn or error", absence: .text("info"),
      help: "Minimum log level, in upper or lower case. An unknown level counts as info, with a warning."
    ) { text in
      if let level = LogLevelSetting(rawValue: text.lowercased()) { return .accepted(level) }
      return .accepted(.info, warnings: ["not debug, info, warn or error: it counts as info"])
    }
    setting.keepsQuotationMarks = true
    return setting
  }
}

extension Setting where Value == String {
  static var redisNamespace: Setting {
    var setting = Setting(
      name: "REDIS_NAMESPACE", kind: "text", absence: .text("secrets-bridge"),
      help: "Prefix of every Redis key. It must be the same for all parts of the control plane."
    ) { text in
      guard isNamespace(text) else {
        return .mustBe("at most 200 bytes without braces, whitespace or control characters")
      }
      // KEYS, SCAN and ACLs read these as wildcards.
      let hasWildcards = text.utf8.contains { Array("*?[]\\".utf8).contains($0) }
      return .accepted(text, warnings: hasWildcards ? ["has wildcards of Redis' patterns (* ? [ ] \\) in it"] : [])
    }
    setting.keepsQuotationMarks = true
    return setting
  }

  private static func isNamespace(_ text: String) -> Bool {
    // Braces are hash tags in Redis, and the worker's keys have their own.
    for scalar in text.unicodeScalars {
      if scalar == "{" || scalar == "}" || scalar.properties.isWhitespace { return false }
      if scalar.value < 0x20 || (0x7F...0x9F).contains(scalar.value) { return false }
    }
    return text.utf8.count <= 200
  }
}

extension SettingRow {
  /// The complete table.
  static let all = house + notifications + sweepers

  /// The settings that belong to no sweeper, in the order in which they are shown.
  static let house: [SettingRow] = [
    Setting.databaseURL.row, Setting.databaseMaxConnections.row, Setting.databaseConnectionLifetime.row,
    Setting.databaseConnectTimeout.row,
    Setting.redisURL.row, Setting.redisNamespace.row, Setting.redisDialTimeout.row, Setting.redisPoolSize.row,
    Setting.environment.row, Setting.logLevel.row, Setting.localAddress.row,
    Setting.lease.row, Setting.runOnStart.row, Setting.shutdownGrace.row, Setting.sandbox.row,
    Setting.gitOpsEnabled.row, Setting.gitOpsPollInterval.row, Setting.gitOpsTimeoutInterval.row,
    Setting.gitOpsBatchSize.row, Setting.gitOpsHTTPTimeout.row,
  ]
}
