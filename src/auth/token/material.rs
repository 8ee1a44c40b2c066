//! What of tokens changes faster than settings: keys that were fetched, and tokens that are blocked.
//!
//! A connection point says it to gateways whenever it changes; JSON, hostile input to them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{TokenIssuer, TokenKey};
use crate::limits::{
    SETTINGS_SIZE_MAX, TOKEN_BLOCKED_COUNT_MAX, TOKEN_BLOCKED_SIZE_MAX, TOKEN_ISSUER_COUNT_MAX,
    TOKEN_KEY_COUNT_MAX,
};

/// See the file's head.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenMaterial {
    /// By the name of the issuer's entry.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keys: BTreeMap<String, Vec<TokenKey>>,
    /// Ids of tokens, and devices or users none of whose tokens is taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked: Vec<String>,
}

/// Material that is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaterialFault {
    /// Not the JSON it should be.
    #[error("it cannot be read: {0}")]
    Malformed(String),
    /// Over a bound.
    #[error("more {0} than {1}")]
    TooMany(&'static str, usize),
    /// Longer than a channel carries at once.
    #[error("blocked tokens and fetched keys have {0} octets together, more than {SETTINGS_SIZE_MAX}")]
    TooLong(usize),
    /// A line of the list of blocked tokens.
    #[error("line {0} of the blocked tokens is longer than {TOKEN_BLOCKED_SIZE_MAX} octets or not printable")]
    Blocked(usize),
}

impl TokenMaterial {
    /// As it goes over a channel.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and lists always have a JSON form")
    }

    /// Whether it can go over a channel.
    ///
    /// # Errors
    /// `TooLong`.
    pub fn check_size(&self) -> Result<(), MaterialFault> {
        let size = self.to_bytes().len();
        if size > SETTINGS_SIZE_MAX { Err(MaterialFault::TooLong(size)) } else { Ok(()) }
    }

    /// Reads and judges what came over a channel.
    ///
    /// # Errors
    /// What could not have been sent.
    pub fn from_bytes(bytes: &[u8]) -> Result<TokenMaterial, MaterialFault> {
        if bytes.len() > SETTINGS_SIZE_MAX {
            return Err(MaterialFault::TooMany("octets", SETTINGS_SIZE_MAX));
        }
        let read: Result<TokenMaterial, _> = serde_json::from_slice(bytes);
        let material = read.map_err(|error| MaterialFault::Malformed(error.to_string()))?;
        let bounded = |what, found: usize, most| {
            if found > most { Err(MaterialFault::TooMany(what, most)) } else { Ok(()) }
        };
        bounded("issuers", material.keys.len(), TOKEN_ISSUER_COUNT_MAX)?;
        for keys in material.keys.values() {
            bounded("keys of an issuer", keys.len(), TOKEN_KEY_COUNT_MAX)?;
        }
        bounded("blocked tokens", material.blocked.len(), TOKEN_BLOCKED_COUNT_MAX)?;
        match material.blocked.iter().position(|id| !is_blockable(id)) {
            Some(place) => Err(MaterialFault::Blocked(place + 1)),
            None => Ok(material),
        }
    }

    /// Reads a list of blocked tokens: an id a line; what follows a blank or `#` is for people.
    ///
    /// # Errors
    /// A line that names nothing, or more of them than the bound.
    pub fn read_blocked(text: &str) -> Result<Vec<String>, MaterialFault> {
        let mut blocked = Vec::new();
        for (place, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            let Some(id) = line.split_whitespace().next() else { continue };
            if !is_blockable(id) {
                return Err(MaterialFault::Blocked(place + 1));
            }
            blocked.push(id.to_owned());
        }
        if blocked.len() > TOKEN_BLOCKED_COUNT_MAX {
            return Err(MaterialFault::TooMany("blocked tokens", TOKEN_BLOCKED_COUNT_MAX));
        }
        Ok(blocked)
    }

    /// The site's issuers with the material of all its connection points: a token that one of them has
    /// blocked is blocked, a key that one has fetched is one.
    pub fn issuers<'m>(
        entries: &[TokenIssuer],
        materials: impl Iterator<Item = &'m TokenMaterial> + Clone,
    ) -> super::Issuers {
        let keys = materials.clone().flat_map(|one| &one.keys);
        let keys = keys.map(|(name, keys)| (name.as_str(), keys.as_slice()));
        super::Issuers::new(entries, keys, materials.flat_map(|one| &one.blocked))
    }
}

fn is_blockable(id: &str) -> bool {
    (1..=TOKEN_BLOCKED_SIZE_MAX).contains(&id.len()) && id.bytes().all(|octet| octet.is_ascii_graphic())
}
