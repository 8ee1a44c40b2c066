//! What a site publishes: the part of its settings that gateways judge requests by.
//!
//! JSON on the channel and on the gateway's disk; both ends are hostile input to the other. Unknown
//! members are refused, since one that narrows access must not be lost: gateways are renewed first.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::auth::token::{IssuerFault, TokenIssuer};
use crate::auth::{AllowRules, RevocationMode, is_site_code};
use crate::limits::{
    ALLOW_RULE_COUNT_MAX, ENDPOINT_COUNT_MAX, ROLE_COUNT_MAX, SETTINGS_SIZE_MAX, TRUST_COUNT_MAX,
};
use crate::mapping::{METHOD_COUNT_MAX, Role};

/// Settings of one site as gateways know them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedSettings {
    /// Three letters or digits.
    pub site: String,
    /// Of the site's settings.
    pub serial: u64,
    /// Ids unique.
    pub roles: Vec<Role>,
    /// Whose client certificates the site takes.
    pub trust: PublishedTrust,
    /// Whose tokens, with public keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub token_issuers: Vec<TokenIssuer>,
    /// How it uses its revocation lists, which come apart from this.
    #[serde(default, skip_serializing_if = "PublishedRevocation::is_off")]
    pub revocation: PublishedRevocation,
}

/// How a site uses its revocation lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedRevocation {
    /// What missing lists mean.
    pub mode: RevocationMode,
    /// Seconds for which a list counts behind its end.
    pub grace_secs: u64,
}

impl PublishedRevocation {
    fn is_off(&self) -> bool {
        *self == PublishedRevocation::default()
    }
}

/// Certificates in DER; base64 in JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedTrust {
    /// Trust anchors.
    #[serde(serialize_with = "write_certificates", deserialize_with = "read_certificates")]
    pub roots: Vec<Vec<u8>>,
    /// Issuing CAs that clients need not send.
    #[serde(serialize_with = "write_certificates", deserialize_with = "read_certificates")]
    pub intermediates: Vec<Vec<u8>>,
    /// Whom alone it lets in of those its roots vouch for.
    #[serde(default, skip_serializing_if = "AllowRules::is_empty")]
    pub allowed: AllowRules,
}

/// Why a publication is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublicationError {
    /// Longer than [`SETTINGS_SIZE_MAX`].
    #[error("publication of {0} octets is longer than {SETTINGS_SIZE_MAX}")]
    TooLong(usize),
    /// Not the JSON it should be; what the parser says.
    #[error("publication cannot be read: {0}")]
    Malformed(String),
    /// Three letters or digits, upper case.
    #[error("{0:?} is no site code")]
    SiteCode(String),
    /// More of these than the bound.
    #[error("more {what} than {limit}")]
    TooMany {
        /// Roles, endpoints, methods, certificates.
        what: &'static str,
        /// Its bound.
        limit: usize,
    },
    /// A role is named twice.
    #[error("role {0} is named twice")]
    RoleTwice(u64),
    /// Token issuers that nobody could have meant.
    #[error("token issuers: {0}")]
    Issuers(#[from] IssuerFault),
    /// Bounds of requests beyond what settings can name.
    #[error("endpoint {path:?} of role {role} has bounds beyond what settings can name")]
    Bounds {
        /// The role.
        role: u64,
        /// The path.
        path: String,
    },
    /// An endpoint that no family reaches, or two that a request could be for.
    #[error("endpoint {path:?} of role {role} is without a family or named twice")]
    Endpoint {
        /// The role.
        role: u64,
        /// The path.
        path: String,
    },
}

