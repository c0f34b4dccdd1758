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
  values: ["port": "5432", "sslmode": "prefer"], fromEnvironment: [], version: 15, hasOwnRootCertificate: false)

private func read(_ url: String) throws(PostgresURLFault) -> PostgresConfiguration {
  try PostgresConfiguration(url: url, applicationName: "app", known: known)
}

/// What libpq is told for the first host, but for the defaults that every connection has.
private func told(_ url: String) throws -> [String: String] {
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
    (
      "postgres://h/d?search_path=a,b&statement_timeout=5s",
      ["host": "h", "port": "5432", "dbname": "d", "options": "-c search_path=a,b -c statement_timeout=5s "]
    ),
    (
      "postgres://h/d?TimeZone=UTC&ext.a=x%20y%5Cz&options=-c+jit%3Doff",
      ["host": "h", "port": "5432", "dbname": "d", "options": "-c TimeZone=UTC -c ext.a=x\\ y\\\\z -c jit=off"]
    ),
  ])
  func aURLIsPassedOn(_ url: String, _ expected: [String: String]) throws {
    #expect(try told(url) == expected)
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

  @Test(arguments: [
    "", "mysql://u:hunter2@h/d", "postgres://u:hunter2@h:x/d", "postgres://u:hunter2@h:0/d",
    "postgres://u:hunter2@h:65536/d", "postgres://u:hunter2%@h/d", "postgres://u:hunter2%zz@h/d",
    "postgres://u:hunter2#x@h/d", "postgres://u:hunter2/x@h/d", "postgres://u:12/hunter2@h/d",
    "postgres://u:hunter2?x@h/d", "postgres://u:hunter2@[::1/d", "postgres://u:hunter2%00@h/d",
    "postgres://u:hunter2%ff@h/d", "postgres://h/d?password=hunter2&sslmode=no", "postgres://h/d?hunter2%ZZ=1&=x",
    "hunter2", "host=h password=two hunter2 words", "password='hunter2", "postgres://h/d?pool_max_conns=hunter2",
    "postgres://h/d?pool_max_conn_lifetime=hunter2", "postgres://u:hunter2@h:99999999999999999999/d",
    "postgres://u:hunter2@h/d\n", "postgres://u@tenant:12?hunter2@h/d", "postgres://h/d?password=x&hunter2!=y",
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

  @Test func theGreetingLeavesToTheURLWhatItSets() throws {
    let usual = try read("postgres://h/d").greeting
    #expect(usual.contains("'read committed'") && usual.contains("'5000'"))
    let own = try read(
      "postgres://h/d?default_transaction_isolation=serializable&options=-c%20client_connection_check_interval%3D1s"
    ).greeting
    #expect(!own.contains("read committed") && !own.contains("check_interval"))
  }

  @Test func theRealLibpqKnowsItsParameters() throws {
    let real = PostgresKnownParameters.ofLibpq
    #expect(real.version >= 14)
    #expect(real.names.isSuperset(of: ["host", "hostaddr", "sslmode", "gssencmode", "tcp_user_timeout"]))
    #expect(real.values["port"] != nil)
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
    ("something about db.example and hunter2", "connection failed", "connection failed"),
    ("", "connection failed", "connection failed"),
  ])
  func libpqsTextsAreReducedToReasons(_ text: String, _ reason: String, _ publicReason: String) {
    #expect(PostgresError.reason(inClientText: text) == reason)
    #expect(PostgresError.unavailable(reason: reason).publicReason == publicReason)
  }
}
