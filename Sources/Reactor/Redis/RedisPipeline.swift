// What becomes of each command on the one connection, as a pure struct: who waits, who was sent, whose answer is next.
// Invariant: every command meets exactly one fate, and "not sent" only where it never went out. Driven by RedisClient.
//
//                  submit                     opened
//      (refused) <-------- … -> waiting ------------------> in flight ---- answered --> delivered
//                                  |                            |
//                cancel, expire, stop: not sent       cancel, expire, lost: outcome unknown
//
// A command that was cancelled or expired in flight keeps its place: its answer is still to come, and is dropped.

struct RedisPipeline {
  typealias Identifier = UInt64

  /// The most commands that wait or are in flight at one time; more are refused.
  static let commandLimit = 16_384

  enum Admission: Equatable {
    /// Goes out now.
    case send(Identifier)
    /// Goes out when the connection opens, or expires.
    case wait(Identifier)
    case refused(Refusal)
  }

  enum Refusal: Equatable {
    case expired, tooMany, stopped
  }

  enum Answered: Equatable {
    case deliver(Identifier)
    /// Nobody waits for it any more.
    case drop
    /// No command asked for it: the connection is of no use any more.
    case unexpected
  }

  enum Cancelled: Equatable {
    case notSent, unknownOutcome
    /// It has met its fate already.
    case tooLate
  }

  struct Expired: Equatable {
    var notSent: [Identifier] = []
    var unknownOutcome: [Identifier] = []
    /// An answer is overdue: the peer hangs, and the connection has to go.
    var isConnectionSuspect = false
  }

  private struct Command {
    let identifier: Identifier
    let deadline: MonotonicInstant
    var isAbandoned = false
  }

  /// Whether commands go out at once.
  private(set) var isOpen = false
  private(set) var isStopped = false
  /// An instant at or before the earliest deadline; nil while nothing waits or is in flight.
  private(set) var wakeAt: MonotonicInstant?
  private var lastIdentifier: Identifier = 0
  private var waiting = Line()
  private var inFlight = Line()

  /// Commands that wait for an answer, those that nobody waits for any more included.
  var inFlightCount: Int { inFlight.count }
  /// Commands in flight whose callers still wait.
  var awaitedCount: Int { inFlight.count - inFlight.abandoned }

  mutating func submit(deadline: MonotonicInstant, now: MonotonicInstant) -> Admission {
    if isStopped { return .refused(.stopped) }
    if deadline <= now { return .refused(.expired) }
    if waiting.count + inFlight.count >= Self.commandLimit { return .refused(.tooMany) }
    lastIdentifier += 1
    let command = Command(identifier: lastIdentifier, deadline: deadline)
    wakeAt = min(wakeAt ?? deadline, deadline)
    if isOpen {
      inFlight.append(command)
      return .send(lastIdentifier)
    }
    waiting.append(command)
    return .wait(lastIdentifier)
  }

  /// The connection is up: these go out now, in this order.
  mutating func opened() -> [Identifier] {
    precondition(inFlight.count == 0)
    isOpen = true
    var sent: [Identifier] = []
    while let command = waiting.popFirst() {
      guard !command.isAbandoned else { continue }
      inFlight.append(command)
      sent.append(command.identifier)
    }
    settleWakeAt()
    return sent
  }

  /// Nothing goes out over this connection any more; what is in flight may still be answered.
  mutating func retire() {
    isOpen = false
  }

  /// An answer came: whose?
  mutating func answered() -> Answered {
    guard let command = inFlight.popFirst() else { return .unexpected }
    settleWakeAt()
    return command.isAbandoned ? .drop : .deliver(command.identifier)
  }

  mutating func cancel(_ identifier: Identifier) -> Cancelled {
    if waiting.abandon(identifier) {
      settleWakeAt()
      return .notSent
    }
    return inFlight.abandon(identifier) ? .unknownOutcome : .tooLate
  }

  /// Time has passed: whose deadline with it?
  mutating func expire(now: MonotonicInstant) -> Expired {
    var expired = Expired()
    var earliest: MonotonicInstant?
    expired.notSent = waiting.expire(now: now, earliest: &earliest).awaited
    waiting.removeAbandoned()
    let overdue = inFlight.expire(now: now, earliest: &earliest)
    expired.unknownOutcome = overdue.awaited
    expired.isConnectionSuspect = overdue.isAny
    wakeAt = earliest
    settleWakeAt()
    return expired
  }

  /// The connection is gone: the outcome of these is unknown.
  mutating func lost() -> [Identifier] {
    isOpen = false
    var unknown: [Identifier] = []
    while let command = inFlight.popFirst() {
      if !command.isAbandoned { unknown.append(command.identifier) }
    }
    settleWakeAt()
    return unknown
  }

  /// No connection will come any more: these were not sent, and further ones are refused.
  mutating func stop() -> [Identifier] {
    isStopped = true
    var unsent: [Identifier] = []
    while let command = waiting.popFirst() {
      if !command.isAbandoned { unsent.append(command.identifier) }
    }
    settleWakeAt()
    return unsent
  }

  /// Cancelled commands that were never sent count for nothing: without others there is nothing to wake for.
  private mutating func settleWakeAt() {
    if waiting.count == waiting.abandoned { waiting.removeAll() }
    if waiting.count == 0 && inFlight.count == 0 { wakeAt = nil }
  }

  /// Commands in the order of their identifiers.
  private struct Line {
    private var commands: [Command] = []
    private var head = 0
    private(set) var abandoned = 0

    var count: Int { commands.count - head }

    mutating func append(_ command: Command) {
      commands.append(command)
    }

    mutating func popFirst() -> Command? {
      guard head < commands.count else { return nil }
      let command = commands[head]
      head += 1
      if command.isAbandoned { abandoned -= 1 }
      if head == commands.count {
        commands.removeAll(keepingCapacity: commands.count <= Self.capacityKept)
        head = 0
      } else if head >= Self.capacityKept && head * 2 >= commands.count {
        commands.removeFirst(head)
        head = 0
      }
      return command
    }

    mutating func removeAll() {
      commands.removeAll()
      head = 0
      abandoned = 0
    }

    mutating func removeAbandoned() {
      guard abandoned > 0 else { return }
      commands = commands[head...].filter { !$0.isAbandoned }
      head = 0
      abandoned = 0
    }

    /// Marks a command so that nobody hears of it again; false where it is not here or is marked already.
    mutating func abandon(_ identifier: Identifier) -> Bool {
      var low = head
      var high = commands.count
      while low < high {
        let middle = (low + high) / 2
        if commands[middle].identifier < identifier { low = middle + 1 } else { high = middle }
      }
      guard low < commands.count, commands[low].identifier == identifier, !commands[low].isAbandoned else {
        return false
      }
      commands[low].isAbandoned = true
      abandoned += 1
      return true
    }

    /// Marks what is due at `now`; `earliest` becomes the earliest deadline of the rest.
    mutating func expire(
      now: MonotonicInstant, earliest: inout MonotonicInstant?
    ) -> (awaited: [Identifier], isAny: Bool) {
      var awaited: [Identifier] = []
      var isAny = false
      for index in head..<commands.count {
        let command = commands[index]
        if command.deadline > now {
          earliest = min(earliest ?? command.deadline, command.deadline)
          continue
        }
        isAny = true
        guard !command.isAbandoned else { continue }
        commands[index].isAbandoned = true
        abandoned += 1
        awaited.append(command.identifier)
      }
      return (awaited, isAny)
    }

    /// Memory for so many commands is kept after a burst.
    private static let capacityKept = 64
  }
}
