// Which commands on which keys the worker's Redis user needs, and which of them it is denied. The needs derive from
// the health check's script, which does whatever the other scripts do. Pure but for the commands it sends.

import Coordination
import Reactor

/// The rights that the worker needs in Redis.
struct RedisRights: Sendable {
  /// A command, on the key of this number of the script; nil: without a key.
  struct Use: Equatable, Sendable {
    let command: String
    let key: Int?
  }

  /// The result of the check.
  struct Outcome: Sendable {
    var deniedCommands: [String] = []
    var deniedPatterns: [String] = []
    /// Commands that cannot be tried without changing anything.
    var untried: [String] = []
    /// Another reason why nothing could be checked.
    var failure: String?

    func findings(user: String) -> [CheckFinding] {
      if let failure { return [.fault("the rights of user \(user) could not be checked: \(failure)")] }
      if deniedCommands.isEmpty, deniedPatterns.isEmpty {
        let rest = untried.isEmpty ? "" : "; not tested because they would write: \(Self.joined(untried, ", "))"
        return [.ok("user \(user) has all rights that the sweepers need\(rest)")]
      }
      var findings: [CheckFinding] = []
      if !deniedCommands.isEmpty {
        findings.append(
          .fault(
            "user \(user) may not run \(Self.joined(deniedCommands, ", "))",
            run: "ACL SETUSER \(user) \(Self.joined(deniedCommands.map { "+" + $0.lowercased() }, " "))"))
      }
      if !deniedPatterns.isEmpty {
        findings.append(
          .fault(
            "user \(user) may not use keys \(Self.joined(deniedPatterns, ", "))",
            run: "ACL SETUSER \(user) \(Self.joined(deniedPatterns.map { "~" + $0 }, " "))"))
      }
      return findings
    }

    private static func joined(_ texts: [String], _ separator: String) -> String {
      var text = ""
      for part in texts { text += text.isEmpty ? part : separator + part }
      return text
    }
  }

  let namespace: String
  let sweepers: [String]
  /// Whether replicas agree on which of them reports an outage, as they do if a sink is configured.
  let reportsOutages: Bool
  /// Whether it is about a node of a cluster.
  var isCluster = false

  /// Key numbers for PostgreSQL's outage and for a connection's lock.
  private static let outageKey = 4
  private static let connectionKey = 5

  private enum Permission {
    case allowed, commandDenied, keyDenied
    /// ACL DRYRUN itself is denied or unknown.
    case unknown(String)
  }

  /// Checks every use; `send` sends one command.
  @EventLoop
  func check(_ send: @EventLoop ([String]) async -> Result<RedisValue, RedisError>) async -> Outcome {
    var outcome = Outcome()
    let user = if case .success(let value) = await send(["ACL", "WHOAMI"]) { value.text } else { String?.none }
    var canAsk = user != nil
    let outageUses = ["GET", "SET"].map { Use(command: $0, key: Self.outageKey) }
    let locksConnections = sweepers.contains(Sweeper.discoverConnectionsName)
    let connectionUses = ["GET", "SET", "DEL"].map { Use(command: $0, key: Self.connectionKey) }
    // CLUSTER SLOTS has been answered already.
    let clusterUses = isCluster ? [Use(command: "ASKING", key: nil)] : []
    for use in Self.uses + clusterUses + (reportsOutages ? outageUses : []) + (locksConnections ? connectionUses : []) {
      for sweeper in owners(of: use) {
        let key = use.key.map { self.key($0, of: sweeper) }
        var permission = Permission.unknown("")
        if canAsk, let user, let example = Self.example(of: use.command, key: key) {
          permission = Self.permission(onDryRun: await send(["ACL", "DRYRUN", user] + example))
          if case .unknown = permission { canAsk = false }
        }
        if case .unknown = permission {
          guard let trial = Self.trial(of: use.command, key: key.map { $0 + ":check" }) else {
            if !outcome.untried.contains(use.command) { outcome.untried.append(use.command) }
            continue
          }
          permission = Self.permission(onTrial: await send(trial))
        }
        note(permission, use, in: &outcome)
      }
    }
    return outcome
  }

  /// The owners of the keys to check: all commands on the health check's keys, and one command on each sweeper's.
  private func owners(of use: Use) -> [String] {
    guard let key = use.key, key < Self.outageKey else { return [""] }
    let isFirst = Self.uses.first { $0.key == key } == use
    return [CoordinationScripts.healthName] + (isFirst ? sweepers : [])
  }

