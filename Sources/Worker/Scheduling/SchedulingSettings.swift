// The settings of the lease, the first run and the shutdown.

import Coordination

extension Setting where Value == Duration {
  static var lease: Setting {
    .duration(
      "SB_WORKER_LEASE", default: .seconds(15),
      in: .seconds(3)...(.milliseconds(CoordinationScripts.longestLeaseMilliseconds)),
      help: "Lifetime of a sweeper's lock in Redis, renewed after a third of it.")
  }

  static var shutdownGrace: Setting {
    .inheritedDuration(
      "SB_WORKER_SHUTDOWN_GRACE", default: .seconds(15), zeroOrBelow: .isZero,
      help: "How long a running batch may take to finish after SIGTERM before it is cancelled.")
  }
}

extension Setting where Value == Bool {
  static var runOnStart: Setting {
    .boolean(
      "SB_WORKER_RUN_ON_START", default: false,
      help: "Run every sweeper at startup, unless its last run began less than a minute ago.")
  }
}

extension SettingRow {
  static let scheduling: [SettingRow] = [Setting.lease.row, Setting.runOnStart.row, Setting.shutdownGrace.row]
}
