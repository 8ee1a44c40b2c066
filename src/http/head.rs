//! What request and response heads share: fields, framing, and how a head can be wrong.

use std::mem::MaybeUninit;

use super::connection::ConnectionTokens;
use super::scan;
use crate::limits::{FIELD_COUNT_MAX, FIELD_NAME_SIZE_MAX};
use crate::refusal::Refusal;

/// The versions spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// Where the body of a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// After so many bytes, as `Content-Length` says (0 where it says 0).
    Length(u64),
    /// With its last chunk.
    Chunked,
}

impl Framing {
    /// Body bytes known beforehand; `None` for a chunked body.
    pub fn length(self) -> Option<u64> {
        match self {
            Framing::None => Some(0),
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        }
    }

    /// Whether body bytes, or at least a last chunk, follow the head.
    pub fn has_body(self) -> bool {
        !matches!(self, Framing::None | Framing::Length(0))
    }
}

/// Where the body of a response ends (RFC 9112 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseFraming {
    /// There is none.
    None,
    /// After so many bytes.
    Length(u64),
    /// With its last chunk.
    Chunked,
    /// When the origin closes the connection.
    UntilClose,
}

/// One field of a head or of trailers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'b> {
    /// A token, as the peer spelled it.
    pub name: &'b [u8],
    /// Without blanks around it; may hold obs-text, never control octets but the tab.
    pub value: &'b [u8],
}

/// What became of the bytes at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<T> {
    /// A whole head.
    Complete {
        /// What it says.
        head: T,
        /// Bytes it took from the front.
        size: usize,
    },
    /// More bytes are needed.
    Partial,
}

/// How a head can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Over [`crate::limits::HEAD_SIZE_MAX`].
    #[error("head too large")]
    TooLarge,
    /// Over [`FIELD_COUNT_MAX`].
    #[error("too many fields")]
    TooManyFields,
    /// Over [`FIELD_NAME_SIZE_MAX`].
    #[error("field name too long")]
    NameTooLong,
    /// Over [`crate::limits::TARGET_SIZE_MAX`].
    #[error("target too long")]
    TargetTooLong,
    /// A line that does not end with exactly CR LF.
    #[error("line not ended by CRLF")]
    LineEnd,
    /// Not `method target version` or `version status reason`, with single blanks.
    #[error("malformed start line")]
    StartLine,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    #[error("unsupported version")]
    Version,
    /// CONNECT, an overlong method, or another spelling of HEAD that an origin could take for it.
    #[error("method not supported")]
    Method,
    /// Neither origin form nor absolute form of http(s), or with octets a URL cannot hold.
    #[error("malformed target")]
    Target,
    /// A status outside 100 to 599.
    #[error("malformed status")]
    Status,
    /// Not a token directly before the colon; also a folded line.
    #[error("malformed field name")]
    FieldName,
    /// Control octets in a value.
    #[error("malformed field value")]
    FieldValue,
    /// HTTP/1.1 without `Host`.
    #[error("Host missing")]
    HostMissing,
    /// `Host` more than once.
    #[error("Host repeated")]
    HostRepeated,
    /// `Host` is not a name or address with an optional port.
    #[error("malformed Host")]
    Host,
    /// `Host` and the authority of an absolute target differ.
    #[error("Host differs from the target's authority")]
    HostMismatch,
    /// Not one decimal number, or more than one field.
    #[error("malformed Content-Length")]
    ContentLength,
    /// Anything but a single `chunked` in HTTP/1.1.
    #[error("unsupported Transfer-Encoding")]
    TransferEncoding,
    /// `Content-Length` beside `Transfer-Encoding`.
    #[error("both Content-Length and Transfer-Encoding")]
    TwoLengths,
    /// `Connection` with something other than tokens, or with too many.
    #[error("malformed Connection")]
    Connection,
}

impl HeadError {
    /// What the client of a request with this fault is told.
    pub fn refusal(self) -> Refusal {
        match self {
            HeadError::TooLarge
            | HeadError::TooManyFields
            | HeadError::NameTooLong
            | HeadError::TargetTooLong => Refusal::HeadTooLarge,
            HeadError::LineEnd
            | HeadError::StartLine
            | HeadError::Version
            | HeadError::Method
            | HeadError::Target
            | HeadError::Status
            | HeadError::FieldName
            | HeadError::FieldValue
            | HeadError::HostMissing
            | HeadError::HostRepeated
            | HeadError::Host
            | HeadError::HostMismatch
            | HeadError::ContentLength
            | HeadError::TransferEncoding
            | HeadError::TwoLengths
            | HeadError::Connection => Refusal::BadRequest,
        }
    }

    /// What the client is told when an origin's response has this fault.
    pub fn origin_refusal(self) -> Refusal {
        Refusal::BadGateway
    }
}

impl From<httparse::Error> for HeadError {
    fn from(error: httparse::Error) -> Self {
        match error {
            httparse::Error::HeaderName => HeadError::FieldName,
            httparse::Error::HeaderValue => HeadError::FieldValue,
            httparse::Error::NewLine => HeadError::LineEnd,
            httparse::Error::Status | httparse::Error::Token => HeadError::StartLine,
            httparse::Error::TooManyHeaders => HeadError::TooManyFields,
            httparse::Error::Version => HeadError::Version,
        }
    }
}

