// Where PostgreSQL is and how to log in, from DATABASE_URL. Invariant: every fault of the URL is found here, before any
// server is touched, and no fault, warning or description contains a password. Made at boot, read by the pool.

import CReactor

/// All faults of a connection URL. None contains the password.
public struct PostgresURLFault: Error, Sendable, Equatable, CustomStringConvertible {
  public let faults: [String]

  public var description: String {
    var text = ""
    for fault in faults { text += text.isEmpty ? fault : "; \(fault)" }
    return text
  }
}

/// An address of the server.
struct PostgresHost: Sendable, Equatable {
  /// A name, an address or a socket's directory; nil is libpq's default directory.
  var name: String?
  /// A numeric address given in the URL beside the name.
  var address: String?
  var port: String

  var isLocalSocket: Bool {
    name.map { $0.utf8.first == UInt8(ascii: "/") || $0.utf8.first == UInt8(ascii: "@") } ?? true
  }
}

/// The settings of a connection, read from a URL (`postgres://`, `postgresql://`) or from `name=value` pairs.
///
/// It accepts the parameters of the libpq in use, those of the Go driver pgx, and server settings, which each
/// transaction applies to itself.
public struct PostgresConfiguration: Sendable {
  /// What is ignored, and the reason.
  public private(set) var warnings: [String] = []
  /// `pool_max_conns`, if given.
  public var maximumConnections: Int?
  /// `pool_max_conn_lifetime`, if given.
  public var connectionLifetime: Duration?

  /// The server's addresses, in the order in which they are tried.
  private(set) var hosts: [PostgresHost] = []
  /// `connect_timeout`: the time limit for one address. libpq's non-blocking functions do not apply it.
  private(set) var connectTimeout: Duration?
  /// The value of `target_session_attrs` in each round through the hosts.
  private(set) var sessionRounds: [String?] = [nil]
  /// Whether `target_session_attrs` requests read-only servers.
  public private(set) var expectsReadOnly = false
  private(set) var base: [PostgresParameter] = []
  private(set) var serverSettings = PostgresServerSettings()

  /// The server's settings that the URL asks for (`search_path`, `statement_timeout`, `options`, …), in the order in
  /// which a transaction sets them.
  public var transactionSettings: [PostgresSetting] { serverSettings.list }
  /// Whether the URL makes transactions writable (`default_transaction_read_only=off`) whatever the default is.
  public var isReadWrite: Bool { serverSettings.isReadWrite }

  /// Replaces the application name `earlier` by `name`. A name from the URL or the environment stays.
  public mutating func rename(application earlier: String, to name: String) {
    for index in base.indices where base[index].name == "application_name" && base[index].value == earlier {
      base[index].value = name
    }
  }

  /// Reads `url`. `applicationName` is what the server shows, unless the URL names another one.
  ///
  /// - Throws: all faults of the URL.
  public init(url: String, applicationName: String) throws(PostgresURLFault) {
    try self.init(url: url, applicationName: applicationName, known: .ofLibpq)
    for host in hosts {
      let faults = PostgresBootCheck.faults(
        of: parameters(host: host, address: nil, session: nil), known: .ofLibpq)
      guard faults.isEmpty else { throw PostgresURLFault(faults: faults) }
    }
  }

  /// - Parameter known: libpq's parameters and their values from the environment (PGHOST, …).
  init(url: String, applicationName: String, known: PostgresKnownParameters) throws(PostgresURLFault) {
    var faults: [String] = []
    let pairs: [PostgresParameter]
    switch PostgresURL.parameters(of: url) {
    case .success(let found): pairs = found
    // The URL could not be parsed, so no part of it is repeated: it could be a part of the password.
    case .failure(let fault): throw fault
    }
    var given: [String: String] = [:]
    for pair in pairs {
      if given.updateValue(given[pair.name] ?? pair.value, forKey: pair.name) != nil {
        warnings.append("\(pair.name) is given more than once; the first one counts")
      }
    }
    Self.replaceSystemRoots(in: &given, known: known, faults: &faults)
    // As on the server, a named setting takes precedence over one in `options`, and both over the environment's.
    for setting in known.settings { serverSettings.add(setting.name, setting.value) }
    if let options = given["options"] {
      serverSettings.add(options: options)
    } else {
      serverSettings.add(options: known.values["options"] ?? "", from: known.variables["options"])
    }
    for name in given.keys.sorted() {
      take(name, given[name]!, known: known, faults: &faults)
    }
    warnings += serverSettings.warnings
    faults += serverSettings.faults
    setHosts(given, known: known, faults: &faults)
    setDefaults(given, applicationName: applicationName, known: known)
    guard faults.isEmpty else { throw PostgresURLFault(faults: faults) }
  }

