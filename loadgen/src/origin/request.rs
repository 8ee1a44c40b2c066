//! A request as the origin sees it: what is kept of it while it is read, and what it wishes.

use super::rules::Fault;
use crate::content::{self, ANSWER_SIZE, Hash64, ID_SIZE_MAX};
use crate::population::catalogue::{self, Reply, Service};
use crate::tokens;
use crate::wire::{Framing, RequestHead};
use std::time::Duration;

/// So much of a message's beginning is kept: its envelope names the endpoint.
const MESSAGE_START_SIZE: usize = 4 * 1024;
/// Fields longer than this are cut; those that are looked at have less than 100 bytes.
const FIELD_SIZE_MAX: usize = 256;
/// A longer token is none that was signed here.
const TOKEN_SIZE_MAX: usize = 2 * 1024;
/// Wishes that a query may have; with one of them a path names no endpoint.
const WISHES: [&str; 8] = ["id", "bytes", "status", "delay_ms", "framing", "cut", "stall", "fault"];

/// What is known of the request being read; its vectors are used again.
#[derive(Debug, Default)]
pub struct Request {
    /// From the query, else from `X-Load-Id`.
    pub id: Vec<u8>,
    /// Without the query.
    pub path: Vec<u8>,
    /// `Range`.
    pub range: Option<Vec<u8>>,
    /// The first bytes of the body.
    pub start: Vec<u8>,
    /// Of the body.
    pub hash: Hash64,
    /// Whether the method is HEAD.
    pub is_head: bool,
    /// Whether it is one that changes nothing, so that it may come again.
    pub is_safe: bool,
    /// Whether the connection stays.
    pub keep_alive: bool,
    /// What it asks for.
    pub wish: Wish,
    /// The named endpoint it is for.
    pub named: Option<Box<Named>>,
    /// Number of the push that answers it.
    pub pushed: Option<u64>,
}

/// A request to a named endpoint.
#[derive(Debug)]
pub struct Named {
    /// Which.
    pub service: Service,
    /// Whether it takes the method.
    pub takes_method: bool,
    /// `BITS-Packet-Type`.
    pub packet: Vec<u8>,
    /// `BITS-Session-Id`.
    pub session: Option<Vec<u8>>,
    /// `BITS-Supported-Protocols`.
    pub protocols: Option<Vec<u8>>,
    /// `Content-Range`.
    pub content_range: Option<Vec<u8>>,
    /// `SOAPAction`.
    pub action: Option<Vec<u8>>,
    /// The token shown to a service that gives another for it.
    pub token: Option<Vec<u8>>,
}

impl Named {
    fn read(head: &RequestHead<'_>) -> Option<Box<Self>> {
        let service = catalogue::find(head.path, head.query)?;
        if WISHES.iter().any(|wish| content::query_value(head.query, wish.as_bytes()).is_some()) {
            return None;
        }
        let kept = |value: &[u8]| value[..value.len().min(FIELD_SIZE_MAX)].to_vec();
        let gives_tokens = service == Service::Plain(Reply::Token);
        let token = head.signs.authorization.filter(|_| gives_tokens).and_then(tokens::bearer);
        Some(Box::new(Self {
            service,
            token: token.filter(|token| token.len() <= TOKEN_SIZE_MAX).map(<[u8]>::to_vec),
            takes_method: service.methods().iter().any(|method| method.as_bytes() == head.method),
            packet: head.signs.bits_packet.map(kept).unwrap_or_default(),
            session: head.signs.bits_session.map(kept),
            protocols: head.signs.bits_protocols.map(kept),
            content_range: head.signs.content_range.map(kept),
            action: head.signs.soap_action.map(kept),
        }))
    }
}

impl Request {
    /// Begins with a head.
    pub fn take(&mut self, head: &RequestHead<'_>) {
        let id = content::query_value(head.query, b"id").or(head.signs.load_id);
        let id = id.filter(|id| !id.is_empty()).unwrap_or(b"-");
        self.id.clear();
        self.id.extend_from_slice(&id[..id.len().min(ID_SIZE_MAX)]);
        self.path.clear();
        self.path.extend_from_slice(head.path);
        self.range = head.range.map(<[u8]>::to_vec);
        self.start.clear();
        self.hash = Hash64::default();
        self.is_head = head.method == b"HEAD";
        self.is_safe = matches!(head.method, b"GET" | b"HEAD" | b"OPTIONS" | b"PROPFIND");
        self.keep_alive = head.keep_alive;
        self.named = Named::read(head);
        self.pushed = None;
        self.wish =
            Wish::read(if self.named.is_some() { head.signs.wishes.unwrap_or_default() } else { head.query });
    }

