//! Whom a site believes: issuers with what they may say, their keys, and the tokens that are blocked.

use std::collections::BTreeSet;

use jsonwebtoken::DecodingKey;
use serde::{Deserialize, Serialize};

use super::claims::Header;
use super::fault::{TokenFault, listed, shown};
use super::key::TokenKey;
use super::{TokenKind, TokenKinds};
use crate::limits::{TOKEN_ISSUER_COUNT_MAX, TOKEN_KEY_COUNT_MAX, TOKEN_NAME_COUNT_MAX, TOKEN_NAME_SIZE_MAX};

/// An issuer as settings have it and as it is published: public keys alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenIssuer {
    /// What logs call it.
    pub name: String,
    /// `iss` of its tokens, octet by octet.
    pub issuer: String,
    /// A token must have one of these in `aud`.
    pub audiences: Vec<String>,
    /// And be of one of these tenants or hierarchies, letters of either case; none: of any.
    pub tenants: Vec<String>,
    /// And of one of these kinds.
    pub kinds: TokenKinds,
    /// Those that are in the settings; others may have been fetched.
    pub keys: Vec<TokenKey>,
    /// What `AADAuthInfo` tells of its tenants, where it is a directory for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
}

/// An entry that nobody could have meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssuerFault {
    /// More of them than the bound.
    #[error("{found} {what}; {most} at most")]
    TooMany {
        /// Issuers, keys, audiences, tenants.
        what: &'static str,
        /// So many.
        found: usize,
        /// The bound.
        most: usize,
    },
    /// A text that is empty, too long or not printable.
    #[error("issuer {0:?}: a name, issuer, audience or tenant that is empty, unprintable or too long")]
    Text(String),
    /// Nobody would be let in by it.
    #[error("issuer {0:?} has no audience or no kind")]
    Nothing(String),
    /// A directory's tokens say nothing that tells them from others of the same issuer.
    #[error("issuer {0:?}: kind directory beside others")]
    Mixed(String),
    /// Two entries with one name.
    #[error("issuer {0:?} stands there twice")]
    Twice(String),
}

impl TokenIssuer {
    fn judge(&self) -> Result<(), IssuerFault> {
        let bounded = |what, found: usize, most| {
            if found > most { Err(IssuerFault::TooMany { what, found, most }) } else { Ok(()) }
        };
        bounded("keys of an issuer", self.keys.len(), TOKEN_KEY_COUNT_MAX)?;
        bounded("audiences of an issuer", self.audiences.len(), TOKEN_NAME_COUNT_MAX)?;
        bounded("tenants of an issuer", self.tenants.len(), TOKEN_NAME_COUNT_MAX)?;
        let texts = self.audiences.iter().chain(&self.tenants).chain(&self.client);
        if !texts.chain([&self.name, &self.issuer]).all(|text| is_text(text)) {
            return Err(IssuerFault::Text(self.name.clone()));
        }
        if self.audiences.is_empty() || self.kinds.is_empty() {
            return Err(IssuerFault::Nothing(self.name.clone()));
        }
        if self.kinds.contains(TokenKind::Directory) && self.kinds.iter().count() > 1 {
            return Err(IssuerFault::Mixed(self.name.clone()));
        }
        Ok(())
    }

    /// Judges all issuers of a site together.
    ///
    /// # Errors
    /// The first that could not have been meant.
    pub fn judge_all(issuers: &[TokenIssuer]) -> Result<(), IssuerFault> {
        if issuers.len() > TOKEN_ISSUER_COUNT_MAX {
            let (found, most) = (issuers.len(), TOKEN_ISSUER_COUNT_MAX);
            return Err(IssuerFault::TooMany { what: "token issuers", found, most });
        }
        for (place, issuer) in issuers.iter().enumerate() {
            issuer.judge()?;
            if issuers[..place].iter().any(|other| other.name == issuer.name) {
                return Err(IssuerFault::Twice(issuer.name.clone()));
            }
        }
        Ok(())
    }
}

/// Printable, of a length that settings have room for.
fn is_text(text: &str) -> bool {
    (1..=TOKEN_NAME_SIZE_MAX).contains(&text.len()) && text.bytes().all(|octet| octet.is_ascii_graphic())
}

