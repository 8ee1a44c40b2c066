//! Listening sockets: made once per address, shared by the shards, each of which arms its own
//! accepts on the one backlog.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, Socket, Type};

/// A listening socket. Options set here are inherited by what it accepts.
///
/// # Errors
/// What the kernel says, `EADDRINUSE` above all.
pub fn listen(address: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // One listener a family: what an address means must not depend on a sysctl.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let bound = socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("no socket address"))?;
    Ok((socket.into(), bound))
}

/// A socket to dial `to` with, not connected yet.
///
/// # Errors
/// What the kernel says.
pub fn dialler(to: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

/// Clients that may wait to be accepted, as many as the kernel allows (net.core.somaxconn caps it).
const BACKLOG: i32 = 65_535;
