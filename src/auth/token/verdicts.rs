//! Tokens that were accepted lately: a client shows its token with every request, and checking an RSA
//! signature costs more than all else.
//!
//! What is remembered is that this token, octet by octet, is good for this site under these settings;
//! whether it lives is asked each time. Refusals are not remembered. The counterpart for certificates
//! is `auth/verdicts.rs`, which keeps a digest: a chain is looked up once per connection, but a token with
//! every request, and to compare one costs a fortieth of its SHA-256 (13 against 600 ns for 900 octets,
//! AMD EPYC).

use std::collections::{HashMap, hash_map};
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};

use rustls::pki_types::UnixTime;

use crate::auth::Validity;
use crate::limits::{TOKEN_VERDICT_COUNT_MAX, TOKEN_VERDICT_SIZE_MAX};

/// What is asked: is this token good, for this site, under these settings?
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenAsked<'t> {
    token: &'t [u8],
    site: usize,
    epoch: u64,
}

impl<'t> TokenAsked<'t> {
    /// `epoch` must be another one whenever issuers, keys or what is blocked are.
    pub fn new(token: &'t [u8], site: usize, epoch: u64) -> TokenAsked<'t> {
        TokenAsked { token, site, epoch }
    }
}

/// Without the token, which no log may have.
impl fmt::Debug for TokenAsked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TokenAsked { token, site, epoch } = self;
        write!(f, "token of {} octets, site {site}, epoch {epoch}", token.len())
    }
}

struct Accepted<T> {
    token: Box<[u8]>,
    site: usize,
    epoch: u64,
    facts: T,
    valid: Validity,
}

impl<T> Accepted<T> {
    fn asked(&self) -> TokenAsked<'_> {
        TokenAsked { token: &self.token, site: self.site, epoch: self.epoch }
    }
}

/// By a hash of what was asked; of two with one hash the later counts.
struct Half<T> {
    accepted: HashMap<u64, Accepted<T>>,
    /// Octets of all its tokens.
    size: usize,
}

impl<T> Default for Half<T> {
    fn default() -> Half<T> {
        Half { accepted: HashMap::new(), size: 0 }
    }
}

impl<T> Half<T> {
    fn find(&self, hash: u64, asked: &TokenAsked<'_>) -> Option<&Accepted<T>> {
        self.accepted.get(&hash).filter(|accepted| accepted.asked() == *asked)
    }

    fn remove(&mut self, hash: u64) -> Option<Accepted<T>> {
        let removed = self.accepted.remove(&hash)?;
        self.size -= removed.token.len();
        Some(removed)
    }

    /// There is none with this hash.
    fn insert(&mut self, hash: u64, accepted: Accepted<T>) {
        self.size += accepted.token.len();
        self.accepted.insert(hash, accepted);
    }

    fn has_room_for(&self, accepted: &Accepted<T>) -> bool {
        self.accepted.len() < TOKEN_VERDICT_COUNT_MAX / 2
            && self.size + accepted.token.len() <= TOKEN_VERDICT_SIZE_MAX / 2
    }
}

/// The latest acceptances, at most [`TOKEN_VERDICT_COUNT_MAX`] with tokens of at most
/// [`TOKEN_VERDICT_SIZE_MAX`] octets together, in two halves: when the young one is full, it becomes the old
/// one, and who was not asked for since then is forgotten.
pub struct TokenVerdicts<T> {
    young: Half<T>,
    old: Half<T>,
    /// Forgotten, and freed a few at a time: 19,000 at once would keep requests waiting.
    fading: Vec<hash_map::IntoValues<u64, Accepted<T>>>,
    hashes: RandomState,
}

impl<T> fmt::Debug for TokenVerdicts<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tokens of {} octets", self.len(), self.size())
    }
}

impl<T> Default for TokenVerdicts<T> {
    fn default() -> TokenVerdicts<T> {
        TokenVerdicts {
            young: Half::default(),
            old: Half::default(),
            fading: Vec::new(),
            hashes: RandomState::new(),
        }
    }
}

impl<T> TokenVerdicts<T> {
    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.young.accepted.len() + self.old.accepted.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Octets of their tokens.
    pub fn size(&self) -> usize {
        self.young.size + self.old.size
    }

    /// Everything is judged anew.
    pub fn clear(&mut self) {
        let young = std::mem::take(&mut self.young);
        self.forget(young);
        let old = std::mem::take(&mut self.old);
        self.forget(old);
    }

    fn forget(&mut self, half: Half<T>) {
        if !half.accepted.is_empty() {
            // What is cleared again and again meanwhile is bounded all the same.
            if self.fading.len() == FADING_MAX {
                self.fading.clear();
            }
            self.fading.push(half.accepted.into_values());
        }
    }

    fn fade(&mut self) {
        let Some(fading) = self.fading.last_mut() else { return };
        if fading.by_ref().take(FADING_PER_LOOK).count() < FADING_PER_LOOK {
            self.fading.pop();
        }
    }

    /// Of the end alone, which is that of the signature, and in practice differs where tokens do.
    fn hash(&self, asked: &TokenAsked<'_>) -> u64 {
        let TokenAsked { token, site, epoch } = *asked;
        let end = &token[token.len().saturating_sub(HASHED)..];
        self.hashes.hash_one((end, token.len(), site, epoch))
    }
}

const HASHED: usize = 32;
/// Halves: those of two changes of settings, one after the other.
const FADING_MAX: usize = 4;
/// A half is gone long before the next is full.
const FADING_PER_LOOK: usize = 4;

impl<T: Clone> TokenVerdicts<T> {
    /// What was remembered of a token that was accepted before and lives at `now`.
    pub fn find(&mut self, asked: &TokenAsked<'_>, now: UnixTime) -> Option<T> {
        self.fade();
        let hash = self.hash(asked);
        if let Some(accepted) = self.young.find(hash, asked) {
            return accepted.valid.contains(now).then(|| accepted.facts.clone());
        }
        self.old.find(hash, asked)?;
        let accepted = self.old.remove(hash).filter(|accepted| accepted.valid.contains(now))?;
        let facts = accepted.facts.clone();
        self.insert(hash, accepted);
        Some(facts)
    }

    /// This token was accepted.
    pub fn remember(&mut self, asked: TokenAsked<'_>, facts: T, valid: Validity) {
        let TokenAsked { token, site, epoch } = asked;
        self.insert(self.hash(&asked), Accepted { token: token.into(), site, epoch, facts, valid });
    }

    fn insert(&mut self, hash: u64, accepted: Accepted<T>) {
        self.young.remove(hash);
        self.old.remove(hash);
        if !self.young.has_room_for(&accepted) {
            let young = std::mem::take(&mut self.young);
            let old = std::mem::replace(&mut self.old, young);
            self.forget(old);
        }
        self.young.insert(hash, accepted);
    }
}
