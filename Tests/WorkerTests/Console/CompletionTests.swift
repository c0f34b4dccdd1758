// The completion scripts, in the shells that they are for.

import Foundation
import TestSupport
import Testing

@testable import Worker

@Suite struct CompletionTests {
  /// What bash would offer at the end of a command line: by its own completion, as `complete -p` has it.
  private func bash(_ words: [String]) async throws -> [String] {
    let script = """
      set -eu
      source <("$0" completion bash)
      [[ $(complete -p secrets-bridge-worker) == 'complete -F _secrets_bridge_worker secrets-bridge-worker' ]]
      COMP_WORDS=(secrets-bridge-worker "$@")
      COMP_CWORD=$#
      _secrets_bridge_worker
      printf '%s\\n' "${COMPREPLY[@]}"
      """
    let process = try await WorkerProcess.start(
      ["-c", script, WorkerProcess.executable] + words, environment: [:], executable: "/bin/bash")
    #expect(try await process.waitForExit() == .exited(0), "\(process.everything)")
    return process.output.split(separator: "\n").map(String.init).sorted()
  }

  @Test func bashCompletesVerbsOptionsAndOperands() async throws {
    #expect(try await bash(["co"]) == ["completion", "config"])
    #expect(
      Set(try await bash([""]))
        == Set(Verb.all.map(\.name) + (Verb.run.options + CommandOption.general).map { "--" + $0.name }))
    #expect(try await bash(["run", "--t"]) == ["--table"])
    #expect(try await bash(["sweep", "--dry-run", "a"]) == ["agents-stale"])
    #expect(try await bash(["probe", ""]) == ["--help", "healthz", "readyz"])
    #expect(try await bash(["--once", "completion", "z"]) == ["zsh"])
    #expect(try await bash(["config", "DATABASE_C"]) == ["DATABASE_CONNECT_TIMEOUT", "DATABASE_CONN_LIFETIME"])
  }

  private static let zshPath = ["/usr/bin/zsh", "/bin/zsh"].first(where: FileManager.default.isExecutableFile) ?? ""

  /// Waits until an interactive zsh has shown `expected` after Tab was pressed behind `typed`.
  private func zsh(_ typed: String, shows expected: String) async throws {
    let script = """
      zmodload zsh/zpty || exit 9
      zpty -b shell "TERM=dumb PS1= \(Self.zshPath) -f -i"
      say() { zpty -w shell "$1" }
      expect() {
        local text='' chunk
        repeat 500; do
          if zpty -r -t shell chunk; then text+=$chunk; else sleep 0.02; fi
          [[ $text == *$~1* ]] && { print -r -- "$text"; return 0 }
        done
        print -r -- "not seen: $1 in: $text" >&2
        return 1
      }
      say "path=(${0:h} \\$path); autoload -Uz compinit; compinit -D -u; LISTMAX=1000"
      say "source <(secrets-bridge-worker completion zsh); bindkey '^I' complete-word; print read''y"
      expect ready >/dev/null || exit 8
      zpty -w -n shell "$1"$'\\t'
      expect "$2"
      """
    let process = try await WorkerProcess.start(
      ["-f", "-c", script, WorkerProcess.executable, typed, expected], environment: ["HOME": "/nonexistent"],
      executable: Self.zshPath)
    #expect(try await process.waitForExit() == .exited(0), "\(process.everything)")
  }

  @Test(
    .enabled(if: !zshPath.isEmpty, "zsh is not installed"),
    arguments: [
      ("notif", "worker notify-test"), ("run --t", "worker run --table"), ("completion z", "worker completion zsh"),
      ("config DATABASE_CONNE", "worker config DATABASE_CONNECT_TIMEOUT"), ("co", "Show the settings"),
    ])
  func zshCompletesVerbsOptionsAndOperands(typed: String, expected: String) async throws {
    try await zsh("secrets-bridge-worker " + typed, shows: expected)
  }
}
