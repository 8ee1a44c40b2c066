//! How a process takes another's place without a client noticing: it is given the very same listening
//! sockets, with whoever waits in them.
//!
//! The process that runs waits at a Unix socket of its own (`post.rs`). One that is started with `--upgrade`
//! asks there ([`ask`]), is given the sockets, runs beside the first, says that it is ready, is told that they are its
//! own, and says that it takes them; then the first leaves: it serves what is left there, and ends. Until that moment
//! the first goes on as if nothing had been, should the second be lost or late; and the second accepts nobody before
//! it knows that the first has left. What the two say is `handover/`; what systemd passes is
//! `systemd.rs`; what a role does in each step is its own business ([`Predecessor`]).

mod post;
pub mod successor;
pub mod systemd;
mod talk;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

pub use post::{Giving, Post, default_socket};
use talk::Talk;

use crate::admin::{Doors, Report, Serving, Shutter, Wrong, connect_socket};
use crate::handover::{
    Duty, Giver, Heard, Hello, Message, NotTaken, Offer, Role, SocketKind, Taker, VERSION,
};
use crate::limits;

/// A listening socket and what it is for.
#[derive(Debug)]
pub struct Holding {
    /// `None`: nobody has said.
    pub kind: Option<SocketKind>,
    /// As the settings have it; of one that systemd made, as it is bound.
    pub address: SocketAddr,
    /// The socket.
    pub fd: OwnedFd,
}

/// What a process was given at its start.
#[derive(Debug, Default)]
pub struct Inheritance {
    sockets: Vec<Holding>,
    is_successor: bool,
    /// See [`Inheritance::is_of_parent`].
    is_of_parent: bool,
}

impl Inheritance {
    /// Sockets that systemd made, for a process that may be one of `cmg up`.
    pub fn of_systemd(sockets: Vec<Holding>, is_of_parent: bool) -> Inheritance {
        Inheritance { sockets, is_successor: false, is_of_parent }
    }

    /// It ends with its parent, as roles of `cmg up` do: none takes its place, which would stay.
    pub fn is_of_parent(&self) -> bool {
        self.is_of_parent
    }

    /// Another process runs whose place is taken.
    pub fn is_successor(&self) -> bool {
        self.is_successor
    }

    /// Whether there is a socket for an address.
    pub fn holds(&self, address: SocketAddr) -> bool {
        self.sockets.iter().any(|held| held.address == address)
    }

    /// Gives one out.
    pub fn take(&mut self, kind: SocketKind, address: SocketAddr) -> Option<OwnedFd> {
        let fits = |held: &Holding| held.address == address && held.kind.is_none_or(|own| own == kind);
        let place = self.sockets.iter().position(fits)?;
        Some(self.sockets.swap_remove(place).fd)
    }

    /// Says of those that nobody wanted that they are closed.
    pub fn close_rest(self) {
        for held in self.sockets {
            tracing::warn!(address = %held.address, "a listening socket was given that the settings do not have: closed");
        }
    }
}

// ── the process that runs ───────────────────────────────────────────────────────────────────────

/// What a role does for the process that takes its place. Called from one thread, in this order.
pub trait Predecessor: Send + 'static {
    /// What there is.
    ///
    /// # Errors
    /// Why nothing is given.
    fn offer(&self) -> Result<(Offer, Vec<OwnedFd>), String>;
    /// The other one runs: channels are left to it.
    ///
    /// # Errors
    /// It cannot be done; then [`Predecessor::go_on`] follows.
    fn make_way(&self) -> io::Result<()>;
    /// The other one can do the work: accepts nothing any more, and has at hand whoever came before that.
    ///
    /// # Errors
    /// As above.
    fn let_go(&self) -> io::Result<()>;
    /// The other one is lost: as it was before.
    fn go_on(&self);
    /// The other one has the place: serves what is here, and ends.
    fn leave(&self);
}

/// Gives the process's place to one that asks at `stream`. Whether it has gone: what `stream` was ends with that, and
/// who has asked knows it by this end.
fn give(stream: std::os::unix::net::UnixStream, role: Role, predecessor: &impl Predecessor) -> bool {
    let mut giver = Giver::new(role);
    let outcome = Talk::new(stream).map_err(|error| error.to_string()).and_then(|mut talk| {
        let told = converse(&mut talk, &mut giver, predecessor);
        if let Err(text) = &told {
            // It may be gone, which is why. Otherwise it is not to think that this process is.
            let _ = talk.say(&Message::Refused(text.clone()), &[]);
        }
        told
    });
    if let Err(error) = outcome {
        tracing::warn!(error, "the other process has not taken over; this one goes on");
        if giver.has_made_way() {
            predecessor.go_on();
        }
    }
    giver.is_gone()
}

