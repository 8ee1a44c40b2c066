//! Heads as they travel in OPEN and HEAD frames, and trailers as they travel in END.
//!
//! A fixed part with every length, then the texts, then the fields. What is read here came from the
//! other hop and is checked as strictly as what came from outside; it is written from heads that
//! `http/` already judged. Nothing is copied and nothing allocated.

use super::bytes::Bytes;
use super::error::ChannelError;
use super::fields::{self, FieldsWriter};
pub use super::fields::{Field, Fields, TooLarge, TrailersWriter};
use super::frame::FrameKind;
use crate::http::is_tunnel_protocol;
use crate::limits::{
    FRAME_PAYLOAD_SIZE_MAX, MESSAGE_FIXED_SIZE_MAX, METHOD_SIZE_MAX, STREAM_WINDOW_INITIAL, TARGET_SIZE_MAX,
};

/// Bytes of an OPEN message besides its texts and fields.
pub const REQUEST_FIXED_SIZE: usize = 40;
const REQUEST_COUNT_AT: usize = 38;
const RESPONSE_FIXED_SIZE: usize = 16;
const RESPONSE_COUNT_AT: usize = 14;
const _: () = assert!(REQUEST_FIXED_SIZE <= MESSAGE_FIXED_SIZE_MAX);
const _: () = assert!(RESPONSE_FIXED_SIZE <= MESSAGE_FIXED_SIZE_MAX);

const HAS_BODY: u8 = 0x01;
const HAS_LENGTH: u8 = 0x02;
const TUNNEL: u8 = 0x04;
const EXPECT_CONTINUE: u8 = 0x08;

/// What a request message says besides its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestStart<'b> {
    /// Made at the gateway; stands in both logs.
    pub request_id: [u8; 16],
    /// Number of an IDENTITY that stands on this channel; 0: none.
    pub identity: u32,
    /// Bytes of answer body that may be sent at once; 1..=`limits::STREAM_WINDOW_INITIAL`.
    pub window: u32,
    /// The client's direction stays open for a body or a tunnel; otherwise it has ended with the head.
    pub has_body: bool,
    /// Content-Length as declared. With a body and without a length it leaves chunked; without a body
    /// only 0 can be declared.
    pub length: Option<u64>,
    /// The exchange may become a tunnel (Upgrade): a GET whose client's direction stays open without a length.
    /// Its protocol travels as the field `Upgrade`, which no other request may have.
    pub is_tunnel: bool,
    /// The client waits for 100 (Continue) before it sends the body.
    pub expect_continue: bool,
    /// A token.
    pub method: &'b [u8],
    /// Begins with `/`; octets 0x21..=0x7E other than `#`.
    pub target: &'b [u8],
    /// Host as the client wrote it; empty when it wrote none (HTTP/1.0).
    pub host: &'b [u8],
}

/// A request message that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestMessage<'b> {
    start: RequestStart<'b>,
    fields: Fields<'b>,
    protocol: Option<&'b [u8]>,
}

impl<'b> std::ops::Deref for RequestMessage<'b> {
    type Target = RequestStart<'b>;

    fn deref(&self) -> &RequestStart<'b> {
        &self.start
    }
}

impl<'b> RequestMessage<'b> {
    /// Reads the payload of an OPEN frame; every part is checked.
    pub fn parse(payload: &'b [u8]) -> Result<RequestMessage<'b>, ChannelError> {
        let read = read_request(payload).ok_or(malformed_request("too short"))?;
        let (start, count, rest) = read;
        judge_request(&start).map_err(malformed_request)?;
        let mut protocol = Protocol::default();
        let fields = Fields::parse(rest, usize::from(count), |field| protocol.hear(field));
        let fields = fields.map_err(malformed_request)?;
        let protocol = protocol.of(start.is_tunnel).map_err(malformed_request)?;
        if payload[REQUEST_FLAGS_AT] & !(HAS_BODY | HAS_LENGTH | TUNNEL | EXPECT_CONTINUE) != 0 {
            return Err(malformed_request("unknown flags"));
        }
        Ok(RequestMessage { start, fields, protocol })
    }

    /// The protocol of the tunnel that this may become: there is one exactly when it may.
    pub fn protocol(&self) -> Option<&'b [u8]> {
        self.protocol
    }

    /// The fields in their order.
    pub fn fields(&self) -> Fields<'b> {
        self.fields
    }
}

const REQUEST_FLAGS_AT: usize = 32;

/// Method and target of an OPEN payload that this side wrote. `None`: too short.
pub fn request_line(payload: &[u8]) -> Option<(&[u8], &[u8])> {
    read_request(payload).map(|(start, _, _)| (start.method, start.target))
}

