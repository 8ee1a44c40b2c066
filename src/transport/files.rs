//! Certificates and keys from files; what is wrong with one is said with its name.

use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::StartError;
use super::tls_config::Credential;

/// Every certificate in a PEM file; at least one.
///
/// # Errors
/// The file is missing, unreadable, or holds none.
pub fn certificates(folder: &Path, file: &Path) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let path = folder.join(file);
    let wrong = |what: String| StartError(format!("{}: {what}", path.display()));
    let found = CertificateDer::pem_file_iter(&path).map_err(|error| wrong(error.to_string()))?;
    let found: Result<Vec<_>, _> = found.collect();
    let found = found.map_err(|error| wrong(format!("not PEM: {error}")))?;
    if found.is_empty() {
        return Err(wrong("found no certificate, expected PEM with at least one".into()));
    }
    Ok(found)
}

/// A chain and its key.
///
/// # Errors
/// As [`certificates`], or a key file without a key.
pub fn credential(folder: &Path, chain: &Path, key: &Path) -> Result<Credential, StartError> {
    let path = folder.join(key);
    let key = PrivateKeyDer::from_pem_file(&path)
        .map_err(|error| StartError(format!("{}: found no private key: {error}", path.display())))?;
    Ok(Credential { chain: certificates(folder, chain)?, key })
}

/// 32 bytes of secret: the file holds exactly them, or 64 hex digits.
///
/// # Errors
/// Anything else.
pub fn secret(folder: &Path, file: &Path) -> Result<[u8; 32], StartError> {
    let path = folder.join(file);
    let wrong = |what: String| StartError(format!("{}: {what}", path.display()));
    let bytes = std::fs::read(&path).map_err(|error| wrong(error.to_string()))?;
    if let Ok(secret) = <[u8; 32]>::try_from(bytes.as_slice()) {
        return Ok(secret);
    }
    let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
    let digits: Option<Vec<u8>> = (text.len() == 64 && text.is_ascii())
        .then(|| (0..32).map(|at| u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).ok()).collect())
        .flatten();
    digits
        .and_then(|digits| digits.try_into().ok())
        .ok_or_else(|| wrong(format!("found {} bytes, expected 32 or 64 hex digits", bytes.len())))
}
