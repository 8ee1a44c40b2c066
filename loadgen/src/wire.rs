//! HTTP/1.1 as loadgen reads it: heads by `httparse`, bodies by length, chunks or close.
//!
//! A second implementation on purpose: it shares no line with the proxy it measures, so that both cannot have the same bug.
//! Stricter than it must be where an answer could be read in two ways.

use crate::content::number;

/// Heads longer than this are refused.
pub const HEAD_SIZE_MAX: usize = 64 * 1024;
const FIELDS_MAX: usize = 64;

/// Bytes that are not the HTTP we speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed HTTP: {0}")]
pub struct Malformed(pub &'static str);

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After so many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// When the connection ends.
    Close,
}

/// The head of an answer.
#[derive(Debug, PartialEq, Eq)]
pub struct ResponseHead<'b> {
    /// Its status.
    pub status: u16,
    /// Its reason phrase.
    pub reason: &'b str,
    /// How the body ends; `Length(0)` when there is none.
    pub framing: Framing,
    /// Whether the connection stays after this answer.
    pub keep_alive: bool,
    /// `X-Id`, when present.
    pub id: Option<&'b [u8]>,
    /// `Content-Length`, when present, whether or not so much follows.
    pub length: Option<u64>,
    /// Bytes of the head.
    pub size: usize,
}

/// Fields of a request that only the named endpoints of the origin look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signs<'b> {
    /// `BITS-Packet-Type`.
    pub bits_packet: Option<&'b [u8]>,
    /// `BITS-Session-Id`.
    pub bits_session: Option<&'b [u8]>,
    /// `BITS-Supported-Protocols`.
    pub bits_protocols: Option<&'b [u8]>,
    /// `Content-Range`.
    pub content_range: Option<&'b [u8]>,
    /// `SOAPAction`.
    pub soap_action: Option<&'b [u8]>,
    /// `Authorization`.
    pub authorization: Option<&'b [u8]>,
    /// `X-Load-Id`: the id, where the target has no room for it.
    pub load_id: Option<&'b [u8]>,
    /// `X-Load`: what else would stand in the query.
    pub wishes: Option<&'b [u8]>,
}

/// The head of a request.
#[derive(Debug, PartialEq, Eq)]
pub struct RequestHead<'b> {
    /// Its method.
    pub method: &'b [u8],
    /// Before the `?`.
    pub path: &'b [u8],
    /// After the `?`.
    pub query: &'b [u8],
    /// How the body ends; `Length(0)` when there is none.
    pub framing: Framing,
    /// Whether the connection stays after this request.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue`.
    pub expects_continue: bool,
    /// `Range`, when present.
    pub range: Option<&'b [u8]>,
    /// What named endpoints look at.
    pub signs: Signs<'b>,
    /// Bytes of the head.
    pub size: usize,
}

/// The fields that both kinds of head share.
#[derive(Default)]
struct Fields<'b> {
    length: Option<u64>,
    is_chunked: bool,
    closes: bool,
    keeps: bool,
    expects_continue: bool,
    id: Option<&'b [u8]>,
    range: Option<&'b [u8]>,
    signs: Signs<'b>,
}