fn read_request(payload: &[u8]) -> Option<(RequestStart<'_>, u16, &[u8])> {
    let mut bytes = Bytes(payload);
    let request_id = bytes.array()?;
    let identity = bytes.u32()?;
    let window = bytes.u32()?;
    let length = bytes.u64()?;
    let flags = bytes.u8()?;
    let method_size = usize::from(bytes.u8()?);
    let target_size = usize::from(bytes.u16()?);
    let host_size = usize::from(bytes.u16()?);
    let count = bytes.u16()?;
    let start = RequestStart {
        request_id,
        identity,
        window,
        has_body: flags & HAS_BODY != 0,
        length: (flags & HAS_LENGTH != 0).then_some(length),
        is_tunnel: flags & TUNNEL != 0,
        expect_continue: flags & EXPECT_CONTINUE != 0,
        method: bytes.take(method_size)?,
        target: bytes.take(target_size)?,
        host: bytes.take(host_size)?,
    };
    let has_stray_length = start.length.is_none() && length != 0;
    (!has_stray_length).then_some((start, count, bytes.0))
}

fn judge_request(start: &RequestStart<'_>) -> Result<(), &'static str> {
    if start.window == 0 || start.window as usize > STREAM_WINDOW_INITIAL {
        return Err("the answer's window is out of range");
    }
    if !start.has_body && (start.length.unwrap_or(0) != 0 || start.is_tunnel) {
        return Err("a length or a tunnel without a body");
    }
    if start.is_tunnel && (start.length.is_some() || start.expect_continue || start.method != b"GET") {
        return Err("a tunnel with a length, an expectation or another method than GET");
    }
    if !fields::is_token(start.method) || start.method.len() > METHOD_SIZE_MAX {
        return Err("the method is no token");
    }
    if !fields::is_target(start.target) || start.target.len() > TARGET_SIZE_MAX {
        return Err("the target is no path");
    }
    if !fields::is_host(start.host) {
        return Err("the host is no authority");
    }
    Ok(())
}

/// The protocol that the fields of a message name.
#[derive(Default)]
struct Protocol<'b>(Option<&'b [u8]>);

impl<'b> Protocol<'b> {
    #[inline]
    fn hear(&mut self, field: Field<'b>) -> Result<(), &'static str> {
        if field.name.len() != UPGRADE.len() || !field.name.eq_ignore_ascii_case(UPGRADE) {
            return Ok(());
        }
        if !is_tunnel_protocol(field.value) {
            return Err("an upgrade to what is no protocol");
        }
        if self.0.replace(field.value).is_some() { Err("two upgrades") } else { Ok(()) }
    }

    /// What a message that begins a tunnel names, and no other message does.
    fn of(self, is_tunnel: bool) -> Result<Option<&'b [u8]>, &'static str> {
        match (self.0, is_tunnel) {
            (Some(_), false) => Err("an upgrade without a tunnel"),
            (None, true) => Err("a tunnel without its protocol"),
            (protocol, _) => Ok(protocol),
        }
    }
}

/// The field that names the protocol of a tunnel.
pub const UPGRADE: &[u8] = b"Upgrade";

/// What the channel itself must know of an OPEN payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenFacts {
    pub identity: u32,
    pub window: u32,
    pub has_body: bool,
    /// Of the body, when it was announced; else 0.
    pub length: u64,
}

/// Reads the facts that credit and identities need. `None`: too short, or a window out of range.
pub(super) fn open_facts(payload: &[u8]) -> Option<OpenFacts> {
    let fixed = payload.first_chunk::<REQUEST_FIXED_SIZE>()?;
    let mut bytes = Bytes(&fixed[16..]);
    let identity = bytes.u32()?;
    let window = bytes.u32()?;
    let is_in_range = (1..=STREAM_WINDOW_INITIAL as u32).contains(&window);
    let length = bytes.u64()?;
    let has_body = fixed[REQUEST_FLAGS_AT] & HAS_BODY != 0;
    is_in_range.then_some(OpenFacts { identity, window, has_body, length })
}

/// Writes the payload of OPEN.
#[derive(Debug)]
pub struct RequestWriter<'o> {
    out: &'o mut Vec<u8>,
    start: usize,
    fields: FieldsWriter,
}

