// DATABASE_URL: what is accepted, what is passed on, what is refused, and that no fault shows a password.

import TestSupport
import Testing

@testable import Reactor

/// libpq 15 as on Debian 12, with an empty environment.
private let known = PostgresKnownParameters(
  names: [
    "user", "password", "passfile", "channel_binding", "connect_timeout", "dbname", "host", "hostaddr", "port",
    "client_encoding", "options", "application_name", "keepalives", "keepalives_idle", "keepalives_interval",
    "keepalives_count", "tcp_user_timeout", "sslmode", "sslcert", "sslkey", "sslrootcert", "sslpassword", "sslsni",
    "gssencmode", "target_session_attrs", "krbsrvname", "service", "replication",
  ],
  values: ["port": "5432", "sslmode": "prefer"], variables: [:], version: 15, hasOwnRootCertificate: false)

private func read(_ url: String) throws(PostgresURLFault) -> PostgresConfiguration {
  try PostgresConfiguration(url: url, applicationName: "app", known: known)
}

/// What libpq is told for the first host, but for the defaults that every connection has.
private func passed(_ url: String) throws -> [String: String] {
  let configuration = try read(url)
  let usual = [
    "application_name": "app", "gssencmode": "disable", "keepalives_idle": "30", "keepalives_interval": "10",
    "keepalives_count": "3", "tcp_user_timeout": "30000", "client_encoding": "UTF8",
  ]
  var parameters: [String: String] = [:]
  for parameter in configuration.parameters(host: configuration.hosts[0], address: nil, session: nil) {
    #expect(parameters[parameter.name] == nil, "\(parameter.name) twice")
    parameters[parameter.name] = parameter.value
  }
  for (name, value) in usual where parameters[name] == value { parameters[name] = nil }
  return parameters
}

/// The settings of each transaction, as "name=value".
private func settings(_ url: String) throws -> [String] {
  try read(url).transactionSettings.map { "\($0.name)=\($0.value)" }
}

private func faults(_ url: String) -> [String] {
  do {
    _ = try read(url)
    return []
  } catch {
    return error.faults
  }
}

@Suite struct PostgresConfigurationTests {
  @Test(arguments: [
    ("postgres://u:p@h:5433/d", ["user": "u", "password": "p", "host": "h", "port": "5433", "dbname": "d"]),
    ("postgresql://h", ["host": "h", "port": "5432"]),
    ("postgres://", ["port": "5432"]),
    (
      "postgres://u%40x:a%2Fb%3F%23%25@h/d%20b",
      ["user": "u@x", "password": "a/b?#%", "host": "h", "port": "5432", "dbname": "d b"]
    ),
    ("postgres://u:a@b@h/d", ["user": "u", "password": "a@b", "host": "h", "port": "5432", "dbname": "d"]),
    ("postgres://u:a+b@h/d", ["user": "u", "password": "a+b", "host": "h", "port": "5432", "dbname": "d"]),
    ("postgres://[::1]:5433/d", ["host": "::1", "port": "5433", "dbname": "d"]),
    ("postgres://%2Fvar%2Frun/d", ["host": "/var/run", "port": "5432", "dbname": "d"]),
    ("postgres:///d?host=/tmp&port=7&user=u", ["host": "/tmp", "port": "7", "user": "u", "dbname": "d"]),
    ("postgres://h/?database=d&password=x%2By+z", ["host": "h", "port": "5432", "dbname": "d", "password": "x+y z"]),
    (
      "postgres://h/d?sslmode=require&sslrootcert=", ["host": "h", "port": "5432", "dbname": "d", "sslmode": "require"]
    ),
    (
      "postgres://h/d?sslmode=verify-full",
      [
        "host": "h", "port": "5432", "dbname": "d", "sslmode": "verify-full",
        "sslrootcert": "/etc/ssl/certs/ca-certificates.crt",
      ]
    ),
    (
      "postgres://h/d?gssencmode=prefer&keepalives_idle=9&application_name=x",
      [
        "host": "h", "port": "5432", "dbname": "d", "gssencmode": "prefer", "keepalives_idle": "9",
        "application_name": "x",
      ]
    ),
    (
      "host=h port=5433 user = u password='a \\' b\\\\' dbname=d",
      ["host": "h", "port": "5433", "user": "u", "password": "a ' b\\", "dbname": "d"]
    ),
    ("postgres://h/d?search_path=a,b&options=-c+jit%3Doff", ["host": "h", "port": "5432", "dbname": "d"]),
    (
      "postgres://h/d?options=-c+application_name%3Dx",
      ["host": "h", "port": "5432", "dbname": "d", "application_name": "x"]
    ),
  ])
  func aURLIsPassedOn(_ url: String, _ expected: [String: String]) throws {
    #expect(try passed(url) == expected)
  }