  // MARK: - Reading

  private mutating func take(_ name: String, _ value: String, known: PostgresKnownParameters, faults: inout [String]) {
    switch name {
    case "host", "hostaddr", "port", "options":
      return
    case "service", "replication":
      return Self.takeUnsupported(name, value, faults: &faults)
    case "sslnegotiation" where !known.names.contains(name):
      // libpq has had it since version 17, with this default.
      if !value.isEmpty, value != "postgres" {
        faults.append("sslnegotiation must be postgres: libpq \(known.version) has no other way")
      }
      return
    case "client_encoding":
      if !value.isEmpty && value.lowercased() != "utf8" && value.lowercased() != "utf-8" {
        warnings.append("client_encoding is ignored: it is always UTF8")
      }
      return
    case "target_session_attrs":
      if value == "prefer-standby" {
        sessionRounds = ["standby", "any"]
        return
      }
      expectsReadOnly = value == "standby" || value == "read-only"
    case "connect_timeout":
      // libpq: 0, negative and empty mean no limit.
      if let seconds = Int(value), seconds > 0, seconds < 1_000_000 { connectTimeout = .seconds(seconds) }
    default: break
    }
    if let values = PostgresParameterNames.values[name], !value.isEmpty, !values.contains(value) {
      faults.append("\(name) must be one of \(values.reduce("") { $0.isEmpty ? $1 : "\($0), \($1)" })")
    } else if PostgresParameterNames.whole.contains(name), !value.isEmpty, Int(value) == nil {
      faults.append("\(name) must be a whole number")
    } else if known.names.contains(name) {
      if !value.isEmpty { base.append(PostgresParameter(name: name, value: value)) }
    } else if !takePoolSetting(name, value, faults: &faults) {
      takeServerSetting(name, value, known: known, faults: &faults)
    }
  }

  /// libpq 16 and later support `sslrootcert=system`, and then verify the host name too; earlier versions take it for a
  /// file name.
  private static func replaceSystemRoots(
    in given: inout [String: String], known: PostgresKnownParameters, faults: inout [String]
  ) {
    guard known.version < 16, (given["sslrootcert"] ?? known.values["sslrootcert"]) == "system" else { return }
    given["sslrootcert"] = PostgresParameterNames.systemRoots
    let isGiven = given["sslmode"] != nil || known.variables["sslmode"] != nil
    let mode = given["sslmode"] ?? known.values["sslmode"]
    if isGiven, mode != "verify-full" { faults.append("sslrootcert=system needs sslmode=verify-full") }
    given["sslmode"] = "verify-full"
  }

  /// Parameters of libpq that the worker does not support.
  private static func takeUnsupported(_ name: String, _ value: String, faults: inout [String]) {
    if name == "service" {
      faults.append("service is not supported: write what it stands for into the URL")
    } else if !value.isEmpty, !PostgresServerSettings.isOff(value) {
      faults.append("replication must be off: a replication connection cannot run transactions")
    }
  }

