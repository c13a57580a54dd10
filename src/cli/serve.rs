//! `larder serve`

use std::io::Write as _;
use std::path::Path;

use super::ServeArguments;
use crate::config::lint::lint;
use crate::config::{Config, LogFormat, Overrides};
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
            let _ = writeln!(std::io::stderr(), "{}", complaint(&error.to_string()));
            return 2;
        }
    };
    if json {
        config.log.format = LogFormat::Json;
    }
    // Ends last, so that the last lines are written.
    let logs = Logs::start(&config.log);
    let complain = |message: &str, code| {
        logs.write_line(&complaint(message));
        code
    };
    if let Err(error) = descriptors::raise() {
        tracing::warn!(%error, "cannot raise the soft limit of descriptors to the hard one");
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
            | ServeError::StoreSetup(_)),
        ) => complain(&error.to_string(), 2),
        Err(error) => complain(&error.to_string(), 1),
    }
}

fn complaint(message: &str) -> String {
    format!("larder: {}", message.trim_end())
}

async fn until_stopped(config: Config, json: bool) -> Result<(), ServeError> {
    tell_rules(&config);
    let (file, overrides) = (config.file.clone(), config.overrides.clone());
    let listeners = Listeners::bind(&config)?;
    listeners.check_upstream(&config).await?;
    let running = server::assemble(config).await?;
    // Before anyone is told that Larder runs: whoever waits for that may end it at once.
    let stopped = stopped();
    if let (Ok(public), Ok(admin)) = (listeners.public.local_addr(), listeners.admin.local_addr()) {
        announce(public, admin, json);
    }
    // Of many families it takes seconds. An end of the process does not wait for it.
    std::thread::spawn(move || warn_of_rules(file.as_deref(), &overrides));
    match server::run(running, listeners, stopped).await {
        Ended::Clean => Ok(()),
        Ended::Undelivered(tags) => Err(ServeError::Undelivered(tags)),
    }
}

/// A `rules.toml` may be taken that nobody thought of, and one be missed that somebody did.
fn tell_rules(config: &Config) {
    let Some(file) = &config.file else {
        tracing::info!("no rules file: what upstream's Cache-Control and Expires allow is cached (RFC 9111)");
        return;
    };
    let (families, invalidations) = (config.rules.families().len(), config.rules.invalidations().len());
    tracing::info!(file = %file.display(), families, invalidations, "starting with the rules of this file");
}

/// Logs what `larder check` would warn of.
fn warn_of_rules(file: Option<&Path>, overrides: &Overrides) {
    let Some(file) = file else { return };
    let Ok(config) = Config::load(Some(file), overrides, &|name| std::env::var(name).ok()) else { return };
    for Warning { line, message, remedy } in lint(&config) {
        tracing::warn!(file = %file.display(), line, remedy, "{message}");
    }
}

/// One line on standard output once clients can connect: people and scripts wait for it.
fn announce(public: std::net::SocketAddr, admin: std::net::SocketAddr, json: bool) {
    let line = match json {
        true => serde_json::json!({ "listening": public.to_string(), "admin": admin.to_string() }).to_string(),
        false => format!("larder is listening on {public}, admin on {admin}"),
    };
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Resolves at SIGTERM or SIGINT; both are listened for from this call on.
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
