//! The files of `deploy/`, each checked by the program that will read it, or by its schema. `deploy/check` does what takes
//! longer: it builds the Debian package and installs it, and runs the binary where there is nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use crate::packages::root;
use crate::support::larder;

/// Where the programs of `tests/apps/deployment/requirements.txt` are.
static INSTALLED: LazyLock<PathBuf> = LazyLock::new(|| {
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("deployment");
    let status = Command::new(root().join("tests/apps/deployment/install")).arg(&to).status().unwrap();
    assert!(status.success(), "tests/apps/deployment/install: {status}");
    to.join("venv/bin")
});

fn deploy() -> PathBuf {
    root().join("deploy")
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap()
}

#[track_caller]
fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let Output { status, stdout, stderr } = &output;
    let text = [stdout, stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat();
    assert!(status.success(), "{command:?}: {status}\n{text}");
    text
}

#[track_caller]
fn check(what: &str) -> String {
    let script = root().join("tests/apps/deployment/checks.py");
    succeeds(Command::new(INSTALLED.join("python")).arg(script).arg(what).arg(deploy()))
}

#[test]
fn the_manifests_fit_the_schemas_of_kubernetes() {
    check("manifests");
}

#[test]
fn helm_renders_every_option_of_the_chart_to_valid_objects_and_refuses_faulty_values() {
    check("chart");
}

#[test]
fn the_chart_with_its_defaults_makes_what_the_manifests_are() {
    check("same");
}

#[test]
fn the_rules_in_the_manifests_and_in_the_chart_have_neither_faults_nor_warnings() {
    let files: BTreeMap<String, String> = serde_json::from_str(&check("rules")).unwrap();
    assert_eq!(files.len(), 2);
    for (name, rules) in files {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("rules.toml"), rules).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_larder"));
        command.args(["check", "--strict", "--upstream", "http://api:8000"]).current_dir(dir.path());
        // As the manifests set them.
        command.env("LARDER_REDIS", "redis://larder-redis:6379/0").env("LARDER_SECRET", "0123456789abcdef");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{name}: {output:?}");
    }
}

#[test]
fn docker_compose_accepts_the_compose_file() {
    let dir = tempfile::tempdir().unwrap();
    let env = dir.path().join("env");
    let filled =
        read("deploy/env.example").replace("PASSWORD=\n", "PASSWORD=p\n").replace("TOKEN=\n", "TOKEN=t\n");
    std::fs::write(&env, filled).unwrap();
    let mut compose = Command::new(INSTALLED.join("docker-compose"));
    compose
        .arg("--env-file")
        .arg(env)
        .arg("-f")
        .arg(deploy().join("compose.yaml"))
        .args(["config", "--format", "json"]);
    let config: serde_json::Value = serde_json::from_slice(&compose.output().unwrap().stdout).unwrap();
    let services = &config["services"];
    assert_eq!(services.as_object().unwrap().len(), 3, "{config:#}");
    assert_eq!(services["larder"]["environment"]["LARDER_REDIS"], "redis://:p@redis:6379/0");
    // What it mounts and builds is there.
    for path in [&services["larder"]["volumes"][0]["source"], &services["larder"]["build"]["context"]] {
        assert!(Path::new(path.as_str().unwrap()).exists(), "{path}");
    }
}

#[test]
fn a_linter_of_dockerfiles_has_nothing_against_the_dockerfile() {
    succeeds(Command::new(INSTALLED.join("hadolint")).arg(deploy().join("Dockerfile")));
}

#[test]
#[cfg(target_os = "linux")]
fn systemd_accepts_the_unit_and_finds_it_hardened() {
    // The command need not be installed here.
    let dir = tempfile::tempdir().unwrap();
    let unit = dir.path().join("larder.service");
    let text = read("deploy/larder.service");
    assert!(text.contains("\nExecStart=larder serve --rules /etc/larder/rules.toml\n"));
    std::fs::write(&unit, text.replace("=larder serve", concat!("=", env!("CARGO_BIN_EXE_larder"), " serve")))
        .unwrap();
    let printed = succeeds(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit));
    assert_eq!(printed, "", "systemd-analyze verify warns");
    // In tenths: 100 is no protection at all.
    succeeds(Command::new("systemd-analyze").args(["security", "--offline=yes", "--threshold=20"]).arg(&unit));
}

#[test]
fn every_file_names_the_version_of_larder() {
    let version = env!("CARGO_PKG_VERSION");
    for (file, line) in [
        ("deploy/helm/larder/Chart.yaml", format!("\nversion: {version}\n")),
        ("deploy/helm/larder/Chart.yaml", format!("\nappVersion: \"{version}\"\n")),
        ("deploy/kubernetes/kustomization.yaml", format!("newTag: {version}\n")),
    ] {
        assert!(read(file).contains(&line), "{file} does not say {line:?}");
    }
}

#[test]
fn what_stops_larder_waits_longer_than_its_drain_timeout() {
    let drain = "drain_timeout = \"30s\"";
    let kubernetes = read("deploy/kubernetes/configmap.yaml");
    let chart = read("deploy/helm/larder/values.yaml");
    assert!(kubernetes.contains(drain) && chart.contains(drain));
    for file in ["kubernetes/deployment.yaml", "helm/larder/values.yaml"] {
        assert!(read(&format!("deploy/{file}")).contains("terminationGracePeriodSeconds: 45"), "{file}");
    }
    assert!(read("deploy/larder.service").contains("TimeoutStopSec=40"));
    assert!(read("deploy/compose.yaml").contains("stop_grace_period: 40s"));
}

#[test]
fn the_image_asks_for_its_health_with_a_command_that_exists() {
    assert!(read("deploy/Dockerfile").contains("CMD [\"larder\", \"healthcheck\"]"));
    let exit = larder(None, &["healthcheck", "--help"]);
    assert_eq!(exit.code, Some(0), "{exit:?}");
}
