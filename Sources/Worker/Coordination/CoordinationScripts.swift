// The scripts that Redis runs: how the replicas coordinate each sweeper.
// Invariants: Redis's clock (TIME) decides what is due; an epoch never decreases; only a lock's own token renews or
// deletes it; a call that arrives after its not-after changes nothing. Called by Coordinator.

import Reactor

/// Two keys per sweeper, both in one hash slot (the lock's key is the record's hash tag), and its history:
///
///     <namespace>:lock:worker:sweeper:<name>              the lock: a random token, with its expiry
///     <namespace>:schedule:{<lock key>}                   a hash, the schedule record:
///         epoch        fencing number of the last run that began
///         token        the lock token of that run
///         slot         start of the last slot that was completed, ms
///         started      when the last run began, ms
///         completed    epoch of the last run that was completed
///         not_before   no lock is granted earlier, ms (set when the record is created)
///         next_try     after a failure: not due earlier, ms; never beyond the slot after it
///         failures     consecutive failures
///         origin       a random value from the record's creation: it identifies the record's Redis
///         paused       set by an operator: nothing is due (empty, 0 and false: not paused). It begins with "until=", a
///                      time in ms and a space, if it expires
///         paused_in    origin of the lost record that had the pause
///         pause_told   when the pause was last notified, ms; empty: not yet
///         notice_for, notice   token of the take whose replica notifies of a pause, and the notice
///         stop         lock token of a run that has to stop after its batch
///         outcome, rows, duration   of the last completed run
///         found, skipped, refused   rows of that run that were due, left locked, and refused
///         error        the class of its failure
///         ended, by    when that run was completed, ms, and by which replica
///         succeeded    when a run last succeeded, ms
///         replica      which replica began the last run
///         rows_so_far  how many rows that run had changed at its last renewal; empty: none yet
///         replicas     those that attend the sweeper, each as "name seen interval version settings;", times in ms
///         progress     how far the sweep got, in its own format
///         failing_since   when the first of the consecutive failures ended, ms
///         alerts, alerted_at   how often these failures were notified, and when last, ms
///         trigger      an operator's request for one run: its id, a time in ms; empty: none
///         trigger_until, trigger_accepts   when it expires if no run has begun, ms; 1: the run accepts any share
///         trigger_run, trigger_epoch   the trigger that a run began for, and that run
///         triggered    the last trigger whose run ended: "id epoch outcome found rows duration replica error"
///         newest_trigger   id of the newest trigger of any sweeper: a replica that learns of it asks for all sweepers
///         verdict, verdict_for, verdict_runs   the answer to the last completion, repeated if sent again
///     <namespace>:history:{<lock key>}                    a list, newest first, one line per run
package enum CoordinationScripts {
  /// History lines per sweeper.
  package static let historyLimit = 200

  /// How long a replica counts as attending the sweeper after it asked, in ms; two intervals if that is longer.
  package static let presenceMilliseconds = 600_000

  /// The most replicas that a record lists.
  package static let replicaLimit = 50

  /// A run requested at boot is not due if the last one began less than this ago, in ms.
  package static let runOnStartQuietMilliseconds = 60_000

  /// The longest lease that can be configured, in ms.
  package static let longestLeaseMilliseconds = 300_000

  /// The most bytes of a pause's text that a replica keeps.
  package static let pauseLimit = 200

  /// The intervals between alerts while a sweeper keeps failing. The last one repeats.
  package static let reminderGapsMilliseconds = [5, 15, 30, 60].map { $0 * 60_000 }

  /// Before Redis 5, a script that has read the clock may write only if it replicates its effects.
  static let replicatingEffects = "if redis.replicate_commands then redis.replicate_commands() end\n"

  /// Begins a script that reads the clock, as `now` in ms, and writes.
  static let beginning =
    replicatingEffects + """
      local time = redis.call('TIME')
      local now = time[1] * 1000 + math.floor(time[2] / 1000)

      """

  /// KEYS lock, record. ARGV token, lease, interval, offset, not-after (all ms), mode (due, start, force), the pause
  /// that the replica remembers: the origin of its record (empty: none) and its text; the replica's name, and what it
  /// reports: interval, version, settings (empty: it does not attend the sweeper, and is not listed). Answers
  /// {kind, now, …}, see `Coordinator.take`. Except for "late", the last
  /// four numbers are how many replicas attend the sweeper, when a run last succeeded (0: never), a `PauseNotice`, and
  /// the newest trigger's id (0: none), and the last text is the record's origin. A repeated call with the same token
  /// has the same answer.
  package static let take = RedisScript(
    beginning
      + """
      local lease, interval, offset = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
      if now > tonumber(ARGV[5]) then return {'late', now} end

      local function text(number) return string.format('%.0f', number) end
      local current = now - (now - offset) % interval
      local following = current + interval
      local record = redis.call('HMGET', KEYS[2], 'epoch', 'slot', 'not_before', 'next_try', 'failures', 'started',
        'paused', 'token', 'progress', 'origin', 'paused_in', 'replicas', 'succeeded',
        'pause_told', 'notice_for', 'notice', 'trigger', 'trigger_until', 'trigger_accepts', 'newest_trigger',
        'trigger_epoch')
      local epoch, origin, paused = tonumber(record[1]), record[10], record[7]
      if not epoch then
        redis.call('HSET', KEYS[2], 'epoch', text(now), 'not_before', text(now + lease))
      end
      if not epoch or not origin then
        origin = ARGV[1]
        redis.call('HSET', KEYS[2], 'origin', origin)
      end

      local own, replicas, attending = ARGV[9], '', 0
      if ARGV[10] == '' then
        own = nil
      else
        replicas, attending = own .. ' ' .. text(now) .. ' ' .. ARGV[10] .. ';', 1
      end
      for line in string.gmatch(record[12] or '', '[^;]+') do
        local name, seen = string.match(line, '^(%S+) (%d+) ')
        local age = now - (tonumber(seen) or 0)
        if name and name ~= own and age >= 0 and age < math.max(PRESENCE, 2 * interval)
          and attending < REPLICA_LIMIT then
          replicas, attending = replicas .. line .. ';', attending + 1
        end
      end
      redis.call('HSET', KEYS[2], 'replicas', replicas)
      local succeeded, notice = math.min(tonumber(record[13]) or 0, now), 0
      local function answer(parts)
        parts[#parts + 1] = attending
        parts[#parts + 1] = succeeded
        parts[#parts + 1] = notice
        parts[#parts + 1] = tonumber(record[20]) or 0
        parts[#parts + 1] = origin
        return parts
      end

      -- A pause outlives the record that it was set in: a replica that saw it there brings it here. Where another one
      -- has brought the same, and it is gone, it was lifted.
      if not paused and ARGV[7] ~= '' and ARGV[7] ~= origin and ARGV[7] ~= record[11] then
        paused = ARGV[8]
        redis.call('HSET', KEYS[2], 'paused', paused, 'paused_in', ARGV[7])
      end
      local ends = tonumber(string.match(paused or '', '^until=(%d+) '))
      if ends and ends <= now then
        paused = ''
        redis.call('HSET', KEYS[2], 'paused', paused)
      end
      local isPaused = paused and paused ~= '' and paused ~= '0' and string.lower(paused) ~= 'false'

      -- One replica tells people that a pause has begun, lasts, or is over.
      local told = tonumber(record[14])
      if record[15] == ARGV[1] then
        notice = tonumber(record[16]) or 0
      elseif isPaused and not told then
        notice = 1
      elseif isPaused and (now - told >= PAUSE_REMINDER or told > now) then
        notice = 2
      elseif told and not isPaused then
        notice = 3
      end
      if notice > 0 and record[15] ~= ARGV[1] then
        redis.call('HSET', KEYS[2], 'notice_for', ARGV[1], 'notice', notice,
          'pause_told', notice < 3 and text(now) or '')
      end

      -- A worker of the other kind knows no pauses: the lock keeps it out.
      local lock = redis.call('GET', KEYS[1])
      if isPaused and (not lock or lock == 'PAUSE_TOKEN') then
        redis.call('SET', KEYS[1], 'PAUSE_TOKEN', 'PX', text(2 * interval + lease))
      elseif lock == 'PAUSE_TOKEN' then
        redis.call('DEL', KEYS[1])
      end
      if isPaused then
        return answer({'paused', now, current, origin, string.sub(paused, 1, PAUSE_LIMIT)})
      end
      if not epoch then return answer({'settling', now, current, now + lease}) end

      local trigger, expiry = tonumber(record[17]), tonumber(record[18]) or 0
      local isTriggered = trigger and now < expiry and expiry - now <= TRIGGER_LIFE
      local function taken(number, isForTrigger)
        local kind = isForTrigger and (record[19] == '1' and 2 or 1) or 0
        return answer({'taken', now, number, current, following, tonumber(record[5]) or 0, kind, origin,
          record[9] or ''})
      end
      if record[8] == ARGV[1] then
        -- The same question again, for its answer was lost. Where its lock is gone, so is its run.
        if redis.call('GET', KEYS[1]) == ARGV[1] then return taken(epoch, tonumber(record[21]) == epoch) end
        return {'late', now}
      end

      -- Times that lie in the future were written before the clock stepped back.
      local slot = tonumber(record[2]) or 0
      if slot > now then
        slot = now
        redis.call('HSET', KEYS[2], 'slot', text(slot))
      end
      local started = math.min(tonumber(record[6]) or 0, now)

      local due
      if isTriggered or ARGV[6] == 'force' or (ARGV[6] == 'start' and now - started >= RUN_ON_START_QUIET) then
        due = now
      elseif slot >= current then
        due = following
      else
        due = math.min(tonumber(record[4]) or 0, following)
        -- A retry that was set before the clock stepped back would be put off by one slot after the other.
        if (tonumber(record[6]) or 0) > now then due = now end
      end
      if due > now then return answer({'idle', now, current, due}) end

      if redis.call('EXISTS', KEYS[1]) == 1 then
        -- Whose it is does not matter: a worker of the other kind may fail, so its lock does not make the slot done.
        local remaining = redis.call('PTTL', KEYS[1])
        if remaining < 0 then return answer({'stuck', now, current}) end
        if remaining > LONGEST_LEASE then
          -- It was set before the clock stepped back. A holder that lives renews it; without one it would last for as
          -- long as the step was.
          remaining = LONGEST_LEASE
          redis.call('PEXPIRE', KEYS[1], remaining)
        end
        return answer({'held', now, current, remaining})
      end
      local notBefore = tonumber(record[3]) or 0
      if notBefore > now + LONGEST_LEASE then
        -- It was set before the clock stepped back, and would lie one lease ahead for as long as the step was.
        notBefore = now + lease
        redis.call('HSET', KEYS[2], 'not_before', text(notBefore))
      end
      notBefore = math.min(notBefore, now + lease)
      if notBefore > now then return answer({'settling', now, current, notBefore}) end

      epoch = math.max(epoch + 1, now)
      redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
      redis.call('HSET', KEYS[2], 'epoch', text(epoch), 'token', ARGV[1], 'started', text(now), 'replica', ARGV[9],
        'rows_so_far', '')
      if isTriggered then
        redis.call('HSET', KEYS[2], 'trigger_run', record[17], 'trigger_epoch', text(epoch))
      end
      return taken(epoch, isTriggered)
      """.replacingFirst("RUN_ON_START_QUIET", with: "\(runOnStartQuietMilliseconds)")
      .replacingFirst("PRESENCE", with: "\(presenceMilliseconds)")
      .replacingFirst("REPLICA_LIMIT", with: "\(replicaLimit)")
      .replacingFirst("PAUSE_REMINDER", with: "\(pauseReminderMilliseconds)")
      .replacingFirst("PAUSE_TOKEN", with: pauseToken)
      .replacingFirst("PAUSE_TOKEN", with: pauseToken)
      .replacingFirst("PAUSE_TOKEN", with: pauseToken)
      .replacingFirst("PAUSE_LIMIT", with: "\(pauseLimit)")
      .replacingFirst("TRIGGER_LIFE", with: "\(triggerLifeMilliseconds)")
      .replacingFirst("LONGEST_LEASE", with: "\(longestLeaseMilliseconds)")
      .replacingFirst("LONGEST_LEASE", with: "\(longestLeaseMilliseconds)")
      .replacingFirst("LONGEST_LEASE", with: "\(longestLeaseMilliseconds)"))

  /// KEYS lock, record. ARGV token, lease, not-after (ms), how many rows the run has changed so far. Answers {1, now}
  /// if renewed, {2, now} if the run also has to stop after its batch, {0, now} if the lock is not ours.
  package static let renew = RedisScript(
    beginning + """
      if now > tonumber(ARGV[3]) or redis.call('GET', KEYS[1]) ~= ARGV[1] then return {0, now} end
      redis.call('PEXPIRE', KEYS[1], ARGV[2])
      local record = redis.call('HMGET', KEYS[2], 'token', 'stop')
      if record[1] == ARGV[1] then redis.call('HSET', KEYS[2], 'rows_so_far', ARGV[4]) end
      return {record[2] == ARGV[1] and 2 or 1, now}
      """)

  /// KEYS lock. ARGV token. Deletes the lock if the token holds it.
  package static let release = RedisScript(
    beginning + """
      if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {0, now} end
      redis.call('DEL', KEYS[1])
      return {1, now}
      """)

  /// KEYS lock, record, history. ARGV token, epoch, lease (ms), slot (ms), outcome (success, failure, drained), delay
  /// until the next try (ms), rows, duration (ms), replica, progress (empty: unchanged), interval (ms), whether it says
  /// nothing about the sweeper's health (1), rows found, skipped and refused, and the failure's class (empty: none).
  /// Idempotent by epoch.
  /// Answers {superseded, now} or {done, now, verdict, how long it has been failing (ms), consecutive failures}; the
  /// verdict is an `AlertDecision.Kind`, so that only the replica whose run it was notifies.
  package static let complete = RedisScript(
    beginning
      + """
      local function text(number) return string.format('%.0f', number) end
      local mine, outcome = tonumber(ARGV[2]), ARGV[5]
      if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end

      local record = redis.call('HMGET', KEYS[2], 'epoch', 'completed', 'slot',
        'failing_since', 'alerts', 'alerted_at', 'failures', 'verdict', 'verdict_for', 'verdict_runs', 'token',
        'trigger', 'trigger_run', 'trigger_epoch')
      local epoch = tonumber(record[1])
      -- A record without a token is new: Redis lost its data in mid-run, and nobody has run since.
      if epoch and epoch > mine and record[11] then return {'superseded', now} end
      if tonumber(record[2]) == mine then
        return {'done', now, tonumber(record[8]) or 0, tonumber(record[9]) or 0, tonumber(record[10]) or 0}
      end
      if not epoch then
        -- Nobody has asked since: nobody takes the lock for one lease, and this run still counts.
        redis.call('HSET', KEYS[2], 'epoch', text(mine), 'not_before', text(now + tonumber(ARGV[3])), 'origin', ARGV[1])
      elseif epoch < mine then
        -- A replica that had not heard of this run took over from the Redis that gave it its epoch.
        redis.call('HSET', KEYS[2], 'epoch', text(mine))
      end

      -- What people are told: the first failure, reminders at growing gaps, the recovery. Times beyond now were written
      -- before the clock stepped back.
      local verdict, since, runs = 0, math.min(tonumber(record[4]) or now, now), tonumber(record[7]) or 0
      if outcome == 'success' then
        redis.call('HSET', KEYS[2], 'slot', text(math.max(tonumber(record[3]) or 0, tonumber(ARGV[4]))),
          'succeeded', text(now))
        redis.call('HDEL', KEYS[2], 'next_try')
        if ARGV[12] ~= '1' then
          if record[4] then verdict = 3 end
          redis.call('HDEL', KEYS[2], 'failures', 'failing_since', 'alerts', 'alerted_at')
        end
      elseif outcome == 'failure' then
        runs = runs + 1
        if ARGV[12] ~= '1' then
          local gaps, alerts = {REMINDER_GAPS}, tonumber(record[5]) or 0
          local alerted = math.min(tonumber(record[6]) or now, now)
          if not record[4] then
            verdict = 1
          elseif now - alerted >= gaps[math.max(1, math.min(alerts, #gaps))] then
            verdict = 2
          end
          if verdict > 0 then
            alerts, alerted = alerts + 1, now
          end
          redis.call('HSET', KEYS[2], 'failing_since', text(since), 'alerts', alerts, 'alerted_at', text(alerted))
        end
        local following = now - (now - tonumber(ARGV[4])) % tonumber(ARGV[11]) + tonumber(ARGV[11])
        redis.call('HSET', KEYS[2], 'next_try', text(math.min(now + tonumber(ARGV[6]), following)), 'failures', runs)
      end
      redis.call('HSET', KEYS[2], 'completed', text(mine), 'outcome', outcome, 'rows', ARGV[7], 'duration', ARGV[8],
        'verdict', verdict, 'verdict_for', text(now - since), 'verdict_runs', runs, 'found', ARGV[13],
        'skipped', ARGV[14], 'refused', ARGV[15], 'error', ARGV[16], 'ended', text(now), 'by', ARGV[9])
      if ARGV[10] ~= '' then redis.call('HSET', KEYS[2], 'progress', ARGV[10]) end
      -- A run that was given back, or that died, leaves its trigger to the next one.
      if tonumber(record[14]) == mine and outcome ~= 'drained' then
        if record[12] == record[13] then redis.call('HSET', KEYS[2], 'trigger', '') end
        redis.call('HSET', KEYS[2], 'triggered', table.concat({record[13], ARGV[2], outcome, ARGV[13], ARGV[7], ARGV[8],
          ARGV[9], ARGV[16]}, ' '))
      end
      redis.call('LPUSH', KEYS[3], cjson.encode({epoch = text(mine), slot = ARGV[4], outcome = outcome,
        rows = tonumber(ARGV[7]), duration_ms = tonumber(ARGV[8]), replica = ARGV[9], finished = text(now),
        found = tonumber(ARGV[13]), skipped = tonumber(ARGV[14]), refused = tonumber(ARGV[15]), error = ARGV[16]}))
      redis.call('LTRIM', KEYS[3], 0, HISTORY_LAST)
      return {'done', now, verdict, now - since, runs}
      """.replacingFirst("HISTORY_LAST", with: "\(historyLimit - 1)")
      .replacingFirst("REMINDER_GAPS", with: reminderGapsMilliseconds.map(String.init).joined(separator: ", ")))

  /// Not a sweeper's name: its lock, record and history are the keys of the health check.
  package static let healthName = "health"

  /// KEYS lock, record, history. ARGV token. Does what the other scripts do, on keys of its own, and deletes them.
  /// Answers an array, as they do: a number does not count towards Redis's limits on client output; an array is 16 kB.
  private static let health = RedisScript(
    replicatingEffects + """
      redis.call('TIME')
      redis.call('SET', KEYS[1], ARGV[1], 'PX', '1000')
      redis.call('PEXPIRE', KEYS[1], '1000')
      redis.call('GET', KEYS[1])
      redis.call('EXISTS', KEYS[1])
      redis.call('PTTL', KEYS[1])
      redis.call('HSET', KEYS[2], 'written', '1', 'read', '1')
      redis.call('HMGET', KEYS[2], 'written', 'read')
      redis.call('HDEL', KEYS[2], 'written', 'read')
      redis.call('LPUSH', KEYS[3], '1')
      redis.call('LTRIM', KEYS[3], 1, 0)
      redis.call('DEL', KEYS[1])
      return {'well', 1}
      """)

  /// Checks all that the sweepers need of Redis in one script: an answer alone does not show that it takes writes.
  package static func healthCheck(namespace: String) -> RedisHealthCheck {
    let keys = keys(namespace: namespace, sweeper: healthName)
    return RedisHealthCheck(script: health, keys: [keys.lock, keys.record, keys.history], arguments: ["health"])
  }

  /// The same in a sweeper's hash slot.
  package static func healthCheck(namespace: String, inSlotOf sweeper: String) -> RedisHealthCheck {
    let tag = "{\(keys(namespace: namespace, sweeper: sweeper).lock)}"
    return RedisHealthCheck(
      script: health,
      keys: [
        "\(keys(namespace: namespace, sweeper: healthName).lock):\(tag)", "\(namespace):schedule:\(healthName):\(tag)",
        "\(namespace):history:\(healthName):\(tag)",
      ], arguments: ["health"])
  }

  /// The keys of one sweeper.
  package static func keys(namespace: String, sweeper name: String) -> (lock: String, record: String, history: String) {
    let lock = "\(namespace):lock:worker:sweeper:\(name)"
    return (lock, "\(namespace):schedule:{\(lock)}", "\(namespace):history:{\(lock)}")
  }
}
