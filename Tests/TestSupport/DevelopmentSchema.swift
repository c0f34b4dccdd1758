// The control plane's development schema at one of its migrations.

/// The SQL of scripts/dev/schema.
public enum DevelopmentSchema: Int, CaseIterable, Sendable {
  /// The oldest migration that the worker supports.
  case eleven = 11
  case twentyEight = 28
  case thirtyEight = 38

  public static let newest = DevelopmentSchema.thirtyEight

  /// Creates its tables in the first schema of the search path, or migrates those of an earlier migration.
  public var sql: String {
    get throws { try text(in: "schema") }
  }

  /// Fills its tables, once.
  public var sampleRows: String {
    get throws { try text(in: "sample") }
  }

  private func text(in folder: String) throws -> String {
    let migrations = Self.allCases.filter { $0.rawValue <= rawValue }
    return try migrations.map { try Repository.text("scripts/dev/\(folder)/\($0.rawValue).sql") }.joined()
  }
}
