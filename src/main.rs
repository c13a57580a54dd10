//! `larder`: see [`larder::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    larder::cli::main()
}
