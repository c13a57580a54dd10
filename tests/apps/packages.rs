//! The packages of the recipes and of their clients.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What is installed at this place.
pub fn installed(place: &str) -> PathBuf {
    INSTALLED.join(place)
}

/// A command of the packages (`node`, `gunicorn`, …) that finds them.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let bin = INSTALLED.join("venv/bin");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command.env("PATH", format!("{}:{path}", bin.display()));
    command.env("NODE_PATH", INSTALLED.join("node_modules"));
    command.env("PYTHONUNBUFFERED", "1").env("PYTHONDONTWRITEBYTECODE", "1");
    for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(proxy);
    }
    command
}

static INSTALLED: LazyLock<PathBuf> = LazyLock::new(|| {
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("apps");
    let status = Command::new(root().join("tests/apps/install")).arg(&to).status().unwrap();
    assert!(status.success(), "tests/apps/install could not install the packages: {status}");
    to
});
