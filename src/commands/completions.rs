//! `cmg completions`: what a shell needs to complete command lines of cmg.

use std::io::{self, Write};

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Failure};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cmg completions bash > ~/.local/share/bash-completion/completions/cmg
  cmg completions zsh > \"${fpath[1]}/_cmg\"
  cmg completions fish > ~/.config/fish/completions/cmg.fish")]
pub struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "cmg", &mut script);
    // A closed pipe is nothing to die of.
    let _ = io::stdout().write_all(&script);
    Ok(())
}
