//! How a process hands its listening sockets to the one that takes its place: what the two say to each
//! other, and in which order.
//!
//! The old end ([`Giver`]) alone decides: it leaves when TAKEN came in time, and says so by ending the conversation
//! without another word; in every other case it says REFUSED and goes on. The new end ([`Taker`]) accepts nobody before
//! it knows which.
//!
//! Pure: bytes in, messages and duties out. Who listens, sends descriptors and waits is `upgrade/`. Both ends
//! run as one user on one machine, but may be of two versions: numbers and places keep their meaning, later
//! versions append, and a receiver passes over what it does not know.

pub mod fuzz;
mod giver;
mod message;
mod taker;
#[cfg(test)]
mod tests;

pub use giver::{Duty, Giver};
pub use message::{Hello, Message, Offer, Role, SocketKind, VERSION};
pub use taker::{Heard, NotTaken, Taker};

use crate::limits::HANDOVER_MESSAGE_SIZE_MAX;

/// What the other process said that it must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandoverError {
    /// Its length, before anything of it is believed.
    #[error("a message of {0} bytes where {HANDOVER_MESSAGE_SIZE_MAX} are the most")]
    TooLong(usize),
    /// No message begins so.
    #[error("a message of kind {0}, which is unknown")]
    Unknown(u8),
    /// Its payload is none.
    #[error("a message {0} that is not as it must be")]
    Malformed(&'static str),
    /// It has its place elsewhere.
    #[error("the message {said} where {expected} was expected")]
    Order {
        /// What came.
        said: &'static str,
        /// What should have.
        expected: &'static str,
    },
    /// The other end is of a later make.
    #[error("version {0} of the handover, where {VERSION} is spoken")]
    Version(u16),
    /// It ended behind its word: nobody is there to take anything.
    #[error("the other process has ended")]
    Gone,
    /// A gateway does not follow a connection point.
    #[error("a {0} that would take the place of a {1}")]
    Role(Role, Role),
}