  @Test func severalHostsKeepTheirPorts() throws {
    let hosts = try read("postgres://u@a:1,b,[::1]:3/d").hosts
    #expect(
      hosts == [
        PostgresHost(name: "a", port: "1"), PostgresHost(name: "b", port: "5432"), PostgresHost(name: "::1", port: "3"),
      ])
    #expect(try read("postgres://a,b/?port=7").hosts.map(\.port) == ["7", "7"])
    #expect(try read("host=a,b hostaddr=1.2.3.4,::1").hosts.map(\.address) == ["1.2.3.4", "::1"])
    #expect(faults("postgres://a,b,c/?port=7,8") == ["there must be one port, or one for each host"])
    #expect(faults("host=a,b hostaddr=1.2.3.4") == ["host and hostaddr must name as many"])
  }

  @Test func thePoolsSettingsAreTakenOrIgnoredWithAWarning() throws {
    let configuration = try read(
      "postgres://h/d?pool_max_conns=7&pool_max_conn_lifetime=1h30m&pool_min_conns=2&default_query_exec_mode=exec"
        + "&pool_health_check_period=1m&statement_cache_capacity=0&client_encoding=latin1")
    #expect(configuration.maximumConnections == 7)
    #expect(configuration.connectionLifetime == .seconds(5400))
    #expect(
      configuration.warnings == [
        "client_encoding is ignored: it is always UTF8",
        "default_query_exec_mode is ignored: it is a setting of the Go driver",
        "pool_health_check_period is ignored: it is a setting of the Go driver",
        "pool_min_conns is ignored: it is a setting of the Go driver",
        "statement_cache_capacity is ignored: it is a setting of the Go driver",
      ])
  }

  @Test func allFaultsAreReportedTogether() {
    #expect(
      faults("postgres://h/d?sslmode=yes&pool_max_conns=0&nonsense=1&connect_timeout=soon&service=x") == [
        "connect_timeout must be a whole number",
        "unknown parameter nonsense: neither libpq 15 nor the Go driver knows it, and it is no setting of the server",
        "pool_max_conns must be a whole number from 1",
        "service is not supported: write what it stands for into the URL",
        "sslmode must be one of disable, allow, prefer, require, verify-ca, verify-full",
      ])
  }

  @Test func parametersThatNeedNothingOfLibpqAreAcceptedAtTheirDefaults() {
    let accepted = ["replication=", "replication=off", "replication=false", "replication=0", "sslnegotiation=postgres"]
    for query in accepted {
      #expect(faults("postgres://u@h/d?\(query)") == [], "\(query)")
    }
    for value in ["true", "database", "1"] {
      #expect(
        faults("postgres://u@h/d?replication=\(value)") == [
          "replication must be off: a replication connection cannot run transactions"
        ])
    }
    #expect(
      faults("postgres://u@h/d?sslnegotiation=direct") == [
        "sslnegotiation must be postgres: libpq 15 has no other way"
      ])
  }

  @Test(arguments: [
    "", "mysql://u:hunter2@h/d", "postgres://u:hunter2@h:x/d", "postgres://u:hunter2@h:0/d",
    "postgres://u:hunter2@h:65536/d", "postgres://u:hunter2%@h/d", "postgres://u:hunter2%zz@h/d",
    "postgres://u:hunter2#x@h/d", "postgres://u:hunter2/x@h/d", "postgres://u:12/hunter2@h/d",
    "postgres://u:hunter2?x@h/d", "postgres://u:hunter2@[::1/d", "postgres://u:hunter2%00@h/d",
    "postgres://u:hunter2%ff@h/d", "postgres://h/d?password=hunter2&sslmode=no", "postgres://h/d?hunter2%ZZ=1&=x",
    "hunter2", "host=h password=two hunter2 words", "password='hunter2", "postgres://h/d?pool_max_conns=hunter2",
    "postgres://h/d?pool_max_conn_lifetime=hunter2", "postgres://u:hunter2@h:99999999999999999999/d",
    "postgres://u:hunter2@h/d\n", "postgres://u:hunter2@h/d ",
    "postgres://u@tenant:12?hunter2@h/d", "postgres://h/d?password=x&hunter2!=y",
    "postgres:/u:hunter2@h/d?sslmode=disable", "postgres:/u:hunter2@h/d?sslmode='disable",
  ])
  func aMalformedURLIsRefusedWithoutItsPassword(_ url: String) {
    let found = faults(url)
    #expect(!found.isEmpty)
    #expect(!"\(found)".contains("hunter2"))
  }

  @Test func descriptionsShowNoSecret() throws {
    let configuration = try read("postgres://u:hunter2@h:5433,[::1]/d?sslpassword=hunter2&options=-c%20a.b%3Dhunter2")
    #expect(configuration.redactedURL == "postgresql://u@h:5433,[::1]:5432/d")
    var dumped = ""
    dump(configuration, to: &dumped)
    #expect(!"\(configuration) \(String(reflecting: configuration)) \(dumped)".contains("hunter2"))
  }

  @Test func theRealLibpqKnowsItsParameters() throws {
    let real = PostgresKnownParameters.ofLibpq
    #expect(real.version >= 14)
    #expect(real.names.isSuperset(of: ["host", "hostaddr", "sslmode", "gssencmode", "tcp_user_timeout"]))
    #expect(real.values["port"] != nil)
  }
}

