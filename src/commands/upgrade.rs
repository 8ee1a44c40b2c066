//! `cmg upgrade`: this binary in the place of the one that runs, and the part of it that is a role's start.
//!
//! The new process is a child that outlives this command; the command waits until it has taken over, which shows
//! in the upgrade socket: a process puts its own there, and listens, when the place is its own. It never ends that process, for the
//! one before may have left already.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cmg::handover::Role;
use cmg::limits::UPGRADE_WITHIN;
use cmg::review::{Document, upgrade_socket};
use cmg::settings::AdminSettings;
use cmg::upgrade::{self, Inheritance, Taking, systemd};

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
    let Some(mut before) = identity(&upgrade_socket) else {
        let at = upgrade_socket.display();
        let text = format!(
            "no {role} runs with these settings whose place could be taken: no socket {at} (what `cmg up` runs is \
             started anew with it)"
        );
        return Err(Failure::Broken(text));
    };
    let mut process = start(role, &arguments.config)?;
    let until = Instant::now() + UPGRADE_WITHIN;
    loop {
        let ended = process.try_wait().map_err(|error| broken(role, &error.to_string()))?;
        if let Some(status) = ended {
            return Err(broken(role, &format!("it ended ({status}), and what it says stands above")));
        }
        if let Some(now) = identity(&upgrade_socket).filter(|now| *now != before) {
            match upgrade::holder(&upgrade_socket) {
                Ok(holder) if u32::try_from(holder) == Ok(process.id()) => {
                    println!("{role} {} has taken over", process.id());
                    return Ok(());
                }
                // The process of another who upgrades at the same time: this one's is refused, or comes after it.
                Ok(_) => before = now,
                // Looked at once more.
                Err(_) => {}
            }
        }
        if Instant::now() > until {
            // It may take over at this moment, so nobody ends it: what it waits for has bounds of its own.
            let (id, secs) = (process.id(), UPGRADE_WITHIN.as_secs());
            let text =
                format!("the new {role}, process {id}, has not taken over within {secs} s; it is left alone");
            return Err(Failure::Broken(text));
        }
        thread::sleep(LOOK_AGAIN);
    }
}

fn broken(role: &str, what: &str) -> Failure {
    Failure::Broken(format!("the new {role} has not taken over, and the one before goes on: {what}"))
}

fn start(role: &str, config: &Path) -> Result<Child, Failure> {
    let program = std::env::current_exe().map_err(|error| broken(role, &error.to_string()))?;
    let mut command = Command::new(program);
    command.arg(role).arg("--upgrade").arg("--config").arg(config);
    command.stdin(Stdio::null());
    // It stays when this command and its terminal are gone, and a terminal that stops whoever writes to it in the
    // background (`tostop`) is not its own.
    // SAFETY: between fork and exec only a call that is safe in a signal handler.
    unsafe {
        command.pre_exec(|| match libc::setsid() {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    command.spawn().map_err(|error| broken(role, &error.to_string()))
}

/// Which socket is there, if one is.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
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
    let path = upgrade_socket(document, admin);
    match upgrade::ask(&path, role).map_err(|error| Failure::Broken(error.to_string()))? {
        Some((taking, inherited)) => Ok((Some(taking), inherited)),
        None => {
            tracing::info!(socket = %path.display(), "no process runs whose place could be taken");
            Ok((None, passed))
        }
    }
}

const LOOK_AGAIN: Duration = Duration::from_millis(20);
