// A short name for the kernel's clock, for tests with real servers. Sources have no such name: their components are
// passed a clock.

import Reactor

extension LoopClock {
  /// The kernel's clock.
  public nonisolated static var system: LoopClock { EventLoop.clock }
}