fn converse(talk: &mut Talk, giver: &mut Giver, predecessor: &impl Predecessor) -> Result<(), String> {
    let pid = talk.check_peer().map_err(|error| error.to_string())?;
    while !giver.is_gone() {
        let message = match talk.hear(giver.patience()) {
            // `cmg upgrade` looks who is here.
            Err(error) if giver.is_waiting() && error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            heard => heard.map_err(|error| error.to_string())?,
        };
        let duty = giver.hear(&message, talk.is_there()).map_err(|error| error.to_string())?;
        fulfil(duty, pid, talk, predecessor)?;
    }
    Ok(())
}

fn fulfil(duty: Duty, pid: i32, talk: &mut Talk, predecessor: &impl Predecessor) -> Result<(), String> {
    let done = match duty {
        Duty::Offer => {
            tracing::info!(pid, "another process asks to take this one's place");
            let (offer, sockets) = predecessor.offer()?;
            let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
            talk.say(&Message::Offer(offer), &sockets)
        }
        Duty::MakeWay => predecessor.make_way(),
        Duty::Yield => predecessor.let_go().and_then(|()| talk.say(&Message::Yours, &[])),
        Duty::Leave => {
            // Who is told that the main process has ended ends the others, too: before that can be, and by the one
            // that decides who it is.
            systemd::notify(&format!("MAINPID={pid}"));
            predecessor.leave();
            Ok(())
        }
    };
    done.map_err(|error| error.to_string())
}

// ── the process that takes its place ────────────────────────────────────────────────────────────

/// Taking the place of a process that runs.
pub struct Taking {
    talk: Talk,
    taker: Taker,
    resolve: Resolve,
    /// What that process had.
    pub offer: Offer,
}

/// Why a place cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// Whoever may write to it could give us sockets of their own, or take ours.
    #[error("{0}: found {1}, expected a socket of this user with mode 0600")]
    Unsafe(PathBuf, String),
    /// This process was told to end.
    #[error("this process was told to end before")]
    GivenUp,
    /// The other process keeps it.
    #[error(transparent)]
    NotTaken(#[from] NotTaken),
    /// What it says is nothing, or the system says no.
    #[error("the process that runs: {0}")]
    Io(#[from] io::Error),
}

/// Asks the process that waits at `path` for its place. `None`: none does.
///
/// # Errors
/// It is there, and gives nothing.
pub fn ask(path: &Path, role: Role) -> Result<Option<(Taking, Inheritance)>, TakeError> {
    let Some(stream) = reach(path)? else { return Ok(None) };
    let (mut talk, mut taker) = (Talk::new(stream)?, Taker::default());
    talk.check_peer()?;
    talk.say(&Message::Hello(Hello { version: VERSION, role }), &[])?;
    let Some(Message::Offer(offer)) = hear(&mut talk, &mut taker)? else {
        return Err(io::Error::other("it offers nothing").into());
    };
    let fds = talk.take_sockets();
    if fds.len() != offer.sockets.len() {
        let text = format!("{} sockets came where {} were announced", fds.len(), offer.sockets.len());
        return Err(io::Error::other(text).into());
    }
    let holding = |((kind, address), fd): (&(SocketKind, SocketAddr), OwnedFd)| Holding {
        kind: Some(*kind),
        address: *address,
        fd,
    };
    let sockets = offer.sockets.iter().zip(fds).map(holding).collect();
    let resolve = Resolve::default();
    Ok(Some((
        Taking { talk, taker, resolve, offer },
        Inheritance { sockets, is_successor: true, is_of_parent: false },
    )))
}

/// The process id of the one that waits at `path`.
///
/// # Errors
/// None does, or it cannot be asked.
pub fn holder(path: &Path) -> io::Result<i32> {
    talk::credentials(&connect_socket(path)?).map(|found| found.pid)
}

/// Connects to the process at `path`, if there is one and nobody else could have put it there.
fn reach(path: &Path) -> Result<Option<std::os::unix::net::UnixStream>, TakeError> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let unsafe_as = |what: String| Err(TakeError::Unsafe(path.to_owned(), what));
    let (mode, uid) = (found.mode() & 0o777, found.uid());
    if !found.file_type().is_socket() {
        return unsafe_as("what is no socket".into());
    }
    if uid != talk::own_uid() {
        return unsafe_as(format!("one of user {uid}"));
    }
    if mode != 0o600 {
        return unsafe_as(format!("mode {mode:04o}"));
    }
    match connect_socket(path) {
        Ok(stream) => Ok(Some(stream)),
        // A process that died left its file.
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Waits for what comes next from the process that runs; gives what it said.
fn hear(talk: &mut Talk, taker: &mut Taker) -> Result<Option<Message>, TakeError> {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, TimedOut, UnexpectedEof};
    match talk.hear(taker.patience()) {
        Ok(message) => {
            taker.hear(Heard::Said(&message))?;
            return Ok(Some(message));
        }
        Err(error) if matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe) => {
            taker.hear(Heard::End)?;
        }
        Err(error) if error.kind() == TimedOut => taker.hear(Heard::Nothing)?,
        Err(error) => return Err(error.into()),
    }
    Ok(None)
}

