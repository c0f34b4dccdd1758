// A stand-in for the existing worker: takes the sweepers' locks the same way, without a schedule record.
// Invariant: it uses only the public protocol: SET NX PX, renewal and deletion by token. Used by scenarios.

import Foundation
import Reactor
import TestSupport

/// One replica of the existing worker, with one sweeper: wraps-expired.
struct ExistingWorker: Sendable {
  let cluster: Cluster
  let interval: Duration
  let lease: Duration
  /// It takes locks and does nothing: alternately releases one at once and lets one expire.
  var fails = false

  /// The prefix of its lock tokens.
  static let tokenPrefix = "existing-"

  private static let ifMine = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end return redis.call"

  /// Sweeps every interval if it gets the lock.
  func run(until end: Moment) async throws {
    let key = "\(Cluster.namespace):\(Sweep.lockKey(Sweep.wraps.rawValue))"
    let redis = cluster.redis
    var number = 0
    while Moment.now < end {
      number += 1
      let token = "\(Self.tokenPrefix)\(number)"
      let answer = try await offLoop {
        try redis.cli("SET", key, token, "NX", "PX", "\(lease.milliseconds)")
      }
      if answer == "OK", fails {
        if number.isMultiple(of: 2) {
          _ = try await offLoop { try redis.cli("EVAL", "\(Self.ifMine)('DEL', KEYS[1])", "1", key, token) }
        } else {
          try await Task.sleep(for: lease)
        }
      } else if answer == "OK" {
        // It is slow, sometimes slower than a lease.
        let batches = number.isMultiple(of: 3) ? 4 : 1
        for _ in 0..<batches {
          try await cluster.sql("DELETE FROM secret_wraps WHERE expires_at <= now() AND pg_sleep(0.01) IS NOT NULL")
          try await Task.sleep(for: .seconds(1))
          _ = try await offLoop {
            try redis.cli(
              "EVAL", "\(Self.ifMine)('PEXPIRE', KEYS[1], ARGV[2])", "1", key, token, "\(lease.milliseconds)")
          }
        }
        _ = try await offLoop { try redis.cli("EVAL", "\(Self.ifMine)('DEL', KEYS[1])", "1", key, token) }
      }
      try await Task.sleep(for: interval)
    }
  }
}