/// Room for the fields of one head. Lives on the caller's stack and costs nothing to make.
pub struct FieldScratch<'b> {
    pub(super) slots: [MaybeUninit<httparse::Header<'b>>; FIELD_COUNT_MAX],
}

impl FieldScratch<'_> {
    /// Room for [`FIELD_COUNT_MAX`] fields, not yet written to.
    #[inline]
    pub fn new() -> Self {
        FieldScratch { slots: [const { MaybeUninit::uninit() }; FIELD_COUNT_MAX] }
    }
}

impl Default for FieldScratch<'_> {
    fn default() -> Self {
        Self::new()
    }
}

/// The fields of a head, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields<'b, 'f>(pub(super) &'f [httparse::Header<'b>]);

impl<'b, 'f> Fields<'b, 'f> {
    /// Every field, in order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = Field<'b>> + use<'b, 'f> {
        self.0.iter().map(|header| Field { name: header.name.as_bytes(), value: header.value })
    }

    /// The value of the first field with this name, letters of either case.
    pub fn find(self, name: &str) -> Option<&'b [u8]> {
        self.0.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    }
}

/// What the fields say about framing and connection, gathered in one pass.
pub(super) struct Gathered<'b> {
    pub host: Option<&'b [u8]>,
    pub content_length: Option<u64>,
    pub is_chunked: bool,
    pub expects_continue: bool,
    /// The one protocol that `Upgrade` names, where `Connection` does not leave it out.
    pub upgrade: Option<&'b [u8]>,
    pub connection: ConnectionTokens<'b>,
}

impl<'b> Gathered<'b> {
    /// Reads over the fields of `head` once; those that matter here have few lengths.
    pub fn from_fields(fields: Fields<'b, '_>, head: &[u8]) -> Result<Self, HeadError> {
        let mut gathered = Gathered {
            host: None,
            content_length: None,
            is_chunked: false,
            expects_continue: false,
            upgrade: None,
            connection: ConnectionTokens::default(),
        };
        let mut upgrades = 0;
        for Field { name, value } in fields.iter() {
            match name.len() {
                4 if name.eq_ignore_ascii_case(b"host") => gathered.host(value)?,
                6 if name.eq_ignore_ascii_case(b"expect") => {
                    gathered.expects_continue = value.eq_ignore_ascii_case(b"100-continue");
                }
                7 if name.eq_ignore_ascii_case(b"upgrade") => {
                    upgrades += 1;
                    gathered.upgrade = Some(value);
                }
                10 if name.eq_ignore_ascii_case(b"connection") => gathered.connection.read(value)?,
                14 if name.eq_ignore_ascii_case(b"content-length") => {
                    gathered.content_length(value)?;
                    if is_before_tab(value, head) {
                        return Err(HeadError::ContentLength);
                    }
                }
                17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                    gathered.transfer_encoding(value)?;
                    if is_before_tab(value, head) {
                        return Err(HeadError::TransferEncoding);
                    }
                }
                0..=FIELD_NAME_SIZE_MAX => {}
                _ => return Err(HeadError::NameTooLong),
            }
        }
        if gathered.is_chunked && gathered.content_length.is_some() {
            return Err(HeadError::TwoLengths);
        }
        let is_meant = upgrades == 1 && gathered.connection.has_upgrade();
        gathered.upgrade = gathered.upgrade.filter(|protocol| is_meant && is_tunnel_protocol(protocol));
        Ok(gathered)
    }

    fn host(&mut self, value: &'b [u8]) -> Result<(), HeadError> {
        match self.host.replace(value) {
            None => Ok(()),
            Some(_) => Err(HeadError::HostRepeated),
        }
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), HeadError> {
        let length = decimal(value).ok_or(HeadError::ContentLength)?;
        match self.content_length.replace(length) {
            None => Ok(()),
            Some(_) => Err(HeadError::ContentLength),
        }
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), HeadError> {
        if self.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(HeadError::TransferEncoding);
        }
        self.is_chunked = true;
        Ok(())
    }

    /// Whether the connection may serve another message after this one.
    pub fn keep_alive(&self, version: Version) -> bool {
        match version {
            Version::Http11 => !self.connection.has_close(),
            Version::Http10 => self.connection.has_keep_alive() && !self.connection.has_close(),
        }
    }
}

/// Whether a tab stands among the blanks behind `value`, a part of `head`. RFC 9110 5.6.3 lets it stand there,
/// but llhttp does not take `chunked` and a tab for a coding, and reads an answer's chunks as its body.
fn is_before_tab(value: &[u8], head: &[u8]) -> bool {
    let end = (value.as_ptr().addr() + value.len()).wrapping_sub(head.as_ptr().addr());
    let behind = head.get(end..).unwrap_or_default();
    behind.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).any(|byte| *byte == b'\t')
}

/// A number of digits only: no sign, no blanks, no list, no overflow.
fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 20 {
        return None;
    }
    value.iter().try_fold(0u64, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Whether a connection may be switched to `protocol`: one name without a version, as `websocket` is. Never
/// to cleartext HTTP/2, whose requests would pass every hop unjudged.
pub fn is_tunnel_protocol(protocol: &[u8]) -> bool {
    let is_http2 = protocol.eq_ignore_ascii_case(b"h2c") || protocol.eq_ignore_ascii_case(b"h2");
    scan::is_token(protocol) && !is_http2
}
