// The addresses of the servers and of the listener. Parsing contacts no server.
// Invariant: a URL may contain a password and is shown only in its redacted form.

import Reactor

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

extension Setting where Value == RedisConfiguration {
  static var redisURL: Setting {
    Setting(
      name: "REDIS_URL", kind: "Redis URL", absence: .fault,
      help: """
        URL of the control plane's Redis: redis://user:password@host:port/database, rediss:// for TLS, or \
        unix:///path/of/a.sock.
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

extension Setting where Value == ListenAddress {
  static var localAddress: Setting {
    Setting(
      name: "SB_WORKER_LOCAL_ADDR", kind: "host:port", absence: .text("127.0.0.1:8091"),
      help: """
        Address for probes and metrics: host:port, where the host is an IP address or a name. Without a host the \
        worker listens on every interface.
        """
    ) { text in
      do {
        return .accepted(try ListenAddress(text))
      } catch {
        return .mustBe("host:port, such as 127.0.0.1:8091, [::1]:8091, localhost:8091 or :8091")
      }
    }
  }
}
