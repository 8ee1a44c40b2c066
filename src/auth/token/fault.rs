//! Why a token is refused: what was found and what was expected, and never the token itself.

use super::TokenKinds;
use crate::limits::TOKEN_SIZE_MAX;

/// See the file's head. Texts that the token brought are cut to a length that a log line has room for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// Nothing was shown.
    #[error("no token was shown; expected Authorization: Bearer with a token of kind {0}")]
    Missing(TokenKinds),
    /// More than one `Authorization`.
    #[error("Authorization stands there more than once; expected one, with Bearer and a token")]
    Twice,
    /// Another scheme.
    #[error("Authorization with something other than Bearer and one token")]
    NotBearer,
    /// Over the bound.
    #[error("a token of {0} octets; expected {TOKEN_SIZE_MAX} at most")]
    TooLong(usize),
    /// Not a JWT with a signature.
    #[error("it is no token: {0}")]
    Malformed(&'static str),
    /// A header that tells where a key is to be had, or that more must be understood.
    #[error("its header has \"{0}\"; expected none: keys are those of the site's settings")]
    HeaderMember(&'static str),
    /// Nobody whom the site believes.
    #[error("issuer {found}; expected {expected}")]
    Issuer {
        /// As the token has it.
        found: String,
        /// Issuers of the site.
        expected: String,
    },
    /// It names no key.
    #[error("it names no key; expected kid or x5t in its header")]
    NoKey,
    /// A key that its issuer does not have.
    #[error("key {found}, which issuer {issuer} does not have; it has {expected}")]
    UnknownKey {
        /// As the token names it.
        found: String,
        /// Name of the issuer.
        issuer: String,
        /// Its keys.
        expected: String,
    },
    /// A key that its issuer has more than once.
    #[error("key {found}, of which issuer {issuer} has {count}; expected one")]
    AmbiguousKey {
        /// As the token names it.
        found: String,
        /// Name of the issuer.
        issuer: String,
        /// So many.
        count: usize,
    },
    /// Another algorithm than the key's.
    #[error("algorithm {found}; expected {expected}, which is that of its key")]
    Algorithm {
        /// As the token has it.
        found: String,
        /// The key's.
        expected: &'static str,
    },
    /// The signature is not the key's.
    #[error("its signature is not that of key {key} of issuer {issuer}")]
    Signature {
        /// Name of the issuer.
        issuer: String,
        /// The key.
        key: String,
    },
    /// Something that every token of its kind says is not there.
    #[error("no claim {0}")]
    NoClaim(&'static str),
    /// A device or user that nobody could tell from another by what there is room for.
    #[error("a subject of {found} octets; expected {expected} at most")]
    LongSubject {
        /// So many.
        found: usize,
        /// See `limits.rs`.
        expected: usize,
    },
    /// For somebody else.
    #[error("audience {found}; expected {expected}")]
    Audience {
        /// As the token has it.
        found: String,
        /// Of the issuer's entry.
        expected: String,
    },
    /// Of another tenant or hierarchy.
    #[error("tenant {found}; expected {expected}")]
    Tenant {
        /// As the token has it.
        found: String,
        /// Of the issuer's entry.
        expected: String,
    },
    /// Its issuer does not give tokens of this kind.
    #[error("category {found}; expected a token of kind {expected}, which is what issuer {issuer} gives")]
    Category {
        /// As the token has it.
        found: String,
        /// Of the issuer's entry.
        expected: TokenKinds,
        /// Name of the issuer.
        issuer: String,
    },
    /// Good, but not here.
    #[error("a token of kind {found}; expected {expected} at this endpoint")]
    NotHere {
        /// Its kind.
        found: super::TokenKind,
        /// What the endpoint takes.
        expected: TokenKinds,
    },
    /// Past its life.
    #[error("it expired at {until}; it is {now}")]
    Expired {
        /// When it ended.
        until: String,
        /// The time here.
        now: String,
    },
    /// Before its life.
    #[error("it is not valid before {from}; it is {now}")]
    Early {
        /// When it begins.
        from: String,
        /// The time here.
        now: String,
    },
    /// A life that no token of its kind has.
    #[error("it lives {found} s; expected {expected} s at most for its kind")]
    LongLived {
        /// From beginning to end.
        found: u64,
        /// Of its kind.
        expected: u64,
    },
    /// Blocked by the site.
    #[error("token {0} is blocked")]
    Blocked(String),
}

/// A text from a token as a fault shows it.
pub(super) fn shown(text: &str) -> String {
    let mut cut: String = text.chars().take(SHOWN_MAX).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    format!("{cut:?}")
}

/// Several, as a fault shows them.
pub(super) fn listed<'t>(texts: impl IntoIterator<Item = &'t str>) -> String {
    let mut texts = texts.into_iter().map(shown);
    let first: Vec<String> = texts.by_ref().take(LISTED_MAX).collect();
    match (first.is_empty(), texts.count()) {
        (true, _) => "none".to_owned(),
        (false, 0) => first.join(" or "),
        (false, more) => format!("{} or one of {more} more", first.join(" or ")),
    }
}

/// A GUID is 36 characters long, the address of a directory with one in it about 75.
const SHOWN_MAX: usize = 80;
/// More would be no help.
const LISTED_MAX: usize = 4;
