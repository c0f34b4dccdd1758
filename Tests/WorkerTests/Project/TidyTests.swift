// The project's rules, checked in its sources: what may be imported and called, and what must not be left behind.
// Invariant: a rule that is written down in docs and can be checked by reading is checked here.

import Foundation
import TestSupport
import Testing

@Suite struct TidyTests {
  // MARK: Arrows point down

  @Test func onlyTheReactorOpensTheDoorToC() throws {
    let files = try SourceTree.swift("Sources").filter { !$0.path.hasPrefix("Sources/Reactor/") }
    expectNone(of: SourceTree.importing("CReactor|Glibc|Musl"), in: files) { _ in "only Sources/Reactor may import this"
    }
  }

  @Test func nothingOfFoundationIsImported() throws {
    let modules = "Foundation|FoundationEssentials|FoundationNetworking|Dispatch|RegexBuilder|_StringProcessing"
    expectNone(of: SourceTree.importing(modules), in: try SourceTree.swift("Sources")) { _ in "this is not linked" }
  }

  @Test func theReactorKnowsNothingOfTheWorker() throws {
    let words = "(?i)(sweeper|secrets.bridge|SB_WORKER|secret_wraps|sync_jobs)"
    expectNone(
      of: words, in: try SourceTree.swift("Sources/Reactor") + SourceTree.files("Sources/CReactor", ["h", "c"])
    ) {
      _ in "the reactor can be used without the worker"
    }
  }

  @Test func noStatementOnTheControlPlaneStandsOutsideOfTheWorker() throws {
    let tables = "secret_wraps|sync_jobs|provider_connections|gitops_observations|argocd_endpoints|audit_events"
    let keys = #""[^"\n]*:(lock|schedule):"#
    let files = try SourceTree.swift("Sources").filter { !$0.path.hasPrefix("Sources/Worker/") }
    expectNone(of: "\(tables)|\(keys)", in: files) { _ in "SQL and keys belong to Sources/Worker" }
  }

  /// The compiler keeps it from naming anything of the worker: it is a target of its own.
  @Test func coordinationIsPure() throws {
    let files = try SourceTree.swift("Sources/Worker/Coordination")
    expectNone(of: #"^import (?!Reactor$)|\b(async|await|throws|@EventLoop)\b"#, in: files) {
      $0.isCode ? "it decides, and waits for nothing" : nil
    }
  }

  @Test func batchesKnowNoRedisAndSchedulingNoSQL() throws {
    expectNone(
      of: #"\bRedis(Client|Script|Error|Value)\b|\bCoordinator\b"#, in: try SourceTree.swift("Sources/Worker/Batches")
    ) {
      $0.isCode ? "a batch agrees with nobody" : nil
    }
    let sql = #"\b(SELECT|INSERT INTO|DELETE FROM)\b|\bUPDATE\b.*\bSET\b"#
    expectNone(of: sql, in: try SourceTree.swift("Sources/Worker/Scheduling")) {
      $0.isCode ? "SQL belongs to Batches and Sweepers" : nil
    }
  }

  // MARK: One thread, one clock, one way to end

