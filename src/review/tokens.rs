//! `[[token_issuer]]` and `[tokens]` of `site.toml`: keys read, and what cannot be meant told.

use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{PemObject, SectionKind};

use super::{Desk, shown};
use crate::auth::token::{TokenIssuer, TokenKey, TokenMaterial};
use crate::mapping::{InternalUrl, Scheme};
use crate::settings::{IssuerSettings, KeySource, SiteSettings};

/// A key set to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyUrl {
    /// Name of the issuer's entry.
    pub issuer: String,
    /// Where.
    pub url: InternalUrl,
    /// PEM file by which an https URL is believed.
    pub ca: Option<PathBuf>,
}

/// A file with public keys, which may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile {
    /// Name of the issuer's entry.
    pub issuer: String,
    /// Where.
    pub path: PathBuf,
}

/// What a connection point knows of its site's tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiteTokens {
    /// As published.
    pub issuers: Vec<TokenIssuer>,
    /// To be fetched for them.
    pub urls: Vec<KeyUrl>,
    /// Read for them.
    pub files: Vec<KeyFile>,
    /// The file with the ids of blocked tokens.
    pub blocked: Option<PathBuf>,
}

impl SiteTokens {
    /// Whether the site takes no tokens at all.
    pub fn is_empty(&self) -> bool {
        self.issuers.is_empty()
    }
}

/// Reads what the settings name.
pub(super) fn tokens(desk: &mut Desk<'_>, settings: &SiteSettings) -> SiteTokens {
    let mut read = SiteTokens::default();
    for one in &settings.tokens.issuers {
        let keys = keys(desk, one, &mut read);
        read.issuers.push(TokenIssuer { keys, ..one.entry.clone() });
    }
    if let Some(file) = &settings.tokens.blocked {
        let path = desk.folder.join(file);
        if let Some(bytes) = desk.peek("tokens.blocked", file, "a file with the ids of blocked tokens") {
            match std::str::from_utf8(&bytes).map(TokenMaterial::read_blocked) {
                Ok(Ok(blocked)) => desk.fine(format!("tokens.blocked: {} blocked", blocked.len())),
                Ok(Err(fault)) => desk.error("tokens.blocked", fault.to_string(), "one id on each line"),
                Err(_) => desk.error("tokens.blocked", "octets that are no UTF-8", "one id on each line"),
            }
        }
        read.blocked = Some(path);
    }
    for (role, key) in settings.roles.iter().zip(&settings.role_keys) {
        for mapped in role.endpoints.iter().filter(|mapped| mapped.endpoint.open) {
            let path = mapped.endpoint.path.as_str();
            let found = format!("\"{path}\" of role {} ({key}), which anybody may ask", role.id);
            desk.warn(key, found, "a certificate or a token, unless that is meant");
        }
    }
    read
}

fn keys(desk: &mut Desk<'_>, one: &IssuerSettings, read: &mut SiteTokens) -> Vec<TokenKey> {
    let mut all: Vec<TokenKey> = Vec::new();
    for (index, source) in one.keys.iter().enumerate() {
        let key = format!("{}.keys[{}]", one.key, index + 1);
        match source {
            KeySource::File(file) => {
                for found in read_keys(desk, &key, file) {
                    if !all.contains(&found) {
                        all.push(found);
                    }
                }
                let (issuer, path) = (one.entry.name.clone(), desk.folder.join(file));
                read.files.push(KeyFile { issuer, path });
            }
            KeySource::Url(url) => {
                if url.address.scheme == Scheme::Http {
                    let found = format!("http://{}", url.address.authority());
                    let expected = "an https URL: whoever is on the way may answer with keys of his own";
                    desk.warn(&key, found, expected);
                }
                let ca = one.ca.as_ref().map(|file| desk.folder.join(file));
                read.urls.push(KeyUrl { issuer: one.entry.name.clone(), url: url.clone(), ca });
            }
        }
    }
    for (place, found) in all.iter().enumerate() {
        let is_twice = |other: &TokenKey| {
            (other.kid.is_some() && other.kid == found.kid) || (other.x5t.is_some() && other.x5t == found.x5t)
        };
        if all[..place].iter().any(is_twice) {
            let found = format!("two keys that are both named \"{}\"", found.name());
            desk.error(&format!("{}.keys", one.key), found, "each name once, or tokens of neither are taken");
        }
    }
    all
}

fn read_keys(desk: &mut Desk<'_>, key: &str, file: &Path) -> Vec<TokenKey> {
    let expected = "public keys or certificates in PEM, or a JWK set; RSA of 2048 to 4096 bits or P-256";
    let Some(bytes) = desk.peek(key, file, expected) else { return Vec::new() };
    let path = shown(&desk.folder.join(file));
    match read_set(&bytes) {
        Ok(keys) => {
            let names: Vec<&str> = keys.iter().map(TokenKey::name).collect();
            desk.fine(format!("{key}: {}", names.join(", ")));
            keys
        }
        Err(fault) => {
            desk.error(key, format!("{path}: {fault}"), expected);
            Vec::new()
        }
    }
}

/// The public keys of a file, at least one.
///
/// # Errors
/// In words.
pub fn read_key_file(path: &Path) -> Result<Vec<TokenKey>, String> {
    super::read_bounded(path).map_err(|error| super::trouble(&error)).and_then(|bytes| read_set(&bytes))
}

fn read_set(bytes: &[u8]) -> Result<Vec<TokenKey>, String> {
    let is_json = bytes.trim_ascii_start().first() == Some(&b'{');
    let keys =
        if is_json { TokenKey::read_set(bytes).map_err(|fault| fault.to_string()) } else { pem(bytes) }?;
    if keys.is_empty() { Err("no key that can be used".to_owned()) } else { Ok(keys) }
}

fn pem(bytes: &[u8]) -> Result<Vec<TokenKey>, String> {
    let mut keys = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes) {
        let (kind, der) = section.map_err(|_| "not PEM".to_owned())?;
        match kind {
            SectionKind::PublicKey => {
                keys.push(TokenKey::from_spki(&der).map_err(|fault| fault.to_string())?)
            }
            SectionKind::Certificate => {
                keys.push(TokenKey::from_certificate(&der).map_err(|fault| fault.to_string())?);
            }
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                return Err("a private key; only public ones belong here".to_owned());
            }
            _ => {}
        }
    }
    Ok(keys)
}