/// Whether a process says that it takes the other's place, or gives up because it is told to end: whichever comes
/// first. One that did both would leave nobody.
#[derive(Clone, Debug, Default)]
pub struct Resolve(Arc<AtomicBool>);

impl Resolve {
    /// Told to end. `false`: it has said that it takes the place, and has to serve what is there first.
    pub fn give_up(&self) -> bool {
        self.is_first()
    }

    fn is_first(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

impl Taking {
    /// Asked when the process is told to end.
    pub fn resolve(&self) -> Resolve {
        self.resolve.clone()
    }

    /// This process runs, and connection points may come to it.
    ///
    /// # Errors
    /// The other one is gone.
    pub fn started(&mut self) -> Result<(), TakeError> {
        Ok(self.talk.say(&Message::Started, &[])?)
    }

    /// This process can do the work; waits until the other one accepts nobody any more.
    ///
    /// # Errors
    /// The sockets are not this one's.
    pub fn ready(&mut self) -> Result<(), TakeError> {
        // Whether it arrives shows in what comes.
        let _ = self.talk.say(&Message::Ready, &[]);
        hear(&mut self.talk, &mut self.taker).map(drop)
    }

    /// This process is about to accept; waits until the other one has left. Only then it may.
    ///
    /// # Errors
    /// The other one goes on, for this came too late; or nobody knows. This process must end.
    pub fn taken(mut self) -> Result<(), TakeError> {
        if !self.resolve.is_first() {
            return Err(TakeError::GivenUp);
        }
        // As above.
        let _ = self.talk.say(&Message::Taken, &[]);
        hear(&mut self.talk, &mut self.taker).map(drop)
    }
}

// ── what both have ──────────────────────────────────────────────────────────────────────────────

/// Where a role is asked and where it gives its place away, before it does either.
pub struct Outside {
    /// Admin listeners and control socket.
    pub doors: Doors,
    /// Where the next process asks.
    pub post: Post,
}

/// The same, while it does; ends when dropped.
#[derive(Debug)]
pub struct Standing {
    giving: Option<Giving>,
    serving: Serving,
}

impl Standing {
    /// Has its sockets in the file system take the places of those that the process before had: it has left. Where
    /// they are is who has taken over (`cmg upgrade` looks there), so not before that.
    pub fn take_places(&mut self) {
        self.serving.take_place();
        if let Some(giving) = &mut self.giving {
            giving.take_place();
        }
    }
}

impl Outside {
    /// Makes the sockets in the file system that will take the places of those of the process before
    /// ([`Standing::take_places`]), so that nothing is in the way when it leaves.
    ///
    /// # Errors
    /// What is in the way.
    pub fn prepare(&mut self) -> Result<(), Wrong> {
        self.doors.prepare()?;
        self.post.prepare()
    }

    /// Is asked, and gives itself up by what `predecessor` makes of the admin listeners.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn stand<P: Predecessor>(
        self,
        role: Role,
        report: Arc<dyn Report>,
        predecessor: impl FnOnce(Shutter) -> P,
    ) -> io::Result<Standing> {
        let serving = self.doors.serve(report)?;
        let giving = self.post.give(role, predecessor(serving.shutter()))?;
        Ok(Standing { giving, serving })
    }
}

/// What sockets are, and a descriptor of each.
pub type Copies = (Vec<(SocketKind, SocketAddr)>, Vec<OwnedFd>);

/// Copies of listening sockets for another process, and what an OFFER says of them.
///
/// # Errors
/// There are too many, or no descriptor is left.
pub fn copies(holdings: &[Holding]) -> Result<Copies, String> {
    if holdings.len() > limits::HANDOVER_SOCKETS_MAX {
        let most = limits::HANDOVER_SOCKETS_MAX;
        return Err(format!("it has {} listening sockets; {most} at most are handed over", holdings.len()));
    }
    let named = |held: &Holding| Some((held.kind?, held.address));
    let fds: io::Result<Vec<_>> = holdings.iter().map(|held| held.fd.try_clone()).collect();
    Ok((holdings.iter().filter_map(named).collect(), fds.map_err(|error| error.to_string())?))
}

/// Looks again and again until it holds; whether it did in time.
pub fn eventually(within: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let until = std::time::Instant::now() + within;
    while !holds() {
        if std::time::Instant::now() >= until {
            return false;
        }
        thread::sleep(LOOK_EVERY);
    }
    true
}

/// Nobody waits for more than a few of these.
const LOOK_EVERY: Duration = Duration::from_millis(5);
