//! What must hold for any bytes that a client begins with.

use super::Hello;

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
        Hello::Whole { ticket } => {
            let first = first.expect("the whole is one of the parts");
            assert_eq!(Hello::read(&bytes[..first]), hello, "what lies behind does not matter");
            if let Some(ticket) = ticket {
                check_ticket(&bytes[..first], ticket);
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
