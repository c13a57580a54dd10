//! `larder serve`

use std::io::{IsTerminal as _, Write as _};

use tracing_subscriber::EnvFilter;

use super::ServeArguments;
use crate::config::{Config, LogFormat};
use crate::server::{self, Listeners, ServeError};

pub(super) fn serve(arguments: ServeArguments) -> u8 {
    let json = arguments.json;
    let (file, overrides) = arguments.sources.overrides();
    let mut config = match Config::load(file.as_deref(), &overrides, &|name| std::env::var(name).ok()) {
        Ok(config) => config,
        Err(error) => return complain(&error.to_string(), 2),
    };
    if json {
        config.log.format = LogFormat::Json;
    }
    start_log(&config);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("cannot start: {error}"), 1),
    };
    match runtime.block_on(until_stopped(config, json)) {
        Ok(()) => 0,
        Err(error @ (ServeError::NoUpstream | ServeError::Upstream(_) | ServeError::StoreUrl(_))) => {
            complain(&error.to_string(), 2)
        }
        Err(error) => complain(&error.to_string(), 1),
    }
}

fn complain(message: &str, code: u8) -> u8 {
    let _ = writeln!(std::io::stderr(), "larder: {}", message.trim_end());
    code
}

async fn until_stopped(config: Config, json: bool) -> Result<(), ServeError> {
    let listeners = Listeners::bind(&config).await?;
    let running = server::assemble(config).await?;
    // Before anyone is told that Larder is there: who has been told may ask it to end.
    let stopped = signals();
    if let (Ok(public), Ok(admin)) = (listeners.public.local_addr(), listeners.admin.local_addr()) {
        announce(public, admin, json);
    }
    server::run(running, listeners, stopped).await;
    Ok(())
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

fn start_log(config: &Config) {
    let filter = EnvFilter::try_new(&config.log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    match config.log.format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}

/// Listens for SIGTERM and SIGINT from now on; the future resolves at the first of them.
fn signals() -> impl Future<Output = ()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |name: &str, kind| {
            signal(kind).inspect_err(|error| tracing::warn!(%error, "cannot listen for {name}")).ok()
        };
        let mut terminate = listen("SIGTERM", SignalKind::terminate());
        let mut interrupt = listen("SIGINT", SignalKind::interrupt());
        async move {
            tokio::select! {
                Some(()) = next(&mut terminate) => {}
                Some(()) = next(&mut interrupt) => {}
                // Neither can be listened for: whoever stops this ends it the hard way.
                else => std::future::pending().await,
            }
        }
    }
    #[cfg(not(unix))]
    async {
        let _ = tokio::signal::ctrl_c().await;
    }
}

#[cfg(unix)]
async fn next(signal: &mut Option<tokio::signal::unix::Signal>) -> Option<()> {
    signal.as_mut()?.recv().await
}
