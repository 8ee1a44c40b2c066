//! `[[token_issuer]]` and `[tokens]` of `site.toml`: whose tokens the site takes, and which it does not.

use std::path::PathBuf;

use toml::de::DeValue;

use super::document::{Expected, Section};
use super::report::Report;
use super::value;
use crate::auth::token::{TokenIssuer, TokenKey, TokenKind, TokenKinds};
use crate::limits::{TOKEN_ISSUER_COUNT_MAX, TOKEN_NAME_COUNT_MAX, TOKEN_NAME_SIZE_MAX};
use crate::mapping::{InternalUrl, Scheme as HttpScheme};

/// Where public keys of an issuer are to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// PEM (public keys or certificates) or a JWK set.
    File(PathBuf),
    /// A JWK set, fetched inside by the connection point.
    Url(InternalUrl),
}

/// An issuer, with its keys still where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerSettings {
    /// All but the keys.
    pub entry: TokenIssuer,
    /// In any order.
    pub keys: Vec<KeySource>,
    /// PEM, by which the `https` URLs are believed.
    pub ca: Option<PathBuf>,
    /// Section it is in, as in `token_issuer[1]`.
    pub key: String,
}

/// What a site says of tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenSettings {
    /// Names are different.
    pub issuers: Vec<IssuerSettings>,
    /// A file with ids of tokens that are blocked, one a line.
    pub blocked: Option<PathBuf>,
}

/// Reads `[[token_issuer]]` and `[tokens]`.
pub(super) fn tokens(root: &mut Section<'_, '_>, report: &mut Report<'_>) -> TokenSettings {
    let mut issuers: Vec<IssuerSettings> = Vec::new();
    for mut section in root.sections(report, "token_issuer") {
        let Some(read) = issuer(&mut section, report) else { continue };
        let name = &read.entry.name;
        if let Some(other) = issuers.iter().find(|other| other.entry.name == *name) {
            let found = format!("\"{name}\" again, which {} has", other.key);
            report.add(section.key("name"), section.place("name"), found, "each name once");
        } else if issuers.len() == TOKEN_ISSUER_COUNT_MAX {
            let expected = format!("{TOKEN_ISSUER_COUNT_MAX} at most");
            report.add(section.key(""), section.place("name"), "one issuer more", expected);
        } else {
            issuers.push(read);
        }
    }
    let mut section = root.section(report, "tokens");
    let blocked = section.optional(report, "blocked", value::path);
    section.finish(report);
    TokenSettings { issuers, blocked }
}

fn issuer(section: &mut Section<'_, '_>, report: &mut Report<'_>) -> Option<IssuerSettings> {
    let name = section.required(report, "name", name);
    let issuer = section.required(report, "issuer", text);
    let audiences = section.list(report, "audiences", text);
    let tenants = section.list(report, "tenants", text);
    let kinds = section.list(report, "kinds", kind);
    let keys = section.list(report, "keys", key_source);
    let ca = section.optional(report, "ca", value::path);
    let client = section.optional(report, "client_id", text);
    section.finish(report);
    let mut needs = |key: &str, is_missing: bool, expected: &str| {
        if is_missing {
            report.add(section.key(key), section.place(key), "none", expected);
        }
    };
    needs("audiences", audiences.is_empty(), "at least one audience that its tokens are for");
    needs("kinds", kinds.is_empty(), "at least one of \"registration\", \"client\", \"ccm\", \"directory\"");
    needs("keys", keys.is_empty(), "at least one file or URL with public keys");
    for (key, count) in [("audiences", audiences.len()), ("tenants", tenants.len())] {
        if count > TOKEN_NAME_COUNT_MAX {
            let expected = format!("{TOKEN_NAME_COUNT_MAX} at most");
            report.add(section.key(key), section.place(key), format!("{count} of them"), expected);
        }
    }
    if kinds.contains(&TokenKind::Directory) && kinds.len() > 1 {
        let expected = "\"directory\" alone: its tokens say nothing that tells them from others";
        report.add(section.key("kinds"), section.place("kinds"), "\"directory\" beside others", expected);
    }
    let needs_ca =
        |key: &KeySource| matches!(key, KeySource::Url(url) if url.address.scheme == HttpScheme::Https);
    if keys.iter().any(needs_ca) && ca.is_none() {
        let expected = "ca (a PEM file), by which an https URL is believed";
        report.add(section.key("ca"), section.place("keys"), "nothing", expected);
    }
    let entry = TokenIssuer {
        name: name?,
        issuer: issuer?,
        audiences,
        tenants,
        kinds: TokenKinds::of(&kinds),
        keys: Vec::<TokenKey>::new(),
        client,
    };
    Some(IssuerSettings { entry, keys, ca, key: section.key("") })
}

/// The token service puts it before what the issuer calls a device, and these before what it calls one itself.
fn name(value: &DeValue<'_>) -> Result<String, Expected> {
    let name = value::name(value)?;
    let is_own = ["GUID", "SHA256"].iter().any(|own| name.eq_ignore_ascii_case(own));
    if is_own {
        Err("a name other than GUID and SHA256, which the token service uses itself".into())
    } else {
        Ok(name)
    }
}

fn text(value: &DeValue<'_>) -> Result<String, Expected> {
    let expected = "a text of up to 256 visible characters without blanks";
    let found = value.as_str().filter(|text| {
        (1..=TOKEN_NAME_SIZE_MAX).contains(&text.len()) && text.bytes().all(|octet| octet.is_ascii_graphic())
    });
    found.map(str::to_owned).ok_or(expected.into())
}

fn kind(value: &DeValue<'_>) -> Result<TokenKind, Expected> {
    let expected = "\"registration\", \"client\", \"ccm\" or \"directory\"";
    value.as_str().and_then(TokenKind::parse).ok_or(expected.into())
}

fn key_source(value: &DeValue<'_>) -> Result<KeySource, Expected> {
    let expected = "a file with public keys (PEM or a JWK set), or the http(s) URL of a JWK set";
    match value.as_str() {
        Some(url) if url.starts_with("http://") || url.starts_with("https://") => {
            InternalUrl::parse(url).map(KeySource::Url).map_err(Expected::Borrowed)
        }
        Some(_) => value::path(value).map(KeySource::File),
        None => Err(expected.into()),
    }
}

/// What one endpoint takes: see [`Endpoint::tokens`](crate::mapping::Endpoint::tokens).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// A client certificate, by its family.
    Certificate,
    /// A token of this kind.
    Token(TokenKind),
    /// Nothing at all.
    None,
}

/// Reads one of `auth`.
pub(super) fn scheme(value: &DeValue<'_>) -> Result<Scheme, Expected> {
    let expected = "\"certificate\", \"registration\", \"client\", \"ccm\", \"directory\" or \"none\"";
    match value.as_str() {
        Some("certificate") => Ok(Scheme::Certificate),
        Some("none") => Ok(Scheme::None),
        Some(text) => TokenKind::parse(text).map(Scheme::Token).ok_or(expected.into()),
        None => Err(expected.into()),
    }
}
