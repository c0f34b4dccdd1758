// A worker that sees other files in place of the machine's: no /proc, another resolv.conf.
// Invariant: only that process sees them. This is privileged: tests that need it are enabled only where it works.

import Foundation

/// A process's private mounts.
public enum OwnMounts {
  /// Whether this process can start one with private mounts: root can, unless a container forbids it.
  public static func arePermitted() async -> Bool {
    do {
      let probe = try await start([], environment: [:], after: "mount -t tmpfs none /proc", executable: "/bin/true")
      return try await probe.waitForExit() == .exited(0)
    } catch {
      return false
    }
  }

  /// Starts the worker built with the tests after `mounting`, a shell command whose mounts only the worker sees.
  public static func start(
    _ arguments: [String] = ["run"], environment: [String: String], after mounting: String,
    executable: String = WorkerProcess.executable
  ) async throws -> WorkerProcess {
    let words = ["--mount", "/bin/sh", "-c", mounting + #" && exec "$@""#, "sh", executable]
    return try await WorkerProcess.start(words + arguments, environment: environment, executable: "/usr/bin/unshare")
  }
}
