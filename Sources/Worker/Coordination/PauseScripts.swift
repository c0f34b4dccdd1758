// Scripts by which an operator pauses and resumes a sweeper. How a take handles a pause is in CoordinationScripts.
// Invariant: they write only what the worker's own scripts write, so their rights suffice.

import Reactor

extension CoordinationScripts {
  /// The lock's value while a sweeper is paused: it excludes the existing worker, which does not know pauses.
  package static let pauseToken = "paused"

  /// How long a pause holds the lock until a replica sees it, in ms.
  private static let firstHoldMilliseconds = 3_600_000

  /// The interval between reminders of a pause, in ms.
  package static let pauseReminderMilliseconds = 24 * 3_600_000

  /// KEYS lock, record. ARGV the pause's text, its duration in ms (0: until resumed), whether a current run has to stop
  /// after its batch (1). Answers {running or paused, now, the text as written}.
  package static let pause = RedisScript(
    beginning
      + """
      local paused = ARGV[1]
      if tonumber(ARGV[2]) > 0 then paused = string.format('until=%.0f ', now + tonumber(ARGV[2])) .. paused end
      local lock = redis.call('GET', KEYS[1])
      local running = lock and lock == redis.call('HMGET', KEYS[2], 'token')[1]
      redis.call('HSET', KEYS[2], 'paused', paused, 'pause_told', '')
      if running and ARGV[3] == '1' then redis.call('HSET', KEYS[2], 'stop', lock) end
      if not lock then redis.call('SET', KEYS[1], 'PAUSE_TOKEN', 'PX', 'FIRST_HOLD') end
      return {running and 'running' or 'paused', now, paused}
      """.replacingFirst("PAUSE_TOKEN", with: pauseToken)
      .replacingFirst("FIRST_HOLD", with: "\(firstHoldMilliseconds)"))

  /// KEYS lock, record. Answers {resumed or running, now, the pause that was lifted (empty: none)}.
  ///
  /// The field remains, as 0, so no replica that remembers the pause restores it.
  package static let resume = RedisScript(
    beginning
      + """
      local paused = redis.call('HMGET', KEYS[2], 'paused')[1] or ''
      if paused == '0' or string.lower(paused) == 'false' then paused = '' end
      redis.call('HSET', KEYS[2], 'paused', '0', 'stop', '')
      if redis.call('GET', KEYS[1]) == 'PAUSE_TOKEN' then redis.call('DEL', KEYS[1]) end
      return {'resumed', now, paused}
      """.replacingFirst("PAUSE_TOKEN", with: pauseToken))
}
