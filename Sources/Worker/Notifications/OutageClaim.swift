// The note in Redis that replicas share about a server's outage. Invariants: it exists as long as somebody renews it;
// each script is atomic, so of several replicas one records an outage first and one closes it. OutageWatch decides what
// follows from a reply.

import Reactor

/// The note about one server's outage.
@EventLoop
struct OutageClaim {
  /// How long a note outlives its last renewal, in ms. A deployment that is restarted during an outage finds it again.
  nonisolated static let noteLifetime = 15 * 60 * 1_000
  /// How long the reported end is remembered, in ms: longer than any replica needs to see the server return.
  nonisolated static let endLifetime = 3_600 * 1_000

  /// KEYS note. ARGV question, duration of the outage so far (ms), time until the note counts as abandoned (ms),
  /// lifetime of a note (ms), lifetime of an end (ms). Returns a code and the length of the outage in ms: 0 there was
  /// no note, 1 it is kept, 2 the end was recorded during the outage, 3 this call closed it.
  ///
  /// The note is "since abandoned-at", an end is "ended at", both on Redis's clock. Times in the future come from a
  /// clock step and are ignored.
  static let script = RedisScript(
    """
    local question, away, abandoned, life = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    local note = redis.call('GET', KEYS[1]) or ''
    local since, due = string.match(note, '^(%d+) (%d+)$')
    local ended = tonumber(string.match(note, '^ended (%d+)$'))
    since, due = tonumber(since), tonumber(due)
    local is_over = ended and ended <= now and now - ended <= away
    local function keep(from)
      redis.call('SET', KEYS[1], string.format('%.0f %.0f', from, now + abandoned), 'PX', ARGV[4])
    end
    local function close()
      redis.call('SET', KEYS[1], string.format('ended %.0f', now), 'PX', ARGV[5])
    end
    if question == 'see' or question == 'keep' then
      if since then keep(since) return {1, math.max(0, now - since)} end
      if is_over then return {2, 0} end
      if question == 'keep' then keep(now - away) end
      return {0, 0}
    end
    if question == 'close' then
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

  /// Asks; returns nil without an answer. That is not an error: the caller then decides alone.
  func ask(_ question: OutageWatch.Question, abandonedAfter: Duration) async -> OutageWatch.Reply? {
    let (name, awayFor) = Self.arguments(question)
    let arguments = [
      name, "\(awayFor.milliseconds)", "\(abandonedAfter.milliseconds)", "\(Self.noteLifetime)", "\(Self.endLifetime)",
    ]
    do {
      let deadline = clock.now.advanced(by: Coordinator.commandLimit)
      return Self.reply(
        try await redis.evaluate(Self.script, keys: [key], arguments: arguments, isRepeatable: false, by: deadline))
    } catch {
      return nil
    }
  }

  private static func arguments(_ question: OutageWatch.Question) -> (name: String, awayFor: Duration) {
    switch question {
    case .see(let awayFor): ("see", awayFor)
    case .keep(let awayFor): ("keep", awayFor)
    case .close(let awayFor): ("close", awayFor)
    case .closeAbandoned: ("closeAbandoned", .zero)
    }
  }

  private static func reply(_ value: RedisValue) -> OutageWatch.Reply? {
    guard case .array(let parts) = value, parts.count == 2, let length = parts[1].integer else { return nil }
    return switch parts[0].integer {
    case 0: .absent
    case 1: .kept
    case 2: .ended
    case 3: .closed(after: .milliseconds(length))
    default: nil
    }
  }
}
