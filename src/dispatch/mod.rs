//! Whose turn it is: which link takes the next request, and which request goes next when there was
//! none.
//!
//! Pure. `roster` knows attached connection points and their links, `waiting` the requests that wait
//! for one. The gateway drives both.

mod roster;
mod waiting;
#[cfg(test)]
mod waiting_tests;

pub use roster::Roster;
pub use waiting::{ClientKey, Outcome, Standing, Ticket, Waiting, WaitingBounds};