@Suite struct PostgresServerSettingsTests {
  @Test(arguments: [
    ("search_path=a,b&statement_timeout=5s", ["search_path=a,b", "statement_timeout=5s"]),
    ("TimeZone=UTC&ext.a=x%20y%5Cz", ["TimeZone=UTC", "ext.a=x y\\z"]),
    (
      "options=-c%20jit%3Doff%20-cwork_mem%3D8MB%20--lock-timeout%3D1s", ["jit=off", "work_mem=8MB", "lock_timeout=1s"]
    ),
    ("options=-c%20a.b%3Dx%5C%20y%5C%5Cz%3D1%09--c.d%3D", ["a.b=x y\\z=1", "c.d="]),
    // The server reads its command line first, and the last value of a name counts.
    ("options=-c%20jit%3Doff%20-c%20Work_Mem%3D1MB&work_mem=2MB", ["jit=off", "work_mem=2MB"]),
    ("options=", []), ("options=%20%09", []),
  ])
  func theURLsSettingsAreSetByEachTransaction(_ query: String, _ expected: [String]) throws {
    #expect(try settings("postgres://h/d?\(query)") == expected)
  }

  @Test func settingsOfTheEnvironmentComeFirst() throws {
    var known = known
    known.values["options"] = "-c jit=off -c timezone=Asia/Tokyo"
    known.settings = [PostgresSetting(name: "timezone", value: "UTC"), PostgresSetting(name: "geqo", value: "off")]
    let configuration = try PostgresConfiguration(
      url: "postgres://h/d?geqo=on", applicationName: "app", known: known)
    #expect(
      configuration.transactionSettings.map { "\($0.name)=\($0.value)" } == [
        "jit=off", "timezone=Asia/Tokyo", "geqo=on",
      ])
  }

  @Test func aFaultOfTheEnvironmentsOptionsNamesTheirVariable() {
    var known = known
    known.values["options"] = "-c default_transaction_read_only=on"
    known.variables["options"] = "PGOPTIONS"
    do {
      _ = try PostgresConfiguration(url: "postgres://h/d", applicationName: "app", known: known)
      Issue.record("accepted")
    } catch {
      #expect(error.faults == ["PGOPTIONS: default_transaction_read_only must be off: nothing could be written"])
    }
  }

  @Test(arguments: ["", "&sslmode=verify-full"])
  func theSystemsAuthoritiesAreUsedAlsoByALibpqThatHasNoNameForThem(_ mode: String) throws {
    let passed = try passed("postgres://h/d?sslrootcert=system\(mode)")
    #expect(passed["sslrootcert"] == PostgresParameterNames.systemRoots && passed["sslmode"] == "verify-full")
    #expect(
      faults("postgres://h/d?sslrootcert=system&sslmode=require") == ["sslrootcert=system needs sslmode=verify-full"])
  }

  @Test(arguments: [
    ("options=-s", "options: -s is not supported: settings are written as -c name=value"),
    ("options=-c%20jit%3Doff%20-P", "options: -P is not supported: settings are written as -c name=value"),
    ("options=-e", "options: -e is not supported: settings are written as -c name=value"),
    ("options=-B%2064", "options: -B is not supported: settings are written as -c name=value"),
    ("options=hunter2", "options must be made of -c name=value"),
    ("options=-c", "options: -c lacks its name=value"),
    ("options=-c%20hunter2", "options: a setting lacks its value"),
    ("options=-c%20hunter2!%3Dx", "options: a setting's name is not made of letters, digits, underscores and dots"),
    (
      "session_authorization=x", "session_authorization is not supported: log in as the user that it names, or set role"
    ),
    (
      "options=-cdefault-transaction-read-only%3Don",
      "default_transaction_read_only must be off: nothing could be written"
    ),
    ("transaction_read_only=yes", "transaction_read_only must be off: nothing could be written"),
  ])
  func whatCannotBeSetByATransactionIsAFault(_ query: String, _ fault: String) {
    #expect(faults("postgres://h/d?\(query)") == [fault])
  }

  @Test(arguments: [
    (
      "default_transaction_isolation=serializable",
      "default_transaction_isolation is ignored: every transaction is read committed"
    ),
    (
      "options=-c%20transaction_isolation%3Dserializable",
      "transaction_isolation is ignored: every transaction is read committed"
    ),
    ("options=-cclient_encoding%3Dlatin1", "client_encoding is ignored: it is always UTF8"),
    ("log_connections=on", "log_connections is ignored: the server takes it at the start of a session only"),
    (
      "session_preload_libraries=x",
      "session_preload_libraries is ignored: the server takes it at the start of a session only"
    ),
  ])
  func whatATransactionHasNoUseForIsIgnoredWithAWarning(_ query: String, _ warning: String) throws {
    let configuration = try read("postgres://h/d?\(query)")
    #expect(configuration.warnings == [warning])
    #expect(configuration.transactionSettings.isEmpty)
  }

  @Test(arguments: ["default_transaction_read_only=off", "options=-c%20transaction_read_only%3D0"])
  func transactionsAreMadeWritableBeforeTheirFirstQuery(_ query: String) throws {
    let configuration = try read("postgres://h/d?work_mem=1MB&\(query)")
    #expect(configuration.warnings.isEmpty && configuration.isReadWrite)
    let settings = configuration.serverSettings
    let begin = settings.prelude(checksClient: false).map(\.sql)
    #expect(begin.count == 3 && begin[1] == "SET transaction_read_only = off")
    #expect(settings.prelude(checksClient: false, isReadOnly: true).count == 2)
    #expect(try !read("postgres://h/d").isReadWrite)
  }

  @Test func theRoleIsSetLastAndTheClientCheckIntervalOnlyIfTheURLSetsNone() throws {
    let settings = try read("postgres://h/d?role=r&work_mem=1MB").serverSettings
    let prelude = settings.prelude(checksClient: true)
    #expect(prelude.map(\.sql).first == "SET transaction_isolation = 'read committed'")
    #expect(prelude.last?.parameters == ["work_mem", "1MB", "client_connection_check_interval", "5000", "role", "r"])
    #expect(prelude.allSatisfy { $0.isPrepared })
    let own = try read("postgres://h/d?options=-c%20client_connection_check_interval%3D1s").serverSettings
    #expect(own.prelude(checksClient: true).last?.parameters == ["client_connection_check_interval", "1s"])
    #expect(try read("postgres://h/d").serverSettings.prelude(checksClient: false).count == 1)
  }
}

