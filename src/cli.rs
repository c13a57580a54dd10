//! The command line. Exit codes: 0 for success; 1 for findings, or if Larder cannot serve; 2 for usage or
//! configuration errors.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Overrides, schema};
use admin_client::{AdminArguments, BearerArguments};

mod admin_client;
mod bypass;
mod check;
mod entries;
mod explain;
mod generate;
mod healthcheck;
mod invalidate;
mod log;
mod output;
mod reload;
mod serve;
mod stats;
mod token;
mod top;
mod warm;

/// A caching reverse proxy whose cached responses are never older than the last acknowledged write.
#[derive(Debug, Parser)]
#[command(name = "larder", version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy in front of an API.
    Serve(ServeArguments),
    /// Check a rules file: print its rules, or all its faults.
    Check(CheckArguments),
    /// Explain what Larder would do with a request, and why.
    Explain(ExplainArguments),
    /// Make a token for the admin, and the digest of it for the rules file.
    Token(TokenArguments),
    /// Exit with 0 if the Larder on this machine is ready, else with 1.
    Healthcheck(HealthcheckArguments),
    /// Print the JSON Schema of rules.toml, for editors.
    Schema,
    /// Print the rates of a running Larder, by family.
    Stats(stats::StatsArguments),
    /// Watch a running Larder: families, most read and missed URLs, invalidations.
    Top(top::TopArguments),
    /// Print recent invalidations, with the writes and rules behind them.
    Log(log::LogArguments),
    /// List the entries of a running Larder, or show or delete one.
    Entries(entries::EntriesArguments),
    /// Purge families, instances, URLs, groups or everything.
    Purge(invalidate::PurgeArguments),
    /// Purge, or let entries be served stale while they are fetched again; once for each deployment.
    Invalidate(invalidate::InvalidateArguments),
    /// Have a running Larder fetch what [[warm]] names.
    Warm(WarmArguments),
    /// Turn caching off for a family, for some time.
    Bypass(bypass::BypassArguments),
    /// Have a running Larder read its rules file again.
    Reload(reload::ReloadArguments),
    /// Show what another rules file would change, invalidate and not invalidate any more.
    Diff(reload::DiffArguments),
    /// Print the completions for a shell.
    Completions(generate::CompletionsArguments),
    /// Print the manual page, or write a page for each command.
    Man(generate::ManArguments),
}

/// Where the configuration comes from. Flags override `LARDER_…` variables, and both override the file.
#[derive(Debug, Args)]
struct Sources {
    /// Rules file. The default is ./rules.toml if it exists and --upstream is not given.
    #[arg(long, value_name = "FILE", env = "LARDER_RULES")]
    rules: Option<PathBuf>,
    /// Use no rules file, even if ./rules.toml exists.
    #[arg(long, conflicts_with = "rules")]
    no_rules: bool,
    /// URL of the API. If ./rules.toml exists, also give --rules rules.toml or --no-rules.
    #[arg(long, value_name = "URL", env = "LARDER_UPSTREAM")]
    upstream: Option<String>,
    /// Address for clients [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDR", env = "LARDER_LISTEN")]
    listen: Option<String>,
    /// Address of the admin [default: 127.0.0.1:9090]. Without tokens it must be a loopback address.
    #[arg(long, value_name = "ADDR", env = "LARDER_ADMIN")]
    admin: Option<String>,
    /// Share the cache through this Redis or Valkey [default: memory only].
    #[arg(long, value_name = "URL", env = "LARDER_REDIS", hide_env_values = true)]
    redis: Option<String>,
    /// Prefix of all keys in Redis [default: larder].
    #[arg(long, value_name = "NAME", env = "LARDER_NAMESPACE")]
    namespace: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Tokens for the admin come from [admin] tokens, or from LARDER_ADMIN_TOKEN and \
                        LARDER_VIEWER_TOKEN.")]
struct ServeArguments {
    #[command(flatten)]
    sources: Sources,
    /// Log in JSON, and print the listening addresses as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "For health checks of containers. Takes the flags, variables and file of serve, of which only the address \
                  of the admin counts, and asks its /readyz, which needs no token. A fault elsewhere in the file does \
                  not count: a running Larder keeps its rules then."
)]
struct HealthcheckArguments {
    #[command(flatten)]
    sources: Sources,
}

