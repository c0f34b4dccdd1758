// A worker that finds other files in the place of the machine's own: no /proc, another resolv.conf.
// Invariant: only that process sees them. It takes a privilege, so tests that need it are enabled where it is had.

import Foundation

/// What a process finds mounted that nobody else does.
public enum OwnMounts {
  /// Whether this process may start one with mounts of its own: root may, unless a container forbids it.
  public static func arePermitted() async -> Bool {
    do {
      let probe = try await start([], environment: [:], after: "mount -t tmpfs none /proc", executable: "/bin/true")
      return try await probe.waitForExit() == .exited(0)
    } catch {
      return false
    }
  }

  /// Starts the worker that was built along with the tests after `mounting`, a shell command whose mounts only it sees.
  public static func start(
    _ arguments: [String] = ["run"], environment: [String: String], after mounting: String,
    executable: String = WorkerProcess.executable
  ) async throws -> WorkerProcess {
    let words = ["--mount", "/bin/sh", "-c", mounting + #" && exec "$@""#, "sh", executable]
    return try await WorkerProcess.start(words + arguments, environment: environment, executable: "/usr/bin/unshare")
  }
}
