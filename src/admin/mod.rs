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
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use crate::settings::AdminSettings;
use listen::Door;
use socket::{SocketError, SocketFile};

pub use client::{Answer, AskError, Target, Trust, ask};
pub use log::{Log, log_lines_dropped, set_log};
pub use material::{Material, Wrong, default_socket, read, token};

/// What a role tells about itself. Called from the admin thread: answers come from atomics or from what
/// the shards left behind, and never wait for a shard.
pub trait Report: Send + Sync + 'static {
    /// Whether the role can do its work now.
    fn is_ready(&self) -> bool;
    /// Everything an operator may want to see, as JSON.
    fn status(&self) -> serde_json::Value;
    /// Counters in Prometheus text format 0.0.4.
    fn metrics(&self) -> String;
}

/// Everything that can go wrong has gone right: files read, addresses and socket bound. What comes in
/// waits until it is served.
pub struct Doors {
    material: Material,
    listener: TcpListener,
    health: Option<TcpListener>,
    control: Option<(UnixListener, SocketFile)>,
}

/// Being asked, until the process ends; the control socket's file goes when this does.
#[derive(Debug)]
pub struct Serving {
    /// Of the admin listener, as bound.
    pub address: SocketAddr,
    /// Of the health listener, as bound.
    pub health_address: Option<SocketAddr>,
    _control: Option<SocketFile>,
}

impl Doors {
    /// Opens what `settings` ask for; paths in them start from `folder`, and the control socket is at
    /// `control` if they do not say. Ports 0 take free ones.
    ///
    /// # Errors
    /// What is wrong with a file, an address or the socket, by its key. That the default place of the socket
    /// cannot be written is only warned of: the role then runs, and cannot be changed while it does.
    pub fn open(settings: &AdminSettings, folder: &Path, control: &Path) -> Result<Doors, Wrong> {
        let material = read(settings, folder)?;
        if material.protection.is_none() && !settings.address.ip().is_loopback() {
            // Settings files that say so are refused before; whoever makes settings by hand is held here.
            let found = format!("{} without TLS and a token", settings.address);
            return Err(Wrong::new("admin.address", found, "a loopback address"));
        }
        let listener = listen("admin.address", settings.address)?;
        let health =
            settings.health_address.map(|address| listen("admin.health_address", address)).transpose()?;
        let control = match &settings.socket {
            Some(path) => bind_control(folder.join(path), true)?,
            None => bind_control(control.to_owned(), false)?,
        };
        Ok(Doors { material, listener, health, control })
    }

    /// Serves from a thread of its own.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn serve(self, report: Arc<dyn Report>) -> io::Result<Serving> {
        let Doors { material, listener, health, control } = self;
        let address = listener.local_addr()?;
        let health_address = health.as_ref().map(TcpListener::local_addr).transpose()?;
        let (control, file) = control.unzip();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (tls, token) = material.protection.unzip();
        {
            let _within = runtime.enter();
            runtime.spawn(Door::tcp(listener, tls)?.serve(pages::all(report.clone(), token)));
            if let Some(listener) = health {
                runtime.spawn(Door::tcp(listener, None)?.serve(pages::health(report)));
            }
            if let Some(listener) = control {
                runtime.spawn(Door::local(listener)?.serve(control::router(log::log())));
            }
        }
        thread::Builder::new()
            .name("admin".into())
            .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
        Ok(Serving { address, health_address, _control: file })
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

fn bind_control(path: PathBuf, is_written: bool) -> Result<Option<(UnixListener, SocketFile)>, Wrong> {
    let at = path.display();
    match socket::bind(&path) {
        Ok(bound) => Ok(Some(bound)),
        Err(SocketError::Alive) => Err(Wrong::new(
            "admin.socket",
            format!("a running process that answers at {at}"),
            "a path of this role's own; two roles cannot share one",
        )),
        Err(error) => {
            let Wrong { key, found, expected } = unusable(&path, error);
            if is_written {
                return Err(Wrong { key, found, expected });
            }
            tracing::warn!(
                key,
                found,
                expected,
                "no control socket: the log level cannot be changed while the role runs"
            );
            Ok(None)
        }
    }
}

/// What keeps a role from making its control socket at `path`, as far as looking tells. A process that
/// answers there is none: it may be the role itself.
pub fn socket_fault(path: &Path) -> Option<Wrong> {
    match socket::look(path) {
        Ok(()) | Err(SocketError::Alive) => None,
        Err(error) => Some(unusable(path, error)),
    }
}

fn unusable(path: &Path, error: SocketError) -> Wrong {
    let at = path.display();
    let found = match error {
        SocketError::Io(error) => format!("{at}: {error}"),
        SocketError::Alive | SocketError::NoSocket => format!("{at}, which is no socket"),
    };
    let expected = "a path in a folder that this role may write, free or left by a role that died";
    Wrong::new("admin.socket", found, expected)
}
