// The checks of what happened in Redis: locks, epochs, data losses. Each is one guarantee of docs/reliability.md.

import Reactor

extension Evidence {
  var lockChecks: [Check] { [holders, epochs, settling, ghosts] }

  private var holders: Check {
    Check(
      name: "holders", claim: "a lock is taken only when it is free, and renewed and deleted only by its holder",
      figures: "\(locks.holds.count) locks taken, \(locks.holds.reduce(0) { $0 + $1.renewals }) renewals",
      faults: locks.trespasses + (locks.holds.isEmpty ? ["no lock was taken at all"] : []))
  }

  private var epochs: Check {
    var faults: [String] = []
    var highest: [String: Int64] = [:]
    for hold in locks.holds where !hold.isStrangers {
      guard let epoch = hold.epoch else {
        faults.append("\(hold.taken) \(hold.sweeper): taken without an epoch")
        continue
      }
      if let before = highest[hold.sweeper], epoch <= before {
        faults.append("\(hold.taken) \(hold.sweeper): epoch \(epoch) after \(before)")
      }
      highest[hold.sweeper] = max(highest[hold.sweeper] ?? epoch, epoch)
    }
    return Check(
      name: "epochs", claim: "each epoch is higher than all earlier ones, even after Redis lost its data",
      figures: "\(locks.holds.count) epochs, \(locks.losses.count) losses", faults: faults)
  }

  private var settling: Check {
    var faults: [String] = []
    for loss in locks.losses {
      // An existing worker does not wait.
      for hold in locks.holds.lazy.filter({ !$0.isStrangers })
      where hold.taken > loss && hold.taken.since(loss) < lease - .milliseconds(2) {
        faults.append("\(hold.taken) \(hold.sweeper): taken \(hold.taken.since(loss).text) after the loss")
      }
    }
    return Check(
      name: "settling", claim: "no lock is taken for one lease after Redis lost its data",
      figures: "\(locks.losses.count) losses", faults: faults)
  }

  private var ghosts: Check {
    let expired = locks.holds.filter { $0.released == nil && $0.leaseEnds < span.upperBound && !$0.isStrangers }
    let faults = expired.filter { !disturbances.explain($0.sweeper, $0.taken...$0.leaseEnds) }
      .map { "\($0.taken) \($0.sweeper): the lock of epoch \($0.epoch ?? 0) was left to expire without a fault" }
    return Check(
      name: "ghosts", claim: "a lock is released, unless a fault prevented its holder",
      figures: "\(expired.count) of \(locks.holds.count) expired, each because of a fault", faults: faults)
  }
}
