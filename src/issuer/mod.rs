//! The issuer: has the internal authority's key, inside the company, and gives roles their next internal certificate.
//!
//! `serve.rs` listens, for roles alone; `counts.rs` says how it goes. What is asked is judged by `auth`, signed by
//! `pki`. The key stays in the folder of `cmg pki`, on the issuer's machine; a gateway never has it.

mod counts;
mod serve;

pub use serve::{LIST, RENEWAL, Start, run};
