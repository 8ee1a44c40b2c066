//! What must hold for any bytes that a client, or a proxy in front of it, begins with.

use super::{Hello, Preface};

/// `bytes` as the first of a client.
///
/// # Panics
/// When it matters how they arrived or what lies behind the first record, or when a ticket is shown that
/// does not stand there with its length.
pub fn client_hello(bytes: &[u8]) {
    let hello = Hello::read(bytes);
    let first = (1..=bytes.len()).find(|size| Hello::read(&bytes[..*size]) != Hello::Partial);
    match hello {
        Hello::Partial => assert!(first.is_none() && bytes.len() < 5 + (1 << 14)),
        Hello::Whole { ticket, protocols } => {
            let first = first.expect("the whole is one of the parts");
            assert_eq!(Hello::read(&bytes[..first]), hello, "what lies behind does not matter");
            if let Some(ticket) = ticket {
                check_ticket(&bytes[..first], ticket);
            }
            if !protocols.is_empty() {
                check_protocols(&bytes[..first], protocols);
            }
        }
    }
}

/// A ticket stands behind its length, and that behind the kind of its extension: at once (TLS 1.2), or
/// with two lengths between, of the extension and of all identities (TLS 1.3).
fn check_ticket(record: &[u8], ticket: &[u8]) {
    let at = ticket.as_ptr() as usize - record.as_ptr() as usize;
    assert_eq!(&record[at..at + ticket.len()], ticket);
    assert!(!ticket.is_empty());
    assert_eq!(record[..2], [22, record[1]]);
    assert_eq!(record[5], 1);
    let size = u16::try_from(ticket.len()).expect("a length of two octets").to_be_bytes();
    assert_eq!(record[at - 2..at], size);
    let (old, new) = (record[at - 4..at - 2] == [0, 35], record[at - 8..at - 6] == [0, 41]);
    assert!(old || new, "{}", record.escape_ascii());
}

/// A list of protocols stands behind its length, that of its extension and the extension's kind.
fn check_protocols(record: &[u8], protocols: &[u8]) {
    let at = protocols.as_ptr() as usize - record.as_ptr() as usize;
    assert_eq!(&record[at..at + protocols.len()], protocols);
    let size = u16::try_from(protocols.len()).expect("a length of two octets").to_be_bytes();
    assert_eq!((&record[at - 6..at - 4], &record[at - 2..at]), (&[0, 16][..], &size[..]));
}

/// `bytes` as the first that a proxy sends.
///
/// # Panics
/// When it matters how they arrived or what lies behind the header, or when the client is not the one that
/// stands at its place.
pub fn preface(bytes: &[u8]) {
    let read = Preface::read(bytes);
    let first = (0..=bytes.len()).find(|size| Preface::read(&bytes[..*size]) != Ok(Preface::Partial));
    match read {
        Ok(Preface::Partial) => assert!(first.is_none() && bytes.len() < crate::limits::PREFACE_SIZE_MAX),
        Ok(Preface::Whole { size, client }) => {
            assert_eq!((first, Preface::read(&bytes[..size])), (Some(size), read));
            assert!(Preface::begins(bytes));
            let Some(client) = client else { return };
            let port = match bytes[13] {
                0x11 => 24,
                _ => 48,
            };
            assert_eq!(bytes[port..port + 2], client.port().to_be_bytes());
            match client.ip() {
                std::net::IpAddr::V6(ip) => assert_eq!(bytes[16..32], ip.octets()),
                std::net::IpAddr::V4(ip) if port == 24 => assert_eq!(bytes[16..20], ip.octets()),
                std::net::IpAddr::V4(ip) => assert_eq!(bytes[16..32], ip.to_ipv6_mapped().octets()),
            }
        }
        Err(error) => {
            let first = first.expect("the whole is one of the parts");
            assert_eq!(Preface::read(&bytes[..first]), Err(error), "nothing behind it changes that");
        }
    }
}
