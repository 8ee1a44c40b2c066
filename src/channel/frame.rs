//! One unit on the wire: eight bytes of header and a payload.
//!
//! ```text
//!  0      1       2        4              8
//!  ├ type ┼ flags ┼ length ┼ stream (u32) ┼ payload (length bytes) …
//! ```
//! Knows nothing of what a payload means. Usable before a channel exists, for the hello.

use super::error::ChannelError;
use crate::limits::{FRAME_HEADER_SIZE, FRAME_PAYLOAD_SIZE_MAX};

/// A receiver that does not know the type skips the frame.
pub const FLAG_MAY_IGNORE: u8 = 0x80;

/// What a frame is. The number is its type on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// A type this version does not know and may skip. Never sent.
    Ignored = 0,
    /// First frame of a connection point.
    Hello = 1,
    /// The instance's answer to it.
    HelloReply = 2,
    /// A piece of a publication.
    Settings = 3,
    /// What the instance did with a publication.
    SettingsAck = 4,
    /// A client identity under a number (in the stream field).
    Identity = 5,
    /// That number is free again.
    IdentityGone = 6,
    /// A new stream with its request head.
    Open = 7,
    /// Head of an answer, interim or final.
    Head = 8,
    /// Body bytes, or bytes of a tunnel.
    Data = 9,
    /// The sender's direction of a stream ends well; payload: trailers.
    End = 10,
    /// Both directions of a stream end badly.
    Reset = 11,
    /// More bytes may be sent on a stream, or (stream 0) on the channel.
    Credit = 12,
    /// Asks for a PONG with the same payload.
    Ping = 13,
    /// Answer to PING.
    Pong = 14,
    /// No new streams.
    Drain = 15,
    /// A report in JSON.
    Status = 16,
    /// Last frame of a side.
    Close = 17,
    /// A list, offered or in a piece.
    List = 18,
    /// What the instance makes of a list.
    ListAck = 19,
    /// A piece of what a connection point says of tokens.
    Tokens = 20,
    /// The connection point would like to end: answered with DRAIN. Or another process takes the instance's place:
    /// answered with one more channel.
    Leave = 21,
    /// A piece of the internal authority's revocation list.
    Revoked = 22,
    /// A gateway asks for its next internal certificate; what came of it.
    Renewal = 23,
}

impl FrameKind {
    /// The kind with this number on the wire.
    pub fn from_byte(byte: u8) -> Option<FrameKind> {
        Some(match byte {
            1 => FrameKind::Hello,
            2 => FrameKind::HelloReply,
            3 => FrameKind::Settings,
            4 => FrameKind::SettingsAck,
            5 => FrameKind::Identity,
            6 => FrameKind::IdentityGone,
            7 => FrameKind::Open,
            8 => FrameKind::Head,
            9 => FrameKind::Data,
            10 => FrameKind::End,
            11 => FrameKind::Reset,
            12 => FrameKind::Credit,
            13 => FrameKind::Ping,
            14 => FrameKind::Pong,
            15 => FrameKind::Drain,
            16 => FrameKind::Status,
            17 => FrameKind::Close,
            18 => FrameKind::List,
            19 => FrameKind::ListAck,
            20 => FrameKind::Tokens,
            21 => FrameKind::Leave,
            22 => FrameKind::Revoked,
            23 => FrameKind::Renewal,
            _ => return None,
        })
    }
}

/// A frame as it lies in the receive buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'b> {
    /// What it is.
    pub kind: FrameKind,
    /// The stream it belongs to; 0 for the channel; the number of an identity.
    pub stream: u32,
    /// What it carries, at most `limits::FRAME_PAYLOAD_SIZE_MAX` bytes.
    pub payload: &'b [u8],
}

/// Takes one frame from the front of `bytes`, with its size on the wire. `None`: more bytes are needed.
pub fn take(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, ChannelError> {
    let Some((header, rest)) = bytes.split_first_chunk::<FRAME_HEADER_SIZE>() else { return Ok(None) };
    let [kind, flags, length @ .., s0, s1, s2, s3] = *header;
    let length = usize::from(u16::from_be_bytes(length));
    if length > FRAME_PAYLOAD_SIZE_MAX {
        return Err(ChannelError::FrameTooLong(length));
    }
    let kind = judge(kind, flags)?;
    let Some(payload) = rest.get(..length) else { return Ok(None) };
    let frame = Frame { kind, stream: u32::from_be_bytes([s0, s1, s2, s3]), payload };
    Ok(Some((frame, FRAME_HEADER_SIZE + length)))
}

fn judge(byte: u8, flags: u8) -> Result<FrameKind, ChannelError> {
    match FrameKind::from_byte(byte) {
        Some(kind) if flags == 0 => Ok(kind),
        Some(kind) => Err(ChannelError::UnknownFlags(kind, flags)),
        None if flags & FLAG_MAY_IGNORE != 0 => Ok(FrameKind::Ignored),
        None => Err(ChannelError::UnknownFrame(byte)),
    }
}

/// Bytes of the whole frames at the front that fit `size_max`; what fits when not even one does.
pub(super) fn run(bytes: &[u8], size_max: usize) -> usize {
    let mut end = 0;
    while let Some([_, _, l0, l1, ..]) = bytes.get(end..).and_then(<[u8]>::first_chunk::<FRAME_HEADER_SIZE>) {
        let next = end + FRAME_HEADER_SIZE + usize::from(u16::from_be_bytes([*l0, *l1]));
        if next > size_max || next > bytes.len() {
            break;
        }
        end = next;
    }
    if end > 0 { end } else { bytes.len().min(size_max) }
}

/// Appends a frame. The payload must fit one.
pub fn put(out: &mut Vec<u8>, kind: FrameKind, stream: u32, payload: &[u8]) {
    assert!(payload.len() <= FRAME_PAYLOAD_SIZE_MAX, "a frame never carries more than its bound");
    out.extend_from_slice(&header(kind, stream, payload.len() as u16));
    out.extend_from_slice(payload);
}

/// The eight bytes before a payload of `length` bytes.
pub(super) fn header(kind: FrameKind, stream: u32, length: u16) -> [u8; FRAME_HEADER_SIZE] {
    let [l0, l1] = length.to_be_bytes();
    let [s0, s1, s2, s3] = stream.to_be_bytes();
    [kind as u8, 0, l0, l1, s0, s1, s2, s3]
}