impl<'o> RequestWriter<'o> {
    /// Begins a message at the end of `out`. After an error `out` is as before.
    pub fn new(out: &'o mut Vec<u8>, start: &RequestStart<'_>) -> Result<RequestWriter<'o>, TooLarge> {
        debug_assert_eq!(judge_request(start), Ok(()), "heads are judged before they are written");
        let size = REQUEST_FIXED_SIZE + start.method.len() + start.target.len() + start.host.len();
        if size > FRAME_PAYLOAD_SIZE_MAX || start.method.len() > METHOD_SIZE_MAX {
            return Err(TooLarge);
        }
        let begin = out.len();
        let mut fixed = [0; REQUEST_FIXED_SIZE];
        fixed[..16].copy_from_slice(&start.request_id);
        fixed[16..20].copy_from_slice(&start.identity.to_be_bytes());
        fixed[20..24].copy_from_slice(&start.window.to_be_bytes());
        fixed[24..32].copy_from_slice(&start.length.unwrap_or(0).to_be_bytes());
        fixed[REQUEST_FLAGS_AT] = request_flags(start);
        fixed[33] = start.method.len() as u8;
        fixed[34..36].copy_from_slice(&(start.target.len() as u16).to_be_bytes());
        fixed[36..38].copy_from_slice(&(start.host.len() as u16).to_be_bytes());
        out.extend_from_slice(&fixed);
        out.extend_from_slice(start.method);
        out.extend_from_slice(start.target);
        out.extend_from_slice(start.host);
        Ok(RequestWriter { out, start: begin, fields: FieldsWriter::new() })
    }

    /// Appends a field.
    pub fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), TooLarge> {
        self.fields.field(self.out, self.start, name, value)
    }

    /// Ends the message.
    pub fn finish(self) {
        self.fields.finish(self.out, self.start + REQUEST_COUNT_AT);
    }
}

/// Names the identity in a request message that is written already: its number differs from channel
/// to channel.
pub fn set_identity(message: &mut [u8], identity: u32) {
    message[16..20].copy_from_slice(&identity.to_be_bytes());
}

fn request_flags(start: &RequestStart<'_>) -> u8 {
    flag(start.has_body, HAS_BODY)
        | flag(start.length.is_some(), HAS_LENGTH)
        | flag(start.is_tunnel, TUNNEL)
        | flag(start.expect_continue, EXPECT_CONTINUE)
}

fn flag(is_set: bool, bit: u8) -> u8 {
    if is_set { bit } else { 0 }
}

/// How much body follows the head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// None: END follows at once (interim answers: another head). A length may still be declared
    /// (answers to HEAD, 304).
    None,
    /// As many bytes as declared.
    Length,
    /// Until END: leaves chunked, or until close, or as a tunnel.
    Unknown,
}

/// What an answer says besides its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseStart<'b> {
    /// 100..=999; 1xx other than 101 is interim. With 101 the field `Upgrade` names the protocol of the tunnel,
    /// and its body is unknown; no other answer has that field.
    pub status: u16,
    /// As the origin wrote it; may be empty.
    pub reason: &'b [u8],
    /// Content-Length as declared; always there with `Body::Length`, never with `Body::Unknown`.
    pub length: Option<u64>,
    /// What follows.
    pub body: Body,
}

impl ResponseStart<'_> {
    /// Another head follows this one.
    pub fn is_interim(&self) -> bool {
        is_interim_status(self.status)
    }

    /// The exchange is a tunnel from here on.
    pub fn is_tunnel(&self) -> bool {
        self.status == 101
    }
}

/// An answer's head that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseMessage<'b> {
    start: ResponseStart<'b>,
    fields: Fields<'b>,
    protocol: Option<&'b [u8]>,
}

impl<'b> std::ops::Deref for ResponseMessage<'b> {
    type Target = ResponseStart<'b>;

    fn deref(&self) -> &ResponseStart<'b> {
        &self.start
    }
}

impl<'b> ResponseMessage<'b> {
    /// Reads the payload of a HEAD frame; every part is checked.
    pub fn parse(payload: &'b [u8]) -> Result<ResponseMessage<'b>, ChannelError> {
        let (start, count, rest) = read_response(payload).ok_or(malformed_response("too short"))?;
        judge_response(&start).map_err(malformed_response)?;
        let mut protocol = Protocol::default();
        let fields = Fields::parse(rest, usize::from(count), |field| protocol.hear(field));
        let fields = fields.map_err(malformed_response)?;
        let protocol = protocol.of(start.is_tunnel()).map_err(malformed_response)?;
        Ok(ResponseMessage { start, fields, protocol })
    }

    /// The protocol that is spoken from here on: there is one exactly with status 101.
    pub fn protocol(&self) -> Option<&'b [u8]> {
        self.protocol
    }

    /// The fields in their order.
    pub fn fields(&self) -> Fields<'b> {
        self.fields
    }
}

