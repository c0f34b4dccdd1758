// Tracks the commands of one connection: which wait, which are in flight, and which is answered next. Pure. Invariant:
// every command ends exactly once, and as "not sent" only if it never was. Driven by RedisClient.
//
//                  submit                     opened
//      (refused) <-------- … -> waiting ------------------> in flight ---- answered --> delivered
//                                  |  ^                         |
//                                  |  +- lost, repeatable: once-+
//                                  |                            |
//                cancel, expire, stop: not sent       cancel, expire, lost: outcome unknown
//
// A repeatable command that waits to be sent again ends like one in flight: its outcome is unknown.
// A command that was cancelled or has expired in flight keeps its place: its answer will still come, and is dropped.

struct RedisPipeline {
  typealias Identifier = UInt64

  /// The maximum number of commands that wait or are in flight; further ones are refused.
  static let commandLimit = 16_384

  enum Admission: Equatable {
    /// Send it now.
    case send(Identifier)
    /// It is sent when the connection opens, unless it expires first.
    case wait(Identifier)
    case refused(Refusal)
  }

  enum Refusal: Equatable {
    case expired, tooMany, stopped
  }

  enum Answered: Equatable {
    case deliver(Identifier)
    /// Its caller has left.
    case drop
  }

  enum Cancelled: Equatable {
    case notSent, unknownOutcome
    /// A race: it ended in the same turn of the loop, by its answer, its deadline or the loss of its connection.
    case tooLate
  }

  struct Expired: Equatable {
    var notSent: [Identifier] = []
    var unknownOutcome: [Identifier] = []
    /// An answer is overdue: the peer hangs, and the connection must be closed.
    var isConnectionSuspect = false
  }

  private struct Command {
    let identifier: Identifier
    let deadline: MonotonicInstant
    /// When its answer is overdue, once it has been sent.
    var overdueAt: MonotonicInstant
    /// Whether it may be sent twice.
    var isRepeatable = false
    var wasSent = false
    var isAbandoned = false

    /// The same, sent only now.
    func sent(at now: MonotonicInstant, _ leastAnswerTime: Duration) -> Command {
      var command = self
      command.overdueAt = max(deadline, now.advanced(by: leastAnswerTime))
      return command
    }
  }

  /// Whether commands are sent at once.
  private(set) var isOpen = false
  private(set) var isStopped = false
  /// An instant at or before the earliest deadline; nil while nothing waits or is in flight.
  private(set) var wakeAt: MonotonicInstant?
  private var lastIdentifier: Identifier = 0
  private let leastAnswerTime: Duration
  private var waiting = Line()
  private var inFlight = Line()

  /// - Parameter leastAnswerTime: how long a command that waited for the connection is given before a missing answer
  ///   makes that suspect, even if its deadline passes earlier: the wait took most of its time.
  init(leastAnswerTime: Duration = .seconds(1)) {
    self.leastAnswerTime = leastAnswerTime
  }

  /// Commands that were sent and not answered, including those whose callers have left.
  var inFlightCount: Int { inFlight.count }
  /// Commands in flight whose callers still wait.
  var awaitedCount: Int { inFlight.count - inFlight.abandoned }
  /// The oldest of them.
  func awaited(limit: Int) -> [Identifier] { inFlight.awaited(limit: limit) }
  /// Commands that wait for a connection.
  var waitingCount: Int { waiting.count - waiting.abandoned }
  /// Whether all awaited commands may be sent again over another connection.
  var isAllRepeatable: Bool { inFlight.allSatisfy { ($0.isRepeatable && !$0.wasSent) || $0.isAbandoned } }

  /// - Parameter isRepeatable: whether it may be sent once more if the connection is lost before its answer.
  mutating func submit(
    deadline: MonotonicInstant, now: MonotonicInstant, isRepeatable: Bool = false
  ) -> Admission {
    if isStopped { return .refused(.stopped) }
    if deadline <= now { return .refused(.expired) }
    if waiting.count + inFlight.count >= Self.commandLimit { return .refused(.tooMany) }
    lastIdentifier += 1
    let command = Command(
      identifier: lastIdentifier, deadline: deadline, overdueAt: deadline, isRepeatable: isRepeatable)
    wakeAt = min(wakeAt ?? deadline, deadline)
    if isOpen {
      inFlight.append(command)
      return .send(lastIdentifier)
    }
    waiting.append(command)
    return .wait(lastIdentifier)
  }

  /// The connection is open. Returns the commands to send now, in order.
  mutating func opened(at now: MonotonicInstant) -> [Identifier] {
    precondition(!isOpen && inFlight.count == 0, "a connection opens after the last one is lost")
    isOpen = true
    var sent: [Identifier] = []
    while let command = waiting.popFirst() {
      guard !command.isAbandoned else { continue }
      inFlight.append(command.sent(at: now, leastAnswerTime))
      sent.append(command.identifier)
    }
    updateWakeAt()
    return sent
  }