    /// Goes on with content.
    pub fn take_content(&mut self, content: &[u8]) {
        let is_message = self.named.as_ref().is_some_and(|named| named.service == Service::Messaging);
        let most = if is_message { MESSAGE_START_SIZE } else { ID_SIZE_MAX + 4 };
        let wanted = most.saturating_sub(self.start.len()).min(content.len());
        self.start.extend_from_slice(&content[..wanted]);
        self.hash.update(content);
    }

    /// Gives up room that a request at rest does not need.
    pub fn trim(&mut self) {
        for kept in [&mut self.id, &mut self.path, &mut self.start] {
            kept.shrink_to_fit();
        }
    }

    /// Whether it is a notification request that waits for one.
    pub fn is_held(&self) -> bool {
        self.named.as_ref().is_some_and(|named| named.service == Service::Notification(true))
    }
}

/// What the query, or `X-Load`, asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// Bytes of a plain answer.
    pub size: u64,
    /// Instead of the status there would be.
    pub status: Option<u16>,
    /// Instead of the delay of the flags.
    pub delay: Option<Duration>,
    /// `Length(0)`: by the length there is.
    pub framing: Framing,
    /// Close after so many bytes of the body.
    pub cut: Option<u64>,
    /// Close in the middle of the body.
    pub is_halved: bool,
    /// Answer nothing.
    pub stalls: bool,
    /// What is to go wrong.
    pub fault: Option<Fault>,
    /// Answer a notification request with one.
    pub pushes: bool,
    /// Which client asks.
    pub client: Option<u64>,
    /// The push that client saw last.
    pub seen: u64,
}

impl Default for Wish {
    fn default() -> Self {
        Self {
            size: ANSWER_SIZE,
            status: None,
            delay: None,
            framing: Framing::Length(0),
            cut: None,
            is_halved: false,
            stalls: false,
            fault: None,
            pushes: false,
            client: None,
            seen: 0,
        }
    }
}

impl Wish {
    /// Reads `name=value&…`; names that are none of these are left alone.
    pub fn read(wishes: &[u8]) -> Self {
        let mut wish = Self::default();
        for pair in wishes.split(|byte| *byte == b'&') {
            let end = pair.iter().position(|byte| *byte == b'=');
            let (name, value) = end.map_or((pair, &pair[..0]), |at| (&pair[..at], &pair[at + 1..]));
            wish.take(name, value);
        }
        wish
    }

    fn take(&mut self, name: &[u8], value: &[u8]) {
        let count = || content::number(value);
        match name {
            b"bytes" => self.size = count().unwrap_or(ANSWER_SIZE),
            b"status" => {
                let status = count().and_then(|status| u16::try_from(status).ok());
                self.status = status.filter(|status| (200..600).contains(status));
            }
            b"delay_ms" => self.delay = count().map(Duration::from_millis),
            b"framing" if value == b"chunked" => self.framing = Framing::Chunked,
            b"framing" if value == b"close" => self.framing = Framing::Close,
            b"cut" => self.cut = count(),
            b"stall" => self.stalls = true,
            b"fault" => self.fault = Fault::named(value),
            b"push" => self.pushes = true,
            b"client" => self.client = count(),
            b"seen" => self.seen = count().unwrap_or(0),
            _ => {}
        }
    }
}

/// Which part of a body is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// All of it.
    Whole,
    /// From the first to the last byte named.
    Part(u64, u64),
    /// None that there is.
    Outside,
}

/// One byte range; several, or anything else, is answered with the whole.
pub fn parse_range(value: &[u8], size: u64) -> Range {
    let Some(spec) = value.strip_prefix(b"bytes=") else { return Range::Whole };
    let Some(dash) = spec.iter().position(|byte| *byte == b'-') else { return Range::Whole };
    let (first, last) = (&spec[..dash], &spec[dash + 1..]);
    match (first, content::number(first), last, content::number(last)) {
        (_, Some(first), b"", _) if first < size => Range::Part(first, size - 1),
        (_, Some(first), _, Some(last)) if first <= last && first < size => {
            Range::Part(first, last.min(size - 1))
        }
        (b"", _, _, Some(count)) if count > 0 && size > 0 => Range::Part(size - count.min(size), size - 1),
        (_, Some(first), _, _) if first >= size => Range::Outside,
        _ => Range::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_a_part_of_the_same_body() {
        for (value, range) in [
            ("bytes=0-9", Range::Part(0, 9)),
            ("bytes=90-", Range::Part(90, 99)),
            ("bytes=-10", Range::Part(90, 99)),
            ("bytes=90-200", Range::Part(90, 99)),
            ("bytes=100-", Range::Outside),
            ("bytes=5-4", Range::Whole),
            ("bytes=0-1,4-5", Range::Whole),
            ("lines=0-1", Range::Whole),
        ] {
            assert_eq!(parse_range(value.as_bytes(), 100), range, "{value}");
        }
    }
}
