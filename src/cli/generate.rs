//! `larder completions` and `larder man` print what shells and `man` read.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;

use super::output::{self, FAILED, say};

#[derive(Debug, Args)]
pub(super) struct CompletionsArguments {
    /// The shell.
    shell: Shell,
}

#[derive(Debug, Args)]
pub(super) struct ManArguments {
    /// Write a page for each command into this folder. Without it: print the page of `larder`.
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

fn command() -> Command {
    super::Arguments::command()
}

pub(super) fn completions(arguments: &CompletionsArguments) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command(), "larder", &mut script);
    say(String::from_utf8_lossy(&script).trim_end());
    0
}

pub(super) fn man(arguments: &ManArguments) -> u8 {
    let written = match &arguments.dir {
        Some(folder) => write_all(folder),
        None => page(command()).and_then(|page| std::io::stdout().write_all(&page)),
    };
    match written {
        Ok(()) => 0,
        Err(error) => output::complain(format_args!("cannot write the pages: {error}"), FAILED),
    }
}

fn page(command: Command) -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    Ok(page)
}

/// `larder.1`, and `larder-check.1` and so on.
fn write_all(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    clap_mangen::generate_to(command().disable_help_subcommand(true), folder)
}
