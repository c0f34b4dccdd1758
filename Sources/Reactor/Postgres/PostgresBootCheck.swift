// Finds configuration faults that libpq would report only on connecting. Invariant: no server is contacted, and no
// fault contains a path, a name or a password. Called at boot, after the URL has been parsed.

import CReactor

/// The check of a configuration against this host: its files, its account, the libpq in use.
enum PostgresBootCheck {
  /// The faults, each with the parameter's name, and the variable's if that gives its value.
  ///
  /// - Parameters:
  ///   - parameters: the parameters that libpq gets.
  ///   - known: supplies the values of missing parameters.
  static func faults(of parameters: [PostgresParameter], known: PostgresKnownParameters) -> [String] {
    func given(_ name: String) -> String? { parameters.first { $0.name == name }?.value }
    func value(_ name: String) -> String? { (given(name) ?? known.values[name]).flatMap { $0.isEmpty ? nil : $0 } }
    var faults: [String] = []
    if value("user") == nil { faults.append("user is missing, and the account that this runs as has no name") }
    let sslMode = value("sslmode") ?? "prefer"
    if value("channel_binding") == "require", sslMode == "disable" {
      faults.append("channel_binding=require needs TLS, and sslmode is disable")
    }
    let versions = ["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"]
    if let least = value("ssl_min_protocol_version").flatMap(versions.firstIndex(of:)),
      let most = value("ssl_max_protocol_version").flatMap(versions.firstIndex(of:)), least > most
    {
      faults.append("ssl_min_protocol_version is above ssl_max_protocol_version")
    }
    if sslMode != "disable" {
      for name in ["sslcert", "sslkey", "sslrootcert", "sslcrl", "sslcrldir"] {
        guard let path = value(name), let fault = fault(ofFile: path, name) else { continue }
        let variable = given(name) == nil ? known.variables[name] : nil
        faults.append("\(name)\(variable.map { " (\($0))" } ?? ""): \(fault)")
      }
    }
    return faults.isEmpty ? trial(parameters) : faults
  }

  /// Why a file cannot be used; nil if it can.
  private static func fault(ofFile path: String, _ name: String) -> String? {
    if path == PostgresParameterNames.noFile || (name == "sslrootcert" && path == "system") { return nil }
    // A key can be in an OpenSSL engine: "engine:name".
    if name == "sslkey", path.utf8.contains(UInt8(ascii: ":")) { return nil }
    let descriptor = creactor_open_read(path)
    guard descriptor >= 0 else { return "the file cannot be read: \(String(cString: strerror(-descriptor)))" }
    defer { close(descriptor) }
    var status = stat()
    guard name == "sslkey", fstat(descriptor, &status) == 0 else { return nil }
    // libpq's rule: a group may read a key that root owns.
    return status.st_mode & (status.st_uid == 0 ? 0o037 : 0o077) == 0
      ? nil : "the key is readable by others: its permissions must be 0600, or 0640 if it is root's"
  }

  /// Lets libpq parse the parameters, as it does before connecting, with a port that no server can have.
  private static func trial(_ parameters: [PostgresParameter]) -> [String] {
    let place = ["host", "hostaddr", "port"]
    let trial =
      parameters.filter { !place.contains($0.name) } + [
        PostgresParameter(name: "hostaddr", value: "127.0.0.1"), PostgresParameter(name: "port", value: "0"),
      ]
    guard let connection = PostgresHandshake.start(trial) else { return [] }
    defer { PQfinish(connection) }
    let text = PQerrorMessage(connection).map { String(cString: $0) } ?? ""
    if PostgresError.contains(Array(text.utf8), "invalid port number") { return [] }
    if getenv("PGSERVICE") != nil, PostgresError.contains(Array(text.utf8), "service") {
      return ["PGSERVICE names a service that no readable service file has"]
    }
    return ["libpq refuses it: \(PostgresError.reason(inClientText: text, hiding: parameters.secrets).text)"]
  }
}
