//! `larder serve` runs the proxy.

use std::io::Write as _;
use std::path::Path;

use super::ServeArguments;
use crate::config::lint::lint;
use crate::config::{Config, LoadError, LogFormat, Overrides};
use crate::logs::Logs;
use crate::rules::Warning;
use crate::server::{self, Ended, Listeners, ServeError, descriptors};

pub(super) fn serve(arguments: ServeArguments) -> u8 {
    let json = arguments.json;
    let (file, overrides) = match arguments.sources.overrides() {
        Ok(sources) => sources,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{}", complaint(&error));
            return 2;
        }
    };
    let mut config = match Config::load(file.as_deref(), &overrides, &|name| std::env::var(name).ok()) {
        Ok(config) => config,
        Err(error) => {
            let message = match &error {
                LoadError::Faults(faults) => faults.colored(),
                LoadError::Io { .. } => error.to_string(),
            };
            // Strips the colours unless this is a terminal.
            let _ = writeln!(anstream::stderr(), "{}", complaint(&message));
            return 2;
        }
    };
    if json {
        config.log.format = LogFormat::Json;
    }
    // Dropped last, so that the last log lines are written.
    let logs = Logs::start(&config.log);
    let complain = |message: &str, code| {
        logs.write_line(&complaint(message));
        code
    };
    if let Err(error) = descriptors::raise() {
        tracing::warn!(%error, "cannot raise the soft limit of open files to the hard limit");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("cannot start: {error}"), 1),
    };
    match runtime.block_on(until_stopped(config, json)) {
        Ok(()) => 0,
        Err(
            error @ (ServeError::NoUpstream
            | ServeError::Descriptors(_)
            | ServeError::Itself { .. }
            | ServeError::Upstream(_)
            | ServeError::Keys(_)
            | ServeError::Traces(_)
            | ServeError::StoreSetup(_)),
        ) => complain(&error.to_string(), 2),
        Err(error) => complain(&error.to_string(), 1),
    }
}

fn complaint(message: &str) -> String {
    format!("larder: {}", message.trim_end())
}

async fn until_stopped(config: Config, json: bool) -> Result<(), ServeError> {
    log_rules(&config);
    let (file, overrides) = (config.file.clone(), config.overrides.clone());
    let listeners = Listeners::bind(&config)?;
    listeners.check_upstream(&config).await?;
    let running = server::assemble(config).await?;
    // Listen for signals before announcing: a script that waits for the announcement may stop Larder at once.
    let stopped = stopped();
    if let (Ok(public), Ok(admin)) = (listeners.public.local_addr(), listeners.admin.local_addr()) {
        announce(public, admin, json);
    }
    // With many families this takes seconds. Shutdown does not wait for it.
    std::thread::spawn(move || warn_of_rules(file.as_deref(), &overrides));
    match server::run(running, listeners, stopped).await? {
        Ended::Clean => Ok(()),
        Ended::Undelivered(tags) => Err(ServeError::Undelivered(tags)),
    }
}

/// Logs which rules apply, since ./rules.toml is used without being named.
fn log_rules(config: &Config) {
    let Some(file) = &config.file else {
        tracing::info!("no rules file: Larder caches what upstream's Cache-Control and Expires allow (RFC 9111)");
        return;
    };
    let (families, invalidations) = (config.rules.stated().len(), config.rules.invalidations().len());
    tracing::info!(file = %file.display(), families, invalidations, "loaded the rules file");
}

/// Logs the warnings of `larder check`.
fn warn_of_rules(file: Option<&Path>, overrides: &Overrides) {
    let Some(file) = file else { return };
    let Ok(config) = Config::load(Some(file), overrides, &|name| std::env::var(name).ok()) else { return };
    for Warning { line, message, remedy } in lint(&config) {
        tracing::warn!(file = %file.display(), line, remedy, "{message}");
    }
}

/// Prints one line to standard output once clients can connect, for people and scripts.
fn announce(public: std::net::SocketAddr, admin: std::net::SocketAddr, json: bool) {
    let line = match json {
        true => serde_json::json!({ "listening": public.to_string(), "admin": admin.to_string() }).to_string(),
        false => format!("larder is listening on {public}, admin on {admin}"),
    };
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Resolves at SIGTERM or SIGINT. The handlers are installed by the call, not by the first poll.
#[cfg(unix)]
fn stopped() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    async move {
        match signals {
            [Ok(mut terminate), Ok(mut interrupt)] => {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            }
            _ => {
                tracing::warn!("cannot listen for SIGTERM and SIGINT: they will end Larder without draining");
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Resolves at Ctrl-C.
#[cfg(not(unix))]
async fn stopped() {
    let _ = tokio::signal::ctrl_c().await;
}
