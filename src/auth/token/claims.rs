//! What a token says: header and claims as they stand there, nothing of it believed yet.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};

use super::TokenKind;
use super::fault::TokenFault;
use crate::limits::TOKEN_GIVEN_FOR_MAX;

/// `SCCMTokenCategory` of registration and site tokens, as published.
pub const CATEGORY_PRE_AUTH: &str = "SCCMPreAuthToken";
/// The same of tokens that CCM_STS gives; ours, for no published text shows theirs.
pub const CATEGORY_SESSION: &str = "SCCMSessionToken";
/// `Type` of registration tokens, as published.
pub const TYPE_BULK: &str = "BulkRegistration";
/// `Authority` and `License` of tokens of the site, as published.
pub const AUTHORITY: &str = "SCCM";
/// `aud` of tokens of the site, as published.
pub const AUDIENCE: &str = "urn:sccm:service";

/// `iss` of tokens of a hierarchy, as published.
pub fn issuer_of(hierarchy: &str) -> String {
    format!("urn:sccm:oauth2:{}", hierarchy.to_ascii_lowercase())
}

/// The parts of a token, still encoded.
pub(super) struct Parts<'t> {
    pub header: &'t [u8],
    pub payload: &'t [u8],
}

impl<'t> Parts<'t> {
    /// Takes a token apart; the signature stays where it is.
    pub fn of(token: &'t [u8]) -> Result<Parts<'t>, TokenFault> {
        let mut parts = token.split(|octet| *octet == b'.');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(header), Some(payload), Some(signature), None)
                if !header.is_empty() && !payload.is_empty() && !signature.is_empty() =>
            {
                Ok(Parts { header, payload })
            }
            (_, _, Some(_), None) => Err(TokenFault::Malformed("a part of it is empty")),
            _ => Err(TokenFault::Malformed("not three parts with a dot between")),
        }
    }
}

/// Reads one part: base64url of JSON.
pub(super) fn read<T: DeserializeOwned>(part: &[u8], fault: &'static str) -> Result<T, TokenFault> {
    let json = BASE64URL.decode(part).map_err(|_| TokenFault::Malformed("a part of it is no base64url"))?;
    serde_json::from_slice(&json).map_err(|_| TokenFault::Malformed(fault))
}

/// A header. Members that have no meaning here are passed over; those that would change where keys come
/// from, or what must be understood, are noted.
#[derive(Deserialize)]
pub(super) struct Header {
    pub alg: String,
    #[serde(default)]
    pub kid: Option<String>,
    #[serde(default)]
    pub x5t: Option<String>,
    #[serde(default, deserialize_with = "is_there")]
    jku: bool,
    #[serde(default, deserialize_with = "is_there")]
    x5u: bool,
    #[serde(default, deserialize_with = "is_there")]
    jwk: bool,
    #[serde(default, deserialize_with = "is_there")]
    crit: bool,
    #[serde(default, deserialize_with = "is_there")]
    zip: bool,
}

fn is_there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

impl Header {
    /// The member that no token may have.
    pub fn forbidden(&self) -> Option<&'static str> {
        let members =
            [("jku", self.jku), ("x5u", self.x5u), ("jwk", self.jwk), ("crit", self.crit), ("zip", self.zip)];
        members.into_iter().find(|(_, is_there)| *is_there).map(|(name, _)| name)
    }

    /// How it names its key.
    pub fn key(&self) -> Option<&str> {
        self.kid.as_deref().or(self.x5t.as_deref())
    }
}

/// What is read before a key is known: which issuer to ask.
#[derive(Deserialize)]
pub(super) struct Unverified {
    #[serde(default)]
    pub iss: Option<String>,
}

/// Claims, as far as they matter. Names differ between issuers; of two names for one thing a token has
/// at most one.
#[derive(Deserialize)]
pub(super) struct Claims {
    #[serde(default)]
    aud: Option<Audience>,
    #[serde(default)]
    pub exp: Option<f64>,
    #[serde(default)]
    pub nbf: Option<f64>,
    #[serde(default, rename = "SCCMTokenCategory")]
    pub category: Option<String>,
    #[serde(default, rename = "Type")]
    pub kind: Option<String>,
    #[serde(default, rename = "TenantId", alias = "HierarchyId", alias = "hierarchyId")]
    pub hierarchy: Option<String>,
    #[serde(default, rename = "UniqueId")]
    pub unique_id: Option<String>,
    #[serde(default, rename = "DeviceId", alias = "deviceId", alias = "deviceid")]
    pub device: Option<String>,
    #[serde(default, rename = "UserId", alias = "userId")]
    pub user: Option<String>,
    #[serde(default)]
    pub tid: Option<String>,
    #[serde(default)]
    pub oid: Option<String>,
    #[serde(default)]
    pub sub: Option<String>,
    #[serde(default)]
    pub jti: Option<String>,
    #[serde(default)]
    pub uti: Option<String>,
    /// Names of what it was given for; ours.
    #[serde(default, rename = "GivenFor")]
    pub given_for: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Claims {
    /// Whom it is for.
    pub fn audiences(&self) -> &[String] {
        match &self.aud {
            None => &[],
            Some(Audience::One(one)) => std::slice::from_ref(one),
            Some(Audience::Several(several)) => several,
        }
    }

    /// What it is for, by what it says; `None`: nothing that is known here.
    pub fn token_kind(&self) -> Option<TokenKind> {
        match (self.category.as_deref(), self.kind.as_deref()) {
            (None, _) => Some(TokenKind::Directory),
            (Some(CATEGORY_PRE_AUTH), Some(TYPE_BULK)) => Some(TokenKind::Registration),
            (Some(CATEGORY_PRE_AUTH), _) => Some(TokenKind::Client),
            (Some(_), Some("UDA" | "DA" | "UA")) => Some(TokenKind::Ccm),
            (Some(_), _) => None,
        }
    }

    /// The same, as a fault shows it.
    pub fn shown_kind(&self) -> String {
        match (self.category.as_deref(), self.kind.as_deref()) {
            (None, None) => "none".to_owned(),
            (category, kind) => format!("{} of type {}", category.unwrap_or("none"), kind.unwrap_or("none")),
        }
    }

    /// Of the hierarchy or the directory.
    pub fn tenant(&self, kind: TokenKind) -> Option<&str> {
        match kind {
            TokenKind::Directory => self.tid.as_deref(),
            TokenKind::Registration | TokenKind::Client | TokenKind::Ccm => self.hierarchy.as_deref(),
        }
    }

    /// By what a site blocks it.
    pub fn id(&self) -> Option<&str> {
        self.unique_id.as_deref().or(self.jti.as_deref()).or(self.uti.as_deref())
    }

    /// Everything in it that names the token, its device or its user.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let of_token = [&self.unique_id, &self.jti, &self.uti];
        let of_bearer = [&self.device, &self.user, &self.oid, &self.sub];
        let given_for = self.given_for.iter().take(TOKEN_GIVEN_FOR_MAX);
        of_token.into_iter().chain(of_bearer).flatten().chain(given_for).map(String::as_str)
    }

    /// Who bears it.
    pub fn subject(&self, kind: TokenKind) -> Option<&str> {
        let device = self.device.as_deref();
        match kind {
            TokenKind::Registration => self.id(),
            TokenKind::Client | TokenKind::Ccm => device.or(self.user.as_deref()).or(self.sub.as_deref()),
            TokenKind::Directory => self.oid.as_deref().or(self.sub.as_deref()).or(device),
        }
    }
}
