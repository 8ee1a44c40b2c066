//! The processes of `cmg up`: started from this binary, watched, stopped from the near end to the far.
//!
//! Each is in a process group of its own, so that one Ctrl-C reaches them once and through us, and is told
//! to stop by the kernel should we die first.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::{CommandExt, parent_id};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};

use super::super::Failure;
use super::{broken, notice};

/// Between two looks while something is about to change; at rest nothing is polled.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// For one answer of an admin listener.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// For one process to drain before it is killed.
const DRAIN_WITHIN: Duration = Duration::from_secs(15);
/// Lines of its log shown of a process that died.
const LAST_LINES: usize = 12;

/// A process to be started.
pub struct Start {
    pub role: &'static str,
    pub arguments: Vec<String>,
    pub log: PathBuf,
    pub ready: Ready,
}

/// How a process shows that it can do its work.
#[derive(Clone, Copy)]
pub enum Ready {
    /// It accepts connections here.
    Listens(SocketAddr),
    /// Its admin listener here says so.
    Says(SocketAddr),
}

/// How waiting ended.
pub enum Outcome {
    Ready,
    /// A signal asked us to stop.
    Stopped,
}

/// Signals that we were sent, seen when looked for.
pub struct Signals {
    signals: signal_hook::iterator::Signals,
    /// Set by those that ask us to stop, for threads that have no time to look.
    asked: Arc<AtomicBool>,
}

impl Signals {
    pub fn new() -> Result<Signals, Failure> {
        let asked = Arc::new(AtomicBool::new(false));
        let signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGCHLD]).and_then(|signals| {
            signal_hook::flag::register(SIGINT, asked.clone())?;
            signal_hook::flag::register(SIGTERM, asked.clone())?;
            Ok(signals)
        });
        let signals = signals.map_err(|error| Failure::Broken(format!("signals: {error}")))?;
        Ok(Signals { signals, asked })
    }

    /// Whether one ever asked us to stop.
    pub fn asked(&self) -> &AtomicBool {
        &self.asked
    }

    /// Whether one of those that came since the last look asks us to stop.
    fn ask_to_stop(&mut self) -> bool {
        self.signals.pending().filter(|signal| *signal != SIGCHLD).count() > 0
    }

    /// Sleeps until a signal comes; whether it asks us to stop (or a child has changed).
    fn wait(&mut self) -> bool {
        self.signals.wait().filter(|signal| *signal != SIGCHLD).count() > 0
    }
}

struct Running {
    role: &'static str,
    process: Child,
    log: PathBuf,
    ready: Ready,
}

#[derive(Default)]
pub struct Children {
    running: Vec<Running>,
}

impl Children {
    pub fn start(&mut self, start: Start) -> Result<(), Failure> {
        let Start { role, arguments, log, ready } = start;
        let process = spawn(&arguments, &log)
            .map_err(|error| Failure::Broken(format!("the {role} process cannot be started: {error}")))?;
        self.running.push(Running { role, process, log, ready });
        Ok(())
    }

    /// Role and process id of each.
    pub fn pids(&self) -> impl Iterator<Item = (&'static str, u32)> {
        self.running.iter().map(|child| (child.role, child.process.id()))
    }

    /// Waits until all are ready, one has died, a signal asks us to stop, or the time is over.
    pub fn wait_until_ready(&mut self, within: Duration, signals: &mut Signals) -> Result<Outcome, Failure> {
        let end = Instant::now() + within;
        loop {
            if signals.ask_to_stop() {
                return Ok(Outcome::Stopped);
            }
            self.check_alive()?;
            let Some(waiting) = self.running.iter().find(|child| !child.ready.is_so()) else {
                return Ok(Outcome::Ready);
            };
            if Instant::now() > end {
                let Running { role, log, .. } = waiting;
                let text = format!("the {role} is not ready after {} s{}", within.as_secs(), last_lines(log));
                return Err(Failure::Broken(text));
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Returns when a signal asks us to stop, or fails with what died.
    pub fn watch(&mut self, signals: &mut Signals) -> Result<(), Failure> {
        loop {
            self.check_alive()?;
            if signals.wait() {
                return Ok(());
            }
        }
    }

    fn check_alive(&mut self) -> Result<(), Failure> {
        for Running { role, process, log, .. } in &mut self.running {
            if let Some(status) = process.try_wait().map_err(|error| broken(Path::new(role), &error))? {
                let text = format!("the {role} ended: {}{}", ending(status), last_lines(log));
                return Err(Failure::Broken(text));
            }
        }
        Ok(())
    }

    /// Drains one after the other, those that others need last. A further signal, or one that does not
    /// end in time, and it is killed.
    pub fn stop(&mut self, signals: &mut Signals) {
        if self.running.is_empty() {
            return;
        }
        notice("draining; Ctrl-C stops at once");
        let mut hurry = false;
        while let Some(mut child) = self.running.pop() {
            let told = child.drain(hurry, signals);
            if told && !hurry {
                notice("stopping at once");
            }
            hurry |= told;
        }
    }
}

impl Running {
    /// Whether we were told to hurry.
    fn drain(&mut self, mut hurry: bool, signals: &mut Signals) -> bool {
        let end = Instant::now() + DRAIN_WITHIN;
        self.signal(libc::SIGTERM);
        while let Ok(None) = self.process.try_wait() {
            hurry |= signals.ask_to_stop();
            if hurry || Instant::now() > end {
                let _ = self.process.kill();
                let _ = self.process.wait();
                break;
            }
            thread::sleep(LOOK_AGAIN);
        }
        hurry
    }

    fn signal(&self, signal: libc::c_int) {
        if let Ok(id) = libc::pid_t::try_from(self.process.id()) {
            // SAFETY: no memory is involved. The id is ours: a child's id is not given away before
            // `try_wait` has seen it end, and such a child is not signalled.
            unsafe { libc::kill(id, signal) };
        }
    }
}

impl Ready {
    fn is_so(self) -> bool {
        match self {
            Ready::Listens(address) => TcpStream::connect_timeout(&address, ANSWER_WITHIN).is_ok(),
            Ready::Says(address) => asks_ready(address).unwrap_or(false),
        }
    }
}

fn asks_ready(admin: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&admin, ANSWER_WITHIN)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.write_all(
        format!("GET /readyz HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut status = [0; b"HTTP/1.1 200".len()];
    stream.read_exact(&mut status)?;
    Ok(&status == b"HTTP/1.1 200")
}

fn spawn(arguments: &[String], log: &Path) -> io::Result<Child> {
    let log = File::create(log)?;
    let parent = std::process::id();
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    // SAFETY: between fork and exec only calls that are safe in a signal handler: prctl and getppid.
    unsafe {
        command.pre_exec(move || end_with_parent(parent));
    }
    command.spawn()
}

/// The kernel sends SIGTERM when the thread that started us ends; `cmg up` starts all from its main thread.
fn end_with_parent(parent: u32) -> io::Result<()> {
    // SAFETY: this option takes a signal number and touches no memory.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // It may have died before we asked.
    if parent_id() == parent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
}

fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

fn last_lines(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let shown = lines.get(lines.len().saturating_sub(LAST_LINES)..).unwrap_or_default().join("\n  ");
    if shown.is_empty() {
        return format!(" ({} is empty)", log.display());
    }
    format!("; its log {} ends:\n  {shown}", log.display())
}
