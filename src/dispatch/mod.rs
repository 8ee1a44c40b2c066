//! Whose turn it is: which link takes the next request, which request goes next when there was none, and
//! which client's handshake; whether a client may ask once more, and whether a request may be sent once more;
//! and which of several origins takes it.
//!
//! Pure. `roster` knows attached connection points and their links, `waiting` the requests that wait
//! for one, `attempts` what becomes of one whose stream broke off, `handshakes` the clients that came all at once,
//! `preface` what a proxy in front says of one, `rate` how much each of them may ask, and `parting` when each of them
//! goes that would stay. The gateway drives all of these. The connection point drives the rest: `ways` says which of
//! the ways to an instance it tries when, `origins` knows the servers that stand for one another, and `uploads` which
//! of them has which session.

mod attempts;
mod client_hello;
pub mod fuzz;
mod handshakes;
mod origins;
mod parting;
mod preface;
mod rate;
mod roster;
#[cfg(test)]
mod tests;
mod uploads;
mod waiting;
#[cfg(test)]
mod waiting_tests;
mod ways;

pub use attempts::{Attempts, Broke, Facts, GIVEN_BACK_MAX, Then, WhyNot};
pub use client_hello::Hello;
pub use handshakes::{HandshakeBounds, HandshakeTicket, Handshakes, Lease, Neighbourhood, Step};
pub use origins::{OriginRules, OriginSign, OriginState, Origins, Tried};
pub use parting::Parting;
pub use preface::{Preface, PrefaceError};
pub use rate::{Excess, Per, Rate, RequestBounds};
pub use roster::Roster;
pub use uploads::{Upload, Uploads};
pub use waiting::{ClientKey, Outcome, Standing, Ticket, Waiting, WaitingBounds};
pub use ways::Ways;
