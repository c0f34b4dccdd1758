// What the test process has in memory, for tests of what must not pile up.

import Reactor

func residentBytes() -> Int { Int(ProcessStatistics.current.residentBytes) }
