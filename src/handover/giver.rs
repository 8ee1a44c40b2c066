//! The end that has the sockets: what each word of the other one asks of it, and how long the next may take.

use std::time::Duration;

use super::HandoverError;
use super::message::{Message, Role, VERSION};
use crate::limits;

/// Waiting ── HELLO ──▶ Offered ── STARTED ──▶ Beside ── READY ──▶ Yielded ── TAKEN ──▶ Gone
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody has said anything.
    Waiting,
    /// The other one reads its settings.
    Offered,
    /// It runs, and waits for channels.
    Beside,
    /// Nothing is accepted here any more, and not yet there.
    Yielded,
    /// The place is its own.
    Gone,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Send an OFFER with the descriptors.
    Offer,
    /// Leave channels to the other one.
    MakeWay,
    /// Accept nothing any more; then say YOURS.
    Yield,
    /// End the conversation without another word; serve what is here, and end.
    Leave,
}

/// See the file's head.
#[derive(Debug)]
pub struct Giver {
    role: Role,
    state: State,
}

impl Giver {
    /// Nobody has said anything yet.
    pub fn new(role: Role) -> Giver {
        Giver { role, state: State::Waiting }
    }

    /// The other one said this, and is there still or has ended meanwhile.
    ///
    /// # Errors
    /// It must not, or what it asks would be for nobody. This end says REFUSED then, as always when the other one has
    /// not the place: nothing came in time, or a duty could not be done.
    pub fn hear(&mut self, message: &Message, is_there: bool) -> Result<Duty, HandoverError> {
        if !is_there {
            return Err(HandoverError::Gone);
        }
        let (next, duty) = match (self.state, message) {
            (State::Waiting, Message::Hello(hello)) => {
                if hello.version != VERSION {
                    return Err(HandoverError::Version(hello.version));
                }
                if hello.role != self.role {
                    return Err(HandoverError::Role(hello.role, self.role));
                }
                (State::Offered, Duty::Offer)
            }
            (State::Offered, Message::Started) => (State::Beside, Duty::MakeWay),
            (State::Beside, Message::Ready) => (State::Yielded, Duty::Yield),
            (State::Yielded, Message::Taken) => (State::Gone, Duty::Leave),
            (state, other) => {
                return Err(HandoverError::Order { said: other.name(), expected: state.expects() });
            }
        };
        self.state = next;
        Ok(duty)
    }

    /// How long the other one may take for its next word.
    pub fn patience(&self) -> Duration {
        match self.state {
            State::Waiting | State::Yielded | State::Gone => limits::HANDOVER_STEP_WITHIN,
            State::Offered => limits::HANDOVER_START_WITHIN,
            State::Beside => limits::HANDOVER_READY_WITHIN,
        }
    }

    /// The other one has not said who it is.
    pub fn is_waiting(&self) -> bool {
        self.state == State::Waiting
    }

    /// Something was left to the other one that is to be taken back should it be lost.
    pub fn has_made_way(&self) -> bool {
        matches!(self.state, State::Beside | State::Yielded)
    }

    /// The other one does the work now.
    pub fn is_gone(&self) -> bool {
        self.state == State::Gone
    }
}

impl State {
    fn expects(self) -> &'static str {
        match self {
            State::Waiting => "HELLO",
            State::Offered => "STARTED",
            State::Beside => "READY",
            State::Yielded => "TAKEN",
            State::Gone => "nothing",
        }
    }
}
