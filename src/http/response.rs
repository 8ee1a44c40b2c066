//! Response heads, as an origin sends them.

use super::connection::ConnectionTokens;
use super::head::{FieldScratch, Fields, Gathered, HeadError, Parsed, ResponseFraming, Version};
use super::scan;

/// A response head that can be read in one way only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead<'b, 'f> {
    /// Of the origin.
    pub version: Version,
    /// 100 to 599.
    pub status: u16,
    /// Reason phrase as it came, perhaps empty; may hold obs-text.
    pub reason: &'b [u8],
    /// Where the body ends, given the request's method.
    pub framing: ResponseFraming,
    /// `Content-Length` as declared, also where no body follows (HEAD, 304) and it must be passed on.
    pub content_length: Option<u64>,
    /// Whether the origin keeps the connection, and this response leaves it where we can tell.
    pub keep_alive: bool,
    /// The protocol of `Upgrade`, when `Connection` names it and it is one: with 101 the one now spoken.
    pub upgrade: Option<&'b [u8]>,
    /// What `Connection` says.
    pub connection: ConnectionTokens<'b>,
    /// Every field, also those that are not passed on.
    pub fields: Fields<'b, 'f>,
}

impl ResponseHead<'_, '_> {
    /// Whether another response to the same request follows (1xx, but not 101).
    pub fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }

    /// Whether what follows is a tunnel that speaks `protocol`: 101 of HTTP/1.1 that says so, that announces no
    /// body and does not speak of closing.
    pub fn switches_to(&self, protocol: &[u8]) -> bool {
        let is_named = self.upgrade.is_some_and(|upgrade| upgrade.eq_ignore_ascii_case(protocol));
        self.status == 101 && self.version == Version::Http11 && self.keep_alive && is_named
    }
}

/// Reads the response head at the front of `bytes`; `request_is_head` because HEAD is answered
/// without a body whatever the fields say.
///
/// # Errors
/// For everything two readers could understand differently; the origin's connection must be closed.
/// [`HeadError::origin_refusal`] is what the client is told.
pub fn parse_response<'b, 'f>(
    bytes: &'b [u8],
    request_is_head: bool,
    scratch: &'f mut FieldScratch<'b>,
) -> Result<Parsed<ResponseHead<'b, 'f>>, HeadError> {
    let Some(Start { version, status, fields, size }) = parse(bytes, scratch)? else {
        return Ok(Parsed::Partial);
    };
    let head = judge(version, status, reason(bytes), request_is_head, fields, &bytes[..size])?;
    Ok(Parsed::Complete { head, size })
}

/// Status and size of the response head at the front of `bytes`, once it is whole, whatever its fields say of a body:
/// for answers behind which none is looked for.
pub(super) fn parse_status(bytes: &[u8]) -> Result<Option<(u16, usize)>, HeadError> {
    let parsed = parse(bytes, &mut FieldScratch::new())?.map(|Start { status, size, .. }| (status, size));
    match parsed {
        Some((status, _)) if !(100..600).contains(&status) => Err(HeadError::Status),
        parsed => Ok(parsed),
    }
}

/// A response head whose fields nobody has judged.
struct Start<'b, 'f> {
    version: Version,
    status: u16,
    fields: Fields<'b, 'f>,
    size: usize,
}

fn parse<'b, 'f>(
    bytes: &'b [u8],
    scratch: &'f mut FieldScratch<'b>,
) -> Result<Option<Start<'b, 'f>>, HeadError> {
    let Some(size) = scan::head_size(bytes)? else { return Ok(None) };
    let mut response = httparse::Response::new(&mut []);
    let status = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        &bytes[..size],
        &mut scratch.slots,
    )?;
    let (httparse::Status::Complete(parsed), Some(version), Some(status)) =
        (status, response.version, response.code)
    else {
        return Err(HeadError::StartLine);
    };
    if parsed != size {
        return Err(HeadError::LineEnd); // Unreachable as long as httparse agrees where a head ends.
    }
    let version = if version == 0 { Version::Http10 } else { Version::Http11 };
    Ok(Some(Start { version, status, fields: Fields(response.headers), size }))
}

/// The reason phrase byte for byte; httparse hides one with obs-text.
fn reason(bytes: &[u8]) -> &[u8] {
    let line = &bytes[..memchr::memchr(b'\r', bytes).unwrap_or(bytes.len())];
    line.get(b"HTTP/1.1 200 ".len()..).unwrap_or_default()
}

fn judge<'b, 'f>(
    version: Version,
    status: u16,
    reason: &'b [u8],
    request_is_head: bool,
    fields: Fields<'b, 'f>,
    bytes: &[u8],
) -> Result<ResponseHead<'b, 'f>, HeadError> {
    if !(100..600).contains(&status) {
        return Err(HeadError::Status);
    }
    let gathered = Gathered::from_fields(fields, bytes)?;
    if gathered.is_chunked && version == Version::Http10 {
        return Err(HeadError::TransferEncoding);
    }
    let framing = framing(&gathered, status, request_is_head);
    Ok(ResponseHead {
        version,
        status,
        reason,
        framing,
        content_length: gathered.content_length,
        keep_alive: gathered.keep_alive(version)
            && framing != ResponseFraming::UntilClose
            && !is_body_possible_nonetheless(&gathered, status),
        upgrade: gathered.upgrade,
        connection: gathered.connection,
        fields,
    })
}

/// RFC 9112 6.3, in its order.
fn framing(gathered: &Gathered<'_>, status: u16, request_is_head: bool) -> ResponseFraming {
    if request_is_head || status < 200 || status == 204 || status == 304 {
        return ResponseFraming::None;
    }
    match (gathered.is_chunked, gathered.content_length) {
        (true, _) => ResponseFraming::Chunked,
        (false, Some(length)) => ResponseFraming::Length(length),
        (false, None) => ResponseFraming::UntilClose,
    }
}

/// A 1xx or 204 must not announce a body. An origin that does may send it, and the next response
/// would be looked for in it: such a connection is not used again. Nor is one after a 304 with a coding,
/// which RFC 9112 6.1 allows: llhttp, for one, takes chunks to follow, and so may the origin.
fn is_body_possible_nonetheless(gathered: &Gathered<'_>, status: u16) -> bool {
    let is_bare = status < 200 || status == 204;
    (is_bare && gathered.content_length.is_some_and(|length| length > 0))
        || ((is_bare || status == 304) && gathered.is_chunked)
}