/// An issuer, ready to judge by.
#[derive(Clone, Debug)]
pub(super) struct Issuer {
    pub entry: TokenIssuer,
    keys: Vec<DecodingKey>,
}

impl Issuer {
    fn new(entry: TokenIssuer) -> Issuer {
        let keys = entry.keys.iter().map(|key| key.public.decoding_key()).collect();
        Issuer { entry, keys }
    }
}

/// All issuers of one site, and which of their tokens are blocked.
#[derive(Clone, Debug, Default)]
pub struct Issuers {
    issuers: Vec<Issuer>,
    /// Unique ids and subjects, in lower case.
    blocked: BTreeSet<Box<str>>,
}

impl Issuers {
    /// Of these entries, each with the keys of the same name in `fetched` besides its own.
    pub fn new<'k>(
        entries: &[TokenIssuer],
        fetched: impl IntoIterator<Item = (&'k str, &'k [TokenKey])>,
        blocked: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Issuers {
        let mut entries = entries.to_vec();
        for (name, keys) in fetched {
            if let Some(entry) = entries.iter_mut().find(|entry| entry.name == name) {
                for key in keys {
                    // The same key from two places is one key.
                    if !entry.keys.contains(key) {
                        entry.keys.push(key.clone());
                    }
                }
            }
        }
        let blocked = blocked.into_iter().map(|id| id.as_ref().to_ascii_lowercase().into()).collect();
        Issuers { issuers: entries.into_iter().map(Issuer::new).collect(), blocked }
    }

    /// Whether nobody is believed.
    pub fn is_empty(&self) -> bool {
        self.issuers.is_empty()
    }

    /// Whether this id, or this device or user, is blocked.
    pub fn is_blocked(&self, text: &str) -> bool {
        !self.blocked.is_empty() && self.blocked.contains(text.to_ascii_lowercase().as_str())
    }

    /// The directory entry that knows this tenant and has something to tell it.
    pub fn directory_of(&self, tenant: &str) -> Option<&TokenIssuer> {
        let entries = self.issuers.iter().map(|issuer| &issuer.entry);
        let mut directories = entries.filter(|entry| entry.kinds.contains(TokenKind::Directory));
        directories.find(|entry| {
            entry.client.is_some() && entry.tenants.iter().any(|one| one.eq_ignore_ascii_case(tenant))
        })
    }

    /// The one key that a token asks for, and whose it is.
    pub(super) fn find(
        &self,
        iss: &str,
        header: &Header,
    ) -> Result<(&TokenIssuer, &TokenKey, &DecodingKey), TokenFault> {
        let named: Vec<&Issuer> = self.issuers.iter().filter(|one| one.entry.issuer == iss).collect();
        let Some(first) = named.first() else {
            let expected = listed(self.issuers.iter().map(|one| one.entry.issuer.as_str()));
            return Err(TokenFault::Issuer { found: shown(iss), expected });
        };
        let asked = header.key().ok_or(TokenFault::NoKey)?;
        let keys = named.iter().flat_map(|one| {
            one.entry.keys.iter().zip(&one.keys).map(move |(key, ready)| (&one.entry, key, ready))
        });
        let mut matching: Vec<(&TokenIssuer, &TokenKey, &DecodingKey)> = Vec::new();
        for (entry, key, ready) in keys.filter(|(_, key, _)| is_asked(key, header)) {
            // One key may be written in two ways: with the names that it had when it was fetched.
            if !matching.iter().any(|(of, one, _)| std::ptr::eq(*of, entry) && one.public == key.public) {
                matching.push((entry, key, ready));
            }
        }
        let issuer = first.entry.name.clone();
        match matching.as_slice() {
            [one] => Ok(*one),
            [] => {
                let have = named.iter().flat_map(|one| one.entry.keys.iter().map(TokenKey::name));
                Err(TokenFault::UnknownKey { found: shown(asked), issuer, expected: listed(have) })
            }
            several => Err(TokenFault::AmbiguousKey { found: shown(asked), issuer, count: several.len() }),
        }
    }
}

/// Whether a header means this key: by every name that it gives.
fn is_asked(key: &TokenKey, header: &Header) -> bool {
    let is = |asked: &Option<String>, has: &Option<String>| asked.is_none() || asked == has;
    is(&header.kid, &key.kid) && is(&header.x5t, &key.x5t)
}
