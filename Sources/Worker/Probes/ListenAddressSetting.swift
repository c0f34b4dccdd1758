// Where probes and metrics are served. Parsing resolves no name.

import Reactor

extension Settings {
  /// This replica's name in Redis. Two on one host have different ports.
  var replicaName: String {
    let port = self[.localAddress].port
    let isDefault = Setting.localAddress.row.defaultText?.hasSuffix(":\(port)") ?? false
    return isDefault ? HostProcess.hostName : "\(HostProcess.hostName):\(port)"
  }
}

extension Setting where Value == ListenAddress {
  static var localAddress: Setting {
    Setting(
      name: "SB_WORKER_LOCAL_ADDR", kind: "host:port", absence: .text("127.0.0.1:8091"),
      help: "Listen address for probes and metrics. Without a host, the worker listens on every interface."
    ) { text in
      do {
        return .accepted(try ListenAddress(text))
      } catch {
        return .mustBe("host:port, such as 127.0.0.1:8091, [::1]:8091, localhost:8091 or :8091")
      }
    }
  }
}
