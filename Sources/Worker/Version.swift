// The build's identity. Shown by --version, in the first log line, and as the metric worker_build_info.

/// The version of the worker, and what built it.
enum Version {
  static let program = "secrets-bridge-worker"
  static let number = "0.1.0"

  static let swift: String = {
    #if swift(>=6.4)
      "6.4 or later"
    #elseif swift(>=6.3)
      "6.3"
    #else
      "6.2"
    #endif
  }()

  static let configuration: String = {
    #if DEBUG
      "debug"
    #else
      "release"
    #endif
  }()

  static let text = "\(program) \(number) (Swift \(swift), \(configuration) build)"
}
