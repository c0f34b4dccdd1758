// Redis URLs: what they mean, what is refused, and that nothing of a password is ever shown.

import Testing

@testable import Reactor

@Suite struct RedisURLTests {
  private func parse(_ url: String) throws -> RedisConfiguration {
    try RedisConfiguration(url: url, hasTLS: true)
  }

  private func faults(_ url: String, hasTLS: Bool = true) -> [String] {
    do {
      _ = try RedisConfiguration(url: url, hasTLS: hasTLS)
      return []
    } catch {
      return error.faults
    }
  }

  @Test func aHostIsEnough() throws {
    let parsed = try parse("redis://cache.internal")
    #expect(parsed.host == "cache.internal" && parsed.port == 6379 && parsed.database == 0)
    #expect(!parsed.usesTLS && parsed.password == nil && parsed.dialTimeout == nil)
    #expect(parsed.redactedURL == "redis://cache.internal:6379/0")
  }

  @Test func aSchemeIsReadInAnyCase() throws {
    #expect(try parse("REDIS://h").redactedURL == "redis://h:6379/0")
    #expect(try parse("Rediss+Sentinel://h/M").redactedURL == "rediss+sentinel://h:26379/M/0")
    #expect(try parse("UNIX:///run/R.sock").socketPath == "/run/R.sock")
  }

  @Test func everyPartIsRead() throws {
    let parsed = try parse("rediss://us%65r:p%40ss%3a%2F%3f@[::1]:7000/3?client_name=worker-1&dial_timeout=1.5s")
    #expect(parsed.usesTLS && parsed.host == "::1" && parsed.port == 7000 && parsed.database == 3)
    #expect(parsed.user == "user" && parsed.password == "p@ss:/?")
    #expect(parsed.clientName == "worker-1" && parsed.dialTimeout == .milliseconds(1_500))
    #expect(parsed.redactedURL == "rediss://user:***@[::1]:7000/3")
    #expect(parsed.warnings.isEmpty)
  }

  @Test func theOlderPasswordOnlyFormIsRead() throws {
    let parsed = try parse("redis://:sesame@127.0.0.1:6380/")
    #expect(parsed.user == nil && parsed.password == "sesame" && parsed.port == 6380)
    #expect(parsed.redactedURL == "redis://:***@127.0.0.1:6380/0")
  }

  @Test func aUserWithoutAPasswordMayBeOneAndIsNotShown() throws {
    let parsed = try parse("redis://sesame@h")
    #expect(parsed.warnings == ["the user is ignored: there is no password"])
    #expect(parsed.redactedURL == "redis://h:6379/0")
  }

  @Test func aUnixSocketHasAPathInPlaceOfAHost() throws {
    let plain = try parse("unix:///run/redis.sock")
    #expect(plain.socketPath == "/run/redis.sock" && plain.database == 0 && plain.password == nil)
    #expect(plain.redactedURL == "unix:///run/redis.sock?db=0")
    let full = try parse("unix://user:p%40ss@/run/my%20redis.sock?db=2&dial_timeout=1s")
    #expect(full.socketPath == "/run/my redis.sock" && full.database == 2)
    #expect(full.user == "user" && full.password == "p@ss" && full.dialTimeout == .seconds(1))
    #expect(full.redactedURL == "unix://user:***@/run/my redis.sock?db=2")
  }

  @Test(arguments: [
    "unix://", "unix:///", "unix://host/run/redis.sock", "unix://run/redis.sock", "unix:///a#b",
    "unix:///" + String(repeating: "x", count: 107),
  ])
  func aSocketWithoutAPathOrWithAHostIsRefused(url: String) {
    #expect(faults(url) == ["the socket's path must be absolute and at most 107 bytes long"])
  }

