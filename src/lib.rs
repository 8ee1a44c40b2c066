//! cmg: an open cloud management gateway.
#![cfg_attr(not(feature = "shells"), forbid(unsafe_code))]

pub mod headroom;
pub mod limits;
pub mod refusal;
pub mod request_id;
#[cfg(test)]
mod seeded;

// Cores: bytes, values and `now` in; values out.
pub mod auth;
pub mod channel;
pub mod dispatch;
pub mod handover;
pub mod http;
pub mod mapping;
pub mod settings;

// Shells: sockets, rings, clocks, files.
#[cfg(feature = "shells")]
pub mod admin;
#[cfg(feature = "shells")]
pub mod allocations;
#[cfg(feature = "shells")]
pub mod inside;
#[cfg(feature = "shells")]
pub mod issuer;
#[cfg(feature = "shells")]
pub mod logs;
#[cfg(feature = "shells")]
pub mod metrics;
#[cfg(feature = "shells")]
pub mod pki;
#[cfg(feature = "shells")]
pub mod reload;
#[cfg(feature = "shells")]
pub mod renewal;
#[cfg(feature = "shells")]
pub mod review;
#[cfg(feature = "shells")]
pub mod shard;
#[cfg(feature = "shells")]
pub mod sts;
#[cfg(feature = "shells")]
pub mod token_watch;
#[cfg(feature = "shells")]
pub mod transport;
#[cfg(feature = "shells")]
pub mod upgrade;

// Roles.
#[cfg(feature = "shells")]
pub mod connector;
#[cfg(feature = "shells")]
pub mod gateway;
