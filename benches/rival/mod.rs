//! The channel and what else could carry exchanges, doing the same work over the same memory.
//!
//! Every one of them starts from the octets of a client's head and ends with a head that can be looked at on
//! the other side, and the same back with the origin's answer. What has no heads of its own carries the
//! channel's messages.

pub mod heads;
pub mod http2;
pub mod ours;
pub mod pipe;
pub mod yamux;

/// Something that carries exchanges.
pub trait Rival {
    /// Sends `count` requests at once, answers each with `body`, and takes all answers.
    fn exchange(&mut self, count: usize, body: &[u8]);
}
