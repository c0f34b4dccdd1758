// FaultDriver's faults of Redis and PostgreSQL that affect all replicas.
// Invariant: each call restores the server before it returns, whatever else was done to it meanwhile.

import Foundation
import Reactor
import TestSupport

extension FaultDriver {
  func breakRedis(_ fault: PlannedFault) async throws {
    let redis = cluster.redis
    switch fault.kind {
    case .pauseRedis:
      redis.pause()
      try await Task.sleep(for: fault.length)
      redis.resume()
    case .restartRedis:
      // Workers cannot reach the server until the recorder is back, so that nothing goes unrecorded.
      cluster.links.lay(LinkFault(isRefused: true), number: fault.number, replica: nil, link: .redis)
      await offLoop { redis.stop() }
      try await Task.sleep(for: fault.length)
      try await offLoop { try redis.start() }
      try await cluster.monitor.waitUntilRecording()
      cluster.links.lift(number: fault.number, replica: nil, link: .redis)
    case .fillRedis: try await configureRedis("maxmemory", "1", for: fault.length)
    case .isolateRedis: try await configureRedis("min-replicas-to-write", "1", for: fault.length)
    case .flushRedis:
      _ = try await offLoop { try redis.cli("FLUSHALL") }
    default:
      // Every client but the recorder, which MONITOR marks with an O.
      let clients = try await offLoop { try redis.cli("CLIENT", "LIST") }
      for client in clients.split(separator: "\n") where !client.contains(" flags=O ") {
        guard let id = client.split(separator: " ").first?.dropFirst("id=".count) else { continue }
        _ = try await offLoop { try redis.cli("CLIENT", "KILL", "ID", String(id)) }
      }
    }
  }

  /// Makes Redis refuse writes for a while: it is full, or has too few replicas.
  private func configureRedis(_ name: String, _ value: String, for length: Duration) async throws {
    let redis = cluster.redis
    _ = try await offLoop { try redis.cli("CONFIG", "SET", name, value) }
    try await Task.sleep(for: length)
    _ = try await offLoop { try redis.cli("CONFIG", "SET", name, "0") }
  }

  /// An existing worker takes a lock, does nothing, and exits: the lock expires.
  func takeLock(_ fault: PlannedFault) async throws {
    guard let sweep = Sweep.allCases.first(where: { $0.table == fault.table }) else { return }
    let key = "\(Cluster.namespace):\(Sweep.lockKey(sweep.rawValue))"
    let redis = cluster.redis
    let begin = ContinuousClock.now
    // A run may hold the lock: retry soon.
    while ContinuousClock.now < begin + fault.length {
      let answer = try await offLoop {
        try redis.cli(
          "-c", "SET", key, "\(ExistingWorker.tokenPrefix)\(fault.number)", "NX", "PX", "\(fault.length.milliseconds)")
      }
      if answer == "OK" { return try await Task.sleep(for: fault.length) }
      try await Task.sleep(for: .milliseconds(20))
    }
  }

  /// Moves the slot of a sweeper's keys to another node of the Redis Cluster.
  func moveSlot(_ fault: PlannedFault) async throws {
    let swept = Sweep.allCases.first { $0.table == fault.table }
    guard let nodes = cluster.nodes, let sweep = swept else { return }
    let slot = try nodes.slot(of: "\(Cluster.namespace):\(Sweep.lockKey(sweep.rawValue))")
    let source = try nodes.owner(of: slot)
    let others = nodes.masters.filter { $0 !== source }
    let target = others[fault.number % others.count]
    let keys = try await nodes.move(slot, to: target, taking: fault.length)
    say("\(Moment.now) slot \(slot) of \(sweep.rawValue): \(keys) keys from \(source.port) to \(target.port)")
  }

  func breakPostgres(_ fault: PlannedFault) async throws {
    switch fault.kind {
    case .pausePostgres:
      cluster.postgres.pause()
      try await Task.sleep(for: fault.length)
      cluster.postgres.resume()
    case .restartPostgres:
      await cluster.postgres.halt()
      try await Task.sleep(for: fault.length)
      try await cluster.postgres.startAgain()
    case .readOnly:
      let setting = "ALTER DATABASE \(cluster.database)"
      guard await succeeds("\(setting) SET default_transaction_read_only = on") else { return }
      try await insist(Self.endSessions)
      try await Task.sleep(for: fault.length)
      try await mend("\(setting) RESET default_transaction_read_only")
      // A pooler would keep sessions started meanwhile.
      try await mend(Self.endSessions)
    case .fillDisk: try await fillDisk(for: fault.length)
    default: try await insist(Self.endSessions)
    }
  }

  private static let endSessions =
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '\(PrivatePostgres.lockedUser)'"

  private func fillDisk(for length: Duration) async throws {
    guard cluster.disk != nil else { return say("\(Moment.now) there is no small file system to fill") }
    try await insist(
      "CREATE TABLE chaos.filler (text TEXT) TABLESPACE small; ALTER TABLE chaos.filler ALTER text SET STORAGE PLAIN")
    for rows in [2_000, 200, 20, 2] {
      let insertion = "INSERT INTO chaos.filler SELECT repeat('x', 8000) FROM generate_series(1, \(rows))"
      while await succeeds(insertion) {}
    }
    try await Task.sleep(for: length)
    // A TRUNCATE would need new files first.
    try await mend("DROP TABLE IF EXISTS chaos.filler")
    // With tables that have grown since, recovery would fill the disk again and fail.
    try await mend("CHECKPOINT")
  }
}
