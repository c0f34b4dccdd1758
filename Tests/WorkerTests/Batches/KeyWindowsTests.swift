// The windows over a key column, in isolation.

import Reactor
import Testing

@testable import Worker

@Suite struct KeyWindowsTests {
  @Test func rowsThatAreSlowByThemselvesStayInWindowsThatEndInTime() {
    var windows = KeyWindows()
    var cancelled = 0
    var key: Int64 = 0
    var rows = 5_000
    while rows > 0 {
      let window = min(rows, windows.limit)
      let duration = Duration.milliseconds(5) * window
      guard duration < KeyWindows.growthLimit * 2 else {
        cancelled += 1
        let isSmaller = windows.shrink()
        #expect(isSmaller)
        continue
      }
      rows -= window
      key += Int64(window)
      windows.swept(upTo: key, in: duration)
    }
    #expect(cancelled == 1)
  }

  @Test func afterARowThatIsGivenUpTheWindowsGrowAgain() {
    var windows = KeyWindows()
    while windows.shrink() {}
    windows.giveUp(1)
    for key in Int64(2)...5 { windows.swept(upTo: key, in: .milliseconds(2)) }
    #expect(windows.limit == KeyWindows.rowLimit)
    windows.swept(upTo: nil, in: .milliseconds(1))
    #expect(windows.isDone)
  }
}