@Suite struct PostgresErrorTests {
  @Test(arguments: [
    (
      "connection to server at \"db.example\" (10.1.2.3), port 5432 failed: FATAL:  28P01: password authentication "
        + "failed for user \"u\"\nDETAIL:  x\nLOCATION:  auth_failed, auth.c:338\n",
      "28P01: password authentication failed for user \"u\"", "authentication failed (SQLSTATE 28P01)"
    ),
    (
      "connection to server at \"db.example\" (10.1.2.3), "
        + "port 5432 failed: Connection refused\n\tIs the server running?",
      "connection refused", "connection refused"
    ),
    (
      "connection to server at \"db.example\" (10.1.2.3), "
        + "port 5432 failed: ФАТАЛЬНО:  53300: слишком много\nX:  00000: y",
      "53300: слишком много", "too many connections (SQLSTATE 53300)"
    ),
    ("", "connection failed", "connection failed"),
    (
      "FATAL:  08P01: unsupported startup parameter: application_name",
      "08P01: unsupported startup parameter: application_name",
      "the start-up parameter application_name is refused: a pooler must have it in ignore_startup_parameters "
        + "(SQLSTATE 08P01)"
    ),
    (
      "FATAL:  08P01: unsupported startup parameter: hunter2", "08P01: unsupported startup parameter: hunter2",
      "refused by the server or the pooler before it (SQLSTATE 08P01)"
    ),
    (
      "FATAL:  08P01: could not access file \"/hunter2\": No such file or directory",
      "08P01: could not access file \"/hunter2\": No such file or directory",
      "the server lacks a file, such as a library that sessions are to preload (SQLSTATE 08P01)"
    ),
    (
      "FATAL:  08P01: too many connections for role \"u\"", "08P01: too many connections for role \"u\"",
      "too many connections (SQLSTATE 08P01)"
    ),
    (
      "FATAL:  08P01: query_wait_timeout", "08P01: query_wait_timeout",
      "the pooler had no connection to the server in time (query_wait_timeout) (SQLSTATE 08P01)"
    ),
  ])
  func libpqsTextsAreReducedToReasons(_ text: String, _ reason: String, _ publicReason: String) {
    let found = PostgresError.reason(inClientText: text)
    #expect((found.sqlState.map { "\($0): " } ?? "") + found.text == reason)
    #expect(PostgresError.unavailable(reason: found.text, sqlState: found.sqlState).publicReason == publicReason)
  }

