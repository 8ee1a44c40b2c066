//! Listeners, TLS over the ring, and the link that drives a channel. Roles stand above.

pub mod listen;
mod link;
mod tls;
pub mod tls_config;
mod wire;

//pub use link::{Cause, Link, LinkEvents, Stream, StreamEnd};
pub use tls::Tls;
pub use wire::{Parts, Wire};

/// Why a role could not start: file or address, cause and remedy in one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);
