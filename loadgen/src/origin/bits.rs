//! Upload sessions: which fragments came, and what is said to a packet.
//!
//! Pure. A session belongs to the origin and not to a connection: its packets may come over several, in any shard, so the
//! origin keeps one table behind a lock. Fragments come in order; what came twice is taken once more in silence, a gap is
//! refused with what was received so far, as the protocol has it.

use crate::content;
use crate::population::catalogue::BITS_PROTOCOL;
use std::collections::{HashMap, VecDeque};
use std::io::Write;

/// Sessions known at once; the oldest is forgotten first. 100,000 clients may all upload at once.
pub const SESSIONS_MAX: usize = 100_000;
/// Longest upload.
const UPLOAD_SIZE_MAX: u64 = 4 << 30;

const E_INVALIDARG: u32 = 0x8007_0057;
const BG_E_INVALID_STATE: u32 = 0x8020_0002;
const BG_E_SESSION_NOT_FOUND: u32 = 0x8020_001f;
const BG_E_INVALID_RANGE: u32 = 0x8020_002b;

/// One packet: its fields, and how many bytes came with it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Packet<'a> {
    /// `BITS-Packet-Type`.
    pub kind: &'a [u8],
    /// `BITS-Session-Id`.
    pub session: Option<&'a [u8]>,
    /// `BITS-Supported-Protocols`.
    pub protocols: Option<&'a [u8]>,
    /// `Content-Range`.
    pub range: Option<&'a [u8]>,
    /// Bytes of the body.
    pub size: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Session {
    received: u64,
    total: Option<u64>,
}

/// All sessions of an origin.
#[derive(Debug, Default)]
pub struct Sessions {
    known: HashMap<u64, Session>,
    in_order: VecDeque<u64>,
    made: u64,
}

/// What was wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Refused {
    status: u16,
    error: u32,
    received: Option<u64>,
}

impl Refused {
    fn new(status: u16, error: u32) -> Self {
        Self { status, error, received: None }
    }
}

impl Sessions {
    /// Takes a packet: the status, and the fields of the answer, which has no body.
    pub fn handle(&mut self, packet: &Packet<'_>, fields: &mut Vec<u8>) -> u16 {
        fields.extend_from_slice(b"BITS-Packet-Type: Ack\r\n");
        match self.judge(packet, fields) {
            Ok(()) => 200,
            Err(Refused { status, error, received }) => {
                // 5: the error is in the remote file.
                let _ = write!(fields, "BITS-Error: 0x{error:08x}\r\nBITS-Error-Context: 0x5\r\n");
                write_received(received, fields);
                status
            }
        }
    }

    fn judge(&mut self, packet: &Packet<'_>, fields: &mut Vec<u8>) -> Result<(), Refused> {
        let is = |kind: &str| packet.kind.eq_ignore_ascii_case(kind.as_bytes());
        if !is("FRAGMENT") && packet.size > 0 {
            return Err(Refused::new(400, E_INVALIDARG));
        }
        if is("PING") {
            return Ok(());
        }
        if is("CREATE-SESSION") {
            return self.create(packet, fields);
        }
        if !is("FRAGMENT") && !is("CLOSE-SESSION") && !is("CANCEL-SESSION") {
            return Err(Refused::new(400, E_INVALIDARG));
        }
        let missing = Refused::new(500, BG_E_SESSION_NOT_FOUND);
        let id = packet.session.and_then(read_id).ok_or(missing)?;
        write_id(id, fields);
        let session = self.known.get_mut(&id).ok_or(missing)?;
        if is("FRAGMENT") {
            session.take(packet)?;
            write_received(Some(session.received), fields);
            return Ok(());
        }
        if is("CLOSE-SESSION") && session.total.is_none_or(|total| session.received < total) {
            return Err(Refused {
                received: Some(session.received),
                ..Refused::new(500, BG_E_INVALID_STATE)
            });
        }
        self.known.remove(&id);
        Ok(())
    }

