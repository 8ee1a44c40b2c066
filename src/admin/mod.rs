//! How a running role is asked and changed, apart from what it does.
//!
//! Admin listeners only read: `/healthz` the process lives · `/readyz` it can serve · `/status` JSON ·
//! `/metrics` Prometheus text. Off loopback they need TLS and a token; a listener of its own may tell
//! `/healthz` and `/readyz` alone, in plain. What changes the role goes through a Unix socket that its
//! owner alone can open (`control.rs`).
//!
//! All of them live on one thread with a small tokio runtime: what is asked here never waits for a shard,
//! nor a shard for it. What the answers say is the role's business ([`Report`]). The other end of all
//! three is `client.rs`.

mod client;
mod control;
mod listen;
mod log;
mod material;
mod pages;
mod socket;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use tokio::sync::watch;

use crate::handover::SocketKind;
use crate::settings::AdminSettings;
use crate::upgrade::{Holding, Inheritance};
use listen::Door;
use socket::SocketError;

pub use client::{Answer, AskError, Target, Trust, ask};
pub use log::{Log, log_lines_dropped, set_log, set_log_level};
pub use material::{Material, Wrong, default_socket, read, token};
pub use socket::{SocketFile, bind as bind_socket, connect as connect_socket, draft as draft_socket};

/// What a role tells about itself. Called from the admin thread: answers come from atomics or from what
/// the shards left behind, and never wait for a shard.
pub trait Report: Send + Sync + 'static {
    /// Whether the role can do its work now.
    fn is_ready(&self) -> bool;
    /// Everything an operator may want to see, as JSON.
    fn status(&self) -> serde_json::Value;
    /// Counters in Prometheus text format 0.0.4.
    fn metrics(&self) -> String;
    /// What passed at each endpoint, by windows of time, as JSON; `None`: this role does not tell.
    fn traffic(&self) -> Option<serde_json::Value> {
        None
    }
}

/// Everything that can go wrong has gone right: files read, addresses and socket bound. What comes in
/// waits until it is served.
pub struct Doors {
    material: Material,
    listener: TcpListener,
    health: Option<TcpListener>,
    control: Option<(UnixListener, SocketFile)>,
    /// Where that is, or will be.
    place: PathBuf,
    /// The settings say so.
    is_written: bool,
    /// As the settings have them, of `listener` and `health`.
    addresses: (SocketAddr, Option<SocketAddr>),
}

/// Being asked, until the process ends; the control socket's file goes when this does.
#[derive(Debug)]
pub struct Serving {
    /// Of the admin listener, as bound.
    pub address: SocketAddr,
    /// Of the health listener, as bound.
    pub health_address: Option<SocketAddr>,
    control: Option<SocketFile>,
    /// Where that is, or will be.
    place: PathBuf,
    open: Shutter,
}

/// What becomes of connections to admin listeners and the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doorway {
    /// They are accepted.
    Open,
    /// They are left to another process that has the same listeners.
    Closed,
    /// The same for good: the listeners are given back.
    Gone,
}

/// Whether connections to admin listeners are accepted here, or left to another process that has the same
/// listeners.
#[derive(Clone, Debug)]
pub struct Shutter(watch::Sender<Doorway>);

impl Shutter {
    /// They are left where they are; those that were accepted are answered.
    pub fn close(&self) {
        self.0.send_replace(Doorway::Closed);
    }

    /// They are accepted again.
    pub fn open(&self) {
        self.0.send_replace(Doorway::Open);
    }

    /// As [`Shutter::close`], for good: the listeners are closed, and their addresses free once the other process
    /// has closed them, too.
    pub fn give_back(&self) {
        self.0.send_replace(Doorway::Gone);
    }
}

impl Serving {
    /// What closes its listeners, and opens them again.
    pub fn shutter(&self) -> Shutter {
        self.open.clone()
    }

    /// Has the control socket take the place of another process's, which has left it. That it cannot is only warned
    /// of: that process is gone.
    pub fn take_place(&mut self) {
        if let Some(Err(error)) = self.control.as_mut().map(SocketFile::take_place) {
            warn(&Wrong::of_socket("admin.socket", &self.place, error));
        }
    }
}

impl Doors {
    /// Opens what `settings` ask for; paths in them start from `folder`, and the control socket is at
    /// `control` if they do not say. Ports 0 take free ones. What was inherited is not opened, and a process that
    /// takes another's place leaves it the control socket until [`Serving::take_place`].
    ///
    /// # Errors
    /// What is wrong with a file, an address or the socket, by its key. That the default place of the socket
    /// cannot be written is only warned of: the role then runs, and cannot be changed while it does.
    pub fn open(
        settings: &AdminSettings,
        folder: &Path,
        control: &Path,
        inherited: &mut Inheritance,
    ) -> Result<Doors, Wrong> {
        let material = read(settings, folder)?;
        if material.protection.is_none() && !settings.address.ip().is_loopback() {
            // Settings files that say so are refused before; whoever makes settings by hand is held here.
            let found = format!("{} without TLS and a token", settings.address);
            return Err(Wrong::new("admin.address", found, "a loopback address"));
        }
        let mut listen = |key, kind, address| match inherited.take(kind, address) {
            Some(fd) => adopt(key, fd, address),
            None => listen(key, address),
        };
        let listener = listen("admin.address", SocketKind::Admin, settings.address)?;
        let health = settings
            .health_address
            .map(|address| listen("admin.health_address", SocketKind::Health, address))
            .transpose()?;
        let (place, is_written) = (control_socket(settings, folder, control), settings.socket.is_some());
        let control = if inherited.is_successor() { None } else { bind_control(&place, is_written)? };
        let addresses = (settings.address, settings.health_address);
        Ok(Doors { material, listener, health, control, place, is_written, addresses })
    }

