// Whether a server that passes the health check also answers its owner's commands, as a pure struct. Invariant: a
// server that ends connections under the same command twice in a row is unavailable until it answers that command, or
// has kept a connection open without it for `quietLimit`. Driven by RedisClient.

/// What a lost connection implies about the commands that were in flight on it, the suspects:
///
///               lost under commands             lost under commands again
///     clear ───────────────────────▶ suspicion ───────────────────────────▶ repeated
///       ▲                             ▲  │                                   │
///       │  all suspects answered,     │  │ opened, and suspects              │ opened
///       │  or quietLimit passed       │  │ are sent again at once            │
///       │                             │  ▼                                   │
///       └─────────────────────────────┴─ on trial ◀──────────────────────────┘
///                      a suspect answered
///
/// Commands are sent while the server is on trial; it is only not reported ready. One loss under commands that are not
/// sent again starts no trial, because its cause is unknown.
struct RedisTrial: Sendable {
  /// Identifies a command regardless of its arguments: `RedisCommand.kind`.
  typealias Kind = UInt64

  /// How long a connection must stay open for suspicion to end if the commands are not sent again. Callers that retry
  /// do so sooner.
  static let quietLimit = Duration.seconds(10)
  /// The maximum number of commands in flight that are remembered: the oldest, because the server answers in order.
  static let suspectLimit = 32

  /// The health check as a command that connections are lost under.
  static let check: Kind = 0

  /// Commands that were in flight when a connection was lost, and that have not been answered since.
  private var suspects: [Kind] = []
  /// Commands that were answered while there were suspects: the cause is among the others.
  private var innocents: [Kind] = []
  /// Connections lost in a row with one of them in flight.
  private(set) var losses = 0
  /// When a trial ends without an answer; nil if there is none.
  private(set) var endsAt: MonotonicInstant?
  /// When the open connection opened.
  private var openedAt: MonotonicInstant?
  private var explanation: String?

  /// Whether the open connection has yet to prove itself.
  var isOn: Bool { endsAt != nil }
  /// Whether an answer can change anything.
  var isSuspicious: Bool { !suspects.isEmpty }

  /// What is wrong, if connections were lost repeatedly; nil after a single loss, whose cause is unknown.
  var reason: String? { losses > 1 ? explanation : nil }

  /// A connection was lost.
  ///
  /// - Parameters:
  ///   - commands: what was in flight.
  ///   - isIdle: it was taken for an idle one, and is replaced without a word.
  mutating func lost(_ commands: [Kind], _ failure: RedisConnectionFailure, isIdle: Bool, at now: MonotonicInstant) {
    if let openedAt, openedAt.advanced(by: Self.quietLimit) <= now { clear() }
    // An idle connection that is replaced changes nothing: the trial continues.
    if !isIdle || !commands.isEmpty { endsAt = nil }
    openedAt = nil
    guard !commands.isEmpty else { return }
    let unproven = commands.filter { !innocents.contains($0) }
    for command in unproven.isEmpty ? commands : unproven { Self.add(command, to: &suspects) }
    losses += 1
    // One text for as long as it lasts, so that it is reported once.
    if losses <= 2 || explanation == nil { explanation = Self.explanation(of: failure) }
  }

  /// A connection has passed the health check.
  ///
  /// - Parameter commands: what is sent again on it at once.
  mutating func opened(_ commands: [Kind], at now: MonotonicInstant) {
    precondition(openedAt == nil, "a connection opens after the last one is lost")
    openedAt = now
    suspects.removeAll { $0 == Self.check }
    if suspects.isEmpty { clear() }
    guard isSuspicious, !isOn, losses > 1 || commands.contains(where: suspects.contains) else { return }
    endsAt = now.advanced(by: Self.quietLimit)
  }

  /// A command was answered, whatever the answer.
  ///
  /// - Returns: whether that ended a trial.
  mutating func answered(_ command: Kind) -> Bool {
    precondition(openedAt != nil, "an answer without a connection")
    if isSuspicious { Self.add(command, to: &innocents) }
    guard let index = suspects.firstIndex(of: command) else { return false }
    suspects.remove(at: index)
    let wasOn = isOn
    (endsAt, losses) = (nil, min(losses, 1))
    if suspects.isEmpty { clear() }
    return wasOn
  }

  /// Time has passed.
  ///
  /// - Returns: whether that ended a trial.
  mutating func passed(at now: MonotonicInstant) -> Bool {
    guard let endsAt, endsAt <= now else { return false }
    clear()
    return true
  }

  private mutating func clear() {
    (suspects, innocents, losses, endsAt, explanation) = ([], [], 0, nil, nil)
  }

  private static func add(_ command: Kind, to list: inout [Kind]) {
    if list.count < suspectLimit, !list.contains(command) { list.append(command) }
  }

  /// The failure in words; where it tells nothing but that the connection ended, in words that lead to the cause.
  private static func explanation(of failure: RedisConnectionFailure) -> String {
    switch failure {
    case .closed: closesUnderCommands
    case .timedOut: timesOutUnderCommands
    case .refused, .misconduct, .loginRefused, .stopped, .other: failure.reason
    }
  }

  static let timesOutUnderCommands =
    "commands time out though the server answers the health check (a slow script, or large packets that are lost)"
  /// With hints, because the connection ends without an error reply.
  static let closesUnderCommands =
    "the server closes the connection when commands are sent"
    + " (see its client-output-buffer-limit and maxmemory-clients, its log, and proxies on the way)"
}
