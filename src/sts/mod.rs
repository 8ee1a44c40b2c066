//! A site's own tokens, and the service that gives them.
//!
//! `folder.rs` keeps the one key and what was issued; `signer.rs` signs; `exchange.rs` decides, pure, what is given
//! for what is shown; `serve.rs` listens, for connection points of the site alone; `counts.rs` says how it goes.

mod counts;
mod exchange;
mod folder;
mod serve;
mod signer;

pub use folder::{BLOCKED, Issued, KEYS, StsError, TokenFolder};
pub use serve::{Start, run, tls};
pub use signer::Signer;
