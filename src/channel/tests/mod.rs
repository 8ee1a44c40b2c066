//! Claims about whole channels; hostile rows; seeded simulations.

#![allow(clippy::unwrap_used)]

mod claims;
mod hostile;
mod properties;
mod seeds;
