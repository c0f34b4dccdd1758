// What a library would do for itself when it is loaded although nobody in this process needs it.
// Invariant: runs before main, and before Swift's runtime: returns a constant. Called by that library's constructor.

/// Tells GnuTLS not to initialise itself: 180 kB of memory and a third of a millisecond at each start.
///
/// libpq brings it along through libldap, for service files that lie in an LDAP directory; all TLS of the worker is
/// OpenSSL's. Whatever uses GnuTLS, such as libldap before its first TLS connection, initialises it explicitly. GnuTLS
/// defines the name (GNUTLS_SKIP_GLOBAL_INIT in its header); nothing else calls it.
@c(_gnutls_global_init_skip)
public func skipGnuTLS() -> CInt { 1 }
