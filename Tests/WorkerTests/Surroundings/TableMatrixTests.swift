// The five sweepers on the tables, roles, schemas and databases that other people have: exactly the due rows change, or
// a run fails and says why, and then no row has changed that was not due.

import Coordination
import Reactor
import TestSupport
import Testing

@testable import Worker

@Suite(.serialized) struct TableMatrixTests {
  @Test(arguments: TableSurrounding.hostileTriggers)
  func anErrorOfATriggerIsAboutItsRow(_ surrounding: TableSurrounding) async throws {
    try await exactlyTheDueRowsChange(surrounding)
  }

  @Test(arguments: TableSurrounding.all)
  func exactlyTheDueRowsChange(_ surrounding: TableSurrounding) async throws {
    let plane = try await Self.plane(surrounding)
    let (text, rows, left) = try await onLoop {
      try await plane.load()
      for sql in surrounding.afterLoad { try await plane.run([PostgresStatement(sql)]) }
      let done = try await plane.sweep(allowsRowSecurity: surrounding.allowsRowSecurity)
      let text = done.failures.isEmpty && done.changed != FixedRows.due ? "WRONG COUNT: \(done.changed)" : nil
      return (
        text ?? MatrixPlane.text(done.failures), try await plane.difference(isPartial: true),
        try await plane.difference()
      )
    }
    await plane.close()
    #expect(rows == nil)
    switch surrounding.expected {
    case .exact:
      #expect(text == "")
      #expect(left == nil)
    case .fails(let reason, let number):
      #expect(text.contains(reason))
      #expect((left ?? "").split(separator: "; ").count == number, "\(left ?? "")")
    case .refused(let reason): #expect(text.contains(reason))
    }
    print("matrix: tables, \(surrounding.name): \(text.isEmpty ? "exact" : text)")
  }

  private static func plane(_ surrounding: TableSurrounding) async throws -> MatrixPlane {
    let fresh = try await ControlPlane.fresh(encoding: surrounding.encoding)
    if !surrounding.sql.isEmpty { try await fresh.sql(surrounding.sql) }
    let plane = try await MatrixPlane(
      fresh, schema: surrounding.schema, rights: surrounding.rights, query: surrounding.query,
      targets: surrounding.encoding == "UTF8" ? FixedRows.targets : FixedRows.plainTargets)
    if !surrounding.afterRole.isEmpty {
      try await fresh.sql(surrounding.afterRole.replacing("$ROLE", with: plane.least.user))
    }
    return plane
  }

  /// A URL's search_path reaches a pooled session, and only the worker's transactions there.
  @Test(arguments: TableSurrounding.schemas, [PrivatePgBouncer.Mode.session, .transaction])
  func aSchemaOfTheURLIsFoundBehindAPooler(_ surrounding: TableSurrounding, _ mode: PrivatePgBouncer.Mode) async throws
  {
    guard case .exact = surrounding.expected else { return }
    let plane = try await Self.plane(surrounding)
    let role = plane.least.user
    let pooler = try await PrivatePgBouncer.start(to: .shared, mode: mode, users: [role])
    let fault = try await onLoop {
      try await plane.fault(at: pooler.url(user: role, database: plane.plane.name, query: surrounding.query))
    }
    #expect(fault == nil)
    await plane.close()
    await pooler.stop()
  }

  /// Two control planes in one database are independent, and neither waits for the other.
  @Test func twoControlPlanesInOneDatabaseAreBothSweptExactlyAtOnce() async throws {
    let fresh = try await ControlPlane.fresh()
    try await fresh.sql("CREATE SCHEMA second; SET search_path = second; \(ControlPlane.schema())")
    let first = try await MatrixPlane(fresh)
    let second = try await MatrixPlane(fresh, schema: "second", query: "search_path=second")
    let faults = try await onLoop {
      async let one = first.fault()
      async let other = second.fault()
      return try await [one, other]
    }
    #expect(faults == [nil, nil])
    await first.close()
    await second.close()
  }
}
