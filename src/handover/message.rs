//! One message: two bytes of length, one of kind, and a payload.
//!
//! The descriptors of an OFFER travel beside its bytes, in the order of its list.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::HandoverError;
use crate::limits::{HANDOVER_MESSAGE_SIZE_MAX, HANDOVER_SOCKETS_MAX};

/// The version spoken here.
pub const VERSION: u16 = 1;

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// The public one.
    Gateway = 1,
    /// The connection point.
    Connector = 2,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Gateway => "gateway",
            Role::Connector => "connector",
        })
    }
}

/// Whom a listening socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SocketKind {
    /// `[[listener]]`
    Clients = 1,
    /// `[[internal.listener]]`
    Channels = 2,
    /// `admin.address`
    Admin = 3,
    /// `admin.health_address`
    Health = 4,
}

impl SocketKind {
    fn from_byte(byte: u8) -> Option<SocketKind> {
        let all = [SocketKind::Clients, SocketKind::Channels, SocketKind::Admin, SocketKind::Health];
        all.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// First word of the process that takes the other's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What it speaks.
    pub version: u16,
    /// What it does.
    pub role: Role,
}

/// What the process has whose place is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// It can do its work.
    pub is_ready: bool,
    /// Gateway: connection points attached whose site's settings are in force, by a listener that is theirs alone.
    pub points: u16,
    /// Its listening sockets, by the addresses that its settings have.
    pub sockets: Vec<(SocketKind, SocketAddr)>,
}

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// New: who asks.
    Hello(Hello),
    /// Old: what there is; the descriptors come with it.
    Offer(Offer),
    /// Old: no, and why. The last word: it goes on.
    Refused(String),
    /// New: it runs, and connection points may come to it.
    Started,
    /// New: it can do the work.
    Ready,
    /// Old: it accepts nobody any more, and what came before is served there.
    Yours,
    /// New: the place is its own, unless this comes too late: it accepts when the conversation ends without REFUSED.
    Taken,
}

impl Message {
    fn kind(&self) -> u8 {
        match self {
            Message::Hello(_) => 1,
            Message::Offer(_) => 2,
            Message::Refused(_) => 3,
            Message::Started => 4,
            Message::Ready => 5,
            Message::Yours => 6,
            Message::Taken => 7,
        }
    }

    /// What errors call it.
    pub fn name(&self) -> &'static str {
        match self {
            Message::Hello(_) => "HELLO",
            Message::Offer(_) => "OFFER",
            Message::Refused(_) => "REFUSED",
            Message::Started => "STARTED",
            Message::Ready => "READY",
            Message::Yours => "YOURS",
            Message::Taken => "TAKEN",
        }
    }

    /// Appends it to `out`. A text that is too long is cut.
    ///
    /// # Panics
    /// For more sockets than one message takes: whoever offers has counted them.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let at = out.len();
        out.extend_from_slice(&[0, 0, self.kind()]);
        match self {
            Message::Hello(hello) => {
                out.extend_from_slice(&hello.version.to_be_bytes());
                out.push(hello.role as u8);
            }
            Message::Offer(offer) => offer.encode(out),
            Message::Refused(text) => out.extend_from_slice(cut(text).as_bytes()),
            Message::Started | Message::Ready | Message::Yours | Message::Taken => {}
        }
        let size = u16::try_from(out.len() - at - PREFIX).expect("bounded by what stands in it");
        out[at..at + PREFIX].copy_from_slice(&size.to_be_bytes());
    }

    /// Takes one message from the front of `bytes`, with its size. `None`: more bytes are needed.
    ///
    /// # Errors
    /// It is none.
    pub fn take(bytes: &[u8]) -> Result<Option<(Message, usize)>, HandoverError> {
        let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let size = usize::from(u16::from_be_bytes(*prefix));
        if size > HANDOVER_MESSAGE_SIZE_MAX {
            return Err(HandoverError::TooLong(size));
        }
        let Some(body) = rest.get(..size) else { return Ok(None) };
        let (kind, payload) = body.split_first().ok_or(HandoverError::Malformed("without a kind"))?;
        Ok(Some((Message::parse(*kind, payload)?, PREFIX + size)))
    }

    fn parse(kind: u8, payload: &[u8]) -> Result<Message, HandoverError> {
        Ok(match kind {
            1 => Message::Hello(Hello::parse(payload).ok_or(HandoverError::Malformed("HELLO"))?),
            2 => Message::Offer(Offer::parse(payload).ok_or(HandoverError::Malformed("OFFER"))?),
            3 => {
                let text = std::str::from_utf8(payload).map_err(|_| HandoverError::Malformed("REFUSED"))?;
                Message::Refused(cut(text).to_owned())
            }
            4 => Message::Started,
            5 => Message::Ready,
            6 => Message::Yours,
            7 => Message::Taken,
            other => return Err(HandoverError::Unknown(other)),
        })
    }
}

