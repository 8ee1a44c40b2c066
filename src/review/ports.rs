//! Ports that settings name: which of them meet, which are taken, which need a right; and binding them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use super::{Desk, Document};
use crate::handover::SocketKind;
use crate::limits;
use crate::settings::{AdminSettings, SettingsError};
use crate::transport::listen;
use crate::upgrade::Inheritance;

/// An address a role listens on, and the key that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// As in `internal.listener[1].address`.
    pub key: String,
    /// Where.
    pub address: SocketAddr,
    /// Whether an IPv6 wildcard here takes IPv4 as well: that of the admin listeners does.
    pub is_dual: bool,
}

impl Listener {
    /// Those of one list of sections.
    pub(super) fn of_list(section: &str, addresses: &[SocketAddr]) -> Vec<Listener> {
        let numbered = addresses.iter().enumerate();
        numbered
            .map(|(index, address)| Listener {
                key: format!("{section}[{}].address", index + 1),
                address: *address,
                is_dual: false,
            })
            .collect()
    }

    /// Those of `[admin]`.
    pub(super) fn of_admin(admin: &AdminSettings) -> Vec<Listener> {
        let one = |key: &str, address| Listener { key: format!("admin.{key}"), address, is_dual: true };
        let health = admin.health_address.map(|address| one("health_address", address));
        std::iter::once(one("address", admin.address)).chain(health).collect()
    }

    /// Whether the kernel would not give both.
    pub(super) fn meets(&self, other: &Listener) -> bool {
        let (one, two) = (self.address, other.address);
        one.port() == two.port() && one.port() != 0 && (self.covers(two.ip()) || other.covers(one.ip()))
    }

    fn covers(&self, ip: IpAddr) -> bool {
        match (self.address.ip().to_canonical(), ip.to_canonical()) {
            (own, other) if own == other => true,
            (IpAddr::V4(own), IpAddr::V4(_)) => own.is_unspecified(),
            (IpAddr::V6(own), IpAddr::V6(_)) => own.is_unspecified(),
            (IpAddr::V6(own), IpAddr::V4(_)) => own.is_unspecified() && self.is_dual,
            (IpAddr::V4(_), IpAddr::V6(_)) => false,
        }
    }
}

impl Desk<'_> {
    /// Listeners of one role that the kernel would not give together.
    pub(super) fn overlaps(&mut self, listeners: &[Listener]) {
        for (index, one) in listeners.iter().enumerate() {
            let Some(other) = listeners[..index].iter().find(|other| other.meets(one)) else { continue };
            let line = self.document.source().error(&other.key, "", "").line;
            let found = format!(
                "\"{}\", which overlaps {} \"{}\" (line {line})",
                one.address, other.key, other.address
            );
            self.error(&one.key, found, "a port, or an address, that no other listener here takes");
        }
    }

    /// Looks whether every listener could be bound, and binds none for good: what cannot be.
    pub(super) fn untakable(&mut self, listeners: &[Listener]) -> Vec<Listener> {
        let mut taken = Vec::new();
        for (index, listener) in listeners.iter().enumerate() {
            // Of two that overlap the first would be in the way of the second; that is told already.
            let is_told = listeners[..index].iter().any(|other| other.meets(listener));
            if let (false, Err(error)) = (is_told, try_bind(listener)) {
                taken.extend((error.kind() == io::ErrorKind::AddrInUse).then(|| listener.clone()));
                let error = mistake(self.document, listener, &error);
                self.findings.errors.push(error);
            }
        }
        taken
    }
}

/// Binds without listening, so that a role that starts meanwhile is not in anybody's way.
fn try_bind(listener: &Listener) -> io::Result<()> {
    let address = listener.address;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() && !listener.is_dual {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

/// Until when a start waits for addresses in use.
pub(super) fn patience() -> Instant {
    Instant::now() + limits::BIND_WITHIN
}

/// Binds every listener of a start that was not inherited. Waits a little for an address in use: the kernel
/// takes the rings of a killed process apart some time after its end, and they hold its listeners.
///
/// # Errors
/// Every one that cannot be had.
pub(super) fn bind_all(
    document: &Document,
    (kind, listeners): (SocketKind, &[Listener]),
    until: Instant,
    inherited: &mut Inheritance,
) -> Result<Vec<OwnedFd>, Vec<SettingsError>> {
    let (mut bound, mut errors) = (Vec::new(), Vec::new());
    for listener in listeners {
        let had = match inherited.take(kind, listener.address) {
            Some(fd) => listen::adopt(fd),
            None => patiently(until, || listen::listen(listener.address)).map(|(fd, _)| fd),
        };
        match had {
            Ok(fd) => bound.push(fd),
            Err(error) => errors.push(mistake(document, listener, &error)),
        }
    }
    if errors.is_empty() { Ok(bound) } else { Err(errors) }
}

/// Looks whether listeners that are bound later can be had, unless they were inherited.
pub(super) fn try_all(
    document: &Document,
    listeners: &[Listener],
    until: Instant,
    inherited: &Inheritance,
) -> Vec<SettingsError> {
    let missing = listeners.iter().filter(|listener| !inherited.holds(listener.address));
    let tried = missing.map(|listener| (listener, patiently(until, || try_bind(listener))));
    tried.filter_map(|(listener, tried)| Some(mistake(document, listener, &tried.err()?))).collect()
}

fn patiently<T>(until: Instant, mut bind: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(50));
            }
            outcome => return outcome,
        }
    }
}

fn mistake(document: &Document, listener: &Listener, error: &io::Error) -> SettingsError {
    let Listener { key, address, .. } = listener;
    let (found, expected) = match error.kind() {
        io::ErrorKind::AddrInUse => (
            format!("\"{address}\", a port that is in use"),
            format!("a free port (who listens there: {})", holder_hint(*address)),
        ),
        io::ErrorKind::PermissionDenied => (
            format!("\"{address}\", a port below 1024 without the right to it"),
            "the capability CAP_NET_BIND_SERVICE (AmbientCapabilities= of a systemd unit), a lower \
             net.ipv4.ip_unprivileged_port_start, or a port from 1024 up"
                .to_owned(),
        ),
        io::ErrorKind::AddrNotAvailable => (
            format!("\"{address}\", an address that this machine does not have"),
            "one of its own addresses (ip address), or \"0.0.0.0\" or \"[::]\" for all".to_owned(),
        ),
        _ => (format!("\"{address}\", which cannot be bound: {error}"), "an address to listen on".to_owned()),
    };
    document.source().error(key, found, expected)
}

/// The command that says who listens on a port.
pub fn holder_hint(address: SocketAddr) -> String {
    format!("ss -ltnp 'sport = :{}'", address.port())
}
