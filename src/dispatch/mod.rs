//! Whose turn it is: which link takes the next request, which request goes next when there was none, and
//! which client's handshake; whether a client may ask once more, and whether a request may be sent once more.
//!
//! Pure. `roster` knows attached connection points and their links, `waiting` the requests that wait
//! for one, `attempts` what becomes of one whose stream broke off, `handshakes` the clients that came all at once, `preface` what a proxy in front says of one, and
//! `rate` how much each of them may ask. The gateway drives all of them.

mod attempts;
mod client_hello;
pub mod fuzz;
mod handshakes;
mod preface;
mod rate;
mod roster;
#[cfg(test)]
mod tests;
mod waiting;
#[cfg(test)]
mod waiting_tests;

pub use attempts::{Attempts, Broke, Facts, GIVEN_BACK_MAX, Then, WhyNot};
pub use client_hello::Hello;
pub use handshakes::{HandshakeBounds, HandshakeTicket, Handshakes, Lease, Neighbourhood, Step};
pub use preface::{Preface, PrefaceError};
pub use rate::{Excess, Per, Rate, RequestBounds};
pub use roster::Roster;
pub use waiting::{ClientKey, Outcome, Standing, Ticket, Waiting, WaitingBounds};
