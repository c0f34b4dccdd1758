// When settings are read again, as pure structs: on SIGHUP, and when a server refuses a login. Driven by Reloader.

import Reactor

/// How SIGHUP has the settings read again:
///
///                  booted                  signal: read
///     booting ──────────────▶ waiting ─────────────────────▶ waiting, not before a second has passed
///        │ signal                ▲
///        └─ is remembered ───────┘ booted: read
///
/// Invariants: each signal is followed by a read that begins after it, and several can share one; there is at most one
/// read per second, and none while the worker boots or drains.
struct ReloadSchedule: Sendable {
  /// The shortest time between two reads.
  static let leastPause = Duration.seconds(1)

  enum Step: Equatable {
    /// Read the settings now, for all requests so far.
    case read
    case wait(until: MonotonicInstant)
    /// Wait for a signal.
    case idle
  }

  private var hasBooted = false
  private var isRequested = false
  private var notBefore: MonotonicInstant?

  /// A signal came.
  mutating func request() { isRequested = true }

  mutating func booted() { hasBooted = true }

  mutating func next(at now: MonotonicInstant, isDraining: Bool) -> Step {
    guard hasBooted, isRequested, !isDraining else { return .idle }
    if let notBefore, now < notBefore { return .wait(until: notBefore) }
    isRequested = false
    notBefore = now.advanced(by: Self.leastPause)
    return .read
  }
}

/// When a refused login causes a server's URL to be read again.
///
/// Invariants: at most one read per second of an outage; each outcome but a change is reported once in it.
struct LoginRenewal: Sendable {
  /// The shortest time between two reads. Attempts to connect are at most 2 s apart.
  static let leastPause = Duration.seconds(1)

  /// The outcome of a read.
  enum Outcome: Equatable, Sendable {
    /// The URL has another user or password.
    case changed
    /// The login is the same. A file, unlike the environment, can still change.
    case same(isFromFile: Bool)
    /// It names another server, which takes effect at the next start. The current one is not sent its login.
    case elsewhere
    /// It cannot be read or is invalid; why.
    case invalid(String)
  }

  private var notBefore: MonotonicInstant?
  private var reported: Outcome?

  /// The server refused the login. Returns whether to read the URL again.
  mutating func refused(at now: MonotonicInstant) -> Bool {
    if let notBefore, now < notBefore { return false }
    notBefore = now.advanced(by: Self.leastPause)
    return true
  }

  /// The URL was read. Returns whether to report the outcome.
  mutating func read(_ outcome: Outcome) -> Bool {
    if outcome == .changed || outcome == .same(isFromFile: false) { return outcome == .changed }
    defer { reported = outcome }
    return outcome != reported
  }

  /// The server is ready: a later refusal is a new outage.
  mutating func recovered() { (notBefore, reported) = (nil, nil) }
}
