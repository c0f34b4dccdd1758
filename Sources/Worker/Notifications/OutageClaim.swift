// The claim in Redis by which replicas agree on who reports a server's outage. Invariants: it is open while a replica
// renews it; the script is atomic, so one replica opens a claim and one closes it. OutageWatch decides what follows
// from a reply.

import Reactor

/// The claim to report one server's outage.
@EventLoop
struct OutageClaim {
  /// How long an open claim outlives its last renewal, in ms. A deployment that restarts in an outage finds it.
  nonisolated static let claimLifetime = 15 * 60 * 1_000
  /// How long a recorded end is kept, in ms: longer than any replica takes to see the server return.
  nonisolated static let endLifetime = 3_600 * 1_000

  /// KEYS claim. ARGV request, length of the outage so far (ms), time until an open claim counts as abandoned (ms),
  /// lifetime of an open claim (ms), lifetime of an end (ms). Returns a code and the length of the outage in ms: 0 no
  /// claim existed, 1 it is open, 2 the end was recorded during the outage, 3 this call closed it.
  ///
  /// An open claim is "since abandoned-at", an end is "ended at", both on Redis's clock. Times in the future come from
  /// a clock step and are ignored.
  static let script = RedisScript(
    """
    local request, length, abandoned, life = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    local claim = redis.call('GET', KEYS[1]) or ''
    local since, due = string.match(claim, '^(%d+) (%d+)$')
    local ended = tonumber(string.match(claim, '^ended (%d+)$'))
    since, due = tonumber(since), tonumber(due)
    local is_over = ended and ended <= now and now - ended <= length
    local function open(from)
      redis.call('SET', KEYS[1], string.format('%.0f %.0f', from, now + abandoned), 'PX', ARGV[4])
    end
    local function close()
      redis.call('SET', KEYS[1], string.format('ended %.0f', now), 'PX', ARGV[5])
    end
    if request == 'check' or request == 'claim' then
      if since then open(since) return {1, math.max(0, now - since)} end
      if is_over then return {2, 0} end
      if request == 'claim' then open(now - length) end
      return {0, 0}
    end
    if request == 'close' then
      if is_over then return {2, 0} end
      close()
      if since then return {3, math.max(0, now - since)} end
      return {0, 0}
    end
    if not since then return {0, 0} end
    if now < due and due - now <= life then return {1, 0} end
    close()
    return {3, math.max(0, now - since)}
    """)

  private let redis: any RedisScripts
  private let clock: LoopClock
  private let key: String

  init(redis: any RedisScripts, clock: LoopClock, namespace: String, component: String) {
    self.redis = redis
    self.clock = clock
    key = "\(namespace):outage:\(component)"
  }

  /// Sends a request. Returns nil if Redis does not answer; the replica then decides on its own.
  func send(_ request: OutageWatch.Request, abandonedAfter: Duration) async -> OutageWatch.Reply? {
    let (name, outageFor) = Self.arguments(request)
    let arguments = [
      name, "\(outageFor.milliseconds)", "\(abandonedAfter.milliseconds)", "\(Self.claimLifetime)",
      "\(Self.endLifetime)",
    ]
    do {
      let deadline = clock.now.advanced(by: Coordinator.commandLimit)
      return Self.reply(
        try await redis.evaluate(Self.script, keys: [key], arguments: arguments, isRepeatable: false, by: deadline))
    } catch {
      return nil
    }
  }

  private static func arguments(_ request: OutageWatch.Request) -> (name: String, outageFor: Duration) {
    switch request {
    case .check(let outageFor): ("check", outageFor)
    case .claim(let outageFor): ("claim", outageFor)
    case .close(let outageFor): ("close", outageFor)
    case .closeAbandoned: ("closeAbandoned", .zero)
    }
  }

  private static func reply(_ value: RedisValue) -> OutageWatch.Reply? {
    guard case .array(let parts) = value, parts.count == 2, let length = parts[1].integer else { return nil }
    return switch parts[0].integer {
    case 0: .absent
    case 1: .open
    case 2: .ended
    case 3: .closed(after: .milliseconds(length))
    default: nil
    }
  }
}
