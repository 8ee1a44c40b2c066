//! The issuer: has the internal authority's key, inside the company, and gives roles their next internal certificate.
//!
//! `serve.rs` listens, for connection points alone; `desk.rs` makes what is asked for, `upkeep.rs` keeps the list and
//! the issuer's own certificate; `counts.rs` says how it goes. What is asked is judged by `auth`, signed by `pki`. The
//! key stays in the folder of `cmg pki`, on the issuer's machine; a gateway never has it.

mod counts;
mod desk;
mod serve;
#[cfg(test)]
mod tests;
mod upkeep;

pub use serve::{LIST, RENEWAL, Start, run};
