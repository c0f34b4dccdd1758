// Reveal sessions and their wraps for the tests, and whether any ended session has a wrap that can be read.

import Reactor

@testable import Worker

/// SQL that fills reveal_sessions and secret_wraps. Wraps and sessions are known by labels: key_name and user_id.
enum RevealRows {
  /// The id of the wrap with a label.
  static func id(_ label: String) -> String { "md5('\(label)')::uuid" }

  /// A wrap that can be read for an hour, unless `expiry` or `consumed` says otherwise.
  static func wrap(_ label: String, expiry: String = "now() + interval '1 hour'", isConsumed: Bool = false) -> String {
    let consumption = isConsumed ? "now(), 'someone'" : "NULL, NULL"
    return """
      INSERT INTO secret_wraps (id, key_name, encrypted_value, nonce, data_key_ciphertext, kms_key_id, content_hash,
        byte_length, expires_at, consumed_at, consumed_by_user)
      VALUES (\(id(label)), '\(label)', '', '', '', 'k', '', 0, \(expiry), \(consumption));
      """
  }

  /// A session that shows the wraps with these ids, which ended a second ago unless `expiry` says otherwise.
  static func session(
    _ label: String, ids: [String], expiry: String = "now() - interval '1 second'", reason: String? = nil
  ) -> String {
    """
    INSERT INTO reveal_sessions (user_id, project_id, environment_id, ttl_seconds, expires_at, expired_at,
      expired_reason, wrap_ids)
    VALUES ('\(label)', gen_random_uuid(), gen_random_uuid(), 60, \(expiry),
      \(reason.map { "now() - interval '1 minute', '\($0)'" } ?? "NULL, NULL"),
      ARRAY[\(ids.joined(separator: ","))]::uuid[]);
    """
  }

  /// A session with `count` readable wraps.
  static func sessionWithWraps(
    _ label: String, count: Int = 2, expiry: String = "now() - interval '1 second'"
  ) -> String {
    let labels = (1...count).map { "\(label) \($0)" }
    return labels.map { wrap($0) }.joined() + session(label, ids: labels.map(id), expiry: expiry)
  }

  /// So many sessions that ended at one moment, an hour ago, with so many wraps each: "u1" has "u1 1", "u1 2", …
  static func many(_ count: Int, wraps: Int = 1, prefix: String = "u") -> String {
    """
    INSERT INTO secret_wraps (id, key_name, encrypted_value, nonce, data_key_ciphertext, kms_key_id, content_hash,
      byte_length, expires_at)
    SELECT md5(label)::uuid, label, '', '', '', 'k', '', 0, now() + interval '1 hour'
      FROM generate_series(1, \(count)) AS n, generate_series(1, \(wraps)) AS m,
      LATERAL (SELECT '\(prefix)' || n || ' ' || m) AS wrap (label);
    INSERT INTO reveal_sessions (user_id, project_id, environment_id, ttl_seconds, expires_at, wrap_ids)
    SELECT '\(prefix)' || n, gen_random_uuid(), gen_random_uuid(), 60, now() - interval '1 hour',
      ARRAY(SELECT md5('\(prefix)' || n || ' ' || m)::uuid FROM generate_series(1, \(wraps)) AS m)
      FROM generate_series(1, \(count)) AS n;
    """
  }

  /// Counts wraps that can be read though the worker ended their session.
  static let readableOfEnded = """
    SELECT count(*) FROM reveal_sessions AS session, unnest(session.wrap_ids) AS shown (id)
      JOIN secret_wraps AS wrap ON wrap.id = shown.id
     WHERE session.expired_reason = 'ttl' AND wrap.consumed_at IS NULL AND wrap.expires_at > now()
    """

  /// The labels of the sessions that were ended by the worker, and of those that are open.
  static let ended =
    "SELECT string_agg(user_id, ',' ORDER BY user_id) FROM reveal_sessions WHERE expired_reason = 'ttl'"
  static let open = "SELECT string_agg(user_id, ',' ORDER BY user_id) FROM reveal_sessions WHERE expired_at IS NULL"
  /// The labels of the wraps that can be read.
  static let readable = """
    SELECT string_agg(key_name, ',' ORDER BY key_name) FROM secret_wraps
     WHERE consumed_at IS NULL AND expires_at > now()
    """
}