impl<'b> Fields<'b> {
    fn read(fields: &[httparse::Header<'b>]) -> Result<Self, Malformed> {
        let mut found = Self::default();
        for field in fields {
            found.take(field.name, field.value)?;
        }
        if found.is_chunked && found.length.is_some() {
            return Err(Malformed("both Content-Length and Transfer-Encoding"));
        }
        Ok(found)
    }

    fn take(&mut self, name: &str, value: &'b [u8]) -> Result<(), Malformed> {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        match name.len() {
            4 if is("x-id") => self.id = Some(value),
            5 if is("range") => self.range = Some(value),
            6 if is("expect") => self.expects_continue = value.eq_ignore_ascii_case(b"100-continue"),
            6 if is("x-load") => self.signs.wishes = Some(value),
            9 if is("x-load-id") => self.signs.load_id = Some(value),
            10 if is("soapaction") => self.signs.soap_action = Some(value),
            10 if is("connection") => {
                for token in value.split(|byte| *byte == b',') {
                    self.closes |= token.trim_ascii().eq_ignore_ascii_case(b"close");
                    self.keeps |= token.trim_ascii().eq_ignore_ascii_case(b"keep-alive");
                }
            }
            13 if is("authorization") => self.signs.authorization = Some(value),
            13 if is("content-range") => self.signs.content_range = Some(value),
            15 if is("bits-session-id") => self.signs.bits_session = Some(value),
            16 if is("bits-packet-type") => self.signs.bits_packet = Some(value),
            24 if is("bits-supported-protocols") => self.signs.bits_protocols = Some(value),
            14 if is("content-length") => {
                let length = number(value).ok_or(Malformed("Content-Length is no number"))?;
                if self.length.replace(length).is_some() {
                    return Err(Malformed("two Content-Length"));
                }
            }
            17 if is("transfer-encoding") => {
                if self.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Malformed("Transfer-Encoding other than chunked"));
                }
                self.is_chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn framing(&self) -> Option<Framing> {
        if self.is_chunked { Some(Framing::Chunked) } else { self.length.map(Framing::Length) }
    }

    fn keep_alive(&self, version: Option<u8>) -> bool {
        !self.closes && (version == Some(1) || self.keeps)
    }
}

/// The answer's head at the front of `bytes`; `None` when it is not complete.
pub fn parse_response(bytes: &[u8], answers_head: bool) -> Result<Option<ResponseHead<'_>>, Malformed> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let size = match response.parse(bytes) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_SIZE_MAX => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(Malformed("response head too large")),
        Err(_) => return Err(Malformed("response head")),
    };
    let (status, version) = (response.code.unwrap_or_default(), response.version);
    let reason = response.reason.unwrap_or_default();
    let found = Fields::read(response.headers)?;
    let has_no_body = answers_head || status < 200 || status == 204 || status == 304;
    let framing = if has_no_body { Framing::Length(0) } else { found.framing().unwrap_or(Framing::Close) };
    let keep_alive = found.keep_alive(version) && framing != Framing::Close;
    Ok(Some(ResponseHead { status, reason, framing, keep_alive, id: found.id, length: found.length, size }))
}

/// The request's head at the front of `bytes`; `None` when it is not complete.
pub fn parse_request(bytes: &[u8]) -> Result<Option<RequestHead<'_>>, Malformed> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let size = match request.parse(bytes) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_SIZE_MAX => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(Malformed("request head too large")),
        Err(_) => return Err(Malformed("request head")),
    };
    let target = request.path.unwrap_or_default().as_bytes();
    let (path, query) = match target.iter().position(|byte| *byte == b'?') {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (target, &target[..0]),
    };
    let version = request.version;
    let found = Fields::read(request.headers)?;
    Ok(Some(RequestHead {
        method: request.method.unwrap_or_default().as_bytes(),
        path,
        query,
        framing: found.framing().unwrap_or(Framing::Length(0)),
        keep_alive: found.keep_alive(version),
        expects_continue: found.expects_continue,
        range: found.range,
        signs: found.signs,
        size,
    }))
}

/// Where a body stands.
///
/// Length, Close: data until the end. Chunks: Size ─▶ Data ─▶ DataEnd ─▶ Size … Size(0) ─▶ Trailer ─▶ Done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// So many bytes are to come.
    Length(u64),
    /// Everything until the connection ends.
    Close,
    /// In the line with a chunk's size.
    ChunkSize {
        /// The size as far as read.
        size: u64,
        /// How many digits were read.
        digits: u8,
        /// Where in the line.
        place: Line,
    },
    /// In a chunk, with so many bytes to come.
    ChunkData(u64),
    /// In the line end behind a chunk.
    ChunkEnd(Line),
    /// In a trailer line, which is empty so far or not.
    Trailer {
        /// No byte of the line came yet.
        is_empty: bool,
        /// Where in the line.
        place: Line,
    },
    /// At its end.
    Done,
}

