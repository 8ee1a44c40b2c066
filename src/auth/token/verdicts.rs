//! Tokens that were accepted lately: a client shows its token with every request, and checking an RSA
//! signature costs more than all else.
//!
//! What is remembered is that this token, octet by octet, is good for this site under these settings;
//! whether it lives is asked each time. Refusals are not remembered. The counterpart for certificates
//! is `auth/verdicts.rs`.

use std::collections::HashMap;

use ring::digest;
use rustls::pki_types::UnixTime;

use crate::auth::Validity;
use crate::limits::TOKEN_VERDICT_COUNT_MAX;

/// What is asked: is this token good, for this site, under these settings?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenAsked {
    /// SHA-256 of the token.
    token: [u8; 32],
    site: usize,
    epoch: u64,
}

impl TokenAsked {
    /// `epoch` must be another one whenever issuers, keys or what is blocked are.
    pub fn new(token: &[u8], site: usize, epoch: u64) -> TokenAsked {
        let token = digest::digest(&digest::SHA256, token);
        let token = token.as_ref().try_into().expect("SHA-256 has 32 octets");
        TokenAsked { token, site, epoch }
    }
}

/// The latest acceptances, at most [`TOKEN_VERDICT_COUNT_MAX`], in two halves: when the young one is
/// full, it becomes the old one, and who was not asked for since then is forgotten.
#[derive(Debug)]
pub struct TokenVerdicts<T> {
    young: HashMap<TokenAsked, (T, Validity)>,
    old: HashMap<TokenAsked, (T, Validity)>,
    half: usize,
}

impl<T> Default for TokenVerdicts<T> {
    fn default() -> TokenVerdicts<T> {
        TokenVerdicts { young: HashMap::new(), old: HashMap::new(), half: TOKEN_VERDICT_COUNT_MAX / 2 }
    }
}

impl<T: Clone> TokenVerdicts<T> {
    /// What was remembered of a token that was accepted before and lives at `now`.
    pub fn find(&mut self, asked: &TokenAsked, now: UnixTime) -> Option<T> {
        if let Some((facts, valid)) = self.young.get(asked) {
            return valid.contains(now).then(|| facts.clone());
        }
        let (facts, valid) = self.old.remove(asked).filter(|(_, valid)| valid.contains(now))?;
        self.remember(*asked, facts.clone(), valid);
        Some(facts)
    }

    /// This token was accepted.
    pub fn remember(&mut self, asked: TokenAsked, facts: T, valid: Validity) {
        if self.young.len() >= self.half && !self.young.contains_key(&asked) {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&asked);
        self.young.insert(asked, (facts, valid));
    }

    /// Everything is judged anew.
    pub fn clear(&mut self) {
        self.young = HashMap::new();
        self.old = HashMap::new();
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
