// The settings table: defaults, what each kind accepts and refuses, and all faults at once.

import Foundation
import Reactor
import Testing

@testable import Worker

@Suite struct SettingsTests {
  /// The least that a worker needs.
  static let required = ["DATABASE_URL": "postgres://worker@127.0.0.1/control", "REDIS_URL": "redis://127.0.0.1:6379"]

  static func load(_ changes: [String: String]) throws -> (settings: Settings, warnings: [ConfigurationWarning]) {
    try Settings.load(environment: required.merging(changes) { _, changed in changed })
  }

  /// What is wrong with the least environment and `changes`, as the operator reads it.
  static func faults(_ changes: [String: String]) -> [String] {
    do {
      _ = try load(changes)
      return []
    } catch {
      return (error as? ConfigurationFaults)?.faults.map(\.description) ?? ["\(error)"]
    }
  }

  @Test func theDefaultsAreThoseOfTheExistingWorker() throws {
    let settings = try Self.load([:]).settings
    #expect(settings[.databaseMaxConnections] == 10)
    #expect(settings[.databaseConnectionLifetime] == .seconds(1_800))
    #expect(settings[.redisNamespace] == "secrets-bridge")
    #expect(settings[.redisDialTimeout] == .seconds(5))
    #expect(settings[.redisPoolSize] == 10)
    #expect(settings[.environment] == .production)
    #expect(settings[.shutdownGrace] == .seconds(15))
    #expect(settings[.wrapsExpiredInterval] == .seconds(60))
    #expect(settings[.secretsStaleInterval] == .seconds(300))
    #expect(settings[.agentsStaleInterval] == .seconds(60))
    #expect(settings[.jobsRecoveryInterval] == .seconds(30))
    #expect(settings[.discoverInterval] == .seconds(3_600))
    #expect(settings[.secretsStaleAfter] == .seconds(86_400))
    #expect(settings[.agentsStaleAfter] == .seconds(300))
    #expect(settings[.wrapsFullSweep] == .seconds(900))
    #expect(settings[.webhookURL] == nil)
    #expect(settings[.webhookSlackFormat] == false)
    #expect(settings[.gitOpsEnabled] == false)
    #expect(settings[.gitOpsPollInterval] == .seconds(15))
    #expect(settings[.gitOpsTimeoutInterval] == .seconds(60))
    #expect(settings[.gitOpsBatchSize] == 20)
    #expect(settings[.gitOpsHTTPTimeout] == .seconds(15))
    #expect(settings[.logLevel] == .info)
    #expect(settings[.lease] == .seconds(15))
    #expect(settings[.jobsRecoveryAction] == .expire)
    #expect(settings[.jobsRecoveryGrace] == .zero)
    #expect(settings[.runOnStart] == false)
    #expect(settings[.discoverPileUp] == false)
  }

