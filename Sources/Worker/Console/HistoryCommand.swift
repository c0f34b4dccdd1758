// The verb history: the last runs of one sweeper in the whole fleet, from Redis, and new runs as they end.
// Invariant: it only reads. Lines that no worker wrote are skipped.

import Coordination
import Logging
import Reactor

extension CommandOption {
  static let limit = CommandOption(
    name: "limit", argument: "N", help: "Show the last N runs, 1 to \(CoordinationScripts.historyLimit); default 20.")
  static let follow = CommandOption(
    name: "follow", help: "Show the oldest first, then each new run as it ends, until SIGINT or SIGTERM.")
}

extension Verb {
  static let history = Verb(
    name: "history",
    help: """
      Show the last runs of a sweeper, the newest first: when and on which replica each ended, its epoch, outcome, \
      rows and duration, and the class of its failure. Needs REDIS_URL only.
      """,
    operands: Operands(name: "SWEEPER", count: 1...1, words: { Sweepers.names }),
    options: [.limit, .follow, .json],
    statuses: [
      ExitStatus(0, "The runs were printed."), ExitStatus(1, "Redis did not answer, or refused the command."),
    ],
    fault: { arguments in
      guard let text = arguments.argument(of: .limit) else { return nil }
      guard let number = Int(text), (1...CoordinationScripts.historyLimit).contains(number) else {
        return "--limit must be a number from 1 to \(CoordinationScripts.historyLimit)"
      }
      return nil
    },
    perform: { arguments, context in
      let rows = RedisVisit.rows + [Setting.logLevel.row]
      guard let settings = context.settings(rows, isAlone: true) else { return ConfigurationFaults.exitStatus }
      return EventLoop.run {
        let command = HistoryCommand(
          key: CoordinationScripts.keys(
            namespace: settings[.redisNamespace], sweeper: arguments.operands[0]
          ).history,
          limit: arguments.argument(of: .limit).flatMap { Int($0) } ?? 20,
          format: arguments.has(.json) ? .json : .text, context: context)
        do {
          return try await RedisVisit(settings, clock: context.clock).use { client in
            if arguments.has(.follow) { return try await command.follow(client) }
            return context.show(HistoryReport.text(try await command.runs(client), as: command.format))
          }
        } catch {
          context.logger(settings).error(
            "the history cannot be read", metadata: ["error": "\(RedisVisit.reason(error))"])
          return 1
        }
      }
    })
}

/// Reads one sweeper's history.
@EventLoop
struct HistoryCommand {
  /// How often a followed history is read.
  private static let period = Duration.seconds(1)

  let key: String
  let limit: Int
  let format: ReportTable.Format
  let context: CommandContext

  /// The last runs, newest first.
  func runs(_ client: any RedisScripts) async throws -> [PastRun] {
    let answer = try await client.command(
      ["LRANGE", key, "0", "\(limit - 1)"], isRepeatable: true,
      by: context.clock.now.advanced(by: Coordinator.commandLimit))
    return (answer.array ?? []).compactMap { $0.text.flatMap(PastRun.init) }
  }

  /// Prints until a signal arrives or the reader exits.
  func follow(_ client: any RedisScripts) async throws -> Int32 {
    let signals = [
      SignalWatcher(.interrupt) { HostProcess.exit(0) }, SignalWatcher(.terminate) { HostProcess.exit(0) },
    ]
    defer { withExtendedLifetime(signals) {} }
    var newest: Int64?
    while true {
      let runs = try await runs(client)
      let later = Array(runs.prefix { $0.epoch != newest }.reversed())
      if newest == nil || !later.isEmpty {
        let text = HistoryReport.lines(later, as: format, hasTitles: newest == nil)
        guard context.show(text) == 0 else { return 1 }
      }
      newest = runs.first?.epoch ?? newest ?? 0
      try await context.clock.sleep(until: context.clock.now.advanced(by: Self.period))
    }
  }
}

/// A run in the history.
struct PastRun: Equatable, Sendable {
  let epoch: Int64
  /// When it ended, in ms of Redis's clock.
  let finished: Int64
  let replica: String
  let outcome: String
  let changed: Int64
  let durationMilliseconds: Int64
  /// Nil in lines of earlier versions.
  let found: Int64?
  let skipped: Int64?
  let refused: Int64?
  /// The class of its failure.
  let error: String?

  /// Nil if no worker wrote the line.
  init?(_ line: String) {
    do {
      guard try JSONDocument(line).root.kind == .object else { return nil }
    } catch {
      // Not JSON: somebody else wrote it.
      return nil
    }
    var texts: [String: String] = [:]
    for (key, value) in JSONSlice(line).members { texts[key.string ?? ""] = value.string ?? value.text }
    func number(_ name: String) -> Int64? { texts[name].flatMap { PlausibleNumber.read($0) } }
    guard let epoch = number("epoch"), let finished = number("finished"), let outcome = texts["outcome"] else {
      return nil
    }
    (self.epoch, self.finished, self.outcome) = (epoch, finished, outcome)
    replica = texts["replica"] ?? ""
    changed = number("rows") ?? 0
    durationMilliseconds = number("duration_ms") ?? 0
    (found, skipped, refused) = (number("found"), number("skipped"), number("refused"))
    error = texts["error"].flatMap { $0.isEmpty ? nil : $0 }
  }
}

/// How runs are printed.
enum HistoryReport {
  /// One table, or one array.
  static func text(_ runs: [PastRun], as format: ReportTable.Format) -> String { table(runs, format).text(as: format) }

  /// Lines that others can follow: of a table whose columns keep their widths, or an object each.
  static func lines(_ runs: [PastRun], as format: ReportTable.Format, hasTitles: Bool) -> String {
    guard format == .json else {
      var table = table(runs, format)
      table.leastWidths = [20, 16, 13, 8, 7, 7, 7, 7, 9, 5]
      table.hasTitles = hasTitles
      return table.text(as: .text)
    }
    return runs.map { run in
      var json = JSONWriter()
      table([run], format).writeObjects(to: &json)
      return String(decoding: json.bytes, as: UTF8.self) + "\n"
    }.joined()
  }

  private static func table(_ runs: [PastRun], _ format: ReportTable.Format) -> ReportTable {
    let last = format == .json ? ["duration_ms", "error"] : ["took", "error"]
    var table = ReportTable(
      ["finished", "by", "epoch", "outcome", "found", "changed", "skipped", "refused"] + last)
    for run in runs {
      let duration: ReportTable.Cell =
        format == .json
        ? .init(run.durationMilliseconds) : .text(FleetStatus.duration(run.durationMilliseconds))
      table.rows.append([
        .text(FleetStatus.time(run.finished)), .text(run.replica), .init(run.epoch), .text(run.outcome),
        .init(run.found), .init(run.changed), .init(run.skipped), .init(run.refused), duration, .init(run.error),
      ])
    }
    return table
  }
}
