// The sweeper gitops-observations-retention: deletes observations of GitOps applications that finished long ago.

import Reactor

extension SweeperDeclaration {
  static let gitopsObservationsRetention = SweeperDeclaration(
    interval: .retainGitopsObservations, sweeper: Sweeper.gitopsObservationsRetention)
}

extension Sweeper {
  /// An observation ends at terminal_at, in a state that is no longer polled.
  static func gitopsObservationsRetention(_ settings: Settings) -> Sweeper {
    .retention(
      "gitops-observations-retention", of: "finished GitOps observations", in: "gitops_observations",
      retained: settings[.retainGitopsObservations],
      requires: [RequiredTable("gitops_observations", "id", "polling_state", "terminal_at")],
      ended: """
        (polling_state = 'applied' OR polling_state = 'applied_unverified' OR polling_state = 'failed')
          AND terminal_at <= :cutoff
        """,
      key: "terminal_at")
  }
}

extension Setting where Value == Duration? {
  static var retainGitopsObservations: Setting {
    .retention("SB_WORKER_RETAIN_GITOPS_OBSERVATIONS", of: "finished GitOps observations")
  }
}