#[derive(Debug, Default, Args)]
struct CheckArguments {
    /// The rules file.
    #[arg(default_value = "rules.toml", env = "LARDER_RULES")]
    file: PathBuf,
    /// Request the fixed paths of families from the API, and warn of each ttl that its response overrides.
    #[arg(long)]
    ask: bool,
    /// URL of the API for --ask.
    #[arg(long, value_name = "URL", env = "LARDER_UPSTREAM")]
    upstream: Option<String>,
    /// Exit with 1 if there are warnings.
    #[arg(long)]
    strict: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Without --response, --ask or --admin, explain reads only the rules and contacts neither the API \
                        nor Redis."
)]
struct ExplainArguments {
    /// The method: GET, POST, …
    method: String,
    /// A path, or a URL as a client would use it.
    url: String,
    /// A request field, repeatable: -H 'Accept-Language: de'.
    #[arg(short = 'H', long = "header", value_name = "FIELD")]
    headers: Vec<String>,
    /// Explain what Larder would do with this response: a head as printed by curl -i or curl -D; - for standard
    /// input.
    #[arg(long, value_name = "FILE", group = "answer")]
    response: Option<PathBuf>,
    /// Send the request to the API, and explain what Larder would do with its response.
    #[arg(long, group = "answer")]
    ask: bool,
    /// Explain what a request would receive after the response has been stored for this long.
    #[arg(long, value_name = "SECONDS", requires = "answer")]
    age: Option<u32>,
    /// Ask a running Larder what it has stored for the request. Takes the URL of its admin.
    #[arg(long, value_name = "URL", conflicts_with = "answer")]
    admin: Option<String>,
    #[command(flatten)]
    token: BearerArguments,
    /// Rules file. The default is ./rules.toml if it exists.
    #[arg(long, value_name = "FILE", env = "LARDER_RULES")]
    rules: Option<PathBuf>,
    /// URL of the API for --ask.
    #[arg(long, value_name = "URL", env = "LARDER_UPSTREAM")]
    upstream: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Exits with 1 if something could not be fetched or stored, with --wait, or if Larder refuses."
)]
struct WarmArguments {
    #[command(flatten)]
    admin: AdminArguments,
    /// Warm only what belongs to this family.
    #[arg(long, value_name = "NAME")]
    family: Option<String>,
    /// Wait for the end, and show the progress.
    #[arg(long)]
    wait: bool,
    /// Print the admin's JSON at the end, or the begun run without --wait.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct TokenArguments {
    /// What logs call it.
    #[arg(long)]
    name: Option<String>,
    /// The role viewer, which may change nothing, instead of admin.
    #[arg(long)]
    viewer: bool,
    /// Print the digest of the token on standard input, instead of making one.
    #[arg(long)]
    stdin: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Sources {
    /// The rules file, and the settings that override it.
    ///
    /// # Errors
    ///
    /// There is an unnamed ./rules.toml that may belong to another API.
    fn overrides(self) -> Result<(Option<PathBuf>, Overrides), String> {
        let from_env = variable("LARDER_UPSTREAM") == self.upstream;
        let is_upstream_typed = self.upstream.is_some() && !from_env;
        let overrides = Overrides {
            upstream: self.upstream,
            listen: self.listen,
            admin: self.admin,
            redis: self.redis,
            namespace: self.namespace,
            admin_token: variable("LARDER_ADMIN_TOKEN"),
            viewer_token: variable("LARDER_VIEWER_TOKEN"),
        };
        let file = match (self.rules, self.no_rules) {
            (_, true) => None,
            (named @ Some(_), _) => named,
            (None, false) => default_file(is_upstream_typed, rules_file(None))?,
        };
        Ok((file, overrides))
    }
}

/// The rules file if none is named. An upstream on the command line requires an explicit choice, so that the rules of
/// one API are never applied to another by accident.
fn default_file(is_upstream_typed: bool, there: Option<PathBuf>) -> Result<Option<PathBuf>, String> {
    match there {
        Some(file) if is_upstream_typed => Err(format!(
            "--upstream is given, and the {0} here may be for another API: add --rules {0} to use it, or \
             --no-rules to ignore it",
            file.display()
        )),
        there => Ok(there),
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn rules_file(given: Option<PathBuf>) -> Option<PathBuf> {
    given.or_else(|| Some(PathBuf::from("rules.toml")).filter(|file| file.exists()))
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let code = match Arguments::parse().command {
        Command::Serve(arguments) => serve::serve(arguments),
        Command::Check(arguments) => print(check::check(&arguments, &|name| std::env::var(name).ok())),
        Command::Explain(arguments) => print(explain::explain(&arguments)),
        Command::Token(arguments) => print(token::token(&arguments)),
        Command::Healthcheck(arguments) => healthcheck::healthcheck(arguments),
        Command::Schema => print((format!("{:#}", schema::schema()), 0)),
        Command::Stats(arguments) => stats::stats(&arguments),
        Command::Top(arguments) => top::top(&arguments),
        Command::Log(arguments) => log::log(&arguments),
        Command::Entries(arguments) => entries::entries(&arguments),
        Command::Purge(arguments) => invalidate::purge(&arguments),
        Command::Invalidate(arguments) => invalidate::invalidate(&arguments),
        Command::Warm(arguments) => warm::warm(&arguments),
        Command::Bypass(arguments) => bypass::bypass(&arguments),
        Command::Reload(arguments) => reload::reload(&arguments),
        Command::Diff(arguments) => reload::diff(&arguments),
        Command::Completions(arguments) => generate::completions(&arguments),
        Command::Man(arguments) => generate::man(&arguments),
    };
    ExitCode::from(code)
}
fn print((text, code): (String, u8)) -> u8 {
    use std::io::Write;
    // A closed pipe (`larder check | head`) is no error.
    // Strips the colours unless this is a terminal.
    let _ = writeln!(anstream::stdout(), "{}", text.trim_end());
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_flag_beside_a_rules_file_needs_an_explicit_choice() {
        let there = || Some(PathBuf::from("rules.toml"));
        assert_eq!(default_file(false, there()), Ok(there()));
        assert_eq!(default_file(false, None), Ok(None));
        assert_eq!(default_file(true, None), Ok(None));
        let said = default_file(true, there()).unwrap_err();
        assert!(said.contains("--rules rules.toml") && said.contains("--no-rules"), "{said}");
    }
}
