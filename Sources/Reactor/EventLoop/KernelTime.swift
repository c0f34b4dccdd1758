// The kernel's clocks. Invariant: nothing outside of EventLoop/ reads them; a component is given a LoopClock.

import CReactor

enum KernelTime {
  /// What CLOCK_MONOTONIC shows.
  static var monotonic: MonotonicInstant {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return MonotonicInstant(nanoseconds: Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec))
  }

  /// What CLOCK_REALTIME shows.
  static var wall: WallClockTime {
    var time = timespec()
    clock_gettime(CLOCK_REALTIME, &time)
    return WallClockTime(seconds: Int64(time.tv_sec), nanoseconds: Int64(time.tv_nsec))
  }
}
