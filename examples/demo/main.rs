//! A sample hotel API with HITA's routes: `cargo run --release --example demo -- --api-only [ADDR]`

mod api;
mod hotel;

use std::error::Error;
use std::net::SocketAddr;

use clap::Parser;
use tokio::net::TcpListener;

/// The sample hotel API.
#[derive(Parser)]
struct Arguments {
    /// Serve only the sample API, at ADDR
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = "127.0.0.1:8000")]
    api_only: Option<SocketAddr>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().init();
    let listener = listen(arguments.api_only.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 8000)))).await?;
    println!("the sample hotel API listens on http://{}", listener.local_addr()?);
    tokio::select! {
        () = api::serve(listener) => {}
        signal = told_to_stop() => signal?,
    }
    Ok(())
}

/// Ctrl-C, or what service managers send.
async fn told_to_stop() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => interrupt,
        _ = terminate.recv() => Ok(()),
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Box<dyn Error>> {
    TcpListener::bind(address).await.map_err(|error| format!("{address}: cannot listen there: {error}").into())
}
