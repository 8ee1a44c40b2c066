//! Bearer tokens (JWT, RFC 7519), as clients without a certificate show them.
//!
//! Pure: a token's octets, what the site says of its issuers, and `now` in; facts of who bears it out.
//! What a token says of itself is believed only where it picks among what the site has: the issuer and
//! the key it names must be there, once. Algorithm, audience, kind and tenant are those of the issuer's
//! entry (RFC 8725 3.1, 3.8, 3.9, 3.12). Signatures are checked by `jsonwebtoken` over ring.
//!
//! Formats: registration and site tokens are those of the original (facts of its public documentation);
//! tokens that CCM_STS gives say `UDA` or `DA`; directory tokens are OpenID Connect's.

mod claims;
mod directory;
mod fault;
mod issuer;
mod key;
mod material;
mod provider;
mod said;
#[cfg(test)]
mod tests;
mod verdicts;
mod verify;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use claims::{AUDIENCE, AUTHORITY, CATEGORY_PRE_AUTH, CATEGORY_SESSION, TYPE_BULK, issuer_of};
pub use directory::{DirectoryFault, directory};
pub use fault::TokenFault;
pub use issuer::{IssuerFault, Issuers, TokenIssuer};
pub use key::{KeyFault, PublicKey, TokenKey};
pub use material::{MaterialFault, TokenMaterial};
pub use provider::{SignerFactory, install as install_provider, provider};
pub use said::TokenWords;
pub use verdicts::{TokenAsked, TokenVerdicts};
pub use verify::{TokenFacts, bearer};

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenKind {
    /// Lets devices that the site does not know yet register; handed out in bulk.
    Registration,
    /// A registered device's own, renewed for as long as it comes.
    Client,
    /// What CCM_STS gives for any of the others; for one working day.
    Ccm,
    /// Of the directory: an OpenID provider.
    Directory,
}

impl TokenKind {
    /// All of them.
    pub const ALL: [TokenKind; 4] =
        [TokenKind::Registration, TokenKind::Client, TokenKind::Ccm, TokenKind::Directory];

    /// As written in settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            TokenKind::Registration => "registration",
            TokenKind::Client => "client",
            TokenKind::Ccm => "ccm",
            TokenKind::Directory => "directory",
        }
    }

    /// By its name as written.
    pub fn parse(text: &str) -> Option<TokenKind> {
        TokenKind::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

impl fmt::Display for TokenKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<TokenKind>", into = "Vec<TokenKind>")]
pub struct TokenKinds(u8);

impl TokenKinds {
    /// No kind.
    pub const NONE: TokenKinds = TokenKinds(0);

    /// These.
    pub const fn of(kinds: &[TokenKind]) -> TokenKinds {
        let mut set = 0;
        let mut at = 0;
        while at < kinds.len() {
            set |= 1 << kinds[at] as u8;
            at += 1;
        }
        TokenKinds(set)
    }

    /// Whether `kind` is one of them.
    pub const fn contains(self, kind: TokenKind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those in the set.
    pub fn iter(self) -> impl Iterator<Item = TokenKind> {
        TokenKind::ALL.into_iter().filter(move |kind| self.contains(*kind))
    }
}

impl From<Vec<TokenKind>> for TokenKinds {
    fn from(kinds: Vec<TokenKind>) -> TokenKinds {
        TokenKinds::of(&kinds)
    }
}

impl From<TokenKinds> for Vec<TokenKind> {
    fn from(set: TokenKinds) -> Vec<TokenKind> {
        set.iter().collect()
    }
}

impl fmt::Display for TokenKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, kind) in self.iter().enumerate() {
            let between = if place > 0 { ", " } else { "" };
            write!(f, "{between}{kind}")?;
        }
        if self.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}
