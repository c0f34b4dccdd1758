// The sweeper cross-team-fill-window-expired: expires a cross-team request not filled in within its window.

import Reactor

extension SweeperDeclaration {
  static let crossTeamFillWindowExpired = SweeperDeclaration(
    interval: .crossTeamFillExpiredInterval, sweeper: Sweeper.crossTeamFillWindowExpired)
}

extension Sweeper {
  static func crossTeamFillWindowExpired(_ settings: Settings) -> Sweeper {
    Sweeper(
      name: "cross-team-fill-window-expired",
      summary: "Expires cross-team requests whose values were not filled in in time.",
      interval: settings[.crossTeamFillExpiredInterval],
      requires: [RequiredTable("access_requests", "type", "status", "fill_expires_at")],
      work: .rows(
        RowSweep(
          table: "access_requests",
          change: .update(set: "status = 'expired'"),
          due: "type = 'cross_team' AND status = 'pending_values' AND fill_expires_at <= :cutoff",
          key: "fill_expires_at",
          age: .zero,
          index: .init(reaches: "status = 'pending_values' AND fill_expires_at <= :cutoff"))),
      report: Report(
        severity: .info, title: "cross_team fill windows expired", countName: "requests_swept",
        failureTitle: "sweep cross_team fill expired failed"))
  }
}

extension Setting where Value == Duration? {
  static var crossTeamFillExpiredInterval: Setting {
    .interval(
      "SB_WORKER_CROSS_TEAM_FILL_EXPIRED_INTERVAL", default: .seconds(30),
      help: "Interval between searches for cross-team requests that were not filled in on time.")
  }
}
