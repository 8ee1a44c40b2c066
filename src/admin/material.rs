//! The files that protect an admin listener: certificate, key and token, read and judged before anything
//! starts.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use subtle::ConstantTimeEq;

use crate::limits;
use crate::settings::{AdminProtection, AdminSettings, KeyPair};

/// What the settings name is not what it must be: a file, an address, the place of the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// As in the settings file, dotted.
    pub key: &'static str,
    /// What is there.
    pub found: String,
    /// What should be.
    pub expected: String,
}

impl Wrong {
    pub(super) fn new(key: &'static str, found: impl Into<String>, expected: impl Into<String>) -> Wrong {
        Wrong { key, found: found.into(), expected: expected.into() }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: found {}, expected {}", self.key, self.found, self.expected)
    }
}

impl std::error::Error for Wrong {}

/// What the files held.
pub struct Material {
    /// TLS and the token, where the settings ask for them.
    pub(super) protection: Option<(Arc<ServerConfig>, Token)>,
}

/// Reads the files that `[admin]` names; paths start from `folder`.
///
/// # Errors
/// The first that is not what it must be.
pub fn read(settings: &AdminSettings, folder: &Path) -> Result<Material, Wrong> {
    let Some(protection) = &settings.protection else {
        return Ok(Material { protection: None });
    };
    let config = tls(&protection.identity, folder)?;
    Ok(Material { protection: Some((config, token(protection, folder)?)) })
}

/// The token alone; `cmg check` tells what is wrong with it beside what is wrong with the certificate.
///
/// # Errors
/// The file is not what it must be.
pub fn token(protection: &AdminProtection, folder: &Path) -> Result<Token, Wrong> {
    let read = read_token(&folder.join(&protection.token_file));
    read.map(|token| Token::new(&token))
        .map_err(|(found, expected)| Wrong::new("admin.token_file", found, expected))
}

fn tls(files: &KeyPair, folder: &Path) -> Result<Arc<ServerConfig>, Wrong> {
    let chain = folder.join(&files.chain);
    let certificates = certificates(&chain)
        .map_err(|found| Wrong::new("admin.certificate", found, "PEM with the certificate and its chain"))?;
    let key_file = folder.join(&files.key);
    let key = read_pem(&key_file).and_then(|pem| PrivateKeyDer::from_pem_slice(&pem)).map_err(|error| {
        Wrong::new("admin.key", fault(&key_file, "private key", &error), "PEM with the certificate's key")
    })?;
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map(|builder| builder.with_no_client_auth())
        .and_then(|builder| builder.with_single_cert(certificates, key));
    let mut config = config.map_err(|error| {
        let found = format!("{}: {error}", key_file.display());
        Wrong::new("admin.key", found, format!("the key of the certificate in {}", chain.display()))
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The certificates in a PEM file, at least one; or what is there instead.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read =
        read_pem(path).and_then(|pem| CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>());
    let found = read.map_err(|error| fault(path, "certificate", &error))?;
    if found.is_empty() {
        return Err(format!("{}: no certificate", path.display()));
    }
    Ok(found)
}

/// A device named by mistake has no end.
fn read_pem(path: &Path) -> Result<Vec<u8>, pem::Error> {
    let mut bytes = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(limits::ADMIN_PEM_SIZE_MAX).read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(pem::Error::Io)
}

fn fault(path: &Path, what: &str, error: &pem::Error) -> String {
    match error {
        pem::Error::NoItemsFound => format!("{}: no {what}", path.display()),
        error => format!("{}: {error}", path.display()),
    }
}

/// The token in a file that nobody but its owner may read; or what was found and what was expected,
/// which never shows any of it.
///
/// # Errors
/// The file is missing, too open, or holds no token.
pub(super) fn read_token(path: &Path) -> Result<String, (String, String)> {
    let at = path.display();
    let wrong = |found: String| {
        let (from, to) = (limits::ADMIN_TOKEN_SIZE_MIN, limits::ADMIN_TOKEN_SIZE_MAX);
        let expected = format!(
            "one line with a token of {from} to {to} letters, digits or -._~+/= (`openssl rand -hex 32` makes one)"
        );
        (format!("{at}: {found}"), expected)
    };
    // Rights and content of the same open file: nobody can swap it in between.
    let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
    let mode = file.metadata().map_err(|error| wrong(error.to_string()))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        let found = format!("{at}: readable or writable by others (mode {mode:03o})");
        return Err((found, "a file for its owner alone: chmod 600".into()));
    }
    let mut text = String::new();
    let size_max = limits::ADMIN_TOKEN_SIZE_MAX as u64 + 3;
    file.take(size_max).read_to_string(&mut text).map_err(|error| wrong(error.to_string()))?;
    let token = text.trim_end_matches(['\r', '\n']);
    let is_plain = |octet: u8| octet.is_ascii_alphanumeric() || b"-._~+/=".contains(&octet);
    if !token.bytes().all(is_plain) {
        return Err(wrong("other characters".into()));
    }
    match token.len() {
        limits::ADMIN_TOKEN_SIZE_MIN..=limits::ADMIN_TOKEN_SIZE_MAX => Ok(token.to_owned()),
        size => Err(wrong(format!("{size} characters"))),
    }
}

/// Where the control socket of a role is when its settings do not say: beside them, named like them.
pub fn default_socket(settings_file: &Path) -> PathBuf {
    settings_file.with_extension("sock")
}

/// What who asks must bear. Only its digest is kept.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl Token {
    fn new(token: &str) -> Token {
        Token(sha256(token.as_bytes()))
    }

    /// Digests are compared, and in constant time: the time taken says nothing of the token.
    pub(super) fn is(&self, offered: &[u8]) -> bool {
        self.0.ct_eq(&sha256(offered)).into()
    }
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}
