//! How a peer can break the channel protocol, and why a channel is closed.

use super::frame::FrameKind;

/// A peer broke the protocol, or fell silent: the channel ends. Never the fault of one stream's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// A frame type this version does not know, without the flag that allows skipping it.
    #[error("unknown frame type {0}")]
    UnknownFrame(u8),
    /// The header announces more than a frame may carry.
    #[error("a frame of {0} bytes is longer than allowed")]
    FrameTooLong(usize),
    /// A flag that this frame type does not have.
    #[error("unknown flags {1:#04x} on {0:?}")]
    UnknownFlags(FrameKind, u8),
    /// A frame type that this side, or a channel after its hello, never receives.
    #[error("{0:?} has no place here")]
    Unexpected(FrameKind),
    /// A payload that cannot be read: too short, too long, or a value out of its range.
    #[error("malformed {0:?}: {1}")]
    Malformed(FrameKind, &'static str),
    /// A frame for a stream that was never opened.
    #[error("{0:?} for stream {1}, which was never opened")]
    NeverOpened(FrameKind, u32),
    /// OPEN with an id that is zero, in use or out of order.
    #[error("stream id {0} is out of order")]
    StreamOrder(u32),
    /// OPEN beyond the count of streams.
    #[error("too many streams")]
    TooManyStreams,
    /// Body or end before the head, a second head, or anything after the end.
    #[error("{0:?} does not fit the state of stream {1}")]
    StreamState(FrameKind, u32),
    /// Too many interim answers on one stream.
    #[error("too many interim answers on stream {0}")]
    TooManyInterims(u32),
    /// DATA beyond the credit of its stream.
    #[error("stream {0} passed its window")]
    StreamWindow(u32),
    /// DATA beyond the credit of the channel.
    #[error("the channel's window was passed")]
    ChannelWindow,
    /// CREDIT that raises a window above its greatest size (stream 0: the channel's).
    #[error("too much credit for stream {0}")]
    CreditOverflow(u32),
    /// An identity number that is zero, taken, or does not stand.
    #[error("identity {0} is taken or does not stand")]
    BadIdentity(u32),
    /// More identities than allowed.
    #[error("too many identities")]
    TooManyIdentities,
    /// Settings pieces that do not follow one another, or are too large together.
    #[error("settings pieces do not fit together")]
    BadPublication,
    /// PINGs faster than their answers leave.
    #[error("too many pings")]
    PingFlood,
    /// A PONG that no PING asked for.
    #[error("a pong without its ping")]
    UnaskedPong,
    /// The peer lets us send nothing while it goes on asking.
    #[error("the peer does not read")]
    NotReading,
    /// A frame after CLOSE.
    #[error("a frame after close")]
    AfterClose,
    /// Silence for `limits::CHANNEL_LOST_AFTER`.
    #[error("the peer fell silent")]
    Lost,
}

impl ChannelError {
    /// What to tell the peer before the connection is closed.
    pub fn close_code(self) -> CloseCode {
        match self {
            ChannelError::Lost => CloseCode::Lost,
            ChannelError::NotReading => CloseCode::Lost,
            _ => CloseCode::Protocol,
        }
    }
}

/// Why a channel ends in order (CLOSE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CloseCode {
    /// Drained: nothing is left to do.
    Done = 0,
    /// The peer broke the protocol; the text says how.
    Protocol = 1,
    /// The peer fell silent, or does not read.
    Lost = 2,
    /// The sender stops now, without draining.
    Stopping = 3,
    /// The peer is no longer accepted (certificate, site, settings).
    NotAccepted = 4,
    /// A newer channel of the same connection point took this one's place.
    Replaced = 5,
    /// A mistake of the sender's own.
    Internal = 6,
    /// A code that this version does not know. Never sent.
    Unknown = 255,
}

impl CloseCode {
    /// The code for a byte from the wire.
    pub fn from_byte(byte: u8) -> CloseCode {
        match byte {
            0 => CloseCode::Done,
            1 => CloseCode::Protocol,
            2 => CloseCode::Lost,
            3 => CloseCode::Stopping,
            4 => CloseCode::NotAccepted,
            5 => CloseCode::Replaced,
            6 => CloseCode::Internal,
            _ => CloseCode::Unknown,
        }
    }
}
