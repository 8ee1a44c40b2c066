//! Listening sockets: made once per address, shared by the shards, each of which arms its own
//! accepts on the one backlog.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::limits;

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
    keep_alive(&socket)?;
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
    keep_alive(&socket)?;
    Ok(socket.into())
}

/// Has the kernel say something on a connection that is silent, so that what stands between the two ends
/// does not forget it. Costs nothing while bytes flow: one timer of the kernel, looked at when it is due.
fn keep_alive(socket: &Socket) -> io::Result<()> {
    let keep_alive = TcpKeepalive::new()
        .with_time(limits::TCP_KEEPALIVE_AFTER)
        .with_interval(limits::TCP_KEEPALIVE_EVERY)
        .with_retries(limits::TCP_KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keep_alive)
}

/// Clients that may wait to be accepted, as many as the kernel allows (net.core.somaxconn caps it).
const BACKLOG: i32 = 65_535;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::{Ipv4Addr, TcpStream};

    use super::*;

    fn assert_kept_alive(socket: &Socket) {
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), limits::TCP_KEEPALIVE_AFTER);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), limits::TCP_KEEPALIVE_EVERY);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), limits::TCP_KEEPALIVE_PROBES);
        assert!(socket.tcp_nodelay().unwrap());
    }

    #[test]
    fn accepted_sockets_inherit_what_keeps_them_alive() {
        let (listener, address) = listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let _client = TcpStream::connect(address).unwrap();
        let (accepted, _) = Socket::from(listener).accept().unwrap();
        assert_kept_alive(&accepted);
    }

    #[test]
    fn dialled_sockets_are_kept_alive() {
        assert_kept_alive(&dialler((Ipv4Addr::LOCALHOST, 9).into()).unwrap().into());
    }
}
