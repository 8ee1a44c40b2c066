//! The command line: what each command takes. What it does is in the file of its name.
//!
//! Commands return; only `main.rs` ends the process.

mod check;
mod completions;
mod connector;
mod gateway;
mod import;
mod issuer;
mod log;
mod log_level;
mod man;
mod pki;
mod progress;
mod running;
mod sample_origin;
mod status;
mod sts;
mod token;
mod up;
mod upgrade;

use std::path::{Path, PathBuf};

use cmg::pki::PkiError;

const EXAMPLES: &str = "\
Examples:
  cmg up                                  everything on this machine, to try it
  cmg status                              how what `cmg up` runs here is
  cmg import routings.csv --site PS1      settings of an existing site's proxy routings
  cmg pki init                            certificates for a site without a CA of its own
  cmg check gateway.toml connector.toml   what a start would refuse, and why
  cmg gateway --config gateway.toml       one gateway, on the internet
  cmg connector --config connector.toml   one connection point, inside
  cmg status --config gateway.toml        how it is
  cmg upgrade --config gateway.toml       this binary and these settings in its place, under load

`cmg COMMAND --help` says more. Exit codes: 0 done, 1 went wrong, 2 wrong usage or settings.";

/// An open cloud management gateway: devices on the internet reach management points inside a network
/// that has no inbound port.
#[derive(clap::Parser)]
#[command(version, arg_required_else_help = true, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Run everything on this machine: certificates, gateway, connector and a sample management point
    Up(up::Arguments),
    /// Run a gateway in the foreground
    Gateway(RoleArguments),
    /// Run a connection point in the foreground
    Connector(RoleArguments),
    /// Look at settings files as a start would, and at all of them together; changes nothing
    Check(check::Arguments),
    /// Make certificates for a site that has no CA of its own, revoke them, list them
    Pki(pki::Arguments),
    /// Issue registration tokens, list them, block them
    Token(token::Arguments),
    /// Run a token service in the foreground, for a site whose management point has none
    Sts(sts::Arguments),
    /// Run the issuer of internal certificates in the foreground: it renews those of gateways and connection points
    Issuer(issuer::Arguments),
    /// Say how running roles are
    Status(status::Arguments),
    /// Have this binary take the place of a running role, with the settings as they are now; no client notices
    Upgrade(upgrade::Arguments),
    /// Say or change how much a running role logs
    LogLevel(log_level::Arguments),
    /// Write settings from an existing site's table of proxy routings
    Import(import::Arguments),
    /// Print what a shell needs to complete command lines of cmg
    Completions(completions::Arguments),
    /// Print or write manual pages
    Man(man::Arguments),
    /// Answer like a management point that says what reached it
    #[command(hide = true)]
    SampleOrigin(sample_origin::Arguments),
}

#[derive(clap::Args)]
struct RoleArguments {
    /// Settings of the role; paths inside are relative to this file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Take the place of the process that runs with these settings, if one does: it hands over its listening sockets,
    /// serves what it has, and ends
    #[arg(long)]
    upgrade: bool,
    /// Started by `cmg up`, and ended with it
    #[arg(long, hide = true)]
    of_up: bool,
}

/// Why a command ended badly, as one text for the operator.
pub enum Failure {
    /// What was asked for makes no sense: exit code 2.
    Usage(String),
    /// It made sense and went wrong: exit code 1.
    Broken(String),
}

impl From<PkiError> for Failure {
    fn from(error: PkiError) -> Failure {
        match error {
            PkiError::Name(_)
            | PkiError::SiteCode(_)
            | PkiError::OtherKey { .. }
            | PkiError::Nothing(_)
            | PkiError::Unknown { .. }
            | PkiError::Several { .. }
            | PkiError::IsRevoked(_)
            | PkiError::NotOurs(_) => Failure::Usage(error.to_string()),
            PkiError::File { .. }
            | PkiError::HalfAuthority { .. }
            | PkiError::Unusable { .. }
            | PkiError::TooMany(_)
            | PkiError::ListTooLong { .. }
            | PkiError::Make(_) => Failure::Broken(error.to_string()),
        }
    }
}

impl Cli {
    /// Does what was asked; returns when it is done or drained.
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Up(arguments) => up::run(&arguments),
            Command::Gateway(arguments) => gateway::run(&arguments),
            Command::Connector(arguments) => connector::run(&arguments),
            Command::Check(arguments) => check::run(&arguments),
            Command::Pki(arguments) => pki::run(&arguments),
            Command::Token(arguments) => token::run(&arguments),
            Command::Sts(arguments) => sts::run(&arguments),
            Command::Issuer(arguments) => issuer::run(&arguments),
            Command::Status(arguments) => status::run(&arguments),
            Command::Upgrade(arguments) => upgrade::run(&arguments),
            Command::LogLevel(arguments) => log_level::run(&arguments),
            Command::Import(arguments) => import::run(&arguments),
            Command::Completions(arguments) => completions::run(&arguments),
            Command::Man(arguments) => man::run(&arguments),
            Command::SampleOrigin(arguments) => sample_origin::run(&arguments),
        }
    }
}

fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
