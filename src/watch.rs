//! Reloads the rules when their file changes. Watches the file's *folder*, to notice an atomic rename over the file and a
//! swapped symlink; compares the file's content to find out whether anything changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::config::LoadError;
use crate::rules::Warning;
use crate::running::{Reloaded, Running};

/// Wait after an event: editors write a file in several steps.
const SETTLE: Duration = Duration::from_millis(50);
/// Poll interval without events: some file systems send none.
const POLL: Duration = Duration::from_secs(10);

/// Stops watching when dropped.
pub struct RulesWatch {
    _task: AbortOnDropHandle<()>,
}

/// Reloads the rules when their file changes. `None` without a file.
pub fn watch(running: &Arc<Running>) -> Option<RulesWatch> {
    let file = running.file()?.to_owned();
    let (send, receive) = mpsc::channel(1);
    let watcher = start(&file, send);
    if let Err(error) = &watcher {
        tracing::warn!(%error, file = %file.display(), "cannot watch the rules file; reading it every {POLL:?} instead");
    }
    let task = tokio::spawn(reload_on_change(Arc::clone(running), file, receive, watcher.ok()));
    Some(RulesWatch { _task: AbortOnDropHandle::new(task) })
}

fn start(file: &Path, send: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |_| {
        // A full channel means that a check of the file is due already.
        let _ = send.try_send(());
    })?;
    for folder in folders(file) {
        watcher.watch(&folder, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

/// The folder of the file and, if the file is a symlink, that of its target: a mounted ConfigMap swaps a link in between.
fn folders(file: &Path) -> Vec<PathBuf> {
    let folder_of = |path: &Path| match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut folders = vec![folder_of(file)];
    if let Ok(real) = file.canonicalize() {
        folders.push(folder_of(&real));
    }
    folders.dedup();
    folders
}

async fn reload_on_change(
    running: Arc<Running>,
    file: PathBuf,
    mut events: mpsc::Receiver<()>,
    watcher: Option<RecommendedWatcher>,
) {
    loop {
        // The first check notices an edit made while Larder was starting.
        if let Some(outcome) = running.reload_if_edited().await {
            report(outcome, &file, &running);
        }
        let event = tokio::time::timeout(POLL, events.recv()).await;
        if let Ok(Some(())) = event {
            tokio::time::sleep(SETTLE).await;
            while events.try_recv().is_ok() {}
        } else if watcher.is_none() {
            tokio::time::sleep(POLL).await;
        }
    }
}

fn report(outcome: Result<Reloaded, LoadError>, file: &Path, running: &Running) {
    match outcome {
        Ok(reloaded) => {
            tracing::info!(
                file = %file.display(),
                families = reloaded.families,
                invalidations = reloaded.invalidations,
                "the new rules are in force"
            );
            for Warning { line, message, remedy } in running.live().rules.warnings() {
                tracing::warn!(file = %file.display(), line, remedy, "{message}");
            }
            for field in reloaded.needs_restart {
                tracing::warn!("{field} takes effect when Larder is started again");
            }
        }
        Err(error) => tracing::error!(file = %file.display(), "the old rules stay in force:\n{error}"),
    }
}
