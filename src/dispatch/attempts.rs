//! What becomes of a request whose stream broke off before an answer began: sent once more, or given up.
//!
//! Pure. It must not be done twice, unless it may be; it must not be given up where it is certain that
//! nothing of it was done. Who carries it counts its attempts here.

use std::time::Duration;

/// What is known of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its body was on its way, and bytes of it cannot be had again from the client.
    pub has_body: bool,
    /// It may be done twice: by its method, without a body, at an endpoint that allows it.
    pub is_repeatable: bool,
}

/// How its stream broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broke {
    /// Nothing of it was done: the connection point said so, or cannot have heard of it.
    NotBegun,
    /// The channel was lost: nobody knows.
    Lost,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Send it again, wherever there is room.
    Again,
    /// The same after a while.
    AgainAfter(Duration),
    /// Answer that nobody takes it.
    GiveUp(WhyNot),
}

/// Why a request is not sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyNot {
    /// It was given back too often.
    TooOften,
    /// Nothing of it was begun, but bytes of its body are gone: only the client can send it again.
    BodyIsGone,
    /// It may have been done, and must not be done twice.
    NotRepeatable,
    /// Its repetition was lost, too.
    LostTwice,
}

/// The attempts of one request.
///
/// ```text
/// First ── lost, repeatable ──▶ Second ── lost ──▶ given up        (given back: again, three times on end)
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Attempts {
    given_back: u8,
    is_second: bool,
}

impl Attempts {
    /// It waited for its turn and was called: what was given back before does not count any more.
    pub fn handle_turn(&mut self) {
        self.given_back = 0;
    }

    /// Its stream broke off before an answer began.
    pub fn handle_broken(&mut self, broke: Broke, facts: Facts) -> Then {
        match broke {
            Broke::NotBegun if facts.has_body => Then::GiveUp(WhyNot::BodyIsGone),
            Broke::NotBegun if self.given_back >= GIVEN_BACK_MAX => Then::GiveUp(WhyNot::TooOften),
            Broke::NotBegun => {
                self.given_back += 1;
                Then::Again
            }
            Broke::Lost if self.is_second => Then::GiveUp(WhyNot::LostTwice),
            Broke::Lost if !facts.is_repeatable => Then::GiveUp(WhyNot::NotRepeatable),
            Broke::Lost => {
                self.is_second = true;
                Then::AgainAfter(NOTICED_WITHIN)
            }
        }
    }
}

/// A request of which nothing was begun goes elsewhere so often; then the site is in trouble.
pub const GIVEN_BACK_MAX: u8 = 3;
/// A connection point that died takes all its channels with it, which are seen to end within milliseconds of
/// the first: the others are given time to be noticed, or the one repetition would be spent on one of them.
const NOTICED_WITHIN: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Facts = Facts { has_body: false, is_repeatable: true };
    const ONCE: Facts = Facts { has_body: false, is_repeatable: false };
    const POST: Facts = Facts { has_body: true, is_repeatable: false };

    #[test]
    fn what_was_done_nowhere_is_sent_again_and_what_may_have_been_only_if_it_may_be_done_twice() {
        let rows: [(Facts, &[Broke], Then); 8] = [
            (GET, &[Broke::NotBegun], Then::Again),
            (ONCE, &[Broke::NotBegun], Then::Again),
            (POST, &[Broke::NotBegun], Then::GiveUp(WhyNot::BodyIsGone)),
            (GET, &[Broke::Lost], Then::AgainAfter(NOTICED_WITHIN)),
            (ONCE, &[Broke::Lost], Then::GiveUp(WhyNot::NotRepeatable)),
            (POST, &[Broke::Lost], Then::GiveUp(WhyNot::NotRepeatable)),
            (GET, &[Broke::Lost, Broke::NotBegun, Broke::Lost], Then::GiveUp(WhyNot::LostTwice)),
            (GET, &[Broke::NotBegun; 4], Then::GiveUp(WhyNot::TooOften)),
        ];
        for (facts, broken, expected) in rows {
            let mut attempts = Attempts::default();
            let last = broken.iter().map(|broke| attempts.handle_broken(*broke, facts)).last();
            assert_eq!(last, Some(expected), "{facts:?} {broken:?}");
        }
    }

    #[test]
    fn a_turn_that_was_waited_for_begins_the_count_anew() {
        let mut attempts = Attempts::default();
        for _ in 0..10 {
            for _ in 0..GIVEN_BACK_MAX {
                assert_eq!(attempts.handle_broken(Broke::NotBegun, GET), Then::Again);
            }
            attempts.handle_turn();
        }
    }
}
