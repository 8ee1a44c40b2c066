//! How a running role takes up other settings: on SIGHUP, and when a file that its settings name has changed and is
//! still. Its settings file itself is read on SIGHUP alone: who edits it says when it is whole.
//!
//! What the files hold now is judged as a start does (`review`), and put in force as a whole or not at all: what is
//! wrong takes the place of nothing. What a running process cannot change is done by another one that takes its place
//! (`upgrade`). What it takes to go on with other settings is the role's business ([`Subject`]); how it went is told by
//! [`Reloads`].

mod files;
mod tally;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Instant;

use crate::limits::{RELOAD_JUDGED_AGAIN_AFTER, RELOAD_LOOK_EVERY};
use crate::settings::SettingsErrors;
use crate::upgrade::{holder, successor, systemd};
use files::{Mark, marks};
use tally::Asked;
pub use tally::Reloads;

/// What a look at the files came to.
#[derive(Debug)]
pub enum Outcome {
    /// They hold what is in force.
    Unchanged,
    /// What they hold is in force from now on; what changed.
    Applied(String),
    /// They are wrong, how, with file, line and key; what was in force stays so.
    Wrong(String),
    /// These keys need a process that starts with them.
    Anew(Vec<String>),
}

/// A role that goes on with other settings.
pub trait Subject: Send + 'static {
    /// Reads the files, and goes on with what they hold if it is right and can be done by this process. The settings
    /// file is read again if somebody asked.
    ///
    /// # Errors
    /// What is wrong with them.
    fn reload(&mut self, is_asked: bool) -> Result<Outcome, SettingsErrors>;
    /// What the settings in force name and what those name that were looked at last, in which a file that cannot be read
    /// names none; in any order.
    fn files(&self) -> Vec<PathBuf>;
    /// Whether there is anything to reload for: it may have begun to end.
    fn is_there(&self) -> bool;
}

/// Which process this is, for the one that takes its place.
#[derive(Clone, Debug)]
pub struct Process {
    /// The command that it was started by.
    pub role: &'static str,
    /// Where its settings are.
    pub config: PathBuf,
    /// Where it is asked for its place.
    pub upgrade_socket: PathBuf,
}

/// Asks for a look at once.
pub type Ask = mpsc::Sender<()>;

/// Looks after the files of `subject` in a thread of its own.
///
/// # Errors
/// There is no thread for it.
pub fn watch(subject: impl Subject, process: Process, reloads: &Arc<Reloads>) -> io::Result<Ask> {
    let (ask, asked) = mpsc::channel();
    let watch = Watch {
        seen: Vec::new(),
        // They were read a while ago.
        judged: Vec::new(),
        in_force: marks(vec![process.config.clone()]),
        judged_at: Instant::now(),
        subject,
        process,
        reloads: reloads.clone(),
    };
    thread::Builder::new().name("reload".to_owned()).spawn(move || watch.run(&asked))?;
    Ok(ask)
}

/// Why no other process can take this one's place, if none can.
fn why_it_stays(keys: &[String], upgrade_socket: &Path) -> Option<String> {
    // The other one would look for this one where the new settings say.
    if let Some(key) = keys.iter().find(|key| SOCKET_KEYS.contains(&key.as_str())) {
        return Some(format!("it is asked for its place where {key} says"));
    }
    if std::process::id() == 1 {
        return Some("it is the first process of a container, which would end with it".to_owned());
    }
    // A container's first process may do nothing but wait for this one, and end.
    if std::os::unix::process::parent_id() == 1 && !systemd::is_there() {
        return Some("its parent is the first process, which may end with it".to_owned());
    }
    let own = |holder: i32| u32::try_from(holder) == Ok(std::process::id());
    match holder(upgrade_socket) {
        Ok(holder) if own(holder) => None,
        Ok(holder) => Some(format!("{} is process {holder}'s", upgrade_socket.display())),
        Err(error) => Some(format!("no upgrade socket {}: {error}", upgrade_socket.display())),
    }
}

const PANICKED: &str = "judging them panicked; this is a bug of cmg";