    fn create(&mut self, packet: &Packet<'_>, fields: &mut Vec<u8>) -> Result<(), Refused> {
        let protocols = packet.protocols.unwrap_or_default().to_ascii_lowercase();
        if !protocols.windows(BITS_PROTOCOL.len()).any(|window| window == BITS_PROTOCOL.as_bytes()) {
            return Err(Refused::new(400, E_INVALIDARG));
        }
        if self.in_order.len() >= SESSIONS_MAX
            && let Some(oldest) = self.in_order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.made += 1;
        let id = spread(self.made);
        self.known.insert(id, Session::default());
        self.in_order.push_back(id);
        let _ = write!(fields, "BITS-Protocol: {BITS_PROTOCOL}\r\n");
        write_id(id, fields);
        Ok(())
    }
}

impl Session {
    fn take(&mut self, packet: &Packet<'_>) -> Result<(), Refused> {
        let bad = Refused::new(400, E_INVALIDARG);
        let (first, last, total) = packet.range.and_then(read_range).ok_or(bad)?;
        if last - first + 1 != packet.size || self.total.is_some_and(|known| known != total) {
            return Err(bad);
        }
        if first > self.received {
            return Err(Refused { received: Some(self.received), ..Refused::new(416, BG_E_INVALID_RANGE) });
        }
        self.total = Some(total);
        self.received = self.received.max(last + 1);
        Ok(())
    }
}

fn write_received(received: Option<u64>, fields: &mut Vec<u8>) {
    if let Some(received) = received {
        let _ = write!(fields, "BITS-Received-Content-Range: {received}\r\n");
    }
}

/// First, last and total of `bytes first-last/total`, in order and within bounds.
fn read_range(value: &[u8]) -> Option<(u64, u64, u64)> {
    let text = std::str::from_utf8(value.strip_prefix(b"bytes ")?).ok()?;
    let (range, total) = text.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let number = |text: &str| content::number(text.as_bytes());
    let (first, last, total) = (number(first)?, number(last)?, number(total)?);
    (first <= last && last < total && total <= UPLOAD_SIZE_MAX).then_some((first, last, total))
}

fn write_id(id: u64, fields: &mut Vec<u8>) {
    let (high, low) = (id >> 32, id & 0xffff_ffff);
    let _ = write!(
        fields,
        "BITS-Session-Id: {{{high:08X}-{:04X}-{:04X}-C0DE-10AD6E2B175A}}\r\n",
        low >> 16,
        low & 0xffff
    );
}

fn read_id(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.strip_prefix('{')?.strip_suffix("-C0DE-10AD6E2B175A}")?;
    let mut parts = text.split('-');
    let mut next = |size: usize| {
        let part = parts.next().filter(|part| part.len() == size)?;
        u64::from_str_radix(part, 16).ok()
    };
    Some(next(8)? << 32 | next(4)? << 16 | next(4)?)
}