/// Where in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// In its text.
    Text,
    /// In a chunk extension.
    Extension,
    /// Behind the CR.
    Feed,
}

const CHUNK_START: Body = Body::ChunkSize { size: 0, digits: 0, place: Line::Text };

impl Body {
    /// A body at its start.
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(0) => Self::Done,
            Framing::Length(size) => Self::Length(size),
            Framing::Close => Self::Close,
            Framing::Chunked => CHUNK_START,
        }
    }

    /// Whether nothing is to come.
    pub fn is_done(&self) -> bool {
        *self == Self::Done
    }

    /// Reads on: how many bytes were used and which of them are content. Call again until nothing is used.
    pub fn read<'b>(&mut self, bytes: &'b [u8]) -> Result<(usize, &'b [u8]), Malformed> {
        let mut used = 0;
        while used < bytes.len() {
            match *self {
                Self::Length(left) | Self::ChunkData(left) => {
                    let size = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - used);
                    self.advance(left - size as u64);
                    return Ok((used + size, &bytes[used..used + size]));
                }
                Self::Close => return Ok((bytes.len(), &bytes[used..])),
                Self::Done => break,
                _ => *self = self.step(bytes[used])?,
            }
            used += 1;
        }
        Ok((used, &bytes[..0]))
    }

    fn advance(&mut self, left: u64) {
        *self = match *self {
            Self::Length(_) if left == 0 => Self::Done,
            Self::Length(_) => Self::Length(left),
            _ if left == 0 => Self::ChunkEnd(Line::Text),
            _ => Self::ChunkData(left),
        }
    }

    fn step(self, byte: u8) -> Result<Self, Malformed> {
        const BAD: Malformed = Malformed("chunk");
        Ok(match (self, byte) {
            (Self::ChunkSize { size, digits, place: Line::Text }, _)
                if byte.is_ascii_hexdigit() && digits < 15 =>
            {
                let digit = (byte as char).to_digit(16).ok_or(BAD)?;
                Self::ChunkSize { size: size << 4 | u64::from(digit), digits: digits + 1, place: Line::Text }
            }
            (Self::ChunkSize { size, digits, place: Line::Text }, b';') if digits > 0 => {
                Self::ChunkSize { size, digits, place: Line::Extension }
            }
            (Self::ChunkSize { size, digits, place: Line::Text | Line::Extension }, b'\r') if digits > 0 => {
                Self::ChunkSize { size, digits, place: Line::Feed }
            }
            (Self::ChunkSize { place: Line::Extension, .. }, b' '..=b'~' | b'\t') => self,
            (Self::ChunkSize { size: 0, place: Line::Feed, .. }, b'\n') => {
                Self::Trailer { is_empty: true, place: Line::Text }
            }
            (Self::ChunkSize { size, place: Line::Feed, .. }, b'\n') => Self::ChunkData(size),
            (Self::ChunkEnd(Line::Text), b'\r') => Self::ChunkEnd(Line::Feed),
            (Self::ChunkEnd(Line::Feed), b'\n') => CHUNK_START,
            (Self::Trailer { is_empty, place: Line::Text }, b'\r') => {
                Self::Trailer { is_empty, place: Line::Feed }
            }
            (Self::Trailer { is_empty: true, place: Line::Feed }, b'\n') => Self::Done,
            (Self::Trailer { place: Line::Feed, .. }, b'\n') => {
                Self::Trailer { is_empty: true, place: Line::Text }
            }
            (Self::Trailer { place: Line::Text, .. }, b' '..=b'~' | b'\t' | 0x80..) => {
                Self::Trailer { is_empty: false, place: Line::Text }
            }
            _ => return Err(BAD),
        })
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
