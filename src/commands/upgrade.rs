//! `cmg upgrade`: this binary in the place of the one that runs, and the part of it that is a role's start.
//!
//! The new process is a child that outlives this command.

use std::path::PathBuf;

use cmg::handover::Role;
use cmg::review::{Document, upgrade_socket};
use cmg::settings::AdminSettings;
use cmg::upgrade::{self, Inheritance, Taking, successor, systemd};

use super::running::RoleFile;
use super::{Failure, RoleArguments};

const EXAMPLES: &str = "\
Examples:
  cmg upgrade --config /etc/cmg/gateway.toml     after another binary was installed, or settings were changed
  systemctl reload cmg-gateway                   the same by a unit with ExecReload= (deploy/cmg-gateway.service)

The process that runs goes on as if nothing had been when the new one does not come to its place: with settings that \
are wrong, for example. Under systemd use the unit: what is started by hand is no part of it.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Settings of the running role, and of the process that takes its place
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let RoleFile { role, upgrade_socket, .. } = RoleFile::read(&arguments.config)?;
    if successor::identity(&upgrade_socket).is_none() {
        let at = upgrade_socket.display();
        let text = format!(
            "no {role} runs with these settings whose place could be taken: no socket {at} (what `cmg up` runs is \
             started anew with it)"
        );
        return Err(Failure::Broken(text));
    }
    let program = std::env::current_exe().map_err(|error| broken(role, &error))?;
    // It stays when this command and its terminal are gone.
    let pid = successor::start_and_wait(&program, role, &arguments.config, &upgrade_socket, true);
    println!("{role} {} has taken over", pid.map_err(|error| broken(role, &error))?);
    Ok(())
}

fn broken(role: &str, what: &dyn std::fmt::Display) -> Failure {
    Failure::Broken(format!("the new {role} has not taken over, and the one before goes on: {what}"))
}

/// What a role's process is given at its start: by the one whose place it takes, else by systemd.
pub fn inherit(
    arguments: &RoleArguments,
    document: &Document,
    admin: Option<&AdminSettings>,
    role: Role,
) -> Result<(Option<Taking>, Inheritance), Failure> {
    let passed =
        systemd::sockets().map_err(|error| Failure::Usage(format!("sockets of systemd: {error}")))?;
    let passed = Inheritance::of_systemd(passed, arguments.of_up);
    let Some(admin) = admin.filter(|_| arguments.upgrade) else { return Ok((None, passed)) };
    successor::bear_name();
    let path = upgrade_socket(document, admin);
    match upgrade::ask(&path, role).map_err(|error| Failure::Broken(error.to_string()))? {
        Some((taking, inherited)) => Ok((Some(taking), inherited)),
        None => {
            tracing::info!(socket = %path.display(), "no process runs whose place could be taken");
            Ok((None, passed))
        }
    }
}
