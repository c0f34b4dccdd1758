// The test process's memory and open descriptors, for tests of what must not accumulate.

import Reactor

func residentBytes() -> Int { Int(ProcessStatistics.current.residentBytes) }

func openDescriptors() -> Int { ProcessStatistics.current.openDescriptors }
