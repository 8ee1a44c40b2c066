//! Listeners, TLS over the ring, and the link that drives a channel. Roles stand above.

mod cipher;
mod cross;
mod internal;
mod key_exchange;
mod link;
pub mod listen;
mod mailbox;
mod records;
mod reseal;
mod tickets;
mod tls;
pub mod tls_config;
mod tunnel;
mod wire;

pub use cross::{CrossMessage, Crossing};
pub use internal::{Internal, Listed, cut_revoked};
pub use link::{Cause, Link, LinkEvents, Passed, Stream};
pub use mailbox::{Broken, Mailbox};
pub use tickets::{FOR_CLIENTS, Tickets};
pub use tls::Tls;
pub use tunnel::{Broke, Ends, Patience, Tunnel};
pub use wire::{Parts, Wire};

/// Why a role could not start: file or address, cause and remedy in one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);
