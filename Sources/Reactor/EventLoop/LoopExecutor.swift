// The executor: a libev loop that runs Swift's jobs in FIFO order on the thread that runs the loop.
// Invariant: the loop never blocks while a job is queued. Used only by EventLoop.

import CReactor
import Synchronization

/// A serial executor and task executor on one libev loop.
///
/// Jobs enqueued on the loop's own thread go into a FIFO, which a prepare watcher empties before the loop would block.
/// Jobs from other threads (only tests have some) go into a locked list and wake the loop.
final class LoopExecutor: SerialExecutor, TaskExecutor, @unchecked Sendable {
  /// The maximum number of jobs in one turn before descriptors and timers are served.
  private static let jobsPerTurn = 1024

  let loop: OpaquePointer
  private let thread = Atomic<UInt>(0)
  private let foreign = Mutex<[ForeignWork]>([])

  // Used only on the loop's thread.
  private var queue = JobQueue()
  private let prepare = UnsafeMutablePointer<ev_prepare>.allocate(capacity: 1)
  private let check = UnsafeMutablePointer<ev_check>.allocate(capacity: 1)
  private let idle = UnsafeMutablePointer<ev_idle>.allocate(capacity: 1)
  private let wake = UnsafeMutablePointer<ev_async>.allocate(capacity: 1)
  private(set) var statistics = LoopStatistics()
  /// When the current turn began.
  private(set) var wokenAt = KernelTime.monotonic
  /// The virtual time that passes while the loop is idle; nil if only the kernel's time is used.
  var virtualTime: VirtualTime?
  /// How many descriptors are watched.
  var watchedDescriptors = 0
  /// The watchers whose descriptors are ready, linked: the one that became ready first is at the front, those that are
  /// served last at the end. Each is active, so it is alive.
  private var firstReady: Unmanaged<IOWatcher>?

  private enum ForeignWork {
    case job(UnownedJob)
    case function(@Sendable () -> Void)
  }

  init() {
    // Not libev's default loop, which handles SIGCHLD and reaps every child of the process, including a host's.
    guard let loop = ev_loop_new(UInt32(EVBACKEND_EPOLL | EVFLAG_NOENV)) else {
      fatalError("libev has no epoll backend here")
    }
    self.loop = loop
    let context = Unmanaged.passUnretained(self).toOpaque()

    creactor_prepare_init(prepare) { _, watcher, _ in
      LoopExecutor.from(watcher?.pointee.data).runJobs()
    }
    prepare.pointee.data = context
    ev_prepare_start(loop, prepare)

    creactor_check_init(check) { _, watcher, _ in
      LoopExecutor.from(watcher?.pointee.data).wokenAt = KernelTime.monotonic
    }
    check.pointee.data = context
    ev_check_start(loop, check)

    // While it is active, the loop polls without blocking and calls it if nothing else is ready.
    creactor_idle_init(idle) { _, watcher, _ in
      LoopExecutor.from(watcher?.pointee.data).passTime()
    }
    idle.pointee.data = context

    creactor_async_init(wake) { _, watcher, _ in
      LoopExecutor.from(watcher?.pointee.data).adoptForeignWork()
    }
    wake.pointee.data = context
    ev_async_start(loop, wake)

    ev_set_userdata(loop, context)
    ev_set_invoke_pending_cb(loop) { loop in
      ev_invoke_pending(loop)
      LoopExecutor.from(ev_userdata(loop)).callReady()
    }
  }

  private static func from(_ data: UnsafeMutableRawPointer?) -> LoopExecutor {
    Unmanaged<LoopExecutor>.fromOpaque(data!).takeUnretainedValue()
  }

  /// Runs the loop on the calling thread until `stop()`. From then on, this is the loop's thread.
  func run() {
    thread.store(UInt(pthread_self()), ordering: .releasing)
    ev_run(loop, 0)
  }

  /// Ends `run()` after the current turn. Only on the loop's thread.
  func stop() {
    ev_break(loop, Int32(EVBREAK_ALL))
  }

  /// Whether the caller is on the loop's thread.
  var isCurrentThread: Bool {
    thread.load(ordering: .acquiring) == UInt(pthread_self())
  }

  func enqueue(_ job: UnownedJob) {
    if isCurrentThread {
      queue.append(job)
    } else {
      submit(.job(job))
    }
  }

  func enqueue(_ job: consuming ExecutorJob) {
    enqueue(UnownedJob(job))
  }

  /// Runs `function` on the loop: now if the caller is on its thread, otherwise in its next turn.
  func perform(_ function: @escaping @Sendable () -> Void) {
    if isCurrentThread {
      function()
    } else {
      submit(.function(function))
    }
  }

  func checkIsolated() {
    precondition(isCurrentThread, "not on the event loop's thread")
  }

  func isIsolatingCurrentContext() -> Bool? {
    isCurrentThread
  }

  func asUnownedSerialExecutor() -> UnownedSerialExecutor {
    UnownedSerialExecutor(ordinary: self)
  }

