// The history of every lock, from the commands that Redis executed: takes, renewals, releases; and data losses.
// Invariant: pure; scripts are judged by their effects (SET, PEXPIRE, DEL, HSET), not by their answers.

import Reactor

/// One time that a sweeper's lock was held.
struct Hold: Sendable {
  let sweeper: String
  let token: String
  let taken: Moment
  /// The run's fencing token; nil for an existing worker, which has no record.
  var epoch: Int64?
  /// When the lock expires, or would have, as last set.
  var leaseEnds: Moment
  var renewals = 0
  var released: Moment?
  /// When the run's end was recorded, and its outcome.
  var completed: Moment?
  var outcome: String?
  /// The slot that its completion recorded.
  var slot: Int64?

  /// Whether an existing worker holds it.
  var isStrangers: Bool { token.hasPrefix(ExistingWorker.tokenPrefix) }

  /// The latest time at which the lock became free.
  var ends: Moment { min(released ?? leaseEnds, leaseEnds) }
}

/// All holds, in order of their beginning, and what should not have happened.
struct LockHistory: Sendable {
  private(set) var holds: [Hold] = []
  /// When Redis lost its data: by a recorded FLUSHALL or a reported restart.
  private(set) var losses: [Moment]
  /// Locks taken while held, or renewed or deleted by a non-holder.
  private(set) var trespasses: [String] = []
  private(set) var commands = 0

  private let namespace: String
  /// The index of the current hold by sweeper.
  private var present: [String: Int] = [:]
  private var byEpoch: [String: Int] = [:]
  /// The running script's token argument.
  private var scriptToken = ""
  /// The slot that the running script wrote.
  private var scriptSlot: Int64?

  init(_ commands: some Sequence<RedisCommand>, namespace: String, restarts: [Moment]) {
    self.namespace = namespace
    losses = restarts
    for command in commands { note(command) }
    losses.sort()
  }

  func hold(sweeper: String, epoch: Int64) -> Hold? {
    byEpoch["\(sweeper) \(epoch)"].map { holds[$0] }
  }

  private mutating func note(_ command: RedisCommand) {
    commands += 1
    let words = command.words
    switch command.name {
    case "FLUSHALL", "FLUSHDB":
      losses.append(command.at)
      present = [:]
    case "EVALSHA", "EVAL":
      guard words.count > 2, let keys = Int(words[2]), words.count > 3 + keys else { break }
      scriptToken = words[3 + keys]
      scriptSlot = nil
    case "SET":
      guard words.count >= 5, let sweeper = sweeper(ofLock: words[1]) else { break }
      let milliseconds = words.indices.dropLast().first { words[$0].uppercased() == "PX" }.flatMap {
        Int64(words[$0 + 1])
      }
      let isConditional = words.contains { $0.uppercased() == "NX" }
      took(sweeper, token: words[2], for: .milliseconds(milliseconds ?? 0), isConditional, command)
    case "PEXPIRE":
      guard words.count >= 3, let sweeper = sweeper(ofLock: words[1]), let length = Int64(words[2]) else { break }
      renewed(sweeper, for: .milliseconds(length), command)
    case "DEL", "UNLINK":
      for sweeper in words.dropFirst().compactMap({ sweeper(ofLock: $0) }) { deleted(sweeper, command) }
    case "HSET":
      guard words.count >= 4, let sweeper = sweeper(ofRecord: words[1]) else { break }
      noted(sweeper, words.dropFirst(2), command)
    default: break
    }
  }

  private mutating func took(
    _ sweeper: String, token: String, for length: Duration, _ isConditional: Bool, _ command: RedisCommand
  ) {
    if let index = current(sweeper, at: command.at) {
      // SET NX on a held lock does nothing.
      if isConditional { return }
      trespasses.append("\(command.at) \(sweeper): taken while \(holds[index].token.prefix(6)) holds it")
    }
    present[sweeper] = holds.count
    holds.append(
      Hold(sweeper: sweeper, token: token, taken: command.at, leaseEnds: command.at.advanced(by: length)))
  }

  private mutating func renewed(_ sweeper: String, for length: Duration, _ command: RedisCommand) {
    guard let index = current(sweeper, at: command.at) else { return }
    if command.isOfScript, scriptToken != holds[index].token {
      trespasses.append("\(command.at) \(sweeper): renewed by another one than its holder")
    }
    holds[index].renewals += 1
    holds[index].leaseEnds = command.at.advanced(by: length)
  }

  private mutating func deleted(_ sweeper: String, _ command: RedisCommand) {
    guard let index = current(sweeper, at: command.at) else { return }
    if command.isOfScript, scriptToken != holds[index].token {
      trespasses.append("\(command.at) \(sweeper): deleted by another one than its holder")
    }
    holds[index].released = command.at
    present[sweeper] = nil
  }

  private mutating func noted(_ sweeper: String, _ pairs: ArraySlice<String>, _ command: RedisCommand) {
    var fields: [String: String] = [:]
    var rest = pairs
    while let name = rest.popFirst(), let value = rest.popFirst() { fields[name] = value }
    if let token = fields["token"], let epoch = fields["epoch"].flatMap({ Int64($0) }), let index = present[sweeper],
      holds[index].token == token
    {
      holds[index].epoch = epoch
      byEpoch["\(sweeper) \(epoch)"] = index
    }
    scriptSlot = fields["slot"].flatMap { Int64($0) } ?? scriptSlot
    if let epoch = fields["completed"], let index = byEpoch["\(sweeper) \(epoch)"] {
      holds[index].completed = command.at
      holds[index].outcome = fields["outcome"]
      holds[index].slot = scriptSlot
    }
  }

  /// The current hold in Redis. A key counts as expired slightly early, because Redis caches its clock.
  private func current(_ sweeper: String, at moment: Moment) -> Int? {
    present[sweeper].flatMap { holds[$0].leaseEnds.advanced(by: .milliseconds(-2)) > moment ? $0 : nil }
  }

  private func sweeper(ofLock key: String) -> String? {
    let prefix = "\(namespace):\(Sweep.lockKey(""))"
    // The health check's lock belongs to no sweeper. In a Redis Cluster it names the one whose slot it is in.
    guard key.hasPrefix(prefix), key != prefix + "health", !key.hasPrefix(prefix + "health:") else { return nil }
    return String(key.dropFirst(prefix.count))
  }

  private func sweeper(ofRecord key: String) -> String? {
    guard key.hasPrefix("\(namespace):schedule:{"), key.hasSuffix("}") else { return nil }
    return sweeper(ofLock: String(key.dropFirst("\(namespace):schedule:{".count).dropLast()))
  }
}