  @Test func everyVariableOfTheControlPlaneIsInTheTableOnce() {
    let all = SettingRow.all.map(\.name)
    #expect(Set(all).count == all.count)
    let names = (SettingRow.core + SettingRow.sweepers).map(\.name) + SettingRow.notifications.prefix(5).map(\.name)
    #expect(
      Set(names) == [
        "DATABASE_URL", "DATABASE_MAX_CONNS", "DATABASE_CONN_LIFETIME", "DATABASE_CONNECT_TIMEOUT", "REDIS_URL",
        "REDIS_NAMESPACE",
        "REDIS_DIAL_TIMEOUT", "REDIS_POOL_SIZE", "SB_ENV", "SB_WORKER_LOCAL_ADDR", "SB_WORKER_SHUTDOWN_GRACE",
        "SB_WORKER_SANDBOX", "SB_WORKER_STATUS_PAGE", "SB_WORKER_SETTINGS_FILE",
        "SB_WORKER_WRAPS_EXPIRED_INTERVAL", "SB_WORKER_SECRETS_STALE_INTERVAL", "SB_WORKER_AGENTS_STALE_INTERVAL",
        "SB_WORKER_JOBS_RECOVERY_INTERVAL", "SB_WORKER_DISCOVER_INTERVAL", "SB_WORKER_SECRETS_STALE_AFTER",
        "SB_WORKER_AGENTS_STALE_AFTER", "SB_WORKER_DISCOVER_PILE_UP", "SB_DISCOVER_TARGETS_JSON",
        "SB_WORKER_WEBHOOK_URL", "SB_WORKER_WRAPS_FULL_SWEEP",
        "SB_WORKER_WEBHOOK_SLACK_FORMAT", "SB_WORKER_GITOPS_ENABLED", "SB_WORKER_GITOPS_POLL_INTERVAL",
        "SB_WORKER_GITOPS_TIMEOUT_INTERVAL", "SB_WORKER_GITOPS_BATCH_SIZE", "SB_WORKER_GITOPS_HTTP_TIMEOUT",
        "LOG_LEVEL", "SB_WORKER_LEASE", "SB_WORKER_JOBS_RECOVERY_ACTION", "SB_WORKER_JOBS_RECOVERY_GRACE",
        "SB_WORKER_JOBS_RECOVERY_MAX_ATTEMPTS",
        "SB_WORKER_RUN_ON_START", "SB_WORKER_NOTIFY_MIN_SEVERITY", "SB_WORKER_NOTIFY_CA_FILE",
        "SB_WORKER_OUTAGE_AFTER", "SB_WORKER_ALLOW_ROW_SECURITY", "SB_WORKER_CROSS_TEAM_FILL_EXPIRED_INTERVAL",
        "SB_WORKER_CONNECTIONS_STUCK_INTERVAL", "SB_WORKER_DISCOVER_CONNECTIONS_INTERVAL",
        "SB_WORKER_REVEAL_SESSIONS_EXPIRED_INTERVAL",
        "SB_WORKER_AUDIT_EVENTS", "SB_WORKER_QUEUE_ALERT_AFTER", "SB_WORKER_REQUESTS_EXPIRED_INTERVAL",
        "SB_WORKER_RETAIN_SESSIONS", "SB_WORKER_AGENTS_STALE_MAX_SHARE", "SB_WORKER_SECRETS_STALE_MAX_SHARE",
        "SB_WORKER_PACE", "SB_WORKER_MAX_ROWS_PER_RUN", "SB_WORKER_MAX_REPLICATION_LAG",
        "SB_WORKER_RETAIN_ENROLLMENT_TOKENS", "SB_WORKER_RETAIN_REVEAL_SESSIONS", "SB_WORKER_RETAIN_JOBS",
        "SB_WORKER_RETAIN_SECRETS_MISSING", "SB_WORKER_RETAIN_GITOPS_OBSERVATIONS",
      ])
  }

  @Test func givenTextsBecomeTypedValues() throws {
    let settings = try Self.load([
      "SB_WORKER_LEASE": "1m30s", "DATABASE_MAX_CONNS": "+3", "SB_WORKER_RUN_ON_START": "T", "LOG_LEVEL": "warn",
      "SB_WORKER_JOBS_RECOVERY_ACTION": "requeue", "SB_ENV": "dev", "REDIS_NAMESPACE": "team:a",
      "SB_WORKER_WEBHOOK_URL": "https://hooks.example/x", "SB_WORKER_JOBS_RECOVERY_GRACE": "0",
    ]).settings
    #expect(settings[.lease] == .seconds(90))
    #expect(settings[.databaseMaxConnections] == 3)
    #expect(settings[.runOnStart])
    #expect(settings[.logLevel] == .warn)
    #expect(settings[.jobsRecoveryAction] == .requeue)
    #expect(settings[.environment] == .dev)
    #expect(settings[.redisNamespace] == "team:a")
    #expect(settings[.webhookURL] == "https://hooks.example/x")
    #expect(settings[.jobsRecoveryGrace] == .zero)
  }

  @Test func anEmptyVariableCountsAsUnset() throws {
    var environment: [String: String] = [:]
    for row in SettingRow.all { environment[row.name] = "" }
    environment.merge(Self.required) { _, required in required }
    let (settings, warnings) = try Settings.load(environment: environment)
    #expect(settings[.lease] == .seconds(15))
    #expect(settings[.webhookURL] == nil)
    #expect(warnings.isEmpty)
    #expect(Self.faults(["DATABASE_URL": ""]).count == 1)
  }

  @Test func everyFaultIsReportedAtOnceInTheOrderOfTheTable() {
    let faults = Self.faults([
      "DATABASE_URL": "", "REDIS_URL": "", "DATABASE_MAX_CONNS": "ten", "SB_ENV": "staging", "SB_WORKER_LEASE": "1h",
      "SB_WORKER_AGENTS_STALE_INTERVAL": "-5m", "SB_WORKER_WEBHOOK_URL": "ftp://host/",
    ])
    #expect(
      faults == [
        "DATABASE_URL is required: set a PostgreSQL URL",
        "DATABASE_MAX_CONNS must be a whole number (got \"ten\")",
        "REDIS_URL is required: set a Redis URL",
        "SB_ENV must be dev or production (got \"staging\")",
        "SB_WORKER_LEASE must be a duration from 3s to 5m, such as 90s or 2m30s (got \"1h\")",
        "SB_WORKER_WEBHOOK_URL must be a URL that begins with http:// or https://",
        "SB_WORKER_AGENTS_STALE_INTERVAL must be a duration above zero, such as 90s or 2m30s, or off (got \"-5m\")",
      ])
  }

  @Test func everyDurationRefusesWhatMakesNoSense() {
    for row in SettingRow.all where row.kind.hasPrefix("duration") && row.onlyWith == nil {
      for text in ["1", "soon", "1d", "3000000h", " 1m", "1m ", "\"1m\"", "--1s", "1.2.3s", "s"] {
        #expect(Self.faults([row.name: text]).count == 1, "\(row.name)=\(text)")
      }
      if row.name.hasSuffix("_INTERVAL") {
        for text in ["0s", "-1s", "0"] { #expect(Self.faults([row.name: text]).count == 1, "\(row.name)=\(text)") }
      }
      for text in ["1.5h", "+2m", ".5s", "1h0m0s"]
      where row.name != "SB_WORKER_LEASE" && !row.name.hasPrefix("SB_WORKER_RETAIN_") {
        #expect(Self.faults([row.name: text]).isEmpty, "\(row.name)=\(text)")
      }
    }
  }

  @Test func theLeaseIsFromThreeSecondsToFiveMinutes() {
    for text in ["3s", "5m"] { #expect(Self.faults(["SB_WORKER_LEASE": text]).isEmpty) }
    for text in ["2.999s", "5m1ns"] { #expect(Self.faults(["SB_WORKER_LEASE": text]).count == 1) }
  }

  @Test func numbersAreWholeAndInRange() {
    for name in ["DATABASE_MAX_CONNS", "REDIS_POOL_SIZE"] {
      for text in ["1.5", "ten", "1_000", "0x10", "99999999999999999999", "1 "] {
        #expect(Self.faults([name: text]).count == 1, "\(name)=\(text)")
      }
      for text in ["1", "+1", "007"] { #expect(Self.faults([name: text]).isEmpty) }
    }
  }

  @Test func aShareIsAWholePercentage() throws {
    #expect(try Self.load([:]).settings[.agentsStaleMaximumShare] == 100)
    for (text, percent) in [("1%", 1), ("50%", 50), ("100%", 100)] {
      #expect(try Self.load(["SB_WORKER_AGENTS_STALE_MAX_SHARE": text]).settings[.agentsStaleMaximumShare] == percent)
    }
    for text in ["50", "0%", "101%", "-1%", "0.5", "50 %", "%", "99999999999999999999%"] {
      #expect(
        Self.faults(["SB_WORKER_SECRETS_STALE_MAX_SHARE": text]) == [
          "SB_WORKER_SECRETS_STALE_MAX_SHARE must be a whole percentage from 1% to 100%, such as 50% (got \"\(text)\")"
        ])
    }
  }

  @Test func aPaceIsAPartOfTheTimeOrARate() throws {
    for (text, pace) in [
      ("full", Pace.full), ("1/2", .onePart(of: 2)), ("1/100", .onePart(of: 100)), ("5000/s", .rate(5_000)),
    ] {
      #expect(try Self.load(["SB_WORKER_PACE": text]).settings[.pace] == pace)
    }
    for text in ["half", "1/1", "1/101", "2/3", "0/s", "-1/s", "5000", "1000001/s", "1/", "/s", "1/2/s", "Full"] {
      #expect(Self.faults(["SB_WORKER_PACE": text]).count == 1, "\(text)")
    }
    #expect(try Self.load([:]).settings[.maximumRowsPerRun] == nil)
    #expect(try Self.load(["SB_WORKER_MAX_ROWS_PER_RUN": "1"]).settings[.maximumRowsPerRun] == 1)
    for text in ["0", "-1", "many", "1.5"] {
      #expect(Self.faults(["SB_WORKER_MAX_ROWS_PER_RUN": text]).count == 1, "\(text)")
    }
  }

  @Test func booleansAreGosWords() throws {
    for text in ["1", "t", "T", "TRUE", "true", "True"] {
      #expect(try Self.load(["SB_WORKER_RUN_ON_START": text]).settings[.runOnStart])
    }
    for text in ["0", "f", "F", "FALSE", "false", "False"] {
      #expect(try !Self.load(["SB_WORKER_RUN_ON_START": text]).settings[.runOnStart])
    }
    for text in ["yes", "no", "on", "off", "tRUE", "2", " true"] {
      #expect(Self.faults(["SB_WORKER_RUN_ON_START": text]).count == 1, "\(text)")
    }
  }

  @Test func choicesAreTheirWordsOnly() {
    for (name, text) in [
      ("SB_ENV", "prod"), ("SB_ENV", "Production"), ("SB_WORKER_JOBS_RECOVERY_ACTION", "retry"),
    ] {
      #expect(Self.faults([name: text]).count == 1, "\(name)=\(text)")
    }
  }

  @Test func aNamespaceHasNoBracesWhitespaceOrControlCharacters() throws {
    for text in ["a{b", "a}b", "{a}", "a b", "a\tb", "a\nb", "a\u{A0}b", "a\u{0}b", "a\u{7F}b", "a\u{85}b", "\u{2003}"]
    {
      #expect(Self.faults(["REDIS_NAMESPACE": text]).count == 1, "\(text.debugDescription)")
    }
    for text in ["a", "secrets-bridge:eu", "größe"] { #expect(Self.faults(["REDIS_NAMESPACE": text]).isEmpty) }
    // The existing worker takes the marks as part of it, and the two must have the same keys.
    let (settings, warnings) = try Self.load(["REDIS_NAMESPACE": "\"a\""])
    #expect(settings[.redisNamespace] == "\"a\"" && warnings.map(\.variable) == ["REDIS_NAMESPACE"])
    #expect(Self.faults(["REDIS_NAMESPACE": String(repeating: "a", count: 201)]).count == 1)
  }

  @Test func theDatabasesURLIsCheckedWholeWithoutTouchingTheServer() throws {
    let faults = Self.faults(["DATABASE_URL": "postgres://u:hunter2@h/d?sslmode=perhaps&no_such_parameter=hunter2"])
    #expect(faults.count == 2)
    for fault in faults {
      #expect(fault.hasPrefix("DATABASE_URL is invalid: ") && !fault.contains("hunter2"))
    }
    let (settings, warnings) = try Self.load([
      "DATABASE_URL": "postgres://u:hunter2@h/d?pool_max_conns=3&default_query_exec_mode=exec&statement_timeout=5s"
    ])
    #expect(settings[.databaseURL].maximumConnections == 3)
    #expect(warnings.map(\.variable) == ["DATABASE_URL"])
    #expect(warnings[0].text.hasPrefix("default_query_exec_mode is ignored"))
  }

  @Test func redissURLIsCheckedWholeWithoutTouchingTheServer() throws {
    let faults = Self.faults(["REDIS_URL": "redis://u:hunter2@h:port/first?no_such_parameter=hunter2"])
    #expect(!faults.isEmpty)
    for fault in faults {
      #expect(fault.hasPrefix("REDIS_URL is invalid: ") && !fault.contains("hunter2"))
    }
    let (settings, warnings) = try Self.load(["REDIS_URL": "redis://:hunter2@h:7000/3?pool_size=5"])
    #expect(settings[.redisURL].host == "h" && settings[.redisURL].port == 7_000 && settings[.redisURL].database == 3)
    #expect(warnings.map(\.variable) == ["REDIS_URL"])
    #expect(!warnings[0].text.contains("hunter2"))
  }

  @Test func theListenAddressIsAnAddressAndAPort() throws {
    #expect(try Self.load([:]).settings[.localAddress] == ListenAddress("127.0.0.1:8091"))
    for text in ["0.0.0.0:8091", ":8091", "[::1]:0", "localhost:80", "[::]:8091", "worker-0.workers:8091"] {
      #expect(try Self.load(["SB_WORKER_LOCAL_ADDR": text]).settings[.localAddress] == ListenAddress(text))
    }
    for text in ["8091", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "256.0.0.1:80", "::1:80", "a host:80"] {
      #expect(
        Self.faults(["SB_WORKER_LOCAL_ADDR": text]) == [
          "SB_WORKER_LOCAL_ADDR must be host:port, such as 127.0.0.1:8091, [::1]:8091, localhost:8091 or :8091 "
            + "(got \"\(text)\")"
        ])
    }
  }

  @Test func gitOpsIsRefusedRatherThanSilentlyNotPolled() {
    let faults = Self.faults(["SB_WORKER_GITOPS_ENABLED": "true"])
    #expect(faults.count == 1)
    #expect(faults.first?.contains("no GitOps sweepers") == true)
    #expect(Self.faults(["SB_WORKER_GITOPS_ENABLED": "true", "SB_WORKER_GITOPS_POLL_INTERVAL": "0s"]).count == 2)
    #expect(Self.faults(["SB_WORKER_GITOPS_ENABLED": "perhaps"]).first?.contains("true or false") == true)
  }

  @Test func anUnknownVariableOfOursIsAWarningWithTheNearestName() throws {
    let (_, warnings) = try Self.load([
      "SB_WORKER_LEASSE": "hunter2", "SB_WORKER_AGENTS_STALE_AFTR": "1m", "SB_WORKER_XYZZY_PLUGH_FROTZ": "1",
      "SB_OTHER": "not ours", "PATH": "/bin", "SB_WORKER_": "",
    ])
    #expect(
      warnings == [
        ConfigurationWarning(variable: "SB_WORKER_", text: "no setting has this name"),
        ConfigurationWarning(
          variable: "SB_WORKER_AGENTS_STALE_AFTR",
          text: "no setting has this name. Did you mean SB_WORKER_AGENTS_STALE_AFTER?"),
        ConfigurationWarning(
          variable: "SB_WORKER_LEASSE", text: "no setting has this name. Did you mean SB_WORKER_LEASE?"),
        ConfigurationWarning(variable: "SB_WORKER_XYZZY_PLUGH_FROTZ", text: "no setting has this name"),
      ])
  }

  @Test func noFaultShowsWhatMayBeASecret() {
    let secret = "hunter2"
    for row in SettingRow.all where row.isSecret {
      for text in [
        secret, "x://u:\(secret)@h", "http://\(secret)@:99999/\(secret)", "postgres://u:\(secret)@h:port/d?\(secret)=1",
        "redis://:\(secret)@h:port/0", "[{\"\(secret)\":1}", "[{\"name\":\"\(secret)\"}]", "\u{1}\(secret)",
      ] {
        for fault in Self.faults([row.name: text]) { #expect(!fault.contains(secret), "\(row.name): \(fault)") }
      }
    }
  }

  @Test func everyURLIsASecret() {
    for row in SettingRow.all where row.name.hasSuffix("URL") { #expect(row.isSecret) }
  }

  @Test func aLongTextIsCutInTheFaultAndRefusedBeyondTheBound() {
    let fault = Self.faults(["SB_ENV": String(repeating: "é", count: 5_000)])[0]
    #expect(fault.count < 200)
    #expect(fault.hasSuffix("…\")"))
    let tooLong = String(repeating: "a", count: 201)
    #expect(Self.faults(["REDIS_NAMESPACE": tooLong])[0].contains("must be at most 200 bytes"))
  }

  @Test func aTextThatIsNoUTF8IsRefused() {
    #expect(
      Self.faults(["REDIS_NAMESPACE": "a\u{FFFD}"]) == ["REDIS_NAMESPACE must be UTF-8 text (got \"a\u{FFFD}\")"])
  }

  @Test func aSettingOutsideTheTableIsReadByItsOwnRow() throws {
    let own = Setting.duration("SB_WORKER_OWN_INTERVAL", default: .seconds(7), help: "Of a sweeper.")
    let (settings, _) = try Settings.load(environment: ["SB_WORKER_OWN_INTERVAL": "9s"], rows: [own.row])
    #expect(settings[own] == .seconds(9))
  }

  /// Reading a setting that has no row ends the process.
  @Test func everySettingHasItsRow() throws {
    let declaration = try NSRegularExpression(pattern: #"static var \w+: Setting(<[^>]+>)? \{[^}]*?"([A-Z_]{4,})""#)
    var declared: [String] = []
    for file in try SourceTree.swift("Sources/Worker") {
      let whole = file.text as NSString
      for match in declaration.matches(in: file.text, range: NSRange(location: 0, length: whole.length)) {
        declared.append(whole.substring(with: match.range(at: 2)))
      }
    }
    #expect(declared.sorted() == SettingRow.all.map(\.name).sorted())
  }
}
