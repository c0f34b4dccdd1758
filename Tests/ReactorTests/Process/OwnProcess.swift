// What the test process has in memory and has open, for tests of what must not pile up.

import Reactor

func residentBytes() -> Int { Int(ProcessStatistics.current.residentBytes) }

func openDescriptors() -> Int { ProcessStatistics.current.openDescriptors }