    /// Makes the control socket that will take the place of another process's.
    ///
    /// # Errors
    /// It cannot be made, and the other process has one or the settings do.
    pub fn prepare(&mut self) -> Result<(), Wrong> {
        match socket::draft(&self.place) {
            Ok(made) => self.control = Some(made),
            Err(error) => {
                let wrong = Wrong::of_socket("admin.socket", &self.place, error);
                if self.is_written || self.place.symlink_metadata().is_ok() {
                    return Err(wrong);
                }
                warn(&wrong);
            }
        }
        Ok(())
    }

    /// Copies of its listeners, for another process.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn holdings(&self) -> io::Result<Vec<Holding>> {
        let (address, health_address) = self.addresses;
        let admin = (SocketKind::Admin, address, &self.listener);
        let health = self.health.as_ref().zip(health_address);
        let health = health.map(|(listener, address)| (SocketKind::Health, address, listener));
        let mut holdings = Vec::new();
        for (kind, address, listener) in std::iter::once(admin).chain(health) {
            holdings.push(Holding { kind: Some(kind), address, fd: listener.try_clone()?.into() });
        }
        Ok(holdings)
    }

    /// Serves from a thread of its own.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn serve(self, report: Arc<dyn Report>) -> io::Result<Serving> {
        let Doors { material, listener, health, control, place, .. } = self;
        let address = listener.local_addr()?;
        let health_address = health.as_ref().map(TcpListener::local_addr).transpose()?;
        let (control, file) = control.unzip();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (tls, token) = material.protection.unzip();
        let (open, is_open) = watch::channel(Doorway::Open);
        {
            let _within = runtime.enter();
            let all = Door::tcp(listener, tls)?.serve(pages::all(report.clone(), token), is_open.clone());
            runtime.spawn(all);
            if let Some(listener) = health {
                runtime.spawn(Door::tcp(listener, None)?.serve(pages::health(report), is_open.clone()));
            }
            if let Some(listener) = control {
                runtime.spawn(Door::local(listener)?.serve(control::router(log::log()), is_open));
            }
        }
        thread::Builder::new()
            .name("admin".into())
            .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
        Ok(Serving { address, health_address, control: file, place, open: Shutter(open) })
    }
}

fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, Wrong> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|error| {
        let expected = "an address of this machine and a port that is free (`ss -ltnp` lists who has it)";
        Wrong::new(key, format!("{address}: {error}"), expected)
    })
}

/// A listener that another process made.
fn adopt(key: &'static str, fd: OwnedFd, address: SocketAddr) -> Result<TcpListener, Wrong> {
    let listener = TcpListener::from(fd);
    let adopted = listener.set_nonblocking(true);
    adopted.map_err(|error| Wrong::new(key, format!("{address}: {error}"), "a socket that can be used"))?;
    Ok(listener)
}

/// Where the control socket is: at `default` if the settings do not say.
pub fn control_socket(settings: &AdminSettings, folder: &Path, default: &Path) -> PathBuf {
    settings.socket.as_ref().map_or_else(|| default.to_owned(), |path| folder.join(path))
}

fn bind_control(path: &Path, is_written: bool) -> Result<Option<(UnixListener, SocketFile)>, Wrong> {
    match socket::bind(path) {
        Ok(bound) => Ok(Some(bound)),
        Err(error) => {
            let is_fatal = is_written || matches!(error, SocketError::Alive);
            let wrong = Wrong::of_socket("admin.socket", path, error);
            if is_fatal {
                return Err(wrong);
            }
            warn(&wrong);
            Ok(None)
        }
    }
}

fn warn(Wrong { key, found, expected }: &Wrong) {
    tracing::warn!(
        key,
        found,
        expected,
        "no control socket: the log level cannot be changed while the role runs"
    );
}

/// What keeps a role from making its socket at `path`, as far as looking tells. A process that answers there is
/// none: it may be the role itself.
pub fn socket_fault(key: &'static str, path: &Path) -> Option<Wrong> {
    match socket::look(path) {
        Ok(()) | Err(SocketError::Alive) => None,
        Err(error) => Some(Wrong::of_socket(key, path, error)),
    }
}

impl Wrong {
    /// What is wrong with the place of a socket.
    pub fn of_socket(key: &'static str, path: &Path, error: SocketError) -> Wrong {
        let at = path.display();
        let expected = "a path in a folder that this role may write, free or left by a role that died";
        match error {
            SocketError::Alive => Wrong::new(
                key,
                format!("a running process that answers at {at}"),
                "a path of this role's own; two roles cannot share one",
            ),
            SocketError::NoSocket => Wrong::new(key, format!("{at}, which is no socket"), expected),
            SocketError::Io(error) => Wrong::new(key, format!("{at}: {error}"), expected),
        }
    }
}
