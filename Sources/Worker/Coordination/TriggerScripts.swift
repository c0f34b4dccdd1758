// Scripts by which an operator triggers a run of a sweeper. How takes and completions handle a trigger is in
// CoordinationScripts. Invariant: they write only what the worker's own scripts write, so their rights suffice.

import Reactor

extension CoordinationScripts {
  /// How long a trigger waits for a replica before it expires, in ms.
  package static let triggerLifeMilliseconds = 600_000

  /// KEYS lock, record. ARGV whether the run accepts any share (1). Answers {kind, now, the trigger's id, text}:
  ///
  ///     triggered    set; the text is "running" if a run is under way, after which the triggered one begins
  ///     joined       another trigger waits for a replica: its run is this one's as well
  ///     paused       refused, and the pause's text; the id is 0
  ///     unattended   refused: no replica has asked for the sweeper lately; the id is 0
  ///
  /// An id is a time in ms, and higher than any before it. A trigger whose run has begun is not joined: that run may
  /// already have passed the rows that the operator has in mind.
  package static let trigger = RedisScript(
    beginning
      + """
      local function text(number) return string.format('%.0f', number) end
      local record = redis.call('HMGET', KEYS[2], 'paused', 'replicas', 'trigger', 'trigger_until', 'trigger_run',
        'newest_trigger', 'token')
      local paused = record[1] or ''
      local ends = tonumber(string.match(paused, '^until=(%d+) '))
      if paused ~= '' and paused ~= '0' and string.lower(paused) ~= 'false' and not (ends and ends <= now) then
        return {'paused', now, 0, paused}
      end
      local attended = false
      for line in string.gmatch(record[2] or '', '[^;]+') do
        local seen, interval = string.match(line, '^%S+ (%d+) (%d+)')
        if seen and now - seen < math.max(PRESENCE, 2 * interval) then attended = true end
      end
      if not attended then return {'unattended', now, 0, ''} end
      local id, expiry = tonumber(record[3]), tonumber(record[4]) or 0
      if id and now < expiry and expiry - now <= TRIGGER_LIFE and record[5] ~= record[3] then
        if ARGV[1] == '1' then redis.call('HSET', KEYS[2], 'trigger_accepts', '1') end
        return {'joined', now, id, ''}
      end
      id = math.max(now, (tonumber(record[6]) or 0) + 1)
      redis.call('HSET', KEYS[2], 'trigger', text(id), 'trigger_until', text(now + TRIGGER_LIFE),
        'trigger_accepts', ARGV[1], 'newest_trigger', text(id))
      local lock = redis.call('GET', KEYS[1])
      return {'triggered', now, id, lock and lock == record[7] and 'running' or ''}
      """.replacingFirst("PRESENCE", with: "\(presenceMilliseconds)")
      .replacingFirst("TRIGGER_LIFE", with: "\(triggerLifeMilliseconds)")
      .replacingFirst("TRIGGER_LIFE", with: "\(triggerLifeMilliseconds)"))

  /// KEYS lock, record. ARGV the id of another sweeper's trigger, which a replica learns of when it asks for this one.
  /// Answers {told, now}.
  package static let announceTrigger = RedisScript(
    beginning + """
      local record = redis.call('HMGET', KEYS[2], 'epoch', 'newest_trigger')
      if record[1] and (tonumber(record[2]) or 0) < tonumber(ARGV[1]) then
        redis.call('HSET', KEYS[2], 'newest_trigger', ARGV[1])
      end
      return {'told', now}
      """)
}
