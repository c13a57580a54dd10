//! Sample APIs of three systems whose caching guides Larder replaces, each with Larder in front of it:
//!
//! ```text
//! cargo run --release --example systems -- myhibachi   # or treebeard, lexikon
//! ```
//!
//! HITA's is the demo: `cargo run --release --example demo`.

mod api;
mod lexikon;
mod myhibachi;
mod treebeard;

use std::error::Error;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use larder::config::{Config, Overrides};
use larder::server::Listeners;
use tokio::net::TcpListener;

use api::Api;

/// Signs Lexikon's tokens. A real deployment has it in the environment.
const SECRET: &str = "a-secret-for-samples-only-0123456789";

#[derive(Debug, Clone, Copy, ValueEnum)]
enum System {
    Myhibachi,
    Treebeard,
    Lexikon,
}

/// A sample API with Larder in front of it.
#[derive(Parser)]
struct Arguments {
    system: System,
    /// The Redis that several Larders share; without it entries are in memory
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let Arguments { system, redis } = Arguments::parse();
    tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).init();
    let (name, api): (&str, Box<dyn Api>) = match system {
        System::Myhibachi => ("myhibachi", Box::new(myhibachi::MyHibachi::new())),
        System::Treebeard => ("treebeard", Box::new(treebeard::TreeBeard::new())),
        System::Lexikon => ("lexikon", Box::new(lexikon::Lexikon::new(SECRET))),
    };
    let upstream = TcpListener::bind("127.0.0.1:0").await?;
    let address = upstream.local_addr()?;
    let overrides = Overrides { upstream: Some(format!("http://{address}")), redis, ..Overrides::default() };
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    let variable = |name: &str| match name {
        "LEXIKON_JWT_SECRET" => Some(SECRET.to_owned()),
        _ => std::env::var(name).ok(),
    };
    let config = Config::load(Some(&folder.join("rules.toml")), &overrides, &variable)?;
    let listeners = Listeners {
        public: TcpListener::bind(config.server.listen).await?,
        admin: TcpListener::bind(config.admin.listen).await?,
    };
    let (public, admin) = (listeners.public.local_addr()?, listeners.admin.local_addr()?);
    // Before Larder begins to warm.
    tokio::spawn(api::serve(api, upstream));
    let running = larder::server::assemble(config).await?;
    println!("{name}: the API is on http://{address}, Larder on http://{public}, its admin on http://{admin}");
    println!("examples/{name}/README.md says what to try; Ctrl-C ends it");
    larder::server::run(running, listeners, async { drop(tokio::signal::ctrl_c().await) }).await?;
    Ok(())
}
