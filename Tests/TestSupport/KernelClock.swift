// The kernel's clock by a short name, for tests of what waits for real servers. Sources have no such name: there a
// component is given its clock.

import Reactor

extension LoopClock {
  /// The kernel's.
  public nonisolated static var system: LoopClock { EventLoop.clock }
}
