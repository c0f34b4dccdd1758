// The kernel's clocks. Invariant: nothing outside EventLoop/ reads them; components are given a LoopClock.

import CReactor

enum KernelTime {
  /// The value of CLOCK_MONOTONIC.
  static var monotonic: MonotonicInstant {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return MonotonicInstant(nanoseconds: Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec))
  }

  /// The value of CLOCK_REALTIME.
  static var wall: WallClockTime {
    var time = timespec()
    clock_gettime(CLOCK_REALTIME, &time)
    return WallClockTime(seconds: Int64(time.tv_sec), nanoseconds: Int64(time.tv_nsec))
  }
}