/// One to one, so that no two sessions share an id, and neighbours look different.
fn spread(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Client {
        sessions: Sessions,
        id: Vec<u8>,
    }

    impl Client {
        fn new() -> Self {
            let mut client = Self { sessions: Sessions::default(), id: Vec::new() };
            let packet = Packet {
                kind: b"CREATE-SESSION",
                protocols: Some(BITS_PROTOCOL.as_bytes()),
                ..Packet::default()
            };
            let mut fields = Vec::new();
            assert_eq!(client.sessions.handle(&packet, &mut fields), 200);
            let text = String::from_utf8(fields).unwrap();
            let id = text.lines().find_map(|line| line.strip_prefix("BITS-Session-Id: ")).unwrap();
            client.id = id.as_bytes().to_vec();
            client
        }

        fn say(&mut self, kind: &str, range: Option<&str>, size: u64) -> (u16, String) {
            let packet = Packet {
                kind: kind.as_bytes(),
                session: Some(&self.id),
                range: range.map(str::as_bytes),
                size,
                ..Packet::default()
            };
            let mut fields = Vec::new();
            let status = self.sessions.handle(&packet, &mut fields);
            (status, String::from_utf8(fields).unwrap())
        }
    }

    #[test]
    fn a_whole_upload_is_acknowledged_packet_by_packet() {
        let mut client = Client::new();
        for (range, size, received) in
            [("bytes 0-99/250", 100, 100), ("bytes 100-199/250", 100, 200), ("bytes 200-249/250", 50, 250)]
        {
            let (status, fields) = client.say("FRAGMENT", Some(range), size);
            assert_eq!(status, 200, "{range}: {fields}");
            assert!(fields.contains(&format!("BITS-Received-Content-Range: {received}\r\n")), "{fields}");
            assert!(fields.contains("BITS-Packet-Type: Ack\r\n"));
        }
        assert_eq!(client.say("CLOSE-SESSION", None, 0).0, 200);
        let (status, fields) = client.say("CLOSE-SESSION", None, 0);
        assert_eq!(status, 500, "a session ends once");
        assert!(fields.contains("BITS-Error: 0x8020001f\r\n"), "{fields}");
    }

    #[test]
    fn a_gap_is_refused_and_a_fragment_twice_is_not() {
        let mut client = Client::new();
        let (status, fields) = client.say("FRAGMENT", Some("bytes 100-199/200"), 100);
        assert_eq!(status, 416);
        assert!(
            fields.contains("BITS-Error: 0x8020002b") && fields.contains("Content-Range: 0\r\n"),
            "{fields}"
        );
        for _ in 0..2 {
            let (status, fields) = client.say("FRAGMENT", Some("bytes 0-99/200"), 100);
            assert_eq!((status, fields.contains("BITS-Received-Content-Range: 100\r\n")), (200, true));
        }
        let (status, fields) = client.say("CLOSE-SESSION", None, 0);
        assert_eq!(
            (status, fields.contains("BITS-Error: 0x80200002")),
            (500, true),
            "half is not all: {fields}"
        );
        assert_eq!(client.say("FRAGMENT", Some("bytes 50-199/200"), 150).0, 200, "an overlap");
        assert_eq!(client.say("CLOSE-SESSION", None, 0).0, 200);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for (kind, range, size, status) in [
            ("FRAGMENT", Some("bytes 0-99/200"), 99, 400),
            ("FRAGMENT", Some("bytes 0-99/99"), 100, 400),
            ("FRAGMENT", Some("bytes 9-0/99"), 0, 400),
            ("FRAGMENT", None, 10, 400),
            ("FRAGMENT", Some("lines 0-9/10"), 10, 400),
            ("CLOSE-SESSION", None, 3, 400),
            ("CLOSE-SESSION", None, 0, 500),
            ("CANCEL-SESSION", None, 0, 200),
            ("PING", None, 0, 200),
            ("OTHER", None, 0, 400),
        ] {
            assert_eq!(Client::new().say(kind, range, size).0, status, "{kind} {range:?}");
        }
        let mut client = Client::new();
        client.id = b"{00000000-0000-0000-C0DE-10AD6E2B175A}".to_vec();
        assert_eq!(client.say("FRAGMENT", Some("bytes 0-9/10"), 10).0, 500, "a session nobody made");
        let packet = Packet { kind: b"CREATE-SESSION", protocols: Some(b"{other}"), ..Packet::default() };
        assert_eq!(client.sessions.handle(&packet, &mut Vec::new()), 400);
    }

    #[test]
    fn a_total_does_not_change_within_a_session() {
        let mut client = Client::new();
        assert_eq!(client.say("FRAGMENT", Some("bytes 0-99/200"), 100).0, 200);
        assert_eq!(client.say("FRAGMENT", Some("bytes 100-199/300"), 100).0, 400);
    }

    #[test]
    fn sessions_are_bounded_and_the_oldest_goes_first() {
        let mut client = Client::new();
        let first = client.id.clone();
        let create = Packet {
            kind: b"create-session",
            protocols: Some(BITS_PROTOCOL.as_bytes()),
            ..Packet::default()
        };
        for _ in 0..SESSIONS_MAX {
            assert_eq!(client.sessions.handle(&create, &mut Vec::new()), 200);
        }
        assert_eq!(client.sessions.known.len(), SESSIONS_MAX);
        client.id = first;
        assert_eq!(client.say("CANCEL-SESSION", None, 0).0, 500);
    }

    #[test]
    fn ids_are_read_as_they_were_written() {
        for id in [0, 1, u64::MAX, 0x0123_4567_89ab_cdef] {
            let mut fields = Vec::new();
            write_id(id, &mut fields);
            let text = String::from_utf8(fields).unwrap();
            let text = text.trim_end().strip_prefix("BITS-Session-Id: ").unwrap();
            assert_eq!(read_id(text.as_bytes()), Some(id), "{text}");
        }
    }
}