  private func note(_ permission: Permission, _ use: Use, in outcome: inout Outcome) {
    switch permission {
    case .allowed: break
    case .commandDenied:
      if !outcome.deniedCommands.contains(use.command) { outcome.deniedCommands.append(use.command) }
    case .keyDenied:
      guard let key = use.key else { return }
      let pattern = pattern(key)
      if !outcome.deniedPatterns.contains(pattern) { outcome.deniedPatterns.append(pattern) }
    case .unknown(let reason): outcome.failure = reason
    }
  }

  // MARK: Keys

  private func key(_ number: Int, of sweeper: String) -> String {
    if number == Self.outageKey { return "\(namespace):outage:postgres" }
    if number == Self.connectionKey { return DiscoverLocks.key(namespace: namespace, connection: "check") }
    let keys = CoordinationScripts.keys(namespace: namespace, sweeper: sweeper)
    return [keys.lock, keys.record, keys.history][number - 1]
  }

  /// A pattern for all sweepers' keys: the name is the last part of the lock's key.
  private func pattern(_ number: Int) -> String {
    switch number {
    case 1: key(1, of: "*")
    case 2: "\(namespace):schedule:*"
    case Self.outageKey: "\(namespace):outage:*"
    case Self.connectionKey: DiscoverLocks.key(namespace: namespace, connection: "*")
    default: "\(namespace):history:*"
    }
  }

  // MARK: Commands

  /// The uses of the health check's script, and the two commands that run scripts.
  static var uses: [Use] {
    let script = CoordinationScripts.healthCheck(namespace: "").script.source
    return [Use(command: "EVALSHA", key: 1), Use(command: "EVAL", key: 1)] + uses(in: script)
  }

  /// Each `redis.call('NAME', KEYS[n]` of a script, once.
  static func uses(in script: String) -> [Use] {
    let bytes = Array(script.utf8)
    let call = Array("redis.call('".utf8)
    let keys = Array("', KEYS[".utf8)
    var uses: [Use] = []
    for start in bytes.indices where bytes[start...].starts(with: call) {
      let nameStart = start + call.count
      guard let end = bytes[nameStart...].firstIndex(of: UInt8(ascii: "'")) else { continue }
      let digit = end + keys.count
      let hasKey = bytes[end...].starts(with: keys) && digit < bytes.count
      let use = Use(
        command: String(decoding: bytes[nameStart..<end], as: UTF8.self),
        key: hasKey ? Int(bytes[digit]) - Int(UInt8(ascii: "0")) : nil)
      if !uses.contains(use) { uses.append(use) }
    }
    return uses
  }

  /// The command with arguments, for ACL DRYRUN; nil if it is unknown here.
  static func example(of command: String, key: String?) -> [String]? {
    guard let key else { return [command] }
    switch command {
    case "EVALSHA": return [command, "0000000000000000000000000000000000000000", "1", key]
    case "EVAL": return [command, "return 1", "1", key]
    case "GET", "EXISTS", "PTTL", "DEL": return [command, key]
    case "SET": return [command, key, "1", "PX", "1"]
    case "PEXPIRE": return [command, key, "1"]
    case "HMGET", "HDEL": return [command, key, "field"]
    case "HSET": return [command, key, "field", "1"]
    case "LPUSH": return [command, key, "1"]
    case "LTRIM": return [command, key, "0", "1"]
    default: return nil
    }
  }

  /// A form of the command that changes nothing if the key does not exist; nil if there is none.
  private static func trial(of command: String, key: String?) -> [String]? {
    switch command {
    // An invalid expiry, and a field without a value: Redis refuses both after checking rights.
    case "SET": key.map { [command, $0, "1", "PX", "0"] }
    case "HSET": key.map { [command, $0, "field", "1", "field"] }
    case "LPUSH": nil
    default: example(of: command, key: key)
    }
  }

  private static func permission(onDryRun answer: Result<RedisValue, RedisError>) -> Permission {
    switch answer {
    case .success(let value):
      if value.isOK { return .allowed }
      // "User x has no permissions to run the 'set' command", "… to access the 'name' key".
      return value.text?.hasSuffix("command") ?? true ? .commandDenied : .keyDenied
    case .failure(let error): return .unknown(error.publicReason)
    }
  }

  private static func permission(onTrial answer: Result<RedisValue, RedisError>) -> Permission {
    switch answer {
    case .success: .allowed
    case .failure(.server(code: "NOPERM", let message)): message.hasPrefix("use a key") ? .keyDenied : .commandDenied
    // Redis sends any other refusal after checking rights.
    case .failure(.server): .allowed
    case .failure(let error): .unknown(error.publicReason)
    }
  }
}
