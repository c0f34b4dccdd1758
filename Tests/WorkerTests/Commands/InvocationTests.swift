// What a command line is understood as.

import Testing

@testable import Worker

@Suite struct InvocationTests {
  @Test func runIsMeantWhereNoVerbIsGiven() {
    #expect(Invocation.parse([]) == .run(RunOptions()))
    #expect(Invocation.parse(["run"]) == .run(RunOptions()))
    #expect(Invocation.parse(["--once"]) == .run(RunOptions(once: true)))
    #expect(
      Invocation.parse(["--once", "run", "--table", "--force"]) == .run(.init(once: true, force: true, table: true)))
  }

  @Test func aProbeIsReadinessUnlessItIsSaid() {
    #expect(Invocation.parse(["probe"]) == .probe("readyz"))
    #expect(Invocation.parse(["probe", "readyz"]) == .probe("readyz"))
    #expect(Invocation.parse(["probe", "healthz"]) == .probe("healthz"))
    #expect(Invocation.parse(["probe", "metrics"]) == .fault("\"metrics\" was not expected"))
    #expect(Invocation.parse(["probe", "readyz", "readyz"]) == .fault("\"readyz\" was not expected"))
    #expect(Invocation.parse(["probe", "--once"]) == .fault("probe has no option --once"))
  }

  @Test func helpAndVersionStandAnywhere() {
    #expect(Invocation.parse(["--help"]) == .help)
    #expect(Invocation.parse(["-h"]) == .help)
    #expect(Invocation.parse(["run", "--once", "--help"]) == .help)
    #expect(Invocation.parse(["--help=markdown"]) == .helpAsMarkdown)
    #expect(Invocation.parse(["--version"]) == .version)
  }

  @Test(arguments: [
    (["--onse"], "unknown option --onse, did you mean --once?"), (["-x"], "unknown option -x, see --help"),
    (["--password=hunter2"], "unknown option --password, see --help"),
    (["rum"], "unknown command \"rum\", did you mean run?"),
    (["postgres://u:hunter2@h/"], "unknown command (not shown), see --help"),
    (["run", "twice"], "\"twice\" was not expected"), (["--force"], "--force goes with --once only"),
    (["--table"], "--table goes with --once only"), (["--help=html"], "--help knows \"markdown\" only"),
    (["--once=hunter2"], "unknown option --once, did you mean --once?"), ([""], "unknown command \"\", see --help"),
  ]) func whatIsNotUnderstoodIsSaid(arguments: [String], text: String) {
    #expect(Invocation.parse(arguments) == .fault(text))
  }
}
