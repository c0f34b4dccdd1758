// Which replica tells people of an outage: a key in Redis that the first one takes. Invariants: an outage that two
// replicas see is told by one of them, and so is its end; without an answer of Redis each tells for itself.

import Reactor

/// The note of one server's outage that all replicas share.
@EventLoop
struct OutageLedger {
  /// Who tells of an outage.
  enum Claim {
    /// This replica: it was the first to note it.
    case first
    /// Another one.
    case another
    /// This one, for Redis did not answer.
    case alone
  }

  /// A replica that died leaves no note for longer than this, in ms.
  private static let noteLifetime = 7 * 24 * 3_600 * 1_000
  /// How long it is remembered that the end was told: longer than any replica takes to see it.
  private static let endLifetime = 10 * 60 * 1_000

  /// KEYS note. ARGV replica, lifetime (ms). Answers 1 where the note is the replica's.
  private static let open = RedisScript(
    """
    local note = redis.call('GET', KEYS[1])
    if note and note ~= '' then return note == ARGV[1] and 1 or 0 end
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
    return 1
    """)

  /// KEYS note. ARGV lifetime (ms). Answers 1 where the outage ends here, 0 where its end was told, -1 where Redis
  /// knows of none. An empty note is one that has ended.
  private static let end = RedisScript(
    """
    local note = redis.call('GET', KEYS[1])
    if not note then return -1 end
    redis.call('SET', KEYS[1], '', 'PX', ARGV[1])
    return note == '' and 0 or 1
    """)

  private let redis: RedisClient
  private let clock: LoopClock
  private let key: String
  private let replica: String

  init(redis: RedisClient, clock: LoopClock, namespace: String, component: String, replica: String) {
    self.redis = redis
    self.clock = clock
    self.replica = replica
    key = "\(namespace):outage:\(component)"
  }

  /// Notes that the server is away.
  func claim() async -> Claim {
    guard let answer = await evaluate(Self.open, [replica, "\(Self.noteLifetime)"]) else { return .alone }
    return answer == 1 ? .first : .another
  }

  /// Notes that it is back, and returns whether this replica tells that.
  ///
  /// - Parameter claim: what `claim` said when it was away. Who told of the outage tells of its end, too, where Redis
  ///   has forgotten it or does not answer.
  func close(_ claim: Claim) async -> Bool {
    guard let answer = await evaluate(Self.end, ["\(Self.endLifetime)"]), answer >= 0 else { return claim != .another }
    return answer == 1 || claim == .alone
  }

  /// A script's number; nil where there is no answer, which is no fault here: the caller then decides alone.
  private func evaluate(_ script: RedisScript, _ arguments: [String]) async -> Int64? {
    do {
      let deadline = clock.now.advanced(by: Coordinator.commandLimit)
      return try await redis.evaluate(script, keys: [key], arguments: arguments, by: deadline).integer
    } catch {
      return nil
    }
  }
}
