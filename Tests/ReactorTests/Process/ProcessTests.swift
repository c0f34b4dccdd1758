// What the reactor knows of the process and the host: arguments, statistics, names.

import Foundation
import Testing

@testable import Reactor

@Suite struct OptionParserTests {
  private let parser = OptionParser([
    .init("once"), .init("help", letter: UInt8(ascii: "h"), argument: .optional),
    .init("url", letter: UInt8(ascii: "u"), argument: .required),
  ])

  @Test func optionsComeFirstWhereverTheyStand() {
    #expect(parser.parse(["run", "--once", "x"]) == [.option("once", argument: nil), .operand("run"), .operand("x")])
    #expect(parser.parse([]) == [])
    #expect(parser.parse(["--", "--once"]) == [.operand("--once")])
  }

  /// Some images set it, for other programs.
  @Test func optionsMayFollowOperandsUnderPOSIXLY_CORRECT() {
    setenv("POSIXLY_CORRECT", "1", 1)
    defer { unsetenv("POSIXLY_CORRECT") }
    #expect(parser.parse(["run", "--once", "x"]) == [.option("once", argument: nil), .operand("run"), .operand("x")])
    #expect(parser.parse(["run", "--", "--once"]) == [.operand("run"), .operand("--once")])
  }

  @Test func argumentsBelongToTheirOptions() {
    #expect(parser.parse(["--help"]) == [.option("help", argument: nil)])
    #expect(parser.parse(["--help=markdown"]) == [.option("help", argument: "markdown")])
    #expect(parser.parse(["-h"]) == [.option("help", argument: nil)])
    #expect(
      parser.parse(["--url", "a", "-ub", "--url="]) == [
        .option("url", argument: "a"), .option("url", argument: "b"), .option("url", argument: ""),
      ])
    #expect(parser.parse(["--url"]) == [.missingArgument("url")])
    #expect(parser.parse(["-u"]) == [.missingArgument("url")])
  }

  @Test func whatIsUnknownIsNamedWithoutItsArgument() {
    #expect(parser.parse(["--password=hunter2"]) == [.unknown("--password")])
    #expect(parser.parse(["-x"]) == [.unknown("-x")])
    #expect(parser.parse(["--once=1"]) == [.unknown("--once")])
    #expect(parser.parse(["--wrong", "--once"]) == [.unknown("--wrong"), .option("once", argument: nil)])
  }
}

@Suite struct ProcessStatisticsTests {
  @Test func theFiguresAreThoseOfThisProcess() throws {
    let statistics = ProcessStatistics.current
    #expect(statistics.residentBytes > 1_000_000)
    #expect(statistics.virtualBytes >= statistics.residentBytes)
    #expect(statistics.threads >= 1)
    #expect(statistics.maximalDescriptors > 0)
    let age = Date().timeIntervalSince1970 - statistics.startSeconds
    #expect(age > -2 && age < 3_600)
    #expect(statistics.cpuSeconds > 0 && statistics.cpuSeconds < 3_600)
  }

  @Test func anOpenedDescriptorIsCounted() {
    // Other tests open and close descriptors beside this one: a hundred stand out.
    let before = ProcessStatistics.current.openDescriptors
    let pipes = (0..<100).map { _ in Pipe() }
    let during = ProcessStatistics.current.openDescriptors
    withExtendedLifetime(pipes) { #expect(during > before + 100) }
  }

  @Test func aProgramsNameMayHoldSpacesAndParentheses() {
    let fields = (3...52).map { "\($0)" }.joined(separator: " ")
    let stat = ProcessStat(text: Array("1 (a) 9 (b c)) \(fields)\n".utf8))
    #expect(stat?.threads == 20)
    #expect(stat?.startTicks == 22)
    #expect(stat?.virtualBytes == 23)
    #expect(stat?.residentPages == 24)
    #expect(ProcessStat(text: Array("1 (a) S 1".utf8)) == nil)
    #expect(ProcessStat(text: []) == nil)
  }
}

@Suite struct HostProcessTests {
  @Test func theArgumentsAreThoseOfTheCommandLine() {
    #expect(HostProcess.arguments == CommandLine.arguments)
    #expect(!HostProcess.arguments.isEmpty)
  }

  @Test func theEnvironmentIsWhatOtherProgramsSee() {
    setenv("REACTOR_TEST", "a=b", 1)
    #expect(HostProcess.environment["REACTOR_TEST"] == "a=b")
    #expect(HostProcess.environment["PATH"] == ProcessInfo.processInfo.environment["PATH"])
  }
}
