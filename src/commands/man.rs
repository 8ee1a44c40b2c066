//! `cmg man`: manual pages, made from the same text as `--help`.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::CommandFactory;
use clap_mangen::Man;

use super::{Cli, Failure};

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cmg man | man -l -
  cmg man --dir /usr/local/share/man/man1")]
pub struct Arguments {
    /// Write a page for each command into this folder, instead of the first page to standard output
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Some(folder) = &arguments.dir else {
        let mut page = Vec::new();
        Man::new(Cli::command()).render(&mut page).map_err(|error| Failure::Broken(error.to_string()))?;
        // A closed pipe is nothing to die of.
        let _ = io::stdout().write_all(&page);
        return Ok(());
    };
    fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), folder))
        .map_err(|error| Failure::Broken(format!("{}: {error}", folder.display())))
}
