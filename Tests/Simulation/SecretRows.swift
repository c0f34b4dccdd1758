// Missing secrets and what refers to them: discoveries that find them again, projects that are bound to them, and a
// migration that adds the foreign key while a run is under way.
// Invariant: a row that an uncommitted change holds is changed by nobody else.

import Reactor
import Worker

/// The table of a retention sweeper. Times are in µs of the server's clock unless noted as true time.
@EventLoop
final class SecretTable {
  /// How long a missing secret is kept.
  static let retention: Int64 = 86_400_000_000
  /// How many secrets there are.
  private static let size = 40

  @EventLoop
  final class Secret: HeldRow {
    let number: Int
    fileprivate var isMissing: Bool
    /// Since when it is missing; also in true time.
    fileprivate var endedAt: Int64
    fileprivate var endedAtTrueTime: Int64 = 0
    fileprivate var isBound = false
    /// Whether another transaction has locked it.
    fileprivate var isLocked = false
    /// Whether an uncommitted delete holds it.
    var isHeld = false

    fileprivate init(_ number: Int, isMissing: Bool, endedAt: Int64) {
      self.number = number
      self.isMissing = isMissing
      self.endedAt = endedAt
    }
  }

  private let world: World
  private let scenario: Scenario
  private let judge: Judge
  private let mutation: Mutation?
  private let redis: RedisServer
  private let time: @EventLoop () -> Int64
  private var secrets: [Secret] = []
  /// Whether projects' bindings have their foreign key yet.
  private(set) var hasReference: Bool

  init(
    _ world: World, _ scenario: Scenario, _ judge: Judge, _ mutation: Mutation?, redis: RedisServer,
    time: @escaping @EventLoop () -> Int64
  ) {
    self.world = world
    self.scenario = scenario
    self.judge = judge
    self.mutation = mutation
    self.redis = redis
    self.time = time
    hasReference = world.oneIn(2)
    secrets = (0..<Self.size).map { number in
      let dueIn = world.any(-300_000_000...scenario.length)
      return Secret(number, isMissing: !world.oneIn(4), endedAt: time() - Self.retention + dueIn)
    }
  }

  // MARK: Others

  func live() {
    change()
    sweepOnDemand()
  }

  /// Another transaction locks a row, and changes it at its end.
  private func change() {
    world.after(world.any(1_000_000...30_000_000)) { [self] in
      defer { change() }
      guard !secrets.isEmpty else { return }
      let secret = world.any(of: secrets)
      guard !isLocked(secret) else { return }
      secret.isLocked = true
      world.after(world.any(1_000...8_000_000)) { [self] in
        secret.isLocked = false
        switch world.any(0...3) {
        case 0: secret.isMissing = false
        case 1: becomesMissing(secret)
        case 2 where hasReference: secret.isBound = true
        default: secret.isBound = false
        }
      }
    }
  }

  private func becomesMissing(_ secret: Secret) {
    secret.isMissing = true
    secret.endedAt = time()
    secret.endedAtTrueTime = world.now
  }

  /// An operator triggers runs, which are an hour apart otherwise.
  private func sweepOnDemand() {
    world.after(world.any(30_000_000...180_000_000)) { [self] in
      redis.trigger(Scenario.retention)
      sweepOnDemand()
    }
  }

  /// A run has read which tables refer to this one. In some seeds a migration adds the foreign key now.
  func referencesWereRead() {
    guard !hasReference, world.oneIn(6) else { return }
    world.after(world.any(100...3_000)) { [self] in addReference() }
  }

  /// The migration waits for deletes, and fills the new table.
  private func addReference() {
    guard !hasReference else { return }
    guard !secrets.contains(where: \.isHeld) else { return world.after(100_000) { [self] in addReference() } }
    world.note("a foreign key refers to secrets")
    hasReference = true
    for secret in secrets where world.oneIn(2) { secret.isBound = true }
  }
}

// MARK: - The sweep

extension SecretTable: PagedRows {
  var skipsLocked: Bool { mutation != .unlockedDeleted }

  func due(_ cutoff: Int64, _ statement: PostgresStatement) -> [Secret] {
    let knowsReference = scenario.statements.knowsReference(statement.sql) && mutation != .referencesIgnored
    let limit = mutation == .youngDeleted ? cutoff + Self.retention : cutoff
    return secrets.filter { secret in
      (secret.isMissing || mutation == .liveDeleted) && secret.endedAt <= limit && !(knowsReference && secret.isBound)
    }
  }

  func isLocked(_ row: Secret) -> Bool { row.isLocked || row.isHeld }

  /// A delete writes nothing if there is a foreign key that it does not take account of.
  func allowsWrites(_ statement: PostgresStatement) -> Bool {
    scenario.statements.knowsReference(statement.sql) == hasReference || mutation == .newReferenceIgnored
  }

  func changed(_ rows: [Secret]) {
    for secret in rows {
      world.note("secret \(secret.number) is deleted")
      if !secret.isMissing { judge.violated("secret \(secret.number) was deleted although it is not missing") }
      if secret.isBound { judge.violated("secret \(secret.number) was deleted although a project is bound to it") }
      if secret.isLocked { judge.violated("secret \(secret.number) was deleted while another transaction had it") }
      if secret.endedAt + Self.retention > time(), judge.postgresSteppedAt < secret.endedAtTrueTime {
        judge.violated("secret \(secret.number) was deleted before its time")
      }
    }
    secrets.removeAll { secret in rows.contains { $0 === secret } }
  }
}
