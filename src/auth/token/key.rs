//! Public keys of issuers: RSA for RS256, P-256 for ES256; each with the names by which tokens ask for it.
//!
//! Read from JWK (RFC 7517), from public keys and from certificates; written as JWK. Private keys never
//! come here.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use jsonwebtoken::{Algorithm, DecodingKey};
use ring::digest;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer as _, SubjectPublicKeyInfo};
use x509_parser::public_key::PublicKey as Parsed;

use crate::limits::{TOKEN_KEY_COUNT_MAX, TOKEN_KEY_ID_SIZE_MAX};

/// A key that can be no issuer's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// Not JSON, or not a key set.
    #[error("not a JSON Web Key set: {0}")]
    NoSet(String),
    /// Neither RSA nor P-256.
    #[error("a key that is neither RSA nor of curve P-256")]
    Algorithm,
    /// RSA too short or too long, or with a senseless exponent.
    #[error("an RSA key of {0} bits; expected 2048 to 4096 and an odd exponent from 3 on")]
    Rsa(usize),
    /// No point of the curve by its form.
    #[error("a key of curve P-256 whose point has the wrong form")]
    Point,
    /// An `alg` or `use` for something else.
    #[error("a key that is meant for {0}")]
    Purpose(String),
    /// A name out of bounds.
    #[error("a key whose name is empty or longer than {TOKEN_KEY_ID_SIZE_MAX} octets")]
    Name,
    /// A member that is not base64url.
    #[error("a key whose member {0} is missing or no base64url")]
    Member(&'static str),
    /// Neither a public key nor a certificate.
    #[error("neither a public key nor a certificate")]
    Der,
    /// Too many in one set.
    #[error("{0} keys; {TOKEN_KEY_COUNT_MAX} at most")]
    TooMany(usize),
}

/// The key itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicKey {
    /// Modulus and exponent, big-endian, without leading zeros.
    Rsa {
        /// 256 to 512 octets.
        n: Vec<u8>,
        /// Odd, 8 octets at most.
        e: Vec<u8>,
    },
    /// An uncompressed point: 4, x, y.
    P256(Vec<u8>),
}

impl PublicKey {
    fn rsa(n: &[u8], e: &[u8]) -> Result<PublicKey, KeyFault> {
        let (n, e) = (without_zeros(n), without_zeros(e));
        let is_sound = (256..=512).contains(&n.len())
            && (1..=8).contains(&e.len())
            && e.last().is_some_and(|last| last % 2 == 1)
            && e != [1];
        if is_sound { Ok(PublicKey::Rsa { n, e }) } else { Err(KeyFault::Rsa(n.len() * 8)) }
    }

    fn p256(point: Vec<u8>) -> Result<PublicKey, KeyFault> {
        if point.len() == 65 && point[0] == 4 { Ok(PublicKey::P256(point)) } else { Err(KeyFault::Point) }
    }

    /// Reads a SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// Not one, or not of a kind that is taken.
    pub fn from_spki(der: &[u8]) -> Result<PublicKey, KeyFault> {
        match SubjectPublicKeyInfo::from_der(der) {
            Ok(([], info)) => PublicKey::of(&info),
            Ok(_) | Err(_) => Err(KeyFault::Der),
        }
    }

    fn of(info: &SubjectPublicKeyInfo<'_>) -> Result<PublicKey, KeyFault> {
        match info.parsed() {
            Ok(Parsed::RSA(key)) => PublicKey::rsa(key.modulus, key.exponent),
            Ok(Parsed::EC(point)) if point.data().len() == 65 => PublicKey::p256(point.data().to_vec()),
            Ok(_) => Err(KeyFault::Algorithm),
            Err(_) => Err(KeyFault::Der),
        }
    }

    /// The one algorithm that it is good for.
    pub const fn algorithm(&self) -> Algorithm {
        match self {
            PublicKey::Rsa { .. } => Algorithm::RS256,
            PublicKey::P256(_) => Algorithm::ES256,
        }
    }

    /// The same, as tokens write it.
    pub const fn algorithm_name(&self) -> &'static str {
        match self {
            PublicKey::Rsa { .. } => "RS256",
            PublicKey::P256(_) => "ES256",
        }
    }

    pub(super) fn decoding_key(&self) -> DecodingKey {
        match self {
            PublicKey::Rsa { n, e } => DecodingKey::from_rsa_raw_components(n, e),
            PublicKey::P256(point) => DecodingKey::from_ec_der(point),
        }
    }

    /// RFC 7638: the name of a key that has no other.
    fn thumbprint(&self) -> String {
        let text = match self {
            PublicKey::Rsa { n, e } => {
                format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, BASE64URL.encode(e), BASE64URL.encode(n))
            }
            PublicKey::P256(point) => {
                let (x, y) = (BASE64URL.encode(&point[1..33]), BASE64URL.encode(&point[33..]));
                format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#)
            }
        };
        BASE64URL.encode(digest::digest(&digest::SHA256, text.as_bytes()))
    }
}

fn without_zeros(octets: &[u8]) -> Vec<u8> {
    octets.iter().copied().skip_while(|octet| *octet == 0).collect()
}

/// A key with its names; it has one at least.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Jwk", into = "Jwk")]
pub struct TokenKey {
    /// What `kid` of a token says.
    pub kid: Option<String>,
    /// What `x5t` says: base64url of the SHA-1 of its certificate.
    pub x5t: Option<String>,
    /// The key.
    pub public: PublicKey,
}

