// The way in. All else is in the Worker library, which the tests and the simulator run as it is.

import CWorkerStart
import Reactor
import Worker

@main
struct Main {
  static func main() {
    worker_give_up_dumps()
    HostProcess.holdStandardStreams()
    HostProcess.exit(Program.run(Array(HostProcess.arguments.dropFirst()), confine: confine))
  }

  private static func confine(readable paths: [String]) -> Sandbox.Parts {
    let rules = worker_sandbox_open()
    for path in paths { worker_sandbox_allow(rules, path) }
    return Sandbox.Parts(rawValue: worker_sandbox_enforce(rules))
  }
}