  /// What libpq 13 to 17 say of a connection, from their sources, and what may be read of it.
  @Test(arguments: [
    (
      "connection to server at \"db.example\" (10.1.2.3), port 5432 failed: SSL error: tlsv1 alert protocol version\n",
      "SSL error: tlsv1 alert protocol version"
    ),
    (
      "private key file \"/home/u/key\" has group or world access; file must have permissions u=rw (0600) or less",
      "the client key is readable by others: its permissions must be 0600"
    ),
    ("channel binding required, but SSL not in use\n", "channel binding required, but SSL not in use"),
    (
      "root certificate file \"/nowhere\" does not exist\nEither provide the file or change sslmode",
      "root certificate file \"…\" does not exist"
    ),
    (
      "definition of service \"hunter2\" not found", "definition of service \"…\" not found"
    ),
    ("invalid SSL protocol version range", "invalid SSL protocol version range"),
    (
      "sslmode value \"require\" invalid when SSL support is not compiled in",
      "sslmode value \"require\" invalid when SSL support is not compiled in"
    ),
    ("could not parse network address db.example: hunter2 of u", "could not parse network address …: … of …"),
    ("Out of memory for user u\u{7}", "out of memory for user … "),
    ("users of hunter22 are not u", "users of hunter22 are not …"),
    (
      "connection to server on socket \"/tmp/.s.PGSQL.5432\" failed: No such file or directory\n\tIs the server",
      "no such file or directory"
    ),
    (String(repeating: "x", count: 5_000), String(repeating: "x", count: 200)),
  ])
  func libpqsOwnWordsAreKeptWithoutNames(_ text: String, _ reason: String) {
    #expect(PostgresError.reason(inClientText: text, hiding: ["u", "hunter2", "db.example", ""]).text == reason)
  }
}
