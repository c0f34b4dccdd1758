// Skips the initialization of a library that is loaded but not used.
// Invariant: runs before main and before Swift's runtime, and only returns a constant. Called by that library's
// constructor.

/// Tells GnuTLS to skip its initialization: 180 kB of memory and a third of a millisecond at each start.
///
/// libpq loads it through libldap, for service files in an LDAP directory; the worker's TLS is all OpenSSL's. Users of
/// GnuTLS, such as libldap before its first TLS connection, initialize it explicitly. GnuTLS defines the name
/// (GNUTLS_SKIP_GLOBAL_INIT in its header); nothing else calls it.
@c(_gnutls_global_init_skip)
public func skipGnuTLS() -> CInt { 1 }