impl PublishedSettings {
    /// As it goes over the channel; the same settings give the same octets.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings, numbers and lists always have a JSON form")
    }

    /// Reads and judges what came over a channel or from disk.
    ///
    /// # Errors
    /// Anything that could not have been published.
    pub fn from_bytes(bytes: &[u8]) -> Result<PublishedSettings, PublicationError> {
        if bytes.len() > SETTINGS_SIZE_MAX {
            return Err(PublicationError::TooLong(bytes.len()));
        }
        let read = serde_json::from_slice(bytes);
        let settings: PublishedSettings =
            read.map_err(|error| PublicationError::Malformed(error.to_string()))?;
        settings.judge()?;
        Ok(settings)
    }

    /// Whether nothing but the keys of token issuers differs: those of files are told of while a connection point
    /// runs, without another serial.
    pub fn differs_in_token_keys_alone(&self, other: &PublishedSettings) -> bool {
        let without_keys = |settings: &PublishedSettings| {
            let mut settings = settings.clone();
            settings.token_issuers.iter_mut().for_each(|issuer| issuer.keys.clear());
            settings
        };
        without_keys(self) == without_keys(other)
    }

    /// Whether gateways would take it, its size included; the connection point asks before it publishes.
    ///
    /// # Errors
    /// As [`from_bytes`](Self::from_bytes).
    pub fn check(&self) -> Result<(), PublicationError> {
        self.judge()?;
        let size = self.to_bytes().len();
        if size > SETTINGS_SIZE_MAX { Err(PublicationError::TooLong(size)) } else { Ok(()) }
    }

    fn judge(&self) -> Result<(), PublicationError> {
        if !is_site_code(&self.site) {
            return Err(PublicationError::SiteCode(self.site.clone()));
        }
        bounded("roles", self.roles.len(), ROLE_COUNT_MAX)?;
        bounded("roots", self.trust.roots.len(), TRUST_COUNT_MAX)?;
        bounded("intermediates", self.trust.intermediates.len(), TRUST_COUNT_MAX)?;
        let AllowRules { issuers, subjects, names } = &self.trust.allowed;
        for (what, rules) in [("issuers", issuers), ("subjects", subjects), ("names", names)] {
            bounded(what, rules.len(), ALLOW_RULE_COUNT_MAX)?;
        }
        TokenIssuer::judge_all(&self.token_issuers)?;
        let mut ids: Vec<u64> = self.roles.iter().map(|role| role.id).collect();
        ids.sort_unstable();
        match ids.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(PublicationError::RoleTwice(pair[0])),
            None => self.roles.iter().try_for_each(judge_role),
        }
    }
}

fn judge_role(role: &Role) -> Result<(), PublicationError> {
    bounded("endpoints", role.endpoints.len(), ENDPOINT_COUNT_MAX)?;
    for (place, endpoint) in role.endpoints.iter().enumerate() {
        bounded("methods", endpoint.methods.len(), METHOD_COUNT_MAX)?;
        if !endpoint.bounds.is_bounded() {
            let path = endpoint.path.as_str().to_owned();
            return Err(PublicationError::Bounds { role: role.id, path });
        }
        let is_taken = role.endpoints[..place].iter().any(|other| endpoint.meets(other));
        if is_taken || endpoint.families.is_empty() {
            let path = endpoint.path.as_str().to_owned();
            return Err(PublicationError::Endpoint { role: role.id, path });
        }
    }
    Ok(())
}

fn bounded(what: &'static str, count: usize, limit: usize) -> Result<(), PublicationError> {
    if count > limit { Err(PublicationError::TooMany { what, limit }) } else { Ok(()) }
}

fn write_certificates<S: Serializer>(list: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(list.iter().map(|der| BASE64.encode(der)))
}

fn read_certificates<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<u8>>, D::Error> {
    let list = Vec::<String>::deserialize(deserializer)?;
    list.iter().map(|text| BASE64.decode(text).map_err(serde::de::Error::custom)).collect()
}

/// Which settings of which site.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Revision {
    /// Site code.
    pub site: String,
    /// Of its settings.
    pub serial: u64,
    /// Of the octets published.
    pub sha256: [u8; 32],
}

/// What an offered revision is to the one in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A higher serial: it takes over.
    Newer,
    /// The very same.
    Same,
    /// A lower serial: ignored.
    Older,
    /// The same serial for something else: refused, and the link marked.
    Diverged,
    /// Of another site: a connection point speaks for its own alone.
    Foreign,
}

impl Revision {
    /// Of `settings` as read from `bytes`.
    pub fn of(settings: &PublishedSettings, bytes: &[u8]) -> Revision {
        let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
        let sha256 = digest.as_ref().try_into().expect("SHA-256 has 32 octets");
        Revision { site: settings.site.clone(), serial: settings.serial, sha256 }
    }

    /// What `offered` is to this one, which is in force.
    pub fn judge(&self, offered: &Revision) -> Standing {
        use std::cmp::Ordering;
        match offered.serial.cmp(&self.serial) {
            _ if offered.site != self.site => Standing::Foreign,
            Ordering::Greater => Standing::Newer,
            Ordering::Less => Standing::Older,
            Ordering::Equal if offered.sha256 == self.sha256 => Standing::Same,
            Ordering::Equal => Standing::Diverged,
        }
    }
}