  @Test func sentinelsHaveAMastersNameInThePath() throws {
    let parsed = try parse("redis+sentinel://user:p%40ss@s1,[::1]:7000,s3.internal:7001/my-master.1/3?dial_timeout=1s")
    let sentinels = try #require(parsed.sentinels)
    #expect(sentinels.endpoints.map(\.text) == ["s1:26379", "[::1]:7000", "s3.internal:7001"])
    #expect(sentinels.master == "my-master.1" && sentinels.user == nil && sentinels.password == nil)
    #expect(parsed.user == "user" && parsed.password == "p@ss" && parsed.database == 3 && !parsed.usesTLS)
    #expect(
      parsed.redactedURL == "redis+sentinel://user:***@s1:26379,[::1]:7000,s3.internal:7001/my-master.1/3")
    let secured = try parse("rediss+sentinel://s1/m?sentinel_user=watcher&sentinel_password=p%26w")
    #expect(secured.usesTLS && secured.sentinels?.user == "watcher" && secured.sentinels?.password == "p&w")
    #expect(secured.redactedURL == "rediss+sentinel://s1:26379/m/0" && secured.warnings.isEmpty)
    #expect(
      try parse("redis+sentinel://s1/m?sentinel_user=hunter2").warnings
        == ["sentinel_user is ignored: there is no sentinel_password"])
  }

  @Test func aClustersURLHasItsNodesAndNoOtherDatabaseThan0() throws {
    let parsed = try parse("redis+cluster://user:p%40ss@h1,[::1]:7000,h3.internal:7001/0?dial_timeout=1s")
    #expect(parsed.isCluster && parsed.clusterSeeds.map(\.text) == ["h1:6379", "[::1]:7000", "h3.internal:7001"])
    #expect(parsed.user == "user" && parsed.password == "p@ss" && !parsed.usesTLS && parsed.sentinels == nil)
    #expect(parsed.redactedURL == "redis+cluster://user:***@h1:6379,[::1]:7000,h3.internal:7001")
    #expect(try parse("rediss+cluster://h").usesTLS && !parse("redis://h").isCluster)
    #expect(faults("redis+cluster://h/3") == ["the path: a Redis Cluster has database 0 only"])
    #expect(faults("redis+cluster://h?db=1") == ["db: a Redis Cluster has database 0 only"])
    #expect(faults("redis+cluster://" + String(repeating: "h,", count: 16) + "h") == ["at most 16 nodes"])
  }

  @Test func noHostIsThisMachineAsInGoRedis() throws {
    #expect(try parse("redis://").host == "localhost")
    #expect(try parse("redis:///5").database == 5)
    #expect(try parse("redis://:7001").port == 7001)
  }

  @Test func aDatabaseInTheSettingsGoesBeforeTheOneInThePath() throws {
    #expect(try parse("redis://h/1?db=2").database == 2)
  }

  @Test func settingsOfTheGoClientAreIgnoredWithAWarning() throws {
    let url = "redis://h?pool_size=10&max_retries=3&read_timeout=3s&protocol=3&min_idle_conns=1&conn_max_idle_time=5m"
    let warnings = try parse(url).warnings
    #expect(warnings.count == 6)
    #expect(warnings.contains { $0.hasPrefix("pool_size is ignored") })
  }

  @Test(arguments: [
    ("5", 5_000), ("250ms", 250), ("1m30s", 90_000), ("1.5s", 1_500), ("2000000us", 2_000), ("1h", 3_600_000),
  ])
  func aDialTimeoutIsSecondsOrAGoDuration(text: String, milliseconds: Int) throws {
    #expect(try parse("redis://h?dial_timeout=\(text)").dialTimeout == .milliseconds(milliseconds))
  }

  @Test func allFaultsAreReportedAtOnce() {
    let found = faults("redis://ho%20st:99999/x?dial_timeout=shortly&colour=1&client_name=a%20b&skip_verify=true")
    #expect(found.count == 6 + 1, "host, port, database, three settings, one unknown: \(found)")
  }

  @Test(arguments: [
    "", "redis:", "redis:/h", "http://h", "REDIS ://h", "redis://h:0", "redis://h:65536",
    "redis://h:1a",
    "redis://[::1", "redis://[h]", "redis://[::1]x", "redis://h/-1", "redis://h/1/2", "redis://h#f", "redis://h/0#f",
    "redis://h?db=", "redis://h?dial_timeout=0", "redis://h?dial_timeout=-1", "redis://h?dial_timeout=",
    "redis://h?dial_timeout=1.2.3s", "redis://h?dial_timeout=5x", "redis://u:%zz@h", "redis://u:%ff@h",
    "redis://u:%00@h",
    "redis://::1:6379", "redis://h?DB=1", "redis://h?=1", "redis://h,i", "redis://h?sentinel_password=x",
    "redis+sentinel://h", "redis+sentinel://h/", "redis+sentinel://h/m/x", "redis+sentinel://h/m%20n",
    "redis+sentinel://h,i j/m", "redis+sentinel://h:0,i/m", "redis+sentinel://h/m?sentinel_password=%zz",
    "redis+sentinel://" + String(repeating: "h,", count: 16) + "h/m",
  ])
  func whatIsNoRedisURLIsRefused(url: String) {
    #expect(!faults(url).isEmpty)
  }

  @Test(arguments: [
    "redis://:hunter2/x@h", "redis://:hunter2?x@h", "redis://:hunter2#x@h", "redis://u:hun?ter2=1", "redis://:hunter2",
    "redis://u:hunter2@ho st", "redis://u:hunter2@h:port", "redis://u:hunter2%@h", "redis://:x?hunter2=1@h",
    "redis://u:hunter2@h/hunter2", "redis://u:hunter2@h?client_name=hunter2%20",
    "redis+sentinel://u:hunter2@h/hunter2/x", "redis+sentinel://h/m?sentinel_password=hunter2%",
    "redis+sentinel://:hunter2,x@h,i",
  ])
  func noFaultQuotesAPassword(url: String) {
    let found = faults(url)
    #expect(!found.isEmpty)
    #expect(!found.contains { $0.contains("hunter2") || $0.contains("ter2") })
  }

  @Test func tlsIsRefusedWhereTheLibraryHasNone() {
    let found = faults("rediss://h", hasTLS: false)
    #expect(found.count == 1 && found[0].contains("hiredis 1.0"))
  }
}
