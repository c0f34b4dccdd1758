// When settings are read again, and which of their changes take effect.

import Foundation
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite struct ReloadScheduleTests {
  private static func at(_ milliseconds: Int64) -> MonotonicInstant {
    MonotonicInstant(nanoseconds: milliseconds * 1_000_000)
  }

  @Test func aSignalWhileItBootsIsRememberedAndHandledOnce() {
    var schedule = ReloadSchedule()
    schedule.request()
    schedule.request()
    #expect(schedule.next(at: Self.at(0), isDraining: false) == .idle)
    schedule.booted()
    #expect(schedule.next(at: Self.at(0), isDraining: false) == .read)
    #expect(schedule.next(at: Self.at(0), isDraining: false) == .idle)
  }

  @Test func aSignalWhileItDrainsIsIgnored() {
    var schedule = ReloadSchedule()
    schedule.booted()
    schedule.request()
    #expect(schedule.next(at: Self.at(0), isDraining: true) == .idle)
  }

  @Test(arguments: 0..<50) func eachSignalIsFollowedByAReadAndThereIsOneReadASecond(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    var schedule = ReloadSchedule()
    var (now, bootsAt) = (Int64(0), Int64.random(in: 0...3_000, using: &random))
    var (requestedAt, readAt): (Int64?, Int64?) = (nil, nil)
    for _ in 0..<300 {
      now += Int64.random(in: 0...400, using: &random)
      if now >= bootsAt {
        schedule.booted()
        bootsAt = .max
      }
      if Int.random(in: 0..<3, using: &random) == 0 {
        schedule.request()
        requestedAt = requestedAt ?? now
      }
      switch schedule.next(at: Self.at(now), isDraining: false) {
      case .read:
        #expect(bootsAt == .max && requestedAt != nil, "a read without a signal, seed \(seed)")
        if let readAt { #expect(now - readAt >= 1_000, "two reads in a second, seed \(seed)") }
        (requestedAt, readAt) = (nil, now)
      case .wait(let until):
        #expect(requestedAt != nil && until == readAt.map { Self.at($0 + 1_000) }, "seed \(seed)")
      case .idle:
        #expect(requestedAt == nil || bootsAt != .max, "a signal without a read, seed \(seed)")
      }
    }
  }

  @Test(arguments: 0..<50) func aRefusedLoginIsReadAgainOnceASecondAndReportedOnceAnOutage(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    var renewal = LoginRenewal()
    var now = Int64(0)
    var readAt: Int64?
    var reported: [LoginRenewal.Outcome] = []
    for _ in 0..<300 {
      now += Int64.random(in: 0...700, using: &random)
      if Int.random(in: 0..<8, using: &random) == 0 {
        renewal.recovered()
        (readAt, reported) = (nil, [])
      }
      let mayRead = renewal.refused(at: Self.at(now))
      #expect(mayRead == (readAt.map { now - $0 >= 1_000 } ?? true), "seed \(seed)")
      guard mayRead else { continue }
      readAt = now
      let outcomes: [LoginRenewal.Outcome] = [.changed, .same(isFromFile: true), .same(isFromFile: false)]
      let outcome = outcomes.randomElement(using: &random)!
      let isReported = renewal.read(outcome)
      switch outcome {
      case .changed: #expect(isReported)
      case .same(isFromFile: false): #expect(!isReported, "an environment cannot change")
      default:
        #expect(isReported == !reported.contains(outcome), "seed \(seed)")
        reported.append(outcome)
      }
    }
  }
}

@Suite struct SettingsChangeTests {
  private static func change(_ before: [String: String], _ after: [String: String]) throws -> SettingsChange {
    SettingsChange(from: try SettingsTests.load(before).settings, to: try SettingsTests.load(after).settings)
  }

  @Test func equalSettingsAreNoChange() throws {
    let all = ["LOG_LEVEL": "debug", "SB_WORKER_WEBHOOK_URL": "http://a/", "SB_DISCOVER_TARGETS_JSON": "[]"]
    let change = try Self.change(all, all)
    #expect(change.applied == [] && change.deferred == [])
    #expect(try Self.change([:], ["SB_WORKER_WRAPS_EXPIRED_INTERVAL": "60s"]).applied == [], "1m means the same")
  }

  @Test func everySettingThatCanBeComparedIsNoticed() throws {
    let settings = try SettingsTests.load([:]).settings
    #expect(settings.differences(from: settings, among: SettingRow.all) == [], "a setting is never equal to itself")
  }

  @Test func whatCannotChangeKeepsItsValueAndTheDigestSaysSo() throws {
    let before = try SettingsTests.load([:]).settings
    let after = ["SB_WORKER_LEASE": "20s", "LOG_LEVEL": "debug", "SB_WORKER_PACE": "1/4"]
    let change = SettingsChange(from: before, to: try SettingsTests.load(after).settings)
    #expect(change.applied == ["LOG_LEVEL", "SB_WORKER_PACE"] && change.deferred == ["SB_WORKER_LEASE"])
    #expect(change.settings[.lease] == .seconds(15) && change.settings[.pace] == .onePart(of: 4))
    let expected = try SettingsTests.load(["LOG_LEVEL": "debug", "SB_WORKER_PACE": "1/4"]).settings
    #expect(change.settings.digest == expected.digest)
    let again = SettingsChange(from: change.settings, to: try SettingsTests.load(after).settings)
    #expect(again.applied == [] && again.deferred == ["SB_WORKER_LEASE"], "said at each reload")
  }

  @Test func ofAServersURLUserAndPasswordChange() throws {
    let before = [
      "DATABASE_URL": "postgres://u:old@h/d?sslmode=require", "REDIS_URL": "redis://u:old@h/1",
    ]
    var after = ["DATABASE_URL": "postgres://v:new@h/d?sslmode=require", "REDIS_URL": "redis://v:new@h/1"]
    var change = try Self.change(before, after)
    #expect(change.applied == ["DATABASE_URL", "REDIS_URL"] && change.deferred == [])
    #expect(change.settings[.databaseURL] == (try SettingsTests.load(after).settings[.databaseURL]))
    after = ["DATABASE_URL": "postgres://v:new@elsewhere/d", "REDIS_URL": "redis://u:old@h/2"]
    change = try Self.change(before, after)
    #expect(change.applied == [] && change.deferred == ["DATABASE_URL", "REDIS_URL"])
    #expect(change.settings[.databaseURL].redactedURL == "postgresql://u@h:5432/d")
    #expect(change.settings[.redisURL].redactedURL.hasSuffix("@h:6379/1"))
  }

  /// Another server's login must not be sent to this one, whose operator would learn a password.
  @Test(arguments: [
    ("postgres://u:old@h/d", "postgres://v:new@other/d"), ("postgres://u:old@h/d", "postgres://v:new@h:5433/d"),
    ("postgres://u:old@h/d", "postgres://v:new@h/other"), ("postgres://u:old@h,i/d", "postgres://v:new@h/d"),
    ("postgres://u:old@h/d", "postgres://v:new@h/d?sslmode=verify-full"),
    ("postgres://u:old@h/d?hostaddr=10.0.0.1", "postgres://v:new@h/d?hostaddr=10.0.0.2"),
    ("redis://u:old@h/1", "redis://v:new@other/1"), ("redis://u:old@h/1", "redis://v:new@h:6380/1"),
    ("redis://u:old@h/1", "redis://v:new@h/2"), ("redis://u:old@h/1", "unix://v:new@/run/redis.sock?db=1"),
    ("redis+sentinel://u:old@h,i/m/0", "redis+sentinel://v:new@h,i/n/0"),
    ("redis+sentinel://u:old@h,i/m/0", "redis+sentinel://v:new@h,j/m/0"),
    ("redis+cluster://u:old@h,i", "redis+cluster://v:new@h,j"), ("redis+cluster://u:old@h", "redis://v:new@h"),
  ])
  func aLoginIsNotShownToAnotherServer(before: String, after: String) throws {
    let name = before.hasPrefix("redis") ? "REDIS_URL" : "DATABASE_URL"
    let change = try Self.change([name: before], [name: after])
    #expect(change.applied == [] && change.deferred == [name])
    let old = try SettingsTests.load([name: before]).settings
    #expect(change.settings[.databaseURL] == old[.databaseURL] && change.settings[.redisURL] == old[.redisURL])
  }

  @Test func aLoginIsTakenThoughOtherParametersChangeToo() throws {
    let change = try Self.change(
      ["DATABASE_URL": "postgres://u:old@h/d"], ["DATABASE_URL": "postgres://u:new@h/d?pool_max_conns=3&work_mem=1MB"])
    #expect(change.applied == ["DATABASE_URL"] && change.deferred == ["DATABASE_URL"])
  }
}
