//! A sample hotel API with HITA's routes, and Larder in front of it, embedded, with `examples/hita/rules.toml`:
//!
//! ```text
//! cargo run --release --example demo                          # both, and what to try
//! cargo run --release --example demo -- --api-only [ADDR]     # only the API
//! ```

mod api;
mod hotel;

use std::error::Error;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::Path;

use clap::Parser;
use larder::config::{Config, Overrides};
use larder::server::Listeners;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// The demo runs from any folder.
const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/hita/rules.toml");
/// Where `examples/hita/rules.toml` expects the API.
const API: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8000);

/// A sample hotel API with Larder in front of it.
#[derive(Parser)]
struct Arguments {
    /// Serve only the sample API, at ADDR
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = "127.0.0.1:8000")]
    api_only: Option<SocketAddr>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let colours = io::stdout().is_terminal();
    tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_ansi(colours).init();
    let stopped = told_to_stop()?;
    match arguments.api_only {
        Some(address) => api_alone(address, stopped).await,
        None => api_and_larder(stopped).await,
    }
}

async fn api_alone(address: SocketAddr, stopped: impl Future<Output = ()>) -> Result<(), Box<dyn Error>> {
    let listener =
        TcpListener::bind(address).await.map_err(|error| format!("cannot listen on {address}: {error}"))?;
    println!("the sample hotel API listens on http://{}", listener.local_addr()?);
    tokio::select! {
        () = api::serve(listener) => {}
        () = stopped => {}
    }
    Ok(())
}

async fn api_and_larder(stopped: impl Future<Output = ()> + Send + 'static) -> Result<(), Box<dyn Error>> {
    let hotel = listen_near(API).await?;
    let api = hotel.local_addr()?;
    let overrides = Overrides { upstream: Some(format!("http://{api}")), ..Overrides::default() };
    let config = Config::load(Some(Path::new(RULES)), &overrides, &|name| std::env::var(name).ok())?;
    let listeners = Listeners {
        public: listen_near(config.server.listen).await?,
        admin: listen_near(config.admin.listen).await?,
    };
    let running = larder::server::assemble(config).await?;
    println!("{}", guide(listeners.public.local_addr()?, listeners.admin.local_addr()?, api));
    tokio::select! {
        () = api::serve(hotel) => {}
        _ = larder::server::run(running, listeners, stopped) => {}
    }
    Ok(())
}

/// Listens on the address, or on any free port there: a demo must not fail because something else runs on 8080.
async fn listen_near(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            println!("{address} is in use; another port is taken");
            TcpListener::bind(SocketAddr::new(address.ip(), 0)).await
        }
        bound => bound,
    }
}

fn guide(clients: SocketAddr, admin: SocketAddr, api: SocketAddr) -> String {
    include_str!("guide.txt")
        .replace("@CLIENTS@", &format!("http://{clients}"))
        .replace("@ADMIN@", &format!("http://{admin}"))
        .replace("@API@", &format!("http://{api}"))
        .replace("@RULES@", RULES)
}

/// Ends at Ctrl-C, or at what service managers send.
fn told_to_stop() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
