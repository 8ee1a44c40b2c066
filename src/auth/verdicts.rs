//! Chains that were accepted lately, so that a client that comes back is not judged from the beginning:
//! devices connect anew every few minutes, and verifying signatures is most of what judging costs.
//!
//! What is remembered is that this chain, octet by octet, leads to the trust of this site under these
//! settings. Whether its certificates live is asked each time. Refusals are not remembered: a stranger
//! must not push out those who are known. Whoever shows a chain has proved in the handshake, of this
//! session or of the one it takes up, that it holds the key of the leaf.

use std::collections::HashMap;
use std::rc::Rc;

use ring::digest;
use rustls::pki_types::UnixTime;

use super::certificate::Validity;
use crate::limits::VERDICT_COUNT_MAX;

/// What is asked: may this chain in, for this site, under these settings?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Asked {
    /// SHA-256 of the chain, each certificate with its length before it.
    chain: [u8; 32],
    site: usize,
    epoch: u64,
}

impl Asked {
    /// `chain` as the client showed it, leaf first. `epoch` must be another one whenever trust or what
    /// was revoked is.
    pub fn new<D: AsRef<[u8]>>(chain: &[D], site: usize, epoch: u64) -> Asked {
        let mut hash = digest::Context::new(&digest::SHA256);
        for der in chain {
            hash.update(&(der.as_ref().len() as u64).to_be_bytes());
            hash.update(der.as_ref());
        }
        let chain = hash.finish().as_ref().try_into().expect("SHA-256 has 32 octets");
        Asked { chain, site, epoch }
    }
}

/// Who was accepted, and for how long that may hold.
#[derive(Clone, Debug)]
struct Accepted {
    subject: Rc<str>,
    valid: Validity,
}

/// The latest acceptances, at most [`VERDICT_COUNT_MAX`]. They are kept in two halves: when the young
/// one is full, it becomes the old one, and who was not asked for since then is forgotten.
#[derive(Debug)]
pub struct Verdicts {
    young: HashMap<Asked, Accepted>,
    old: HashMap<Asked, Accepted>,
    half: usize,
}

impl Default for Verdicts {
    fn default() -> Verdicts {
        Verdicts::with_room_for(VERDICT_COUNT_MAX)
    }
}

impl Verdicts {
    fn with_room_for(count: usize) -> Verdicts {
        Verdicts { young: HashMap::new(), old: HashMap::new(), half: count / 2 }
    }

    /// The subject of a chain that was accepted before and whose certificates live at `now`.
    pub fn find(&mut self, asked: &Asked, now: UnixTime) -> Option<Rc<str>> {
        if let Some(accepted) = self.young.get(asked) {
            return accepted.valid.contains(now).then(|| accepted.subject.clone());
        }
        let accepted = self.old.remove(asked).filter(|accepted| accepted.valid.contains(now))?;
        let subject = accepted.subject.clone();
        self.insert(*asked, accepted);
        Some(subject)
    }

    /// This chain was accepted.
    pub fn remember(&mut self, asked: Asked, subject: &Rc<str>, valid: Validity) {
        self.insert(asked, Accepted { subject: subject.clone(), valid });
    }

    /// Everything is judged anew: other settings came into force.
    pub fn clear(&mut self) {
        self.young = HashMap::new();
        self.old = HashMap::new();
    }

    fn insert(&mut self, asked: Asked, accepted: Accepted) {
        if self.young.len() >= self.half && !self.young.contains_key(&asked) {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&asked);
        self.young.insert(asked, accepted);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIFE: Validity = Validity { from: 100, until: 200 };

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    fn remembering(asked: Asked) -> Verdicts {
        let mut verdicts = Verdicts::default();
        verdicts.remember(asked, &"CN=client1".into(), LIFE);
        verdicts
    }

    #[test]
    fn an_acceptance_holds_in_the_life_of_the_certificates_and_not_a_second_longer() {
        let asked = Asked::new(&[b"leaf"], 0, 1);
        let mut verdicts = remembering(asked);
        for (now, found) in [(99, false), (100, true), (200, true), (201, false), (150, true)] {
            assert_eq!(verdicts.find(&asked, at(now)).is_some(), found, "second {now}");
        }
        assert_eq!(verdicts.find(&asked, at(150)).as_deref(), Some("CN=client1"));
    }

    #[test]
    fn an_old_acceptance_ends_with_the_certificates_too() {
        let asked = Asked::new(&[b"leaf"], 0, 1);
        let mut verdicts = remembering(asked);
        verdicts.old = std::mem::take(&mut verdicts.young);
        assert!(verdicts.find(&asked, at(201)).is_none());
        assert!(verdicts.old.is_empty(), "nobody asks for it again");
    }

    #[test]
    fn an_acceptance_is_that_of_one_chain_one_site_and_one_state_of_the_settings() {
        let mut verdicts = remembering(Asked::new(&["leaf", "issuer"], 0, 1));
        let others = [
            Asked::new(&["leaf", "issuer"], 1, 1),
            Asked::new(&["leaf", "issuer"], 0, 2),
            Asked::new(&["leaf", "issuer"], 0, 0),
            Asked::new(&["leaf"], 0, 1),
            Asked::new(&["leaf", "another issuer"], 0, 1),
            Asked::new(&["leaf", "issuer", "issuer"], 0, 1),
            Asked::new(&["issuer", "leaf"], 0, 1),
            Asked::new(&["leafi", "ssuer"], 0, 1),
            Asked::new(&["leafissuer"], 0, 1),
            Asked::new::<&str>(&[], 0, 1),
        ];
        for other in others {
            assert!(verdicts.find(&other, at(150)).is_none(), "{other:?}");
        }
        assert!(verdicts.find(&Asked::new(&["leaf", "issuer"], 0, 1), at(150)).is_some());
    }

    #[test]
    fn nothing_is_remembered_past_a_change_of_settings() {
        let asked = Asked::new(&[b"leaf"], 0, 1);
        let mut verdicts = remembering(asked);
        verdicts.old.insert(Asked::new(&[b"other"], 0, 1), verdicts.young[&asked].clone());
        verdicts.clear();
        assert!(verdicts.young.is_empty() && verdicts.old.is_empty());
    }

    #[test]
    fn who_comes_often_is_known_among_any_number_of_others() {
        let mut verdicts = Verdicts::with_room_for(8);
        let regular = Asked::new(&[b"regular"], 0, 1);
        verdicts.remember(regular, &"CN=regular".into(), LIFE);
        for number in 0u32..100 {
            let other = Asked::new(&[number.to_be_bytes()], 0, 1);
            verdicts.remember(other, &"CN=other".into(), LIFE);
            assert!(verdicts.find(&other, at(150)).is_some());
            assert!(verdicts.young.len() + verdicts.old.len() <= 8);
            assert_eq!(verdicts.find(&regular, at(150)).as_deref(), Some("CN=regular"), "{number}");
        }
        assert!(verdicts.find(&Asked::new(&[0u32.to_be_bytes()], 0, 1), at(150)).is_none(), "forgotten");
    }
}
