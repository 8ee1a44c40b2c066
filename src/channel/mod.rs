//! The channel: one TLS connection of a connection point, carrying many exchanges at once.
//!
//! `docs/channel-protocol.md` is its specification. Pure: bytes, values and `now` in; events and bytes
//! out. TLS, sockets and who may attach belong to `transport/`; what a request means, to the roles.
//!
//! ```text
//!   shell ── open, head, data, end, reset, consumed ──▶ Channel ── transmit ──▶ TLS record
//!   shell ◀───────────── Event ── handle_frame ─────── Channel ◀── plaintext ── TLS record
//! ```
//! Events borrow from the plaintext; nothing is allocated for a stream once as many were open before.

mod adversary;
mod bytes;
mod credit;
mod error;
mod fields;
pub mod frame;
pub mod fuzz;
pub mod hello;
mod identity;
mod lists;
pub mod message;
mod mux;
mod out;
mod publication;
mod pulse;
mod receive;
mod renewal;
mod simulation;
mod stream;
#[cfg(test)]
mod tests;
mod transport;
pub mod upgrade;

pub use error::{ChannelError, CloseCode};
pub use hello::{Hello, HelloRefusal, HelloReply, VERSION};
pub use identity::{Identity, identity_of};
pub use lists::{List, ListKind, ListTag};
pub use message::{
    Body, REQUEST_FIXED_SIZE, RequestMessage, RequestStart, RequestWriter, ResponseMessage, ResponseStart,
};
pub use message::{Field, Fields, ResponseWriter, TooLarge, TrailersWriter, parse_trailers};
pub use mux::Channel;
pub use publication::{Acknowledgement, Publication, RevisionTag, Verdict};
pub use renewal::RenewalAnswer;
pub use stream::StreamId;
pub use transport::{ALPN, HTTPS_ALPN, Transport};

use crate::refusal::Refusal;

/// Which end of a channel this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Accepted the connection; opens streams, holds identities, receives settings.
    Gateway,
    /// Dialled; answers streams, publishes settings.
    Connector,
}

/// What a frame from the peer means for the shell.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'b> {
    /// Handled inside; nothing to do.
    None,
    /// Connector: a request; its token is `u32::MAX` until `set_token`. Parse with [`RequestMessage`].
    Opened {
        /// The new stream.
        stream: StreamId,
        /// Payload of OPEN.
        message: &'b [u8],
    },
    /// Gateway: a head of an answer, interim or final. Parse with [`ResponseMessage`].
    Head {
        /// The stream.
        stream: StreamId,
        /// What the shell calls it.
        token: u32,
        /// Payload of HEAD.
        message: &'b [u8],
    },
    /// Bytes of a body or tunnel. Their credit comes back with `consumed`.
    Data {
        /// The stream.
        stream: StreamId,
        /// What the shell calls it.
        token: u32,
        /// Never empty.
        data: &'b [u8],
    },
    /// The peer's direction ended well. Parse trailers with [`parse_trailers`].
    End {
        /// The stream; forgotten already when our direction had ended before.
        stream: StreamId,
        /// What the shell calls it.
        token: u32,
        /// Payload of END; empty: no trailers.
        trailers: &'b [u8],
    },
    /// The stream broke off in both directions and is forgotten.
    Reset {
        /// The stream.
        stream: StreamId,
        /// What the shell calls it.
        token: u32,
        /// Why.
        code: ResetCode,
    },
    /// Credit came for a stream that was refused bytes for want of it.
    Writable {
        /// The stream.
        stream: StreamId,
        /// What the shell calls it.
        token: u32,
    },
    /// Credit came for the channel, and streams were refused bytes for want of it.
    Room,
    /// Gateway: settings, whole.
    Settings(Box<Publication>),
    /// Gateway: keys of token issuers and blocked tokens, whole.
    Tokens(Box<Publication>),
    /// Gateway: the internal authority's revocation list, whole and unchecked.
    Revoked(Box<Publication>),
    /// Connector: the gateway asks for its next internal certificate; answer with `renewal`. Gateway: what came of
    /// that.
    Renewal {
        /// Unchecked.
        bytes: &'b [u8],
    },
    /// Connector: what became of settings.
    SettingsAck(Box<Acknowledgement>),
    /// Gateway: the connection point has this list. Answer with `answer_list`.
    ListOffered(Box<ListTag>),
    /// Gateway: a list that was wanted, whole. Answer with `answer_list`.
    List(Box<List>),
    /// Connector: what the gateway makes of a list.
    ListAck(Box<Acknowledgement>),
    /// Connector: an identity; streams will name its number.
    Identity {
        /// Unused until now, not 0.
        number: u32,
        /// Certificate or claims, at most `limits::IDENTITY_SIZE_MAX` bytes.
        bytes: &'b [u8],
    },
    /// Connector: no further stream names it.
    IdentityGone {
        /// Stood until now.
        number: u32,
    },
    /// A round trip was measured.
    Pong,
    /// The peer drains: it opens or takes no further stream.
    Drain,
    /// Connector: another process takes the instance's place. One more channel is to be dialled, beside this one.
    MakeWay,
    /// A report.
    Status {
        /// JSON, unchecked.
        bytes: &'b [u8],
    },
    /// The peer is done; nothing follows.
    Close {
        /// Why.
        code: CloseCode,
        /// For the log.
        text: &'b str,
    },
}

/// Why a stream breaks off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetCode {
    /// The request is turned away; the other hop answers it so (1..=127 on the wire).
    Refused(Refusal),
    /// Nothing of the request was done: it may be sent elsewhere, whatever its method (128).
    NotBegun,
    /// Nobody waits for it any more; or, after a whole answer, its body is not needed (129).
    Cancelled,
    /// The origin broke off after its answer had begun: what was passed on must be cut (130).
    OriginBroke,
    /// The stream's content breaks a rule; the channel is sound (131).
    Protocol,
    /// A code that this version does not know. Nothing may be concluded from it.
    Other(u8),
}

impl ResetCode {
    /// Its byte on the wire.
    pub fn to_byte(self) -> u8 {
        match self {
            ResetCode::Refused(refusal) => refusal as u8,
            ResetCode::NotBegun => 128,
            ResetCode::Cancelled => 129,
            ResetCode::OriginBroke => 130,
            ResetCode::Protocol => 131,
            ResetCode::Other(byte) => byte,
        }
    }

    /// The code for a byte from the wire.
    pub fn from_byte(byte: u8) -> ResetCode {
        match byte {
            128 => ResetCode::NotBegun,
            129 => ResetCode::Cancelled,
            130 => ResetCode::OriginBroke,
            131 => ResetCode::Protocol,
            _ => Refusal::from_code(byte).map_or(ResetCode::Other(byte), ResetCode::Refused),
        }
    }
}

impl From<Refusal> for ResetCode {
    fn from(refusal: Refusal) -> ResetCode {
        ResetCode::Refused(refusal)
    }
}

/// Why the channel cannot take something now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// One side drains: use another channel.
    #[error("the channel is draining")]
    Draining,
    /// The channel was closed.
    #[error("the channel is closed")]
    Closed,
    /// As many streams, or identities, as allowed: use another channel.
    #[error("the channel is full")]
    Full,
    /// Too much waits to be sent: try again when some of it has left.
    #[error("too much waits to be sent")]
    Backlog,
}