  /// Sends nothing more over this connection; commands in flight may still be answered.
  mutating func retire() {
    isOpen = false
  }

  /// An answer came to the command that was sent first.
  mutating func answered() -> Answered {
    // hiredis delivers a reply only to a command, and RedisEvents ends a connection with replies beyond those.
    guard let command = inFlight.popFirst() else { preconditionFailure("an answer without a command in flight") }
    updateWakeAt()
    return command.isAbandoned ? .drop : .deliver(command.identifier)
  }

  mutating func cancel(_ identifier: Identifier) -> Cancelled {
    if let command = waiting.abandon(identifier) {
      updateWakeAt()
      return command.wasSent ? .unknownOutcome : .notSent
    }
    return inFlight.abandon(identifier) != nil ? .unknownOutcome : .tooLate
  }

  /// Ends the commands whose deadline has passed.
  mutating func expire(now: MonotonicInstant) -> Expired {
    var expired = Expired()
    var earliest: MonotonicInstant?
    for command in waiting.expire(now: now, earliest: &earliest).awaited {
      if command.wasSent {
        expired.unknownOutcome.append(command.identifier)
      } else {
        expired.notSent.append(command.identifier)
      }
    }
    waiting.removeAbandoned()
    let overdue = inFlight.expire(now: now, earliest: &earliest)
    expired.unknownOutcome += overdue.awaited.map(\.identifier)
    expired.isConnectionSuspect = overdue.isOverdue
    wakeAt = earliest
    updateWakeAt()
    return expired
  }

  /// The connection is lost. Returns the commands of unknown outcome. Repeatable commands wait for the next connection,
  /// once.
  mutating func lost() -> [Identifier] {
    isOpen = false
    var unknown: [Identifier] = []
    var again: [Command] = []
    while var command = inFlight.popFirst() {
      guard !command.isAbandoned else { continue }
      if command.isRepeatable && !command.wasSent && !isStopped {
        (command.wasSent, command.overdueAt) = (true, command.deadline)
        again.append(command)
      } else {
        unknown.append(command.identifier)
      }
    }
    waiting.prepend(again)
    updateWakeAt()
    return unknown
  }

  /// Refuses further commands. Returns the waiting ones: those never sent, and those that waited to be sent again.
  mutating func stop() -> (notSent: [Identifier], unknownOutcome: [Identifier]) {
    isStopped = true
    var notSent: [Identifier] = []
    var unknown: [Identifier] = []
    while let command = waiting.popFirst() {
      guard !command.isAbandoned else { continue }
      if command.wasSent { unknown.append(command.identifier) } else { notSent.append(command.identifier) }
    }
    updateWakeAt()
    return (notSent, unknown)
  }

  /// Cancelled commands that were never sent need no wake-up.
  private mutating func updateWakeAt() {
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

    /// Inserts older commands before all others.
    mutating func prepend(_ older: [Command]) {
      guard !older.isEmpty else { return }
      commands = older + commands[head...]
      head = 0
    }

    func allSatisfy(_ isSatisfied: (Command) -> Bool) -> Bool {
      commands[head...].allSatisfy(isSatisfied)
    }

    func awaited(limit: Int) -> [Identifier] {
      commands[head...].lazy.filter { !$0.isAbandoned }.prefix(limit).map(\.identifier)
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

    /// Marks a command as abandoned; nil if it is not queued or already marked.
    mutating func abandon(_ identifier: Identifier) -> Command? {
      var low = head
      var high = commands.count
      while low < high {
        let middle = (low + high) / 2
        if commands[middle].identifier < identifier { low = middle + 1 } else { high = middle }
      }
      guard low < commands.count, commands[low].identifier == identifier, !commands[low].isAbandoned else {
        return nil
      }
      commands[low].isAbandoned = true
      abandoned += 1
      return commands[low]
    }

    /// Marks the commands due at `now`; `earliest` becomes the next time to check.
    mutating func expire(
      now: MonotonicInstant, earliest: inout MonotonicInstant?
    ) -> (awaited: [Command], isOverdue: Bool) {
      var awaited: [Command] = []
      var isOverdue = false
      for index in head..<commands.count {
        let command = commands[index]
        if command.overdueAt <= now {
          isOverdue = true
        } else {
          let next = command.deadline > now ? command.deadline : command.overdueAt
          earliest = min(earliest ?? next, next)
        }
        guard command.deadline <= now, !command.isAbandoned else { continue }
        commands[index].isAbandoned = true
        abandoned += 1
        awaited.append(command)
      }
      return (awaited, isOverdue)
    }

    /// The capacity, in commands, that is kept after a burst.
    private static let capacityKept = 64
  }
}
