// What the reactor knows of the process and the host: streams, time, arguments, statistics.

import Foundation
import Testing

@testable import Reactor

@Suite struct WallClockTests {
  private static func text(_ seconds: Int64, _ nanoseconds: Int64 = 0) -> String {
    var bytes: [UInt8] = []
    WallClockTime(seconds: seconds, nanoseconds: nanoseconds).appendRFC3339(to: &bytes)
    return String(decoding: bytes, as: UTF8.self)
  }

  @Test func timesAreWrittenInUTCWithMicroseconds() {
    #expect(Self.text(0) == "1970-01-01T00:00:00.000000Z")
    #expect(Self.text(951_782_400) == "2000-02-29T00:00:00.000000Z")
    #expect(Self.text(1_709_251_199, 999_999_999) == "2024-02-29T23:59:59.999999Z")
    #expect(Self.text(4_107_542_400) == "2100-03-01T00:00:00.000000Z")
    #expect(Self.text(-1) == "1969-12-31T23:59:59.000000Z")
    #expect(Self.text(253_402_300_799, 1_000) == "9999-12-31T23:59:59.000001Z")
  }

  @Test func everyDayIsTheCalendarsDay() {
    let formatter = ISO8601DateFormatter()
    for day in stride(from: Int64(-20_000), through: 60_000, by: 17) {
      let seconds = day * 86_400 + day.magnitude.quotientAndRemainder(dividingBy: 86_400).remainder.signed
      let expected = formatter.string(from: Date(timeIntervalSince1970: Double(seconds)))
      #expect(Self.text(seconds) == expected.dropLast() + ".000000Z")
    }
  }

  @Test(arguments: [
    (Int64(1_795_708_823_999_999), "2026-11-26T16:00:23Z"), (0, "1970-01-01T00:00:00Z"), (-1, "1969-12-31T23:59:59Z"),
    (-1_000_000, "1969-12-31T23:59:59Z"), (-1_000_001, "1969-12-31T23:59:58Z"),
  ])
  func aCountOfMicrosecondsIsATimeToTheSecond(microseconds: Int64, text: String) {
    #expect(WallClockTime(microsecondsSince1970: microseconds).rfc3339Seconds == text)
  }

  @Test func microsecondsAreKept() {
    let time = WallClockTime(microsecondsSince1970: -1_500_000)
    #expect(time == WallClockTime(seconds: -2, nanoseconds: 500_000_000))
    #expect(time.rfc3339 == "1969-12-31T23:59:58.500000Z")
  }

  @Test func nowIsNow() {
    #expect(abs(Double(EventLoop.clock.wallTime.seconds) - Date().timeIntervalSince1970) < 5)
  }
}

extension UInt64 {
  fileprivate var signed: Int64 { Int64(self) }
}

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