impl Hello {
    fn parse(payload: &[u8]) -> Option<Hello> {
        let [high, low, role] = *payload.first_chunk()?;
        let role = match role {
            1 => Role::Gateway,
            2 => Role::Connector,
            _ => return None,
        };
        Some(Hello { version: u16::from_be_bytes([high, low]), role })
    }
}

impl Offer {
    fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.sockets.len() <= HANDOVER_SOCKETS_MAX, "whoever offers has counted");
        out.push(u8::from(self.is_ready));
        out.extend_from_slice(&self.points.to_be_bytes());
        out.push(self.sockets.len() as u8);
        for (kind, address) in &self.sockets {
            out.push(*kind as u8);
            put_address(out, address);
        }
    }

    fn parse(payload: &[u8]) -> Option<Offer> {
        let ([is_ready, high, low, count], mut rest) = payload.split_first_chunk().map(|(a, b)| (*a, b))?;
        if is_ready > 1 || usize::from(count) > HANDOVER_SOCKETS_MAX {
            return None;
        }
        let mut sockets = Vec::with_capacity(count.into());
        for _ in 0..count {
            let (kind, behind) = rest.split_first()?;
            sockets.push((SocketKind::from_byte(*kind)?, take_address(behind, &mut rest)?));
        }
        Some(Offer { is_ready: is_ready == 1, points: u16::from_be_bytes([high, low]), sockets })
    }
}

/// Family, address, port, and of IPv6 the scope.
fn put_address(out: &mut Vec<u8>, address: &SocketAddr) {
    match address {
        SocketAddr::V4(v4) => {
            out.push(4);
            out.extend_from_slice(&v4.ip().octets());
            out.extend_from_slice(&v4.port().to_be_bytes());
        }
        SocketAddr::V6(v6) => {
            out.push(6);
            out.extend_from_slice(&v6.ip().octets());
            out.extend_from_slice(&v6.port().to_be_bytes());
            out.extend_from_slice(&v6.scope_id().to_be_bytes());
        }
    }
}

fn take_address<'b>(bytes: &'b [u8], rest: &mut &'b [u8]) -> Option<SocketAddr> {
    let (family, bytes) = bytes.split_first()?;
    let address = match family {
        4 => {
            let (fixed, behind) = bytes.split_first_chunk::<6>()?;
            *rest = behind;
            let [a, b, c, d, p0, p1] = *fixed;
            let ip = IpAddr::from(Ipv4Addr::new(a, b, c, d));
            SocketAddr::new(ip, u16::from_be_bytes([p0, p1]))
        }
        6 => {
            let (ip, bytes) = bytes.split_first_chunk::<16>()?;
            let (port, bytes) = bytes.split_first_chunk::<2>()?;
            let (scope, behind) = bytes.split_first_chunk::<4>()?;
            *rest = behind;
            let port = u16::from_be_bytes(*port);
            SocketAddrV6::new(Ipv6Addr::from(*ip), port, 0, u32::from_be_bytes(*scope)).into()
        }
        _ => return None,
    };
    Some(address)
}

/// As much of a text as is told.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_SIZE_MAX)]
}

/// The length.
const PREFIX: usize = 2;
/// Why a process gives nothing away, in a line.
const TEXT_SIZE_MAX: usize = 1_024;
const _: () = assert!(TEXT_SIZE_MAX < HANDOVER_MESSAGE_SIZE_MAX);
/// Kind, family, address, port and scope.
const SOCKET_SIZE_MAX: usize = 1 + 1 + 16 + 2 + 4;
const _: () = assert!(1 + 4 + HANDOVER_SOCKETS_MAX * SOCKET_SIZE_MAX <= HANDOVER_MESSAGE_SIZE_MAX);
const _: () = assert!(HANDOVER_SOCKETS_MAX <= u8::MAX as usize);
