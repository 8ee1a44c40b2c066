//! What a push is and whom it reaches: the one word on it that the origin that pushes and the clients that wait share.
//!
//! Pure. A held request says which push its client saw last (`seen=` in `X-Load`), and who it is (`client=`). A push answers
//! every held request that has not seen it; a client between two requests is owed it, and has it with the next one. So each
//! client has each push exactly once, unless something on the way loses or doubles an answer.

use crate::content;
use crate::random::Random;

/// Field of an answer that is a push: its number.
pub const PUSH_FIELD: &str = "X-Load-Push";
/// Field of an answer to a held request: the client it is for.
pub const CLIENT_FIELD: &str = "X-Load-Client";
/// A share of one, in the unit of shares.
pub const SHARE_ALL: u32 = 1_000_000;

/// Bits of a share in a word.
const SHARE_BITS: u32 = 20;
const _: () = assert!(SHARE_ALL < 1 << SHARE_BITS);
/// Numbers of pushes end here, so that one fits a word beside its share.
pub const NUMBER_MAX: u64 = u64::MAX >> SHARE_BITS;

/// A push to all clients, or to a share of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Push {
    /// From 1 on, each above the one before; 0 is none.
    pub number: u64,
    /// In millionths.
    pub share: u32,
}

impl Push {
    /// As one word, for a cell that threads share.
    pub fn pack(self) -> u64 {
        self.number << SHARE_BITS | u64::from(self.share)
    }

    /// The push of a word.
    pub fn unpack(word: u64) -> Self {
        Self { number: word >> SHARE_BITS, share: (word & ((1 << SHARE_BITS) - 1)) as u32 }
    }

    /// Whether it is for this client; which share of all it is for follows from its number.
    pub fn is_for(self, client: u64) -> bool {
        self.share >= SHARE_ALL
            || Random::new(client, self.number).unit() * f64::from(SHARE_ALL) < f64::from(self.share)
    }

    /// Whether `client`, which saw the push of that number last, is yet to have this one.
    pub fn is_owed(self, client: u64, seen: u64) -> bool {
        self.number > seen && self.is_for(client)
    }
}

/// Reads a share, above 0 and at most 1, into millionths.
pub fn share(text: &[u8]) -> Option<u32> {
    let share: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (share > 0.0 && share <= 1.0).then(|| ((share * f64::from(SHARE_ALL)).round() as u32).max(1))
}

/// The number of a push.
pub fn push_number(text: &[u8]) -> Option<u64> {
    content::number(text).filter(|number| (1..=NUMBER_MAX).contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_survives_its_word() {
        for push in [
            Push::default(),
            Push { number: 1, share: SHARE_ALL },
            Push { number: NUMBER_MAX, share: 1 },
            Push { number: 7, share: 250_000 },
        ] {
            assert_eq!(Push::unpack(push.pack()), push);
        }
    }

    #[test]
    fn a_share_reaches_its_part_of_the_clients_and_another_part_with_the_next_push() {
        let count =
            |number| (0..10_000).filter(|client| Push { number, share: 250_000 }.is_for(*client)).count();
        assert!((2300..2700).contains(&count(1)), "{}", count(1));
        let both = (0..10_000).filter(|client| {
            Push { number: 1, share: 250_000 }.is_for(*client)
                && Push { number: 2, share: 250_000 }.is_for(*client)
        });
        let both = both.count();
        assert!((450..800).contains(&both), "{both}");
        assert!((0..1000).all(|client| Push { number: 3, share: SHARE_ALL }.is_for(client)));
    }

    #[test]
    fn who_saw_a_push_is_not_owed_it() {
        let push = Push { number: 3, share: SHARE_ALL };
        assert!(push.is_owed(1, 2) && push.is_owed(1, 0));
        assert!(!push.is_owed(1, 3) && !push.is_owed(1, 4));
        assert!(!Push::default().is_owed(1, 0));
    }

    #[test]
    fn shares_and_numbers_that_mean_nothing_are_refused() {
        assert_eq!(
            (share(b"1"), share(b"0.5"), share(b"0.0000001")),
            (Some(SHARE_ALL), Some(500_000), Some(1))
        );
        assert!(["0", "-1", "1.1", "nan", "x", ""].iter().all(|text| share(text.as_bytes()).is_none()));
        assert_eq!((push_number(b"7"), push_number(b"0"), push_number(b"")), (Some(7), None, None));
    }
}
