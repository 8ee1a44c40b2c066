//! Who a role is on a channel: the SAN URI of its internal certificate.
//!
//! `cmg://site/PS1/connector/NAME` is connection point NAME of site PS1, `cmg://gateway/NAME`
//! instance NAME. That the certificate is the internal CA's is proved by the handshake.

use std::fmt;

use x509_parser::extensions::GeneralName;

/// Octets of a name in a URI.
const NAME_SIZE_MAX: usize = 63;

/// What a role is on a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InternalRole {
    /// Accepts channels.
    Gateway,
    /// Opens them.
    Connector,
}

/// Who a role is on a channel. Displays as its URI.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InternalName {
    /// What it is.
    pub role: InternalRole,
    /// Site of a connection point; a gateway has none.
    pub site: Option<String>,
    /// Name of the instance or connection point.
    pub name: String,
}

/// Why a certificate names no role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InternalFault {
    /// Not a certificate.
    #[error("the internal certificate cannot be read")]
    Malformed,
    /// No SAN URI that begins with `cmg:`.
    #[error("the certificate names no role: its subject alternative names have no cmg:// URI")]
    Missing,
    /// More than one of them.
    #[error("the certificate names more than one role")]
    Several,
    /// One that is not spelt as it should be.
    #[error("the certificate's cmg:// URI is neither cmg://gateway/NAME nor cmg://site/CODE/connector/NAME")]
    Unknown,
}

impl InternalName {
    /// Reads a SAN URI; `None` unless it is spelt exactly as one is.
    pub fn parse(uri: &str) -> Option<InternalName> {
        let mut parts = uri.strip_prefix("cmg://")?.split('/');
        let parts = [parts.next(), parts.next(), parts.next(), parts.next(), parts.next()];
        let (role, site, name) = match parts {
            [Some("gateway"), Some(name), None, ..] => (InternalRole::Gateway, None, name),
            [Some("site"), Some(site), Some("connector"), Some(name), None] => {
                (InternalRole::Connector, Some(is_site_code(site).then_some(site)?.to_owned()), name)
            }
            _ => return None,
        };
        is_name(name).then(|| InternalName { role, site, name: name.to_owned() })
    }
}

impl fmt::Display for InternalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.site {
            None => write!(f, "cmg://gateway/{}", self.name),
            Some(site) => write!(f, "cmg://site/{site}/connector/{}", self.name),
        }
    }
}

/// The role that an internal certificate (DER) names.
///
/// # Errors
/// Why it names none.
pub fn internal_identity(certificate: &[u8]) -> Result<InternalName, InternalFault> {
    let certificate = super::certificate::parse(certificate).ok_or(InternalFault::Malformed)?;
    let names = certificate.subject_alternative_name().map_err(|_| InternalFault::Malformed)?;
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) if uri.get(..4).is_some_and(|scheme| scheme.eq_ignore_ascii_case("cmg:")) => {
            Some(*uri)
        }
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (None, _) => Err(InternalFault::Missing),
        (Some(_), Some(_)) => Err(InternalFault::Several),
        (Some(uri), None) => InternalName::parse(uri).ok_or(InternalFault::Unknown),
    }
}

/// Whether `text` is a site code: three letters or digits, upper case.
pub fn is_site_code(text: &str) -> bool {
    text.len() == 3 && text.bytes().all(|octet| octet.is_ascii_uppercase() || octet.is_ascii_digit())
}

/// Whether `text` names an instance or connection point: fit for a URI, a host name and a file name.
pub fn is_name(text: &str) -> bool {
    let is_inner = |octet: u8| octet.is_ascii_alphanumeric() || b"-_.".contains(&octet);
    let is_end = |octet: Option<u8>| octet.is_some_and(|octet| octet.is_ascii_alphanumeric());
    let ends = is_end(text.bytes().next()) && is_end(text.bytes().next_back());
    ends && text.len() <= NAME_SIZE_MAX && text.bytes().all(is_inner) && !text.contains("..")
}
