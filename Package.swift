// swift-tools-version: 6.2
// What is built: the Reactor library, the worker on top of it, and their tests.
// Arrows point down only: WorkerProgram -> Worker -> Coordination -> Reactor -> CReactor.

import Glibc
import PackageDescription

/// Compiler settings of every Swift target of ours.
let strict: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  // A nonisolated async function runs where its caller runs, so nothing leaves the loop's thread by accident.
  .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
  // A member is visible only where its module is imported: the compiler checks the direction of the arrows.
  .enableUpcomingFeature("MemberImportVisibility"),
  // `any` marks each place where a call goes through a witness table.
  .enableUpcomingFeature("ExistentialAny"),
  // A warning is a fault.
  .treatAllWarnings(as: .error),
]

/// The C libraries. hiredis has TLS in a library of its own from 1.0 on; CReactor.h asks for the same header. It comes
/// before hiredis, whose functions it calls: the linker goes through an archive once.
var libraries = ["ev", "pq", "hiredis", "cares", "jansson", "crypto", "ssl"]
if access("/usr/include/hiredis/hiredis_ssl.h", R_OK) == 0 { libraries.insert("hiredis_ssl", at: 0) }

let package = Package(
  name: "secrets-bridge-worker",
  products: [
    .library(name: "Reactor", targets: ["Reactor"]),
    .executable(name: "secrets-bridge-worker", targets: ["WorkerProgram"]),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-log", from: "1.16.2")
  ],
  targets: [
    .target(
      name: "CReactor",
      linkerSettings: libraries.map { .linkedLibrary($0) }
    ),
    .target(name: "Reactor", dependencies: ["CReactor"], swiftSettings: strict),
    // What replicas agree on, and how: pure, so that the worker and the simulator run the same code.
    .target(
      name: "Coordination", dependencies: ["Reactor"], path: "Sources/Worker/Coordination", swiftSettings: strict),
    // What happens before main: signals are kept for the loop.
    .target(name: "CWorkerStart"),
    // All of the worker but its way in: a library, so that the simulator runs the same loops.
    .target(
      name: "Worker",
      dependencies: ["Coordination", "Reactor", .product(name: "Logging", package: "swift-log")],
      exclude: ["Coordination", "Program"],
      swiftSettings: strict
    ),
    .executableTarget(
      name: "WorkerProgram", dependencies: ["CWorkerStart", "Reactor", "Worker"], path: "Sources/Worker/Program",
      swiftSettings: strict),
    // What both test bundles share: the loop's thread, private servers, waiting for a condition.
    .target(name: "TestSupport", dependencies: ["Reactor"], path: "Tests/TestSupport", swiftSettings: strict),
    // The library used on its own: documentation that is compiled and run by the tests.
    .executableTarget(
      name: "ReactorExample", dependencies: ["Reactor"], path: "Examples/ReactorExample", swiftSettings: strict),
    // The program of docs/using-reactor.md.
    .executableTarget(
      name: "UsingReactor", dependencies: ["Reactor"], path: "Examples/UsingReactor", swiftSettings: strict),
    // A fleet under faults drawn from a seed: scripts/chaos.
    .executableTarget(
      name: "Chaos", dependencies: ["Reactor", "TestSupport"], path: "Tests/Chaos",
      exclude: ["audit.sql", "traps.sql"],
      swiftSettings: strict),
    // What scripts/gate, budgets, bench and perf-* run.
    .executableTarget(
      name: "Measure", dependencies: ["TestSupport"], path: "Tests/Measure", swiftSettings: strict),
    .testTarget(name: "MeasureTests", dependencies: ["Measure"], swiftSettings: strict),
    // What scripts/fuzz runs, with libFuzzer's own main.
    .target(
      name: "Fuzz", dependencies: ["CReactor", "Coordination", "Reactor", "Worker"], path: "Tests/Fuzz",
      swiftSettings: strict),
    // What scripts/bench measures of the library by itself.
    .executableTarget(
      name: "RoundTripBenchmark", dependencies: ["Reactor"], path: "Tests/Benchmarks", swiftSettings: strict),
    .testTarget(
      name: "ReactorTests", dependencies: ["Reactor", "ReactorExample", "TestSupport", "UsingReactor"],
      swiftSettings: strict),
    .testTarget(name: "ChaosTests", dependencies: ["Chaos", "Reactor", "TestSupport"], swiftSettings: strict),
    // The worker's own loops among modelled servers, in virtual time: scripts/simulate.
    .target(
      name: "Simulation",
      dependencies: ["Coordination", "Reactor", "Worker", .product(name: "Logging", package: "swift-log")],
      path: "Tests/Simulation", swiftSettings: strict),
    .executableTarget(
      name: "simulate", dependencies: ["Simulation", "Reactor"], path: "Tests/Simulator", swiftSettings: strict),
    .testTarget(
      name: "SimulationTests", dependencies: ["Coordination", "Simulation", "Reactor", "TestSupport"],
      swiftSettings: strict),
    .testTarget(
      name: "WorkerTests", dependencies: ["Coordination", "Worker", "WorkerProgram", "Reactor", "TestSupport"],
      swiftSettings: strict),
  ]
)
