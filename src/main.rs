//! `larder`: see [`larder::cli`].

mod allocator;

use std::process::ExitCode;

use allocator::Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    Allocator::prepare();
    larder::cli::main()
}
