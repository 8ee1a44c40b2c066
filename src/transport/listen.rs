//! Listening sockets: made once per address, shared by the shards, each of which arms its own
//! accepts on the one backlog.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

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

/// A listening socket that another process made: the same options, and what else ours have.
///
/// # Errors
/// What the kernel says.
pub fn adopt(fd: OwnedFd) -> io::Result<OwnedFd> {
    let socket = Socket::from(fd);
    socket.set_tcp_nodelay(true)?;
    keep_alive(&socket)?;
    // A ring answers at once that nobody is there, rather than wait for somebody.
    socket.set_nonblocking(false)?;
    // Once more, for its backlog.
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A socket to dial `to` with, not connected yet.
///
/// # Errors
/// What the kernel says.
pub fn dialler(to: SocketAddr) -> io::Result<OwnedFd> {
    dialler_from(None, to, None)
}

/// The same from an address of our own and from a port between two; the kernel chooses the port when it
/// connects.
///
/// # Errors
/// What the kernel says; `EADDRNOTAVAIL` where the address is none of this machine's.
pub fn dialler_from(from: Option<IpAddr>, to: SocketAddr, ports: Option<PortRange>) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    keep_alive(&socket)?;
    if let Some(from) = from {
        // A port chosen now would be taken for every origin; chosen at connect, it is for one.
        option(&socket, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    if let Some(PortRange { first, last, .. }) = ports {
        match option(&socket, IP_LOCAL_PORT_RANGE, u32::from(last) << 16 | u32::from(first)) {
            // An older kernel chooses among all, which only takes longer.
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {}
            outcome => outcome?,
        }
    }
    Ok(socket.into())
}

/// `IP_LOCAL_PORT_RANGE` of Linux 6.3: the first port below, the last above.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

/// Sets an option of IPv4, which sockets of IPv6 take as well.
fn option(socket: &Socket, name: libc::c_int, value: u32) -> io::Result<()> {
    let size = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the value is a u32 that lives through the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, name, (&raw const value).cast(), size)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Ports that the kernel gives to outgoing connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
    /// Those between that are kept for others.
    reserved: u32,
}

impl PortRange {
    /// As the kernel has it now: it may be widened while we run.
    pub fn of_kernel() -> PortRange {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"));
        let range = read("ip_local_port_range").unwrap_or_default();
        PortRange::parse(&range, &read("ip_local_reserved_ports").unwrap_or_default())
    }

    fn parse(range: &str, reserved: &str) -> PortRange {
        let mut ends = range.split_ascii_whitespace().filter_map(|end| end.parse().ok());
        let (first, last) = match (ends.next(), ends.next()) {
            (Some(first), Some(last)) if last >= first => (first, last),
            _ => (32_768, 60_999),
        };
        let count = |part: &str| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let (from, to): (u16, u16) = (from.parse().ok()?, to.parse().ok()?);
            (u32::from(to.min(last)) + 1).checked_sub(from.max(first).into())
        };
        let reserved = reserved.trim().split(',').filter_map(count).sum();
        PortRange { first, last, reserved }
    }

    /// How many there are.
    pub fn count(self) -> u32 {
        (u32::from(self.last - self.first) + 1).saturating_sub(self.reserved)
    }

    /// Where to look first for a port for connection `number`, when so many are in use that looking
    /// through all would take long.
    pub fn slice(self, used: usize, number: usize) -> Option<PortRange> {
        let all = u32::from(self.last - self.first) + 1;
        let slices = all / u32::from(limits::PORT_SLICE);
        if slices < 2 || used < all as usize / 4 {
            return None;
        }
        let slice = (number % slices as usize) as u32;
        let at = |slice: u32| self.first + (u64::from(all) * u64::from(slice) / u64::from(slices)) as u16;
        let last = if slice + 1 == slices { self.last } else { at(slice + 1) - 1 };
        Some(PortRange { first: at(slice), last, reserved: 0 })
    }
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
    fn a_listener_of_another_make_becomes_as_ours() {
        let other = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        other.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        other.listen(1).unwrap();
        other.set_nonblocking(true).unwrap();
        let address = other.local_addr().unwrap().as_socket().unwrap();
        let listener = Socket::from(adopt(other.into()).unwrap());
        assert!(!listener.nonblocking().unwrap());
        let _client = TcpStream::connect(address).unwrap();
        assert_kept_alive(&listener.accept().unwrap().0);
    }

    #[test]
    fn ports_are_counted_as_the_kernel_gives_them() {
        let count = |range, reserved| PortRange::parse(range, reserved).count();
        assert_eq!(count("32768\t60999\n", "\n"), 28_232);
        assert_eq!(count("40000 40099", "39990-40009,40050,50000-50010\n"), 89);
        assert_eq!((count("", ""), count("5 4", "x")), (28_232, 28_232));
        assert_eq!(count("1 65535", "1-65535"), 0);
    }

    #[test]
    fn slices_of_ports_leave_none_out() {
        let all = PortRange::parse("32768 60999", "");
        assert_eq!((all.slice(7_000, 0), PortRange::parse("40000 40099", "").slice(99, 0)), (None, None));
        let mut next = all.first;
        for number in 0..55 {
            let slice = all.slice(20_000, number).unwrap();
            assert_eq!(slice.first, next);
            assert!((513..=514).contains(&slice.count()), "{slice:?}");
            next = slice.last + 1;
        }
        assert_eq!((next, all.slice(20_000, 55)), (all.last + 1, all.slice(20_000, 0)));
    }

    #[test]
    fn one_port_serves_for_two_targets_because_it_is_chosen_late() {
        let from = Some(Ipv4Addr::new(127, 0, 0, 3).into());
        let ports = PortRange { first: 41_000, last: 41_000, reserved: 0 };
        let targets: Vec<_> = (0..2).map(|_| listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap()).collect();
        let dial = |to: SocketAddr| {
            let socket = Socket::from(dialler_from(from, to, Some(ports))?);
            socket.connect(&to.into()).map(|()| socket)
        };
        let held: Vec<_> = targets.iter().map(|(_, to)| dial(*to).unwrap()).collect();
        for socket in &held {
            assert_eq!(socket.local_addr().unwrap().as_socket(), Some("127.0.0.3:41000".parse().unwrap()));
        }
        let refused = dial(targets[0].1).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrNotAvailable);
    }

    #[test]
    fn dialled_sockets_are_kept_alive() {
        assert_kept_alive(&dialler((Ipv4Addr::LOCALHOST, 9).into()).unwrap().into());
    }
}
