// The worker as process 1 of a namespace, as a container runs it: no signal is lost, and no orphan stays a zombie.

import Foundation
import Reactor
import TestSupport
import Testing

@Suite(.serialized, .enabled { await OwnProcesses.arePermitted() }) struct FirstProcessTests {
  /// The kernel drops a signal that process 1 neither handles nor blocks. From its first instruction it does one or the
  /// other.
  @Test func aSignalThatComesWhileItStartsEndsItInOrder() async throws {
    let stage = try await WorkerStage.set()
    var wasEarly = false
    for _ in 0..<20 where !wasEarly {
      let worker = try await OwnProcesses.start(environment: stage.environment)
      let process = try await OwnProcesses.first(of: worker)
      let state = try await process.untilSignalIsKept(SIGTERM)
      wasEarly = state == .blocked
      kill(process.id, SIGTERM)
      #expect(try await worker.waitForExit(within: .seconds(15)) == .exited(0), "it was \(state)")
      #expect(worker.log.contains { $0.message == "shutting down: signal received" })
    }
    #expect(wasEarly, "the handlers were there each time: nothing was shown")
  }

  @Test func orphansAreReaped() async throws {
    let stage = try await WorkerStage.set()
    // The shell leaves twenty children to the worker that it becomes.
    let orphans = #"for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 0.$n & done; exec "$0" "$@""#
    let worker = try await OwnProcesses.start(environment: stage.environment, shell: orphans)
    let process = try await OwnProcesses.first(of: worker)
    try await onLoop {
      try await worker.answersReadyz(200)
      try await eventually("no child is left") { process.children.isEmpty }
    }
    worker.signal(SIGKILL)
  }
}

/// Workers in a private process namespace. Like mounts, it needs a privilege.
private enum OwnProcesses {
  static func arePermitted() async -> Bool {
    do {
      let probe = try await WorkerProcess.start(
        ["--pid", "--fork", "--mount-proc", "/bin/true"], environment: [:], executable: "/usr/bin/unshare")
      return try await probe.waitForExit() == .exited(0)
    } catch {
      return false
    }
  }

  /// Starts a worker as process 1; before it, `shell` may be run in the same process.
  static func start(environment: [String: String], shell: String = #"exec "$0" "$@""#) async throws -> WorkerProcess {
    try await WorkerProcess.start(
      ["--pid", "--fork", "--kill-child", "--mount-proc", "/bin/sh", "-c", shell, WorkerProcess.executable, "run"],
      environment: environment, executable: "/usr/bin/unshare")
  }

  /// The process that is 1 in there, once it is the worker.
  static func first(of unshare: WorkerProcess) async throws -> FirstProcess {
    try await offLoop {
      let deadline = ContinuousClock.now.advanced(by: .seconds(10))
      while ContinuousClock.now < deadline {
        for id in FirstProcess(id: unshare.id).children {
          let process = FirstProcess(id: id)
          if process.name == "secrets-bridge-" { return process }
        }
      }
      throw NeverStarted()
    }
  }

  struct NeverStarted: Error {}
}

/// A process of another namespace, by its id in ours.
private struct FirstProcess: Sendable {
  enum SignalState: Sendable {
    case blocked, handled
  }

  let id: pid_t

  var name: String { (text(of: "comm") ?? "").trimmingCharacters(in: .newlines) }

  var children: [pid_t] {
    (text(of: "task/\(id)/children") ?? "").split(separator: " ").compactMap { pid_t($0) }
  }

  /// Looks again and again, without a pause: the state in question lasts for milliseconds.
  func untilSignalIsKept(_ signal: Int32) async throws -> SignalState {
    try await offLoop {
      let deadline = ContinuousClock.now.advanced(by: .seconds(10))
      while ContinuousClock.now < deadline {
        guard let status = text(of: "status") else { continue }
        if has(signal, "SigCgt:", status) { return .handled }
        if has(signal, "SigBlk:", status) { return .blocked }
      }
      throw OwnProcesses.NeverStarted()
    }
  }

  private func has(_ signal: Int32, _ field: String, _ status: String) -> Bool {
    guard let line = status.components(separatedBy: "\n").first(where: { $0.hasPrefix(field) }) else { return false }
    let mask = UInt64(line.dropFirst(field.count).trimmingCharacters(in: .whitespaces), radix: 16) ?? 0
    return mask >> UInt64(signal - 1) & 1 == 1
  }

  private func text(of file: String) -> String? {
    try? String(contentsOfFile: "/proc/\(id)/\(file)", encoding: .utf8)
  }
}