impl TokenKey {
    /// The key of a SubjectPublicKeyInfo, named by its thumbprint (RFC 7638).
    ///
    /// # Errors
    /// See [`PublicKey::from_spki`].
    pub fn from_spki(der: &[u8]) -> Result<TokenKey, KeyFault> {
        PublicKey::from_spki(der).map(TokenKey::nameless)
    }

    /// The key of a certificate, named by the certificate's SHA-1 as `x5t`, and as `kid`, which is how
    /// issuers that have certificates name their keys.
    ///
    /// # Errors
    /// Not a certificate, or its key is of a kind that is not taken.
    pub fn from_certificate(der: &[u8]) -> Result<TokenKey, KeyFault> {
        let certificate = crate::auth::certificate::parse(der).ok_or(KeyFault::Der)?;
        let public = PublicKey::of(certificate.public_key())?;
        let sha1 = BASE64URL.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, der));
        Ok(TokenKey { kid: Some(sha1.clone()), x5t: Some(sha1), public })
    }

    /// A key with no other name than its thumbprint (RFC 7638).
    pub fn nameless(public: PublicKey) -> TokenKey {
        TokenKey { kid: Some(public.thumbprint()), x5t: None, public }
    }

    /// What logs call it.
    pub fn name(&self) -> &str {
        self.kid.as_deref().or(self.x5t.as_deref()).unwrap_or_default()
    }

    /// Reads a JWK set. Keys for other algorithms, and for encryption, are passed over.
    ///
    /// # Errors
    /// Not a set, too many keys, or one that is RSA or P-256 and malformed.
    pub fn read_set(json: &[u8]) -> Result<Vec<TokenKey>, KeyFault> {
        let set: JwkSet = serde_json::from_slice(json).map_err(|error| KeyFault::NoSet(error.to_string()))?;
        let mut keys = Vec::new();
        for value in set.keys {
            // Members of other kinds of keys have meanings, and types, of their own.
            let Ok(jwk) = serde_json::from_value::<Jwk>(value) else { continue };
            match TokenKey::try_from(jwk) {
                Ok(key) => keys.push(key),
                Err(KeyFault::Algorithm | KeyFault::Purpose(_)) => {}
                Err(fault) => return Err(fault),
            }
        }
        if keys.len() > TOKEN_KEY_COUNT_MAX { Err(KeyFault::TooMany(keys.len())) } else { Ok(keys) }
    }

    /// Writes a JWK set.
    pub fn write_set(keys: &[TokenKey]) -> String {
        let value = serde_json::json!({ "keys": keys });
        serde_json::to_string_pretty(&value).expect("texts and lists always have a JSON form")
    }
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<serde_json::Value>,
}

/// A JSON Web Key, as far as it matters.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    x5t: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crv: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    alg: Option<String>,
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    purpose: Option<String>,
}

impl TryFrom<Jwk> for TokenKey {
    type Error = KeyFault;
    fn try_from(jwk: Jwk) -> Result<TokenKey, KeyFault> {
        let public = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => {
                purpose(&jwk, "RS256")?;
                PublicKey::rsa(&octets(jwk.n.as_deref(), "n")?, &octets(jwk.e.as_deref(), "e")?)?
            }
            ("EC", Some("P-256")) => {
                purpose(&jwk, "ES256")?;
                let (x, y) = (octets(jwk.x.as_deref(), "x")?, octets(jwk.y.as_deref(), "y")?);
                if x.len() != 32 || y.len() != 32 {
                    return Err(KeyFault::Point);
                }
                PublicKey::p256([&[4][..], &x, &y].concat())?
            }
            _ => return Err(KeyFault::Algorithm),
        };
        let is_name = |name: &String| (1..=TOKEN_KEY_ID_SIZE_MAX).contains(&name.len());
        if !jwk.kid.iter().chain(&jwk.x5t).all(is_name) {
            return Err(KeyFault::Name);
        }
        Ok(match (jwk.kid, jwk.x5t) {
            (None, None) => TokenKey::nameless(public),
            (kid, x5t) => TokenKey { kid, x5t, public },
        })
    }
}

/// Whether a JWK is meant for signatures of this algorithm.
fn purpose(jwk: &Jwk, algorithm: &str) -> Result<(), KeyFault> {
    match (jwk.purpose.as_deref(), jwk.alg.as_deref()) {
        (Some("sig") | None, alg) if alg.is_none_or(|alg| alg == algorithm) => Ok(()),
        (Some("sig") | None, alg) => Err(KeyFault::Purpose(alg.unwrap_or_default().to_owned())),
        (Some(other), _) => Err(KeyFault::Purpose(other.to_owned())),
    }
}

fn octets(text: Option<&str>, member: &'static str) -> Result<Vec<u8>, KeyFault> {
    text.and_then(|text| BASE64URL.decode(text).ok()).ok_or(KeyFault::Member(member))
}

impl From<TokenKey> for Jwk {
    fn from(key: TokenKey) -> Jwk {
        let base = Jwk {
            alg: Some(key.public.algorithm_name().to_owned()),
            purpose: Some("sig".to_owned()),
            kid: key.kid,
            x5t: key.x5t,
            ..Jwk::default()
        };
        match key.public {
            PublicKey::Rsa { n, e } => Jwk {
                kty: "RSA".to_owned(),
                n: Some(BASE64URL.encode(n)),
                e: Some(BASE64URL.encode(e)),
                ..base
            },
            PublicKey::P256(point) => Jwk {
                kty: "EC".to_owned(),
                crv: Some("P-256".to_owned()),
                x: Some(BASE64URL.encode(&point[1..33])),
                y: Some(BASE64URL.encode(&point[33..])),
                ..base
            },
        }
    }
}
