// Where probes and metrics are served. Parsing resolves no name.

import Reactor

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
