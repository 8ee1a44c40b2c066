//! What systemd gives a process, and what it is told: `sd_listen_fds(3)` and `sd_notify(3)`, which are a few
//! lines each.

use std::env;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;

use socket2::Socket;

use super::Holding;
use crate::limits;

/// The first descriptor that is passed.
const FIRST: i32 = 3;

/// The listening sockets that were passed (`LISTEN_FDS`). To be called once, at the start.
///
/// # Errors
/// One of them is no listening socket with an address.
pub fn sockets() -> io::Result<Vec<Holding>> {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    // What is meant for another process was left to us by mistake.
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(Vec::new());
    }
    let count = number("LISTEN_FDS").unwrap_or_default();
    if count as usize > limits::HANDOVER_SOCKETS_MAX {
        let most = limits::HANDOVER_SOCKETS_MAX;
        return Err(io::Error::other(format!("LISTEN_FDS={count}, where {most} are the most")));
    }
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    (0..count as i32).map(|number| holding(FIRST + number, names.next().unwrap_or_default())).collect()
}

fn holding(fd: i32, name: &str) -> io::Result<Holding> {
    // SAFETY: by the protocol these descriptors are this process's own, and nobody here has them yet.
    let socket = Socket::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let wrong = |what: &str| io::Error::other(format!("descriptor {fd} ({name}) of LISTEN_FDS: {what}"));
    socket.set_cloexec(true).map_err(|error| wrong(&error.to_string()))?;
    if !socket.is_listener().unwrap_or(false) {
        return Err(wrong("it does not listen"));
    }
    let address = socket.local_addr().ok().and_then(|address| address.as_socket());
    let address = address.ok_or_else(|| wrong("it has no address of IPv4 or IPv6"))?;
    Ok(Holding { kind: None, address, fd: socket.into() })
}

/// Whether systemd runs this machine, or started this process: it knows which process is the main one.
pub fn is_there() -> bool {
    env::var_os("NOTIFY_SOCKET").is_some() || Path::new("/run/systemd/system").exists()
}

/// Says this to who started the process, if it wants to hear (`NOTIFY_SOCKET`): lines as `READY=1`.
pub fn notify(state: &str) {
    let Some(place) = env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(place.as_encoded_bytes(), state) {
        tracing::warn!(%error, ?place, "what is to be said to NOTIFY_SOCKET cannot be");
    }
}

pub(super) fn send(place: &[u8], state: &str) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let address = match place.split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(place))?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}
