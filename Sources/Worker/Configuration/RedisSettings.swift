// How Redis is reached, and the prefix of the worker's keys there. Parsing contacts no server.
// Invariant: a URL may contain a password and is shown only in its redacted form.

import Reactor

extension Setting where Value == RedisConfiguration {
  static var redisURL: Setting {
    Setting(
      name: "REDIS_URL", kind: "Redis URL", absence: .fault,
      help: """
        URL of the control plane's Redis: redis://user:password@host:port/database, rediss:// for TLS, \
        redis+sentinel://user:password@host:port,host:port/master/database for Sentinels, \
        redis+cluster://user:password@host:port,host:port for a cluster, or unix:///path/to/redis.sock.
        """,
      isSecret: true
    ) { text in
      do throws(RedisURLFault) {
        let configuration = try RedisConfiguration(url: text)
        return .accepted(configuration, warnings: configuration.warnings)
      } catch {
        return .refused(error.faults.map { "is invalid: \($0)" })
      }
    }
  }
}

extension Setting where Value == String {
  static var redisNamespace: Setting {
    var setting = Setting(
      name: "REDIS_NAMESPACE", kind: "text", absence: .text("secrets-bridge"),
      help: "Prefix of every Redis key; the same in every part of the control plane."
    ) { text in
      guard isNamespace(text) else {
        return .mustBe("at most 200 bytes without braces, whitespace or control characters")
      }
      // KEYS, SCAN and ACLs read these as wildcards.
      let hasWildcards = text.utf8.contains { Array("*?[]\\".utf8).contains($0) }
      return .accepted(text, warnings: hasWildcards ? ["contains characters of Redis patterns (* ? [ ] \\)"] : [])
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

extension Setting where Value == Duration {
  static var redisDialTimeout: Setting {
    .inheritedDuration(
      "REDIS_DIAL_TIMEOUT", default: .seconds(5),
      help: "Timeout for connecting to Redis. dial_timeout in the URL takes precedence.")
  }
}

extension Setting where Value == Int {
  static var redisPoolSize: Setting {
    .inheritedInteger(
      "REDIS_POOL_SIZE", default: 10, upTo: .max,
      help: "Ignored; accepted for compatibility.")
  }
}

extension SettingRow {
  static let redis: [SettingRow] = [
    Setting.redisURL.row, Setting.redisNamespace.row, Setting.redisDialTimeout.row, Setting.redisPoolSize.row,
  ]
}
