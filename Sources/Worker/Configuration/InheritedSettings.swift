// Settings of the existing worker that this one does not use. They are accepted so that a deployment can keep them.

/// Whether this is a developer's machine. Nothing depends on it.
enum DeploymentEnvironment: String, CaseIterable, Sendable {
  case dev, production
}

/// The help text of the GitOps settings.
private let gitOpsHelp = "Ignored; accepted for compatibility."

extension Setting {
  /// The same setting, validated only if GitOps is on, as in the existing worker.
  fileprivate var ofGitOps: Setting {
    var setting = self
    setting.onlyWith = "SB_WORKER_GITOPS_ENABLED"
    return setting
  }
}

extension Setting where Value == DeploymentEnvironment {
  static var environment: Setting {
    .choice(
      "SB_ENV", default: .production, help: "Ignored; accepted for compatibility.")
  }
}

extension Setting where Value == Bool {
  /// Refused at startup rather than silently ignored.
  static var gitOpsEnabled: Setting {
    let boolean = Setting.boolean(
      "SB_WORKER_GITOPS_ENABLED", default: false,
      help: "Must be false: this version has no GitOps sweepers.")
    return Setting(name: boolean.name, kind: boolean.kind, absence: boolean.absence, help: boolean.help) { text in
      guard case .accepted(true, _) = boolean.read(text) else { return boolean.read(text) }
      return .mustBe("false, because this version has no GitOps sweepers (the existing worker has them)")
    }
  }
}

extension Setting where Value == Int {
  static var gitOpsBatchSize: Setting {
    .integer("SB_WORKER_GITOPS_BATCH_SIZE", default: 20, in: 1...10_000, help: gitOpsHelp).ofGitOps
  }
}

extension Setting where Value == Duration {
  static var gitOpsPollInterval: Setting {
    .duration("SB_WORKER_GITOPS_POLL_INTERVAL", default: .seconds(15), help: gitOpsHelp).ofGitOps
  }

  static var gitOpsTimeoutInterval: Setting {
    .duration("SB_WORKER_GITOPS_TIMEOUT_INTERVAL", default: .seconds(60), help: gitOpsHelp).ofGitOps
  }

  static var gitOpsHTTPTimeout: Setting {
    .duration("SB_WORKER_GITOPS_HTTP_TIMEOUT", default: .seconds(15), help: gitOpsHelp).ofGitOps
  }
}

extension SettingRow {
  static let gitOps: [SettingRow] = [
    Setting.gitOpsEnabled.row, Setting.gitOpsPollInterval.row, Setting.gitOpsTimeoutInterval.row,
    Setting.gitOpsBatchSize.row, Setting.gitOpsHTTPTimeout.row,
  ]
}
