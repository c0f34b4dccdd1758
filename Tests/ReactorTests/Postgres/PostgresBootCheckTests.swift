// Faults of a URL on this host are found at boot, by name, before any server is contacted.

import Foundation
import TestSupport
import Testing

@testable import Reactor

@Suite(.serialized) struct PostgresBootCheckTests {
  private func faults(_ query: String) -> [String] {
    do throws(PostgresURLFault) {
      // Nobody listens there: a fault comes from no server.
      _ = try PostgresConfiguration(url: "postgres://u:p@127.0.0.1:1/d?\(query)", applicationName: "boot check")
      return []
    } catch {
      return error.faults
    }
  }

  @Test(arguments: [
    ("sslmode=require&channel_binding=require", []),
    ("sslmode=disable&channel_binding=require", ["channel_binding=require needs TLS, and sslmode is disable"]),
    (
      "ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2",
      ["ssl_min_protocol_version is above ssl_max_protocol_version"]
    ),
    // The least is TLS 1.2 unless the URL says otherwise.
    ("ssl_max_protocol_version=TLSv1.1", ["ssl_min_protocol_version is above ssl_max_protocol_version"]),
    (
      "sslmode=verify-full&sslrootcert=/nowhere/hunter2",
      ["sslrootcert: the file cannot be read: No such file or directory"]
    ),
    ("sslmode=disable&sslrootcert=/nowhere/hunter2", []),
    (
      "sslcert=/nowhere/a&sslkey=/nowhere/b",
      [
        "sslcert: the file cannot be read: No such file or directory",
        "sslkey: the file cannot be read: No such file or directory",
      ]
    ),
    ("sslkey=engine:key", []), ("sslmode=require&gssencmode=disable&keepalives=1&target_session_attrs=any", []),
  ])
  func aContradictionOrAFileThatCannotBeReadIsAFault(_ query: String, _ expected: [String]) {
    #expect(faults(query) == expected)
  }

  @Test func aKeyThatOthersCanReadIsAFault() throws {
    let key = NSTemporaryDirectory() + "/key-\(UUID().uuidString)"
    #expect(FileManager.default.createFile(atPath: key, contents: Data("key".utf8)))
    defer { unlink(key) }
    for (mode, isRight) in [(mode_t(0o600), true), (0o400, true), (0o640, geteuid() == 0), (0o644, false)] {
      chmod(key, mode)
      let found = faults("sslkey=\(key)")
      #expect(found.isEmpty == isRight, "\(String(mode, radix: 8)): \(found)")
      if !isRight { #expect(found[0].hasPrefix("sslkey: the key is readable by others")) }
    }
  }

  private func known(
    _ values: [String: String], from variables: [String: String] = [:]
  ) -> PostgresKnownParameters {
    PostgresKnownParameters(
      names: [], values: values, variables: variables, version: 15, hasOwnRootCertificate: false)
  }

  @Test func aVariableThatGivesAFaultyValueIsNamed() {
    let known = known(["user": "u", "sslrootcert": "/nowhere"], from: ["sslrootcert": "PGSSLROOTCERT"])
    #expect(
      PostgresBootCheck.faults(of: [], known: known)
        == ["sslrootcert (PGSSLROOTCERT): the file cannot be read: No such file or directory"])
    let own = [PostgresParameter(name: "sslrootcert", value: "/elsewhere")]
    #expect(
      PostgresBootCheck.faults(of: own, known: known)
        == ["sslrootcert: the file cannot be read: No such file or directory"])
  }

  @Test func aUserThatNobodyNamesIsAFault() {
    #expect(
      PostgresBootCheck.faults(of: [], known: known(["sslmode": "disable"]))
        == ["user is missing, and the account that this runs as has no name"])
  }

  @Test func whatElseLibpqRefusesIsAFaultWithoutNames() {
    let parameters = [
      PostgresParameter(name: "user", value: "hunter2"), PostgresParameter(name: "sslmode", value: "hunter2"),
    ]
    let found = PostgresBootCheck.faults(of: parameters, known: known([:]))
    #expect(found == [#"libpq refuses it: invalid sslmode value: "…""#])
  }
}
