// What wrk, redis-benchmark, pgbench, psql, perf and the worker write, read as they write it.

import Foundation
import Testing

@testable import Measure

@Suite struct WrkReportTests {
  private func report(_ p99: String) -> String {
    """
    Running 4s test @ http://127.0.0.1:8081/healthz
      1 threads and 32 connections
      Thread Stats   Avg      Stdev     Max   +/- Stdev
        Latency   230.10us   90.00us   4.60ms   99.00%
        Req/Sec   137.80k     1.00k  140.00k    90.00%
      Latency Distribution
         50%  221.00us
         90%  300.00us
         99%    \(p99)
      551324 requests in 4.00s, 90.00MB read
    Requests/sec: 137831.94
    Transfer/sec:     22.50MB
    """
  }

  @Test(arguments: [("460.00us", 460), ("4.60ms", 4600), ("1.02s", 1_020_000)])
  func theLatencyIsInMicroseconds(text: String, microseconds: Int) throws {
    let read = try #require(WrkReport(report(text)))
    #expect(read.p99Microseconds.value == Double(microseconds))
    #expect(read.requests == 551_324 && read.requestsPerSecond == 137_831)
  }

  @Test func nothingIsReadFromAnotherText() {
    #expect(WrkReport("unable to connect to 127.0.0.1:8081 Connection refused") == nil)
  }
}

@Suite struct BenchOutputTests {
  @Test func theTimeOfACommandByItsRate() {
    let csv = "\"test\",\"rps\",\"avg_latency_ms\"\n\"SET\",\"33875.34\",\"0.028\"\n"
    #expect(BenchOutput.microseconds(of: "SET", redisBenchmark: csv)?.description == "29.52")
    #expect(BenchOutput.microseconds(of: "GET", redisBenchmark: csv) == nil)
  }

  @Test func theTimeOfTheLastStatement() {
    #expect(BenchOutput.milliseconds(psql: "Time: 1.5 ms\n42\nTime: 1234.567 ms (00:01.235)")?.value == 1234.567)
    #expect(BenchOutput.milliseconds(psql: "42\n") == nil)
  }

  @Test func transactionsCountThatEndedMeanwhile() {
    let log = """
      0 1 900 0 1700000000 500000 20
      1 1 1500 0 1700000001 0 30
      0 2 2500 0 1700000002 1 40
      0 3 700
      """
    let latencies = BenchOutput.latencies(pgbench: log, from: 1_700_000_000.5, to: 1_700_000_002)
    #expect(latencies == [0.9, 1.5])
  }

  @Test func redisSpendsItsTimeInTheKernelAndOutside() {
    let info = "# CPU\r\nused_cpu_sys:1.500000\r\nused_cpu_user:2.250000\r\nused_cpu_sys_children:9.000000\r\n"
    #expect(BenchOutput.cpuSeconds(redisInfo: info) == 3.75)
  }

  @Test func aSweepByItsLineInTheLog() {
    let fields: [String: Any] = [
      "time": "2026-01-02T03:04:05.250Z", "msg": "swept", "task": "wraps-expired", "duration_ms": "859",
    ]
    let swept = SweptLine(fields, of: "wraps-expired")
    #expect(swept?.milliseconds == 859)
    #expect(swept?.ended == 1_767_323_045.25)
    #expect(SweptLine(fields, of: "agents-stale") == nil)
    #expect(SweptLine(fields.merging(["duration_ms": 12]) { $1 }, of: "wraps-expired")?.milliseconds == 12)
    #expect(SweptLine(fields.merging(["msg": "run is over"]) { $1 }, of: "wraps-expired") == nil)
  }
}

@Suite struct ProcessCountsTests {
  private static let before = ProcessCounts(
    cpuNanoseconds: 1_000_000, voluntarySwitches: 10, involuntarySwitches: 1, minorFaults: 100, majorFaults: 0)
  private static let after = ProcessCounts(
    cpuNanoseconds: 3_500_000, voluntarySwitches: 15, involuntarySwitches: 1, minorFaults: 130, majorFaults: 2)

  @Test func eachCountIsAlsoGivenForAMinute() {
    let stat = "# started\n\n12345,,instructions:u,100,50.00,,\n<not counted>,,cycles,0,0.00,,\n"
    let report = ProcessCounts.report(Self.before, Self.after, perfStat: stat, seconds: 30)
    let expected = """
             in 30 s       a minute
                2.50           5.00  ms of CPU
                5.00          10.00  waits (voluntary context switches)
                0.00           0.00  preemptions (involuntary ones)
               30.00          60.00  page faults
                2.00           4.00  of them read from the disk
               12345          24690  instructions:u
      """
    #expect(report == expected)
  }

  @Test(arguments: [
    (
      "<not supported>,,cycles,0,100.00,,\n", "This kernel gives no hardware counters here: no instructions, no cycles."
    ),
    ("<not counted>,,cycles,0,0.00,,\n", "It did not run while the hardware counted."),
  ])
  func saysWhyNothingWasCounted(stat: String, reason: String) {
    #expect(ProcessCounts.report(Self.before, Self.after, perfStat: stat, seconds: 60).hasSuffix("\n\n\(reason)"))
  }
}
