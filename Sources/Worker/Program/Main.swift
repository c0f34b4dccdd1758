// The way in. All else is in the Worker library, which the tests and the simulator run as it is.

import Reactor
import Worker

@main
struct Main {
  static func main() {
    HostProcess.holdStandardStreams()
    HostProcess.exit(Program.run(Array(HostProcess.arguments.dropFirst())))
  }
}
