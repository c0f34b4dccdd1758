// The tests' own Redis server.

import Foundation
import TestSupport
import Testing

@Suite struct PrivateRedisTests {
  @Test func itAnswersRestartsEmptyAndLeavesNothingBehind() throws {
    let first: pid_t
    let second: pid_t
    let directory: String
    do {
      let redis = try PrivateRedis(password: "sesame", user: ("bridge", "deck"))
      directory = redis.directory
      first = try #require(redis.processIdentifier)
      #expect(try redis.cli("SET", "k", "v") == "OK")
      #expect(try redis.cli("ACL", "LIST").contains("bridge"))
      redis.pause()
      redis.resume()
      try redis.restart()
      second = try #require(redis.processIdentifier)
      #expect(first != second)
      #expect(try redis.cli("EXISTS", "k") == "0")
      redis.pause()
    }
    #expect(kill(first, 0) != 0 && kill(second, 0) != 0)
    #expect(!FileManager.default.fileExists(atPath: directory))
  }
}
