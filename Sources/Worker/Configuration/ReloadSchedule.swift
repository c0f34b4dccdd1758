// When settings are read again, as pure structs: on SIGHUP, and when a server refuses a login. Driven by Reloader.

import Reactor

/// When SIGHUP has the settings read again:
///
///                  booted                  signal: read
///     booting ──────────────▶ waiting ─────────────────────▶ waiting, not before a second has passed
///        │ signal                ▲
///        └─ is remembered ───────┘ booted: read
///
/// Invariants: each signal is followed by a read that begins after it, several by one; there is no more than one read a
/// second, and none while the worker boots or drains.
struct ReloadSchedule: Sendable {
  /// How long after a read the next one may begin.
  static let leastPause = Duration.seconds(1)

  enum Step: Equatable {
    /// Read the settings now; this takes what was asked for until here.
    case read
    case wait(until: MonotonicInstant)
    /// Nothing until a signal comes.
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

/// When a server that refuses the login has its URL read again.
///
/// Invariants: there is no more than one read a second of an outage, and each outcome but a change is told once in it.
struct LoginRenewal: Sendable {
  /// How long after a read the next one may begin: the pause between two attempts to connect is 2 s at most.
  static let leastPause = Duration.seconds(1)

  /// What a read brought.
  enum Outcome: Equatable, Sendable {
    /// The URL has another user or password.
    case changed
    /// It has the same ones; whether it comes from a file, which can change.
    case same(isFromFile: Bool)
    /// It leads to another server, which is used from the next start on. This one is not shown its login.
    case elsewhere
    /// It cannot be read, or is invalid, and why.
    case invalid(String)
  }

  private var notBefore: MonotonicInstant?
  private var told: Outcome?

  /// The server refused the login. Returns whether to read the URL again.
  mutating func refused(at now: MonotonicInstant) -> Bool {
    if let notBefore, now < notBefore { return false }
    notBefore = now.advanced(by: Self.leastPause)
    return true
  }

  /// The URL was read. Returns whether people are to be told.
  mutating func read(_ outcome: Outcome) -> Bool {
    if outcome == .changed || outcome == .same(isFromFile: false) { return outcome == .changed }
    defer { told = outcome }
    return outcome != told
  }

  /// The server is ready: what it refuses from now on is another outage.
  mutating func recovered() { (notBefore, told) = (nil, nil) }
}