  /// The parameters of the Go driver's pool and statement cache.
  private mutating func takePoolSetting(_ name: String, _ value: String, faults: inout [String]) -> Bool {
    switch name {
    case "pool_max_conns":
      maximumConnections = Int(value).flatMap { $0 > 0 && $0 <= Int(Int32.max) ? $0 : nil }
      if maximumConnections == nil { faults.append("pool_max_conns must be a whole number from 1") }
    case "pool_max_conn_lifetime":
      connectionLifetime = GoDuration.parse(value).flatMap { $0 > .zero ? $0 : nil }
      if connectionLifetime == nil { faults.append("pool_max_conn_lifetime must be a duration such as 30m") }
    default:
      guard PostgresParameterNames.ofGoDriver.contains(name) else { return false }
      warnings.append("\(name) is ignored: it is a setting of the Go driver")
    }
    return true
  }

  private mutating func takeServerSetting(
    _ name: String, _ value: String, known: PostgresKnownParameters, faults: inout [String]
  ) {
    if PostgresParameterNames.isServerSetting(name) {
      serverSettings.add(name, value)
    } else {
      faults.append(
        "unknown parameter \(name): neither libpq \(known.version) nor the Go driver knows it, and it is no setting "
          + "of the server")
    }
  }

  private mutating func setHosts(
    _ given: [String: String], known: PostgresKnownParameters, faults: inout [String]
  ) {
    func list(_ name: String) -> [String] {
      let value = given[name].flatMap { $0.isEmpty ? nil : $0 } ?? known.values[name] ?? ""
      return PostgresURL.split(value, at: UInt8(ascii: ","))
    }
    let names = list("host")
    // Addresses from the environment belong to a host from the environment.
    let addresses = given["hostaddr"] == nil && given["host"].map { !$0.isEmpty } ?? false ? [""] : list("hostaddr")
    let ports = list("port")
    let count = max(names.count, addresses.count)
    if addresses != [""] && names != [""] && names.count != addresses.count {
      faults.append("host and hostaddr must name as many")
    }
    if ports.count != 1 && ports.count != count { faults.append("there must be one port, or one for each host") }
    for port in ports where !port.isEmpty && !(Int(port).map { (1...65_535).contains($0) } ?? false) {
      faults.append("a port must be a number from 1 to 65535")
    }
    guard faults.isEmpty else { return }
    for index in 0..<count {
      let name = index < names.count ? names[index] : ""
      let address = index < addresses.count ? addresses[index] : ""
      let port = ports.count == 1 ? ports[0] : ports[index]
      hosts.append(
        PostgresHost(
          name: name.isEmpty ? nil : name, address: address.isEmpty ? nil : address,
          port: port.isEmpty ? "5432" : port))
    }
  }

  // MARK: - Defaults

  /// The defaults for what neither the URL nor the environment sets.
  ///
  /// - gssencmode: Kerberos would block the loop while it looks for credentials in files and on the network.
  /// - keepalives and tcp_user_timeout: a peer that has vanished is noticed within a minute.
  /// - sslrootcert: the Go driver verifies with the system's roots; libpq looks only in the home directory.
  private mutating func setDefaults(
    _ given: [String: String], applicationName: String, known: PostgresKnownParameters
  ) {
    func isOpen(_ name: String) -> Bool { given[name].map(\.isEmpty) ?? true && known.names.contains(name) }
    func setDefault(_ name: String, _ value: String) {
      if isOpen(name) && known.variables[name] == nil {
        base.append(PostgresParameter(name: name, value: value))
      }
    }
    setDefault("application_name", serverSettings.applicationName ?? applicationName)
    setDefault("gssencmode", "disable")
    setDefault("keepalives_idle", "30")
    setDefault("keepalives_interval", "10")
    setDefault("keepalives_count", "3")
    setDefault("tcp_user_timeout", "30000")
    let mode = given["sslmode"] ?? known.values["sslmode"] ?? ""
    if mode == "verify-ca" || mode == "verify-full", !known.hasOwnRootCertificate {
      let takesSystem = known.version >= 16 && mode == "verify-full"
      setDefault("sslrootcert", takesSystem ? "system" : PostgresParameterNames.systemRoots)
    }
    // If the home directory cannot be read, libpq would refuse TLS or, with sslmode=prefer, connect without it.
    if !known.hasOwnCertificate { setDefault("sslcert", PostgresParameterNames.noFile) }
    if known.hasOpenPasswordFile, given["password"] == nil {
      warnings.append("the password file is ignored: others can read it")
      setDefault("passfile", PostgresParameterNames.noFile)
    }
    base.append(PostgresParameter(name: "client_encoding", value: "UTF8"))
  }

