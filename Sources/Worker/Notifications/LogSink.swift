// The sink that always exists: events as log lines.

import Logging
import Reactor

/// Writes every event to the log.
@EventLoop
final class LogSink: EventReceiver {
  private let logger: Logger

  init(_ logger: Logger) {
    self.logger = logger
  }

  func accept(_ event: Event) {
    var fields: Logger.Metadata = ["component": "\(event.component)", "title": "\(event.title)"]
    if !event.detail.isEmpty { fields["detail"] = "\(event.detail)" }
    for count in event.metadata { fields[count.name] = .stringConvertible(count.count) }
    logger.log(level: event.severity.level, "notification", metadata: fields)
  }
}

extension Event.Severity {
  fileprivate var level: Logger.Level {
    switch self {
    case .info: .info
    case .warn: .warning
    case .error: .error
    }
  }
}
