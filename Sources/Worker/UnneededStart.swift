// What a library would do for itself when it is loaded although nobody in this process needs it.
// Invariant: runs before main, and before Swift's runtime: returns a constant. Called by that library's constructor.

/// Tells GnuTLS not to initialise itself: 180 kB of memory and a third of a millisecond at each start.
///
/// libpq brings it along through libldap, for service files that lie in an LDAP directory; all TLS of the worker is
/// OpenSSL's. Who does use GnuTLS, as libldap before its first connection with TLS, initialises it explicitly. The name
/// is GnuTLS' own (GNUTLS_SKIP_GLOBAL_INIT in its header); elsewhere nobody asks for it.
@c(_gnutls_global_init_skip)
public func skipGnuTLS() -> CInt { 1 }
