//! The end that takes the sockets: what it may believe of what comes from the other one.
//!
//! TAKEN may come too late, or not at all. Only the other end knows whether it did, and it alone says so: by REFUSED,
//! and then it goes on, or by an end without another word, and then it leaves or is dead.

use std::time::Duration;

use super::message::Message;
use crate::limits;

/// Asking ── OFFER ──▶ Offered ── YOURS ──▶ Judged ── it ends ──▶ Alone
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// HELLO was said.
    Asking,
    /// Starts, beside the other one.
    Offered,
    /// Nobody accepts: TAKEN is said, or about to be.
    Judged,
    /// The place is its own.
    Alone,
}

/// What came from the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard<'m> {
    /// This.
    Said(&'m Message),
    /// It ended.
    End,
    /// Nothing in time.
    Nothing,
}

/// Why the place is not taken. Whoever hears this ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// It was said.
    #[error("the process that runs does not give its place away: {0}")]
    Refused(String),
    /// Not in time.
    #[error("the process that runs does not say {0}")]
    Silent(&'static str),
    /// Before it gave anything away: another is to be asked, or none.
    #[error("the process that runs has ended where {0} was expected")]
    Ended(&'static str),
    /// Something else came.
    #[error("the process that runs said {said} where {expected} was expected")]
    Order {
        /// What came.
        said: &'static str,
        /// What should have.
        expected: &'static str,
    },
}

/// See the file's head.
#[derive(Debug)]
pub struct Taker {
    state: State,
}

impl Default for Taker {
    fn default() -> Taker {
        Taker { state: State::Asking }
    }
}

impl Taker {
    /// The other one said something, or did not.
    ///
    /// # Errors
    /// The place stays with it, whatever comes now.
    pub fn hear(&mut self, heard: Heard<'_>) -> Result<(), NotTaken> {
        let expected = self.expects();
        self.state = match (self.state, heard) {
            (_, Heard::Said(Message::Refused(text))) => return Err(NotTaken::Refused(text.clone())),
            (State::Asking, Heard::Said(Message::Offer(_))) => State::Offered,
            (State::Offered, Heard::Said(Message::Yours)) => State::Judged,
            (State::Judged, Heard::End) => State::Alone,
            (_, Heard::Said(other)) => return Err(NotTaken::Order { said: other.name(), expected }),
            (_, Heard::End) => return Err(NotTaken::Ended(expected)),
            (_, Heard::Nothing) => return Err(NotTaken::Silent(expected)),
        };
        Ok(())
    }

    /// How long the other one may take for its next word, or for its end.
    pub fn patience(&self) -> Duration {
        match self.state {
            State::Asking => limits::HANDOVER_STEP_WITHIN,
            State::Offered => limits::HANDOVER_STEP_WITHIN * 2,
            State::Judged | State::Alone => limits::HANDOVER_VERDICT_WITHIN,
        }
    }

    /// The other one accepts nobody any more, and will not again.
    pub fn is_alone(&self) -> bool {
        self.state == State::Alone
    }

    fn expects(&self) -> &'static str {
        match self.state {
            State::Asking => "OFFER",
            State::Offered => "YOURS",
            State::Judged => "whether it leaves",
            State::Alone => "nothing",
        }
    }
}
