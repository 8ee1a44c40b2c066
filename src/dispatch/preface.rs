//! What a proxy in front says of its client before the client's first byte: the header of the PROXY
//! protocol, version 2 (HAProxy's `proxy-protocol.txt`, section 2.2).
//!
//! Pure, and strict: it names the client for logs, blocks and limits, so that what two readers could take
//! for two clients is refused. Version 1, a line of text, is not spoken.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::limits::PREFACE_SIZE_MAX;

/// The first bytes of a connection that a proxy opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preface {
    /// The beginning of a header.
    Partial,
    /// The header ends after `size` bytes.
    Whole {
        /// Bytes of it.
        size: usize,
        /// For whom the proxy connected; `None`: for itself, to see whether we are there.
        client: Option<SocketAddr>,
    },
}

/// Why the first bytes are no header that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefaceError {
    /// Something else came: TLS, the protocol's version 1.
    #[error("no header of the PROXY protocol, version 2, came first")]
    Missing,
    /// The octet of version and command.
    #[error("a PROXY header of version and command 0x{0:02x} where 0x20 and 0x21 are known")]
    Command(u8),
    /// The octet of family and transport.
    #[error("a PROXY header for family and transport 0x{0:02x} where 0x11 and 0x21 are known")]
    Family(u8),
    /// Its bytes, as it says itself.
    #[error("a PROXY header of {0} bytes where {PREFACE_SIZE_MAX} are the most")]
    TooLong(usize),
    /// It is shorter than two addresses and two ports of its family.
    #[error("a PROXY header whose addresses end behind it")]
    Addresses,
    /// Type and length of what comes behind the addresses.
    #[error("a PROXY header with a value that ends behind it")]
    Values,
    /// CRC-32C of all of it.
    #[error("a PROXY header whose checksum is wrong or there twice")]
    Checksum,
}

impl Preface {
    /// Reads what came first. Bytes behind the header do not matter.
    ///
    /// # Errors
    /// It is none that is taken: what its first 16 bytes forbid is said without waiting for the rest.
    pub fn read(bytes: &[u8]) -> Result<Preface, PrefaceError> {
        let size = bytes.len().min(SIGNATURE.len());
        if bytes[..size] != SIGNATURE[..size] {
            return Err(PrefaceError::Missing);
        }
        let Some(fixed) = bytes.first_chunk::<FIXED>() else { return Ok(Preface::Partial) };
        let [.., command, family, high, low] = *fixed;
        let size = FIXED + usize::from(u16::from_be_bytes([high, low]));
        if !matches!(command, LOCAL | PROXY) {
            return Err(PrefaceError::Command(command));
        }
        // Of a check of its own a proxy may say any family.
        if command == PROXY && !matches!(family, TCP_IPV4 | TCP_IPV6) {
            return Err(PrefaceError::Family(family));
        }
        if size > PREFACE_SIZE_MAX {
            return Err(PrefaceError::TooLong(size));
        }
        let Some(header) = bytes.get(..size) else { return Ok(Preface::Partial) };
        if command == LOCAL {
            // The specification has its block ignored, whatever is in it.
            return Ok(Preface::Whole { size, client: None });
        }
        let (client, values) = client(family, &header[FIXED..]).ok_or(PrefaceError::Addresses)?;
        check_values(header, size - values.len())?;
        Ok(Preface::Whole { size, client: Some(client) })
    }

    /// Whether these are the first bytes of a header, so that it can be told from TLS.
    pub fn begins(bytes: &[u8]) -> bool {
        bytes.starts_with(&SIGNATURE)
    }
}

/// Where the client connected from, and what stands behind the addresses.
fn client(family: u8, block: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let port = |octets: &[u8]| Some(u16::from_be_bytes(*octets.first_chunk()?));
    // From, to, both ports.
    let (ip, from, rest) = if family == TCP_IPV4 {
        let (addresses, rest) = block.split_at_checked(4 + 4 + 2 + 2)?;
        (IpAddr::from(Ipv4Addr::from(*addresses.first_chunk::<4>()?)), port(&addresses[8..])?, rest)
    } else {
        let (addresses, rest) = block.split_at_checked(16 + 16 + 2 + 2)?;
        (IpAddr::from(Ipv6Addr::from(*addresses.first_chunk::<16>()?)), port(&addresses[32..])?, rest)
    };
    // One client has one address, however the proxy listens.
    Some((SocketAddr::new(ip.to_canonical(), from), rest))
}

/// Values behind the addresses: each is whole, and a checksum among them is right. What they say is nothing
/// to us.
fn check_values(header: &[u8], mut at: usize) -> Result<(), PrefaceError> {
    let mut checksum = None;
    while at < header.len() {
        let &[kind, high, low] = header[at..].first_chunk().ok_or(PrefaceError::Values)?;
        let size = usize::from(u16::from_be_bytes([high, low]));
        let value = header.get(at + VALUE_HEADER..at + VALUE_HEADER + size).ok_or(PrefaceError::Values)?;
        if kind == CRC32C {
            let said = <[u8; 4]>::try_from(value).map_err(|_| PrefaceError::Checksum)?;
            if checksum.replace((at + VALUE_HEADER, u32::from_be_bytes(said))).is_some() {
                return Err(PrefaceError::Checksum);
            }
        }
        at += VALUE_HEADER + size;
    }
    match checksum {
        // It was computed with zeros in its place.
        Some((at, said)) if crc32c([&header[..at], &[0; 4], &header[at + 4..]]) != said => {
            Err(PrefaceError::Checksum)
        }
        _ => Ok(()),
    }
}

/// CRC-32C (RFC 3720, appendix B.4), bit by bit: a header is short, and few have one.
fn crc32c<const N: usize>(parts: [&[u8]; N]) -> u32 {
    let mut remainder = u32::MAX;
    for byte in parts.into_iter().flatten() {
        remainder ^= u32::from(*byte);
        for _ in 0..8 {
            remainder = remainder >> 1 ^ 0x82f6_3b78 & (remainder & 1).wrapping_neg();
        }
    }
    !remainder
}

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
const FIXED: usize = SIGNATURE.len() + 4;
/// Version 2, and who connects: the proxy for itself, or for a client.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const TCP_IPV4: u8 = 0x11;
const TCP_IPV6: u8 = 0x21;
/// Type and length.
const VALUE_HEADER: usize = 3;
/// Type of the value that is a checksum.
const CRC32C: u8 = 3;

#[cfg(test)]
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    crc32c([bytes])
}
