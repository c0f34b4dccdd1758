// The script by which a replica that ends leaves the list of those that attend a sweeper. How a take lists it is in
// CoordinationScripts. Invariant: it removes only the entry of the take that it names, so never that of a later process
// of the same name.

import Reactor

extension CoordinationScripts {
  /// KEYS lock, record. ARGV the replica's name, when its last take was answered (ms). Answers {left, now}.
  package static let leave = RedisScript(
    beginning + """
      local replicas = redis.call('HMGET', KEYS[2], 'replicas')[1] or ''
      local others = ''
      for line in string.gmatch(replicas, '[^;]+') do
        local name, seen = string.match(line, '^(%S+) (%d+) ')
        if name ~= ARGV[1] or seen ~= ARGV[2] then others = others .. line .. ';' end
      end
      if others ~= replicas then redis.call('HSET', KEYS[2], 'replicas', others) end
      return {'left', now}
      """)
}