  private func submit(_ work: ForeignWork) {
    foreign.withLock { $0.append(work) }
    ev_async_send(loop, wake)
  }

  private func adoptForeignWork() {
    let adopted = foreign.withLock { list in
      defer { list.removeAll(keepingCapacity: true) }
      return list
    }
    for work in adopted {
      switch work {
      case .job(let job): queue.append(job)
      case .function(let function): function()
      }
    }
  }

  // MARK: Ready descriptors

  /// Called by libev for each ready descriptor, the last one first. Called back in that order, a peer that is served
  /// first in one turn would be served last in the next: half of them would wait for two turns. So they are called back
  /// in the kernel's order.
  func addReady(_ watcher: Unmanaged<IOWatcher>, for events: Int32) {
    watcher._withUnsafeGuaranteedRef {
      $0.readyEvents = events
      guard $0.isServedLast, let front = firstReady?.takeUnretainedValue(), !front.isServedLast else {
        $0.nextReady = firstReady
        firstReady = watcher
        return
      }
      var before = front
      while let next = before.nextReady?.takeUnretainedValue(), !next.isServedLast { before = next }
      $0.nextReady = before.nextReady
      before.nextReady = watcher
    }
  }

  /// Takes a watcher off the list, because it is stopped or changed.
  func removeReady(_ watcher: IOWatcher) {
    let next = watcher.nextReady
    watcher.nextReady = nil
    watcher.readyEvents = 0
    var link = firstReady?.takeUnretainedValue()
    guard link !== watcher else {
      firstReady = next
      return
    }
    while let before = link {
      link = before.nextReady?.takeUnretainedValue()
      if link === watcher {
        before.nextReady = next
        return
      }
    }
    preconditionFailure("a watcher that is ready is in the list")
  }

  private func callReady() {
    while let watcher = firstReady?.takeUnretainedValue() {
      firstReady = watcher.nextReady
      watcher.nextReady = nil
      watcher.callBack()
    }
  }

  // MARK: Jobs

  private func runJobs() {
    var budget = Self.jobsPerTurn
    while budget > 0 {
      budget -= 1
      if let job = queue.popFirst() {
        job.runSynchronously(
          isolatedTo: asUnownedSerialExecutor(), taskExecutor: asUnownedTaskExecutor())
      } else if let virtualTime, watchedDescriptors == 0 {
        // No descriptor can be ready: the kernel need not be asked before time goes on.
        EventLoop.assumeIsolated { virtualTime.jump() }
      } else {
        break
      }
    }
    if queue.isEmpty, virtualTime == nil {
      ev_idle_stop(loop, idle)
    } else {
      ev_idle_start(loop, idle)
    }
    statistics.record(turnFrom: wokenAt, to: KernelTime.monotonic)
  }

  /// No descriptor or libev timer is ready, and no other thread has enqueued a job.
  private func passTime() {
    guard queue.isEmpty, let virtualTime else { return }
    EventLoop.assumeIsolated { virtualTime.jump() }
  }
}

/// Statistics of the loop since it started: its idle cost and worst delay.
public struct LoopStatistics: Sendable {
  /// How often the loop woke, polled and went back to waiting.
  public private(set) var turns: UInt64 = 0
  /// Total time spent in callbacks and jobs.
  public var busy: Duration { .nanoseconds(busyNanoseconds) }
  /// The last turn's length, which an event at its beginning had to wait.
  public var lastTurn: Duration { .nanoseconds(lastNanoseconds) }
  /// The longest turn so far.
  public var longestTurn: Duration { .nanoseconds(longestNanoseconds) }

  // Not a `Duration`, whose 128 bits would cost every turn.
  private var busyNanoseconds: Int64 = 0
  private var lastNanoseconds: Int64 = 0
  private var longestNanoseconds: Int64 = 0

  mutating func record(turnFrom began: MonotonicInstant, to ended: MonotonicInstant) {
    turns += 1
    lastNanoseconds = ended.nanoseconds - began.nanoseconds
    busyNanoseconds += lastNanoseconds
    longestNanoseconds = max(longestNanoseconds, lastNanoseconds)
  }
}

/// A FIFO ring of jobs that grows by doubling and never shrinks. Its size follows the most jobs that were ever queued
/// at once.
private struct JobQueue {
  private var ring: [UnownedJob?] = Array(repeating: nil, count: 64)
  private var head = 0
  private var count = 0

  var isEmpty: Bool { count == 0 }

  mutating func append(_ job: UnownedJob) {
    if count == ring.count { grow() }
    ring[(head + count) & (ring.count - 1)] = job
    count += 1
  }

  mutating func popFirst() -> UnownedJob? {
    guard count > 0 else { return nil }
    let job = ring[head]
    head = (head + 1) & (ring.count - 1)
    count -= 1
    return job
  }

  private mutating func grow() {
    var larger: [UnownedJob?] = Array(repeating: nil, count: ring.count * 2)
    for index in 0..<count { larger[index] = ring[(head + index) & (ring.count - 1)] }
    ring = larger
    head = 0
  }
}