  // MARK: - Use

  /// libpq's parameters for one address of one host.
  func parameters(host: PostgresHost, address: String?, session: String?) -> [PostgresParameter] {
    var parameters = base
    if let name = host.name { parameters.append(PostgresParameter(name: "host", value: name)) }
    if let address { parameters.append(PostgresParameter(name: "hostaddr", value: address)) }
    parameters.append(PostgresParameter(name: "port", value: host.port))
    if let session { parameters.append(PostgresParameter(name: "target_session_attrs", value: session)) }
    return parameters
  }

  /// The files and directories that connections read: certificates, keys, revocation lists, passwords. Includes libpq's
  /// default files, whether they exist or not.
  public var filePaths: [String] {
    let known = PostgresKnownParameters.ofLibpq
    var paths = known.homeFiles
    for name in PostgresParameterNames.files {
      guard let path = base.first(where: { $0.name == name })?.value ?? known.values[name] else { continue }
      if !path.isEmpty, path != "system", path != PostgresParameterNames.noFile { paths.append(path) }
    }
    return paths
  }

  /// User, hosts, ports and database, for logs. Neither the password nor the rest of the query.
  public var redactedURL: String {
    func value(_ name: String) -> String? { base.first { $0.name == name }?.value }
    var places = ""
    for host in hosts {
      let name = host.name ?? host.address ?? ""
      let isNumeric6 = name.utf8.contains(UInt8(ascii: ":"))
      places += (places.isEmpty ? "" : ",") + (isNumeric6 ? "[\(name)]" : name) + ":\(host.port)"
    }
    return "postgresql://\(value("user").map { "\($0)@" } ?? "")\(places)/\(value("dbname") ?? "")"
  }
}

extension PostgresConfiguration: ServerConfiguration {
  /// Parameters that identify and authenticate the login.
  private static let login: Set<String> = ["user", "password", "sslpassword"]

  /// The same server and parameters with the user and the passwords of `other`.
  func withLogin(of other: PostgresConfiguration) -> PostgresConfiguration {
    var configuration = self
    configuration.base.removeAll { Self.login.contains($0.name) }
    configuration.base += other.base.filter { Self.login.contains($0.name) }
    return configuration
  }

  /// Parameters that affect neither which server gets the login nor how it is protected in transit.
  private static let harmless: Set<String> = [
    "application_name", "connect_timeout", "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval",
    "tcp_user_timeout",
  ]

  /// With the user and the passwords of `other`; nil if that leads to another database or by another way.
  public func withNewLogin(from other: PostgresConfiguration) -> PostgresConfiguration? {
    hasSameServers(as: other) ? withLogin(of: other) : nil
  }

  private func hasSameServers(as other: PostgresConfiguration) -> Bool {
    func way(_ parameters: [PostgresParameter]) -> [PostgresParameter] {
      parameters.filter { !Self.login.contains($0.name) && !Self.harmless.contains($0.name) }
        .sorted { $0.name < $1.name }
    }
    return hosts == other.hosts && way(base) == way(other.base)
  }

  /// Whether connections are made in the same way. Ignores warnings.
  public static func == (left: PostgresConfiguration, right: PostgresConfiguration) -> Bool {
    left.hosts == right.hosts && left.connectTimeout == right.connectTimeout
      && left.sessionRounds == right.sessionRounds && left.expectsReadOnly == right.expectsReadOnly
      && left.maximumConnections == right.maximumConnections && left.connectionLifetime == right.connectionLifetime
      && left.serverSettings == right.serverSettings
      && left.base.sorted { $0.name < $1.name } == right.base.sorted { $0.name < $1.name }
  }
}

extension PostgresConfiguration: CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
  public var description: String { redactedURL }
  public var debugDescription: String { redactedURL }
  public var customMirror: Mirror { Mirror(self, children: []) }
}