/// Where the next process asks. The default of the second one is beside the first.
const SOCKET_KEYS: [&str; 2] = ["admin.socket", "admin.upgrade_socket"];

struct Watch<S> {
    subject: S,
    process: Process,
    reloads: Arc<Reloads>,
    /// How the files were at the last look, and when they were judged last.
    seen: Vec<Mark>,
    judged: Vec<Mark>,
    judged_at: Instant,
    /// How the settings file was when what is in force was read.
    in_force: Vec<Mark>,
}

impl<S: Subject> Watch<S> {
    fn run(mut self, asked: &Receiver<()>) {
        loop {
            let is_asked = match asked.recv_timeout(RELOAD_LOOK_EVERY) {
                Ok(()) => true,
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            // Several signals are one.
            while asked.try_recv().is_ok() {}
            if !self.subject.is_there() {
                return;
            }
            if self.is_due() || is_asked {
                self.reload(is_asked);
            }
        }
    }

    /// Whether the files have changed and are still, or what was wrong may have become right by itself: a certificate
    /// that was not valid yet.
    fn is_due(&mut self) -> bool {
        let now = self.look();
        let is_still = now == self.seen;
        let may_be_right =
            self.reloads.may_become_right() && self.judged_at.elapsed() >= RELOAD_JUDGED_AGAIN_AFTER;
        let is_due = is_still && (now != self.judged || may_be_right);
        self.seen = now;
        is_due
    }

    /// How the files are. The settings file itself is not among them.
    fn look(&self) -> Vec<Mark> {
        let mut files = self.subject.files();
        files.retain(|path| *path != self.process.config);
        files.sort();
        files.dedup();
        marks(files)
    }

    fn reload(&mut self, is_asked: bool) {
        // Before they are read: what changes meanwhile is judged again.
        let (before, config) = (self.look(), marks(vec![self.process.config.clone()]));
        // A mistake of ours in judging must not end the thread that judges what is right again.
        let reloaded = catch_unwind(AssertUnwindSafe(|| self.subject.reload(is_asked)));
        let outcome = match reloaded {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(SettingsErrors(errors))) => {
                Outcome::Wrong(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
            }
            Err(_) => Outcome::Wrong(PANICKED.to_owned()),
        };
        self.seen = self.look();
        // Other settings name other files, of which nobody knows how they were before.
        self.judged = if self.seen.len() == before.len() { before } else { Vec::new() };
        self.judged_at = Instant::now();
        // What stands in a settings file that is not in force is right when somebody asks again, and not before.
        let asked = match (is_asked, config == self.in_force) {
            (false, _) => Asked::No,
            (true, true) => Asked::ForTheSame,
            (true, false) => Asked::ForOthers,
        };
        match outcome {
            Outcome::Unchanged => self.reloads.unchanged(is_asked),
            Outcome::Applied(what) => self.reloads.applied(&what, is_asked),
            Outcome::Wrong(how) => return self.reloads.wrong(&how, asked),
            Outcome::Anew(keys) => return self.hand_over(&keys, asked),
        }
        if is_asked {
            self.in_force = config;
        }
    }

    fn hand_over(&self, keys: &[String], asked: Asked) {
        let Process { role, config, upgrade_socket } = &self.process;
        let named = keys.join(", ");
        let what = format!("{}: {named}: another process has to start with this", config.display());
        // It would start with what the settings file holds, of which nobody has said that it is whole.
        if asked == Asked::No {
            return self.reloads.wrong(&format!("{what}: send SIGHUP, or restart the {role}"), asked);
        }
        if let Some(why) = why_it_stays(keys, upgrade_socket) {
            let how = format!("{what}, and this one cannot hand over to it: {why}; restart the {role}");
            return self.reloads.wrong(&how, asked);
        }
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "{what}; starting it, by the binary of this one");
        match successor::start_and_wait(Path::new("/proc/self/exe"), role, config, upgrade_socket, false) {
            Ok(pid) => self.reloads.handed_over(pid),
            Err(error) => self.reloads.wrong(&format!("{what}: {error}"), asked),
        }
    }
}
