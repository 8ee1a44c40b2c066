//! Starting the process that takes a role's place, and waiting until it has.
//!
//! That shows in the upgrade socket: a process puts its own there, and listens, when the place is its own. Nobody ends
//! that process, for the one before may have left already.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::holder;
use crate::limits::UPGRADE_WITHIN;

/// Why it has not taken over.
#[derive(Debug, thiserror::Error)]
pub enum SuccessorError {
    /// The system says no.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It gave up.
    #[error("it ended ({0}), and what it says stands above")]
    Ended(std::process::ExitStatus),
    /// It takes too long.
    #[error("process {process} did not within {} s; it is left alone", UPGRADE_WITHIN.as_secs())]
    Late {
        /// Its number.
        process: u32,
    },
}

/// Starts `role` with the settings in `config` by this program, and waits until it has taken the place of the process
/// whose upgrade socket this is; gives its process id. Who `is_apart` outlives the terminal of its starter.
///
/// # Errors
/// It has not, and has ended.
pub fn start_and_wait(
    program: &Path,
    role: &str,
    config: &Path,
    socket: &Path,
    is_apart: bool,
) -> Result<u32, SuccessorError> {
    let mut before = identity(socket);
    let mut process = start(program, role, config, is_apart)?;
    let until = Instant::now() + UPGRADE_WITHIN;
    loop {
        if let Some(status) = process.try_wait()? {
            return Err(SuccessorError::Ended(status));
        }
        if let Some(now) = identity(socket).filter(|now| Some(*now) != before) {
            match holder(socket) {
                Ok(holder) if u32::try_from(holder) == Ok(process.id()) => return Ok(process.id()),
                // The process of another who does this at the same time: this one's is refused, or comes after it.
                Ok(_) => before = Some(now),
                // Looked at once more.
                Err(_) => {}
            }
        }
        if Instant::now() > until {
            // It may take over at this moment: what it waits for has bounds of its own. Should it end, it is buried.
            let number = process.id();
            thread::Builder::new().name("late".to_owned()).spawn(move || process.wait())?;
            return Err(SuccessorError::Late { process: number });
        }
        thread::sleep(LOOK_AGAIN);
    }
}

fn start(program: &Path, role: &str, config: &Path, is_apart: bool) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.arg0("cmg").arg(role).arg("--upgrade").arg("--config").arg(config);
    command.stdin(Stdio::null());
    if is_apart {
        // It stays when its starter and the terminal are gone, and a terminal that stops whoever writes to it in the
        // background (`tostop`) is not its own.
        // SAFETY: between fork and exec only a call that is safe in a signal handler.
        unsafe {
            command.pre_exec(|| match libc::setsid() {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(()),
            });
        }
    }
    command.spawn()
}

/// Has the system call this process what it is: one that was started as `/proc/self/exe` is `exe` to it.
pub fn bear_name() {
    // SAFETY: the name is a string that ends with a zero octet.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"cmg".as_ptr()) };
}

/// Which socket is there, if one is.
pub fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

const LOOK_AGAIN: Duration = Duration::from_millis(20);
