// What valgrind, strace and the kernel write, read as they write it.

import Glibc
import Testing

@testable import Measure

@Suite struct CallgrindProfileTests {
  /// Two functions of ours and one of a library; a name stands in full at its first use only, once in a callee's line.
  private static let profile = """
    # callgrind format
    version: 1
    positions: line
    events: Ir
    summary: 5555

    ob=(1) /build/secrets-bridge-worker
    fl=(1) ???
    fn=(1) main
    0 10
    +3 5
    cob=(2) /usr/lib/libc.so.6
    cfn=(2) malloc
    calls=4 0
    0 4000
    * 7

    ob=(2)
    fn=(2)
    0 100
    cob=(1)
    cfn=(3) ours
    calls=1 0
    -2 300

    ob=(1)
    fn=(3)
    0 20
    fn=(4) other (things)
    -1 2
    totals: 5555
    """

  @Test func countsWhatRanInTheObjectItself() {
    #expect(CallgrindProfile.instructions(of: "secrets-bridge-worker", in: Self.profile) == 10 + 5 + 7 + 20 + 2)
    #expect(CallgrindProfile.instructions(of: "libc.so.6", in: Self.profile) == 100)
    #expect(CallgrindProfile.instructions(of: "other", in: Self.profile) == 0)
    #expect(CallgrindProfile.instructions(of: "secrets-bridge-worker", in: "") == 0)
  }

  @Test func anObjectIsKnownFromACalleesLine() {
    let profile = """
      ob=(1) /lib/one
      fn=(1) a
      cob=(2) /bin/two
      cfn=(2) b
      calls=1 0
      0 9
      0 1
      ob=(2)
      fn=(2)
      0 30
      """
    #expect(CallgrindProfile.instructions(of: "/two", in: profile) == 30)
    #expect(CallgrindProfile.instructions(of: "/one", in: profile) == 1)
  }
}

@Suite struct SystemCallTests {
  @Test func theTotalOfASummary() {
    let summary = """
          calls syscall
      --------- ----------------
             62 epoll_ctl
              4 connect
      --------- ----------------
            111 total
      """
    #expect(SystemCallSummary.total(summary) == 111)
    #expect(SystemCallSummary.total("strace: nothing") == nil)
  }

  private static let log = """
    4711  epoll_wait(5<anon_inode:[eventpoll]>, [], 64, 59743) = 0
    4711  clock_gettime(CLOCK_MONOTONIC, {tv_sec=1, tv_nsec=2}) = 0
    4711  epoll_wait(5<anon_inode:[eventpoll]>, [{events=EPOLLIN, data={u32=9, u64=4294967305}}, {events=EPOLLIN, \
    data={u32=11, u64=11}}], 64, 100) = 2
    4711  recvfrom(9<TCP:[127.0.0.1:40000->127.0.0.1:6379]>, "+OK\\r\\n", 16384, 0, NULL, NULL) = 5
    4711  recvfrom(11<TCP:[127.0.0.1:40002->127.0.0.1:5432]>, "T", 1, 0, NULL, NULL) = 1
    4711  epoll_wait(5<anon_inode:[eventpoll]>, [{events=EPOLLIN, data={u32=9, u64=4294967305}}], 64, 100) = 1
    4711  <... epoll_wait resumed>) = 0
    4711  epoll_wait(5<anon_inode:[eventpoll]>, [{events=EPOLLIN, data={u32=7, u64=7}}], 64, 100) = 1
    4711  --- SIGTERM {si_signo=SIGTERM} ---
    """

  @Test func countsCallsAndWhatWokeTheLoop() {
    let log = SystemCallLog(Self.log, peers: [("->127.0.0.1:5432]", "PostgreSQL"), ("->127.0.0.1:6379]", "Redis")])
    #expect(log.calls == ["epoll_wait": 4, "clock_gettime": 1, "recvfrom": 2])
    #expect(log.all == 7)
    #expect(log.wakeups == ["a timer": 1, "Redis": 2, "PostgreSQL": 1, "descriptor 7": 1])
    #expect(SystemCallLog.lines(["b": 1, "a": 1, "c": 20]) == ["      20  c", "       1  a", "       1  b"])
  }
}

@Suite struct ProcTextTests {
  @Test func aFieldIsReadByItsWholeName() {
    let status = "Threads:\t1\nvoluntary_ctxt_switches:\t15\nnonvoluntary_ctxt_switches:\t3\nVmHWM:\t  8468 kB\n"
    #expect(ProcText.field("voluntary_ctxt_switches", of: status) == 15)
    #expect(ProcText.field("VmHWM", of: status) == 8468)
    #expect(ProcText.field("ctxt_switches", of: status) == nil)
  }

  @Test func mappingsAreSummedByNameTheDirtiestFirst() {
    let smaps = """
      55d0c0000000-55d0c0100000 r-xp 00000000 fe:01 123                        /usr/bin/worker
      Size:               1024 kB
      Rss:                 800 kB
      Private_Dirty:         0 kB
      VmFlags: rd ex mr mw me
      55d0c0100000-55d0c0110000 rw-p 00100000 fe:01 123                        /usr/bin/worker
      Rss:                  64 kB
      Private_Dirty:        40 kB
      55d0c1000000-55d0c1100000 rw-p 00000000 00:00 0                          [heap]
      Rss:                 700 kB
      Private_Dirty:       700 kB
      7f0000000000-7f0000100000 rw-p 00000000 00:00 0
      Rss:                  12 kB
      Private_Dirty:        12 kB
      """
    let expected = [
      ProcText.Mapping(name: "[heap]", dirtyKB: 700, residentKB: 700),
      ProcText.Mapping(name: "worker", dirtyKB: 40, residentKB: 864),
      ProcText.Mapping(name: "[anonymous]", dirtyKB: 12, residentKB: 12),
    ]
    #expect(ProcText.mappings(of: smaps) == expected)
  }
}

@Suite struct KernelFiguresTests {
  private let figures = KernelFigures(id: getpid())

  /// The tests' own process has many mappings: their text is longer than a page.
  @Test func allMappingsAreRead() throws {
    let sum = try figures.mappings.reduce(0) { $0 + $1.residentKB }
    let resident = try figures.residentKB
    #expect(sum > resident / 2, "the mappings have \(sum) of \(resident) kB")
    #expect(try figures.mappings.contains { $0.name.hasPrefix("libc.so") })
  }

  @Test func theKernelCountsWhatAProcessUses() throws {
    #expect(try figures.status("Threads") >= 1)
    #expect(try figures.cpuNanoseconds > 0)
    #expect(try figures.pageFaults.minor > 0)
    #expect(try figures.privateDirtyKB > 0)
    #expect(throws: Failure.self) { try figures.status("Nothing") }
  }
}

@Suite struct AllocationsTests {
  @Test func areReadOnceTheirLineIsWhole() {
    #expect(Allocations("12 3400 5\n") == Allocations(count: 12, bytes: 3400))
    #expect(Allocations("12 3400 5") == nil)
    #expect(Allocations("12 34\n") == nil)
  }

  @Test func whatRunsAloneCostIsTakenOff() {
    let all = Allocations(count: 1000, bytes: 50_000)
    let idle = Allocations(count: 40, bytes: 4_000)
    #expect(all.without(idle, parts: 5, of: 20) == Allocations(count: 990, bytes: 49_000))
    #expect(all.without(idle, parts: 5, of: 0) == all)
  }
}
