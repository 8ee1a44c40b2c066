//! From the command line to a command, and from its outcome to an exit code: 0 done, 1 went wrong,
//! 2 wrong usage or settings. The only place that ends the process.

mod commands;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use commands::{Cli, Failure};

#[cfg(not(feature = "count-allocations"))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(feature = "count-allocations")]
#[global_allocator]
static ALLOCATOR: cmg::allocations::Counting<mimalloc::MiMalloc> =
    cmg::allocations::Counting(mimalloc::MiMalloc);

fn main() -> ExitCode {
    let outcome = match Cli::try_parse() {
        Ok(cli) => cli.run(),
        Err(notice) => {
            // Help and version too are notices; a closed pipe is nothing to die of.
            let _ = notice.print();
            return ExitCode::from(if notice.use_stderr() { 2 } else { 0 });
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(text)) => fail(2, &text),
        Err(Failure::Broken(text)) => fail(1, &text),
    }
}

fn fail(code: u8, text: &str) -> ExitCode {
    // A command that printed its findings has nothing left to say.
    if !text.is_empty() {
        let _ = writeln!(io::stderr(), "cmg: {}", text.trim_end());
    }
    ExitCode::from(code)
}
