//! A population of real clients.

pub mod catalogue;
