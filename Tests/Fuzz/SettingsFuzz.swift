// Fuzzes the readers of settings: URLs, durations, numbers, mail addresses, discover targets. What must hold for any
// text: no fault and no shown form repeats a password.

@testable import Reactor
@testable import Worker

/// Long and odd enough to stand in no other part of a text by chance.
private let password = "hunter2-hunter2"

extension FuzzTarget {
  /// Every setting's reader; the first byte chooses it.
  static let settings = FuzzTarget(name: "settings") { input in
    let rows = SettingRow.all
    guard let choice = input.first else { return }
    let text = String(decoding: input.dropFirst(), as: UTF8.self)
    let said: [String]
    switch rows[Int(choice) % rows.count].load(text) {
    case .accepted(_, let warnings): said = warnings
    case .refused(let rules): said = rules
    }
    for line in said { precondition(!line.contains(password), "a password is repeated") }
    if let duration = GoDuration.parse(text) {
      precondition(GoDuration.parse(GoDuration.text(duration)) == duration, "a duration is another one when shown")
    }
  }

  /// URLs of servers, sinks and proxies, with a password put in where the input has a zero byte.
  static let urls = FuzzTarget(name: "urls") { input in
    let text = String(decoding: input.flatMap { $0 == 0 ? Array(password.utf8) : [$0] }, as: UTF8.self)
    readPostgresURL(text)
    do throws(RedisURLFault) {
      let configuration = try RedisConfiguration(url: text, hasTLS: true)
      precondition(isHidden(configuration.redactedURL, text), "the password of a Redis URL is shown")
    } catch {
      for fault in error.faults { precondition(isHidden(fault, text), "a fault repeats a password") }
    }
    _ = WebURL.expectation(text)
    _ = ProxyRules(environment: ["HTTP_PROXY": text, "NO_PROXY": text, "HTTPS_PROXY": text])
  }

  private static func readPostgresURL(_ text: String) {
    let known = PostgresKnownParameters(
      names: ["host", "port", "user", "password", "dbname", "sslmode", "connect_timeout", "options"], values: [:],
      variables: [:], version: 17, hasOwnRootCertificate: false)
    do throws(PostgresURLFault) {
      let configuration = try PostgresConfiguration(url: text, applicationName: "fuzz", known: known)
      precondition(isHidden(configuration.redactedURL, text), "the password of a PostgreSQL URL is shown")
      for warning in configuration.warnings {
        precondition(isHidden(warning, text), "a warning repeats a password")
      }
    } catch {
      for fault in error.faults { precondition(isHidden(fault, text), "a fault repeats a password") }
    }
  }

  /// Whether what is shown lacks the password, where the text has it only behind a user's colon: elsewhere it may be a
  /// parameter's name, which is repeated.
  private static func isHidden(_ shown: String, _ text: String) -> Bool {
    !text.hasPrefix("postgres://u:\(password)@") && !text.hasPrefix("redis://:\(password)@")
      || text.components(of: password) > 1 || !shown.contains(password)
  }
}

extension String {
  /// How often a part stands in it.
  fileprivate func components(of part: String) -> Int {
    let (bytes, part) = (Array(utf8), Array(part.utf8))
    return bytes.indices.count { bytes[$0...].starts(with: part) }
  }
}
