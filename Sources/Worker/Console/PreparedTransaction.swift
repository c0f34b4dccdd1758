// Prepared transactions (two-phase commit), which hold locks without a session. Pure text: how the commands find them
// among the holders of locks, and what ends one.

/// Words and SQL about a prepared transaction.
enum PreparedTransaction {
  /// Joins `prepared` to pg_locks as `lock`, whose pid is null then. The lock's virtual number is that of the session
  /// that prepared it, or after a restart another one: the lock on the transaction's own number always has the same.
  static let join = """
    LEFT JOIN (SELECT own.virtualtransaction, transaction.gid, transaction.owner, transaction.prepared
                       FROM "pg_catalog"."pg_prepared_xacts" AS transaction
                       JOIN "pg_catalog"."pg_locks" AS own ON (own.locktype = 'transactionid') AND own.granted
                            AND (own.pid IS NULL) AND (own.transactionid = transaction.transaction)) AS prepared
            ON (lock.pid IS NULL) AND (prepared.virtualtransaction = lock.virtualtransaction)
    """

  /// What ends it, either way: only who prepared it knows which is right.
  static func end(_ gid: String) -> String {
    "ROLLBACK PREPARED \(literal(gid)); or COMMIT PREPARED \(literal(gid));"
  }

  /// The identifier as a literal of SQL.
  static func literal(_ gid: String) -> String {
    var text = ""
    for character in gid { text += character == "'" ? "''" : String(character) }
    return "'\(text)'"
  }
}