  @Test(arguments: [
    (#"\bTask\s*(<[^>]*>\s*)?(\(priority[^)]*\)\s*)?\{"#, "an unstructured task leaves the loop"),
    (#"\bTask\("#, "there is one root task, and the loop starts it"),
    (#"\bTask\.(detached|sleep|immediate)\b"#, "a detached task or a sleep of another executor leaves the loop"),
    (#"\b(DispatchQueue|DispatchSource|DispatchSemaphore|OperationQueue)\b"#, "the loop is the only queue"),
    (#"\b(Thread\(|Thread\.|pthread_create|thrd_create)"#, "one thread"),
    (#"\b(usleep|nanosleep|sleep)\(\d"#, "nothing blocks the loop"),
    (#"\b(print|debugPrint|dump|NSLog)\("#, "output is a log line or a command's answer, in one write"),
    (#"\bCommandLine\b"#, "it is empty where /proc is not mounted: HostProcess.arguments"),
    (#"\bfatalError\("(not implemented|todo|unimplemented)"#, "nothing is half done"),
    (#"\b(TODO|FIXME|XXX|HACK)\b"#, "open ends are issues"),
    (#"@unchecked Sendable"#, "the compiler proves what is shared, but in the executor"),
    (#"\bString\(describing:|\bMirror\(reflecting"#, "reflection drags in what nobody reads"),
    (#"\btry\?"#, "an error that is dropped is a decision: say in a comment why it may be"),
  ])
  func nobodyCalls(pattern: String, reason: String) throws {
    expectNone(of: pattern, in: try SourceTree.swift("Sources")) { line in
      line.isCode && !SourceTree.isAllowed(pattern, line) ? reason : nil
    }
  }

  /// The outermost parts of the program, which take the kernel's clock and give it to what they make.
  private static let clockTakers = ["Sources/Worker/Commands/Program.swift"]

  @Test func onlyTheLoopReadsTheTime() throws {
    let outside = try SourceTree.swift("Sources") + SourceTree.files("Sources/CReactor", ["h", "c"])
    let time =
      #"\b(clock_gettime|clock_nanosleep|gettimeofday|timespec_get|ev_time|ev_now|ev_now_update)\b"#
      + #"|\btime\((nil|NULL|0|&)"#
      + #"|\b(ContinuousClock|SuspendingClock|KernelTime)\b|\bDate\(|\bLoopClock\.system\b|\bLoopClock\(\)"#
    expectNone(of: time, in: outside.filter { !$0.path.hasPrefix("Sources/Reactor/EventLoop/") }) {
      $0.isCode ? "time comes from the LoopClock that a component is given" : nil
    }
    expectNone(of: #"\bEventLoop\.clock\b"#, in: outside.filter { !Self.clockTakers.contains($0.path) }) {
      $0.isCode ? "a component is given its clock" : nil
    }
    expectNone(of: #"LoopClock\??\s*=\s*(\.|nil|Loop|Event)"#, in: outside) {
      $0.isCode ? "who makes it chooses the clock: no default" : nil
    }
  }

  /// Commands to the two servers: a run of a sweeper makes a dozen, and a primitive would cost an allocation for each.
  private static let continuationHolders = [
    "Sources/Reactor/Postgres/PostgresConnection.swift", "Sources/Reactor/Redis/RedisClient.swift",
    "Sources/Reactor/Redis/RedisClientCommands.swift",
  ]

  @Test func onlyThePrimitivesHoldContinuations() throws {
    let files = try SourceTree.swift("Sources").filter {
      $0.path != "Sources/Reactor/EventLoop/OneShot.swift" && !Self.continuationHolders.contains($0.path)
    }
    expectNone(of: #"\b(with)?(Checked|Unsafe)(Throwing)?Continuation\b"#, in: files) {
      $0.isCode ? "tasks wait on a Latch, a OneShot or a WakeUp" : nil
    }
  }

  // MARK: How a file looks

  @Test func aFileOpensWithWhatItIs() throws {
    for file in try SourceTree.swift("Sources", "Tests") + SourceTree.files("Sources/CReactor", ["h", "c"]) {
      let isSaid = file.lines.first?.hasPrefix("// ") ?? false
      #expect(isSaid, "\(file.path) does not open with a comment that says what it is")
    }
  }

  @Test func aFileFitsTheHead() throws {
    for file in try SourceTree.swift("Sources", "Tests") + SourceTree.files("Sources/CReactor", ["h", "c"]) {
      #expect(file.lines.count <= 450, "\(file.path) has \(file.lines.count) lines")
    }
  }

  @Test func aLineFitsTheScreen() throws {
    let files =
      try SourceTree.swift("Sources", "Tests") + SourceTree.files("Sources/CReactor", ["h", "c"]) + SourceTree.scripts()
      + SourceTree.files("scripts", ["sql", "sh", "c"])
    expectNone(of: "^.{121,}$", in: files) { "\($0.text.count) characters" }
    expectNone(of: "\t| $", in: files) { _ in "a tab, or a space at its end" }
  }

  @Test func eachUncheckedPromiseHasItsReason() throws {
    expectNone(of: #"nonisolated\(unsafe\)"#, in: try SourceTree.swift("Sources")) {
      $0.isCode && !$0.isExplained ? "say why it is safe" : nil
    }
  }

  @Test func nothingIsReferredToThatMayBeGone() throws {
    let files = try SourceTree.swift("Sources")
    expectNone(of: #"\bunowned\b(?!\(unsafe\) var)"#, in: files) { line in
      line.isCode ? "weak, or strong where something breaks the cycle: unowned traps once the object is gone" : nil
    }
    expectNone(of: #"\bunowned\(unsafe\)"#, in: files) {
      $0.isCode && !$0.isExplained ? "say what clears it before the object goes" : nil
    }
  }

  // MARK: Scripts

  @Test func everyScriptIsOneCommandWithItsHelp() async throws {
    let scripts = try SourceTree.scripts()
    #expect(scripts.count >= 3)
    for script in scripts {
      #expect(script.lines.first == "#!/usr/bin/env bash", "\(script.path)")
      #expect(script.lines.contains("set -euo pipefail"), "\(script.path) goes on after a fault")
      #expect(FileManager.default.isExecutableFile(atPath: script.url.path), "\(script.path) cannot be executed")
      let help = try await run(script.url.path, ["--help"], in: "/")
      #expect(help.ending == .exited(0) && help.output.contains(script.url.lastPathComponent), "\(script.path) --help")
      let wrong = try await run(script.url.path, ["--no-such-option"], in: "/")
      #expect(wrong.ending != .exited(0), "\(script.path) takes an option that is none")
    }
  }

  @Test func everyScriptParses() async throws {
    let library = Repository.root.appendingPathComponent("scripts/lib.sh").path
    for path in try SourceTree.scripts().map(\.url.path) + [library] {
      let answer = try await run("/bin/bash", ["-n", path], in: "/")
      #expect(answer.ending == .exited(0), "\(path): \(answer.log)")
    }
  }

  @Test(.enabled(if: FileManager.default.isExecutableFile(atPath: "/usr/bin/shellcheck")))
  func shellcheckFindsNothing() async throws {
    let library = Repository.root.appendingPathComponent("scripts/lib.sh").path
    let answer = try await run(
      "/usr/bin/shellcheck", ["-x"] + SourceTree.scripts().map(\.url.path) + [library], in: "/")
    #expect(answer.ending == .exited(0), "\(answer.output)")
  }

  // MARK: What is built and kept

  /// The build for the tests, and the release build if there is one.
  private static let binaries = [
    WorkerProcess.executable, Repository.root.appendingPathComponent(".build/release/secrets-bridge-worker").path,
  ].filter { FileManager.default.isExecutableFile(atPath: $0) }

  @Test(arguments: binaries)
  func aBinaryLinksNothingOfFoundation(binary: String) async throws {
    let answer = try await run("/usr/bin/ldd", [binary], in: "/")
    #expect(answer.ending == .exited(0))
    #expect(answer.output.contains("libpq.so"), "this is not the list of what it links")
    for library in ["Foundation", "libicu", "libcurl", "libxml2"] {
      #expect(!answer.output.contains(library), "linked: \(answer.output)")
    }
    // A library that was linked statically is known by its symbols.
    let content = try Data(contentsOf: URL(fileURLWithPath: binary), options: .alwaysMapped)
    #expect(content.range(of: Data("$s7Reactor9EventLoop".utf8)) != nil, "this binary has no symbols to look at")
    for module in ["$s10Foundation", "$s20FoundationEssentials", "$s8Dispatch"] {
      #expect(content.range(of: Data(module.utf8)) == nil, "linked: \(module)")
    }
  }

  @Test func nothingThatIsBuiltIsKept() async throws {
    let answer = try await run("/usr/bin/env", ["git", "ls-files"], in: Repository.root.path)
    guard answer.ending == .exited(0) else { return }  // A source archive has no history.
    let kept = answer.output.components(separatedBy: "\n").filter {
      $0 == "Package.resolved" || $0.hasPrefix(".build") || $0.hasPrefix(".local") || $0.hasSuffix(".o")
    }
    #expect(kept.isEmpty)
  }

  /// Reports each line that matches and for which `fault` has something to say.
  private func expectNone(of pattern: String, in files: [SourceTree.File], _ fault: (SourceTree.Line) -> String?) {
    #expect(!files.isEmpty)
    for line in files.flatMap({ $0.lines(matching: pattern) }) {
      if let fault = fault(line) { Issue.record("\(line.place): \(fault): \(line.text)") }
    }
  }

  private func run(_ program: String, _ arguments: [String], in directory: String) async throws -> (
    ending: WorkerProcess.Ending, output: String, log: String
  ) {
    let command = ["-c", #"cd "$1" && shift && exec "$@""#, "sh", directory, program] + arguments
    let process = try await WorkerProcess.start(command, environment: ["HOME": "/root"], executable: "/bin/sh")
    // shellcheck takes 11 s of processor time by itself.
    let ending = try await process.waitForExit(within: .seconds(120))
    return (ending, process.output, process.everything)
  }
}
