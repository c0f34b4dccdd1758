// Prepared transactions (two-phase commit), which hold locks without a session. Pure text: how commands find them
// among lock holders, and how to end one.

/// Words and SQL about a prepared transaction.
enum PreparedTransaction {
  /// Joins `prepared` to pg_locks as `lock`, whose pid is then null. The lock's virtual transaction is that of the
  /// preparing session, or a new one after a restart: the lock on the transaction's own id always has the same.
  static let join = """
    LEFT JOIN (SELECT own.virtualtransaction, transaction.gid, transaction.owner, transaction.prepared
                       FROM "pg_catalog"."pg_prepared_xacts" AS transaction
                       JOIN "pg_catalog"."pg_locks" AS own ON (own.locktype = 'transactionid') AND own.granted
                            AND (own.pid IS NULL) AND (own.transactionid = transaction.transaction)) AS prepared
            ON (lock.pid IS NULL) AND (prepared.virtualtransaction = lock.virtualtransaction)
    """

  /// The two statements that can end it: only whoever prepared it knows which is right.
  static func end(_ gid: String) -> String {
    "ROLLBACK PREPARED \(SQLName.literal(gid)); or COMMIT PREPARED \(SQLName.literal(gid));"
  }
}
