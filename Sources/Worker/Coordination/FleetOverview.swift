// What the status page shows of the whole fleet, as one script: all sweepers' locks, records and last runs.
// Invariant: it writes nothing, and the size of its answer is bounded whatever the keys hold.

import Reactor

extension CoordinationScripts {
  /// The most last runs answered per sweeper.
  package static let overviewRuns = 60

  /// KEYS lock, record and history of each sweeper. ARGV the record's fields. Answers as `look`, and for each sweeper
  /// also its last runs, newest first, as "finished outcome rows duration;", times in ms; no runs if the user may not
  /// read them. Values are cut to 512 bytes, the list of replicas to 32 KiB.
  package static let overview = RedisScript(
    """
    local time = redis.call('TIME')
    local answer = {time[1] * 1000 + math.floor(time[2] / 1000)}
    local function cut(text, limit)
      if type(text) ~= 'string' or #text <= limit then return text end
      -- Not within a character of UTF-8.
      while limit > 0 and string.byte(text, limit + 1) >= 128 and string.byte(text, limit + 1) < 192 do
        limit = limit - 1
      end
      return string.sub(text, 1, limit)
    end
    local function runs(key)
      local lines = redis.pcall('LRANGE', key, 0, \(overviewRuns - 1))
      local text = ''
      if lines.err then return text end
      for _, line in ipairs(lines) do
        local isJSON, run = pcall(cjson.decode, line)
        if isJSON and type(run) == 'table' then
          local outcome = string.match(tostring(run.outcome), '^%l+$') or 'unknown'
          text = text .. string.format('%.0f %s %.0f %.0f;', tonumber(run.finished) or 0, string.sub(outcome, 1, 16),
            tonumber(run.rows) or 0, tonumber(run.duration_ms) or 0)
        end
      end
      return text
    end
    for index = 1, #KEYS, 3 do
      local lock = redis.pcall('GET', KEYS[index])
      local remaining = lock and redis.call('PTTL', KEYS[index]) or -2
      local record = redis.pcall('HMGET', KEYS[index + 1], unpack(ARGV))
      if not record.err then
        for field, name in ipairs(ARGV) do record[field] = cut(record[field], name == 'replicas' and 32768 or 512) end
      end
      answer[#answer + 1] = {cut(lock or '', 512), remaining, record, runs(KEYS[index + 2])}
    end
    return answer
    """)
}

/// One sweeper and its last runs, at one moment.
package struct SweeperOverview: Sendable {
  package let record: SweeperRecord
  /// Oldest first.
  package let runs: [RunMark]

  /// - Parameter answer: the script's answer for this sweeper.
  package init(sweeper: String, _ answer: RedisValue) {
    let parts = answer.array ?? []
    record = SweeperRecord(sweeper: sweeper, .array(Array(parts.prefix(3))))
    runs = RunMark.runs(parts.count == 4 ? parts[3].text ?? "" : "")
  }
}

/// A run as a mark in a plot.
package struct RunMark: Equatable, Sendable {
  package enum Outcome: String, Sendable {
    case success, failure
    /// Given back before it ended.
    case drained
  }

  /// In ms of Redis's clock.
  package let finishedAt: Int64
  package let outcome: Outcome
  package let changed: Int64
  package let durationMilliseconds: Int64

  package init(finishedAt: Int64, outcome: Outcome, changed: Int64, durationMilliseconds: Int64) {
    self.finishedAt = finishedAt
    self.outcome = outcome
    self.changed = changed
    self.durationMilliseconds = durationMilliseconds
  }

  /// The runs in a script's answer, oldest first. Skips what no worker wrote.
  static func runs(_ text: String) -> [RunMark] {
    var runs: [RunMark] = []
    for line in text.split(separator: ";") {
      let words = line.split(separator: " ")
      guard words.count == 4, let finishedAt = PlausibleNumber.read(words[0]),
        let outcome = Outcome(rawValue: String(words[1])), let changed = PlausibleNumber.read(words[2]),
        let duration = PlausibleNumber.read(words[3]), changed >= 0, duration >= 0
      else { continue }
      runs.append(
        RunMark(finishedAt: finishedAt, outcome: outcome, changed: changed, durationMilliseconds: duration))
    }
    return runs.reversed()
  }
}
