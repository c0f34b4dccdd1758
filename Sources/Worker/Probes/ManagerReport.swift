// Reports to systemd: that the worker is ready or why not, that it is stopping, and that its loop is running.
// A pure struct for the messages, and the task that sends them.
// Invariants: READY=1 is sent once, when the worker is ready; without a watchdog an idle worker sends nothing.

import Reactor

/// The messages to the service manager.
struct ManagerMessages: Sendable {
  /// The delay before retrying a message that the manager's socket did not accept.
  static let retryDelay = Duration.seconds(1)
  /// The longest status, in bytes. The protocol's limit is 64 KiB for a whole message.
  private static let statusByteLimit = 300

  /// How often the watchdog is fed; nil if there is none. sd_watchdog_enabled(3) recommends half of its timeout.
  private let feedInterval: Duration?
  /// Unsent assignments, in order.
  private var unsent: [String] = []
  private var unsentStatus: String?
  private var status = ""
  private var isReady = false
  private var isStopping = false
  private var nextFeed: MonotonicInstant
  /// The earliest retry, after a message was not accepted.
  private var retryAt: MonotonicInstant?

  init(watchdogTimeout: Duration?, now: MonotonicInstant) {
    feedInterval = watchdogTimeout.map { $0 / 2 }
    nextFeed = feedInterval == nil ? .never : now
    show("Connecting to PostgreSQL and Redis")
  }

  /// The worker is ready, for the first time or again.
  mutating func becameReady() {
    guard !isStopping else { return }
    if !isReady { unsent.append("READY=1") }
    isReady = true
    show("Ready")
  }

  /// These servers are unavailable, by name, each with its reason.
  mutating func becameUnready(_ failing: [(server: String, reason: String)]) {
    guard !isStopping else { return }
    var text = "Not ready"
    for (index, (server, reason)) in failing.enumerated() {
      text += (index == 0 ? ": " : "; ") + "\(server): \(reason)"
    }
    show(text)
  }

  /// Settings are being reloaded since `now`, on the kernel's monotonic clock. Nothing is sent before the worker is
  /// ready: READY=1 ends a reload.
  mutating func reloads(at now: MonotonicInstant) {
    guard isReady, !isStopping else { return }
    unsent.append("\(Self.reloading)\nMONOTONIC_USEC=\(now.nanoseconds / 1_000)")
  }

  mutating func reloaded() {
    guard isReady, !isStopping else { return }
    unsent.append("READY=1")
  }

  mutating func stops() {
    guard !isStopping else { return }
    isStopping = true
    unsent.append("STOPPING=1")
    show("Shutting down: a running batch finishes")
  }

  private static let reloading = "RELOADING=1"

  /// How many unsent assignments go into the next message: one that followed the start of a reload in the same message
  /// would be taken for its end.
  private var nextCount: Int {
    unsent.firstIndex { $0.hasPrefix(Self.reloading) }.map { $0 + 1 } ?? unsent.count
  }

  /// The message to send now, if any.
  func message(at now: MonotonicInstant) -> String? {
    guard now >= wakeAt else { return nil }
    var message = ""
    for line in unsent.prefix(nextCount) { message += line + "\n" }
    if let unsentStatus { message += "STATUS=\(unsentStatus)\n" }
    if now >= nextFeed { message += "WATCHDOG=1\n" }
    return message
  }

  /// When a message is due; in the past if one is due now.
  var wakeAt: MonotonicInstant {
    if let retryAt { return retryAt }
    return unsent.isEmpty && unsentStatus == nil ? nextFeed : MonotonicInstant(nanoseconds: 0)
  }

  /// The manager's socket accepted the message, or did not.
  mutating func sent(_ isTaken: Bool, at now: MonotonicInstant) {
    guard isTaken else {
      retryAt = now.advanced(by: Self.retryDelay)
      return
    }
    retryAt = nil
    unsent.removeFirst(nextCount)
    unsentStatus = nil
    if let feedInterval, now >= nextFeed { nextFeed = now.advanced(by: feedInterval) }
  }

  /// A newline would begin another assignment.
  private mutating func show(_ text: String) {
    var bytes: [UInt8] = []
    for byte in text.utf8.prefix(Self.statusByteLimit) { bytes.append(byte < 0x20 ? UInt8(ascii: " ") : byte) }
    let text = String(decoding: bytes, as: UTF8.self)
    guard text != status else { return }
    status = text
    unsentStatus = text
  }
}

/// Keeps the service manager informed. Without one it does nothing.
@EventLoop
final class ManagerReport {
  private let manager: ServiceManager?
  private let clock: LoopClock
  private var messages: ManagerMessages
  private let changed = WakeUp()

  init(_ manager: ServiceManager?, clock: LoopClock) {
    self.manager = manager
    self.clock = clock
    messages = ManagerMessages(watchdogTimeout: manager?.watchdogTimeout, now: clock.now)
  }

  func becameReady() {
    messages.becameReady()
    changed.fire()
  }

  func becameUnready(_ failing: [(server: String, reason: String)]) {
    messages.becameUnready(failing)
    changed.fire()
  }

  /// A reload of the settings begins.
  func reloads() {
    messages.reloads(at: clock.now)
    send()
  }

  func reloaded() {
    messages.reloaded()
    changed.fire()
  }

  /// Sent at once: the process may end before the task runs.
  func stops() {
    messages.stops()
    send()
  }

  /// Sends what is due, until cancelled.
  func run() async {
    guard manager != nil else { return }
    while !Task.isCancelled {
      send()
      do {
        try await clock.sleep(until: messages.wakeAt, orUntil: changed)
      } catch {
        // Cancelled: the worker has ended.
        return
      }
    }
  }

  private func send() {
    guard let manager, let message = messages.message(at: clock.now) else { return }
    messages.sent(manager.send(message), at: clock.now)
  }
}
