//! The command line: arguments to what they ask for, results to exit codes. 0: done; 1: found something, or cannot
//! serve; 2: usage or configuration.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Overrides, schema};

mod check;
mod explain;
mod serve;

/// A caching reverse proxy whose cached responses are never older than the last acknowledged write.
#[derive(Debug, Parser)]
#[command(name = "larder", version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Stand in front of an API and cache its responses.
    Serve(ServeArguments),
    /// Read a rules file and print what it says, or all its faults.
    Check(CheckArguments),
    /// Say what Larder would do with a request, and why.
    Explain(ExplainArguments),
    /// Print the JSON Schema of rules.toml, for editors.
    Schema,
}

/// Where the configuration comes from. Flags win over `LARDER_…` variables, and both win over the file.
#[derive(Debug, Args)]
struct Sources {
    /// Rules file; ./rules.toml is taken when it is there, unless --upstream is given.
    #[arg(long, value_name = "FILE", env = "LARDER_RULES")]
    rules: Option<PathBuf>,
    /// Take no rules file, although there is a ./rules.toml.
    #[arg(long, conflicts_with = "rules")]
    no_rules: bool,
    /// The API to stand in front of. Beside a ./rules.toml, say --rules rules.toml or --no-rules too.
    #[arg(long, value_name = "URL", env = "LARDER_UPSTREAM")]
    upstream: Option<String>,
    /// Where clients connect [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDR", env = "LARDER_LISTEN")]
    listen: Option<String>,
    /// Where the admin listens [default: 127.0.0.1:9090]; loopback only unless there are tokens.
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

#[derive(Debug, Default, Args)]
struct CheckArguments {
    /// The rules file.
    #[arg(default_value = "rules.toml", env = "LARDER_RULES")]
    file: PathBuf,
    /// Ask the API for the paths of families that have but one, and warn of each ttl that its answers override.
    #[arg(long)]
    ask: bool,
    /// The API that --ask asks.
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
    after_help = "Without --response, --ask or --admin only the rules are read: neither the API nor Redis is \
                        asked."
)]
struct ExplainArguments {
    /// GET, POST, …
    method: String,
    /// A path, or a URL as a client would use it.
    url: String,
    /// A request field, as often as needed: -H 'Accept-Language: de'.
    #[arg(short = 'H', long = "header", value_name = "FIELD")]
    headers: Vec<String>,
    /// Say what would become of this response: its head as curl -i or curl -D prints it; - for standard input.
    #[arg(long, value_name = "FILE", group = "answer")]
    response: Option<PathBuf>,
    /// Send the request to the API, and say what would become of its answer.
    #[arg(long, group = "answer")]
    ask: bool,
    /// Say what a request would get of it when it has been stored for so long.
    #[arg(long, value_name = "SECONDS", requires = "answer")]
    age: Option<u32>,
    /// Ask a running Larder what it keeps for the request; the URL of its admin.
    #[arg(long, value_name = "URL", conflicts_with = "answer")]
    admin: Option<String>,
    /// Token for the admin.
    #[arg(long, env = "LARDER_ADMIN_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Rules file; ./rules.toml is taken when it is there.
    #[arg(long, value_name = "FILE", env = "LARDER_RULES")]
    rules: Option<PathBuf>,
    /// The API that --ask asks.
    #[arg(long, value_name = "URL", env = "LARDER_UPSTREAM")]
    upstream: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Sources {
    /// The rules file, and what wins over it.
    ///
    /// # Errors
    ///
    /// There is a rules file that nobody has named, and another API than it may be made for.
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

/// The rules file that is taken if none is named. The rules of one API are never applied to another by surprise: whoever types
/// an upstream has to say what becomes of a file that is there.
fn default_file(is_upstream_typed: bool, there: Option<PathBuf>) -> Result<Option<PathBuf>, String> {
    match there {
        Some(file) if is_upstream_typed => Err(format!(
            "--upstream is given, and there is a {0} here that may be made for another API: write --rules {0} to apply it, or \
             --no-rules to go without",
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
        Command::Schema => print((format!("{:#}", schema::schema()), 0)),
    };
    ExitCode::from(code)
}

fn print((text, code): (String, u8)) -> u8 {
    use std::io::Write;
    // A closed pipe (`larder check | head`) is no fault.
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_of_one_api_are_not_applied_to_another_by_surprise() {
        let there = || Some(PathBuf::from("rules.toml"));
        assert_eq!(default_file(false, there()), Ok(there()));
        assert_eq!(default_file(false, None), Ok(None));
        assert_eq!(default_file(true, None), Ok(None));
        let said = default_file(true, there()).unwrap_err();
        assert!(said.contains("--rules rules.toml") && said.contains("--no-rules"), "{said}");
    }
}