fn read_response(payload: &[u8]) -> Option<(ResponseStart<'_>, u16, &[u8])> {
    let mut bytes = Bytes(payload);
    let status = bytes.u16()?;
    let flags = bytes.u8()?;
    let reserved = bytes.u8()?;
    let length = bytes.u64()?;
    let reason_size = usize::from(bytes.u16()?);
    let count = bytes.u16()?;
    let reason = bytes.take(reason_size)?;
    let has_length = flags & HAS_LENGTH != 0;
    let body = match (flags & HAS_BODY != 0, has_length) {
        (false, _) => Body::None,
        (true, true) => Body::Length,
        (true, false) => Body::Unknown,
    };
    let is_stray = flags & !(HAS_BODY | HAS_LENGTH) != 0 || reserved != 0 || (!has_length && length != 0);
    let start = ResponseStart { status, reason, length: has_length.then_some(length), body };
    (!is_stray).then_some((start, count, bytes.0))
}

fn judge_response(start: &ResponseStart<'_>) -> Result<(), &'static str> {
    let fits = match start.body {
        Body::None => true,
        Body::Length => start.length.is_some(),
        Body::Unknown => start.length.is_none(),
    };
    if !fits {
        return Err("body and length do not fit");
    }
    if !(100..=999).contains(&start.status) {
        return Err("the status is out of range");
    }
    if start.is_interim() && (start.body != Body::None || start.length.is_some()) {
        return Err("an interim answer with a body");
    }
    if start.is_tunnel() && start.body != Body::Unknown {
        return Err("a tunnel whose direction has ended, or with a length");
    }
    if !fields::is_text(start.reason) {
        return Err("the reason has control characters");
    }
    Ok(())
}

fn is_interim_status(status: u16) -> bool {
    (100..200).contains(&status) && status != 101
}

/// Whether a HEAD payload is an interim answer. `None`: too short.
pub(super) fn is_interim(payload: &[u8]) -> Option<bool> {
    let fixed = payload.first_chunk::<RESPONSE_FIXED_SIZE>()?;
    Some(is_interim_status(u16::from_be_bytes([fixed[0], fixed[1]])))
}

/// Length of the body that a HEAD payload announces; 0 without.
pub(super) fn answer_length(payload: &[u8]) -> u64 {
    match read_response(payload) {
        Some((ResponseStart { body: Body::Length, length: Some(length), .. }, ..)) => length,
        _ => 0,
    }
}

/// Writes the payload of HEAD.
#[derive(Debug)]
pub struct ResponseWriter<'o> {
    out: &'o mut Vec<u8>,
    start: usize,
    fields: FieldsWriter,
}

impl<'o> ResponseWriter<'o> {
    /// Begins a message at the end of `out`. After an error `out` is as before.
    pub fn new(out: &'o mut Vec<u8>, start: &ResponseStart<'_>) -> Result<ResponseWriter<'o>, TooLarge> {
        debug_assert_eq!(judge_response(start), Ok(()), "heads are judged before they are written");
        if RESPONSE_FIXED_SIZE + start.reason.len() > FRAME_PAYLOAD_SIZE_MAX {
            return Err(TooLarge);
        }
        let begin = out.len();
        let mut fixed = [0; RESPONSE_FIXED_SIZE];
        fixed[..2].copy_from_slice(&start.status.to_be_bytes());
        fixed[2] = flag(start.body != Body::None, HAS_BODY) | flag(start.length.is_some(), HAS_LENGTH);
        fixed[4..12].copy_from_slice(&start.length.unwrap_or(0).to_be_bytes());
        fixed[12..14].copy_from_slice(&(start.reason.len() as u16).to_be_bytes());
        out.extend_from_slice(&fixed);
        out.extend_from_slice(start.reason);
        Ok(ResponseWriter { out, start: begin, fields: FieldsWriter::new() })
    }

    /// Appends a field.
    pub fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), TooLarge> {
        self.fields.field(self.out, self.start, name, value)
    }

    /// Ends the message.
    pub fn finish(self) {
        self.fields.finish(self.out, self.start + RESPONSE_COUNT_AT);
    }
}

/// Reads the payload of END; empty: no trailers.
pub fn parse_trailers(payload: &[u8]) -> Result<Fields<'_>, ChannelError> {
    fields::parse_trailers(payload).map_err(|what| ChannelError::Malformed(FrameKind::End, what))
}

fn malformed_request(what: &'static str) -> ChannelError {
    ChannelError::Malformed(FrameKind::Open, what)
}

fn malformed_response(what: &'static str) -> ChannelError {
    ChannelError::Malformed(FrameKind::Head, what)
}
