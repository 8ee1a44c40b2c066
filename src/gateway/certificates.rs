//! The gateway's certificates: which one a client is shown, and whom to believe on channels.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::metrics;
use crate::settings::GatewaySettings;
use crate::transport::{StartError, files, tls_config};

/// TLS for clients, from the files the settings name.
///
/// # Errors
/// A file that is missing or wrong, or a key that does not belong to its certificate.
pub fn client_config(settings: &GatewaySettings, folder: &Path) -> Result<Arc<ServerConfig>, StartError> {
    let mut keys = Vec::new();
    for pair in &settings.server_certificates {
        let credential = files::credential(folder, &pair.chain, &pair.key)?;
        let file = folder.join(&pair.key);
        let wrong = |error: rustls::Error| StartError(format!("{}: {error}", file.display()));
        let key = any_supported_type(&credential.key).map_err(wrong)?;
        let certified = CertifiedKey::new(credential.chain, key);
        certified.keys_match().map_err(wrong)?;
        keys.push(Arc::new(certified));
    }
    let tickets = match &settings.ticket_keys {
        Some(file) => tls_config::Tickets::new(&files::secret(folder, file)?),
        None => tls_config::Tickets::of_this_process()
            .map_err(|_| StartError("the system gives no randomness".into()))?,
    };
    tls_config::for_clients(Arc::new(Shown { keys }), tickets).map_err(|error| StartError(error.to_string()))
}

/// TLS for connection points.
///
/// # Errors
/// As [`client_config`].
pub fn channel_config(settings: &GatewaySettings, folder: &Path) -> Result<Arc<ServerConfig>, StartError> {
    let ca = files::certificates(folder, &settings.internal.ca)?;
    let identity = &settings.internal.identity;
    let own = files::credential(folder, &identity.chain, &identity.key)?;
    let file = folder.join(&identity.chain);
    tls_config::for_channels(&ca, own).map_err(|error| StartError(format!("{}: {error}", file.display())))
}

/// When the certificates end that the settings name: for what, which file, seconds since 1970.
pub fn ends(settings: &GatewaySettings, folder: &Path) -> Vec<metrics::Certificate> {
    let servers = settings.server_certificates.iter().map(|pair| ("server", &pair.chain));
    let all = servers.chain([("internal", &settings.internal.identity.chain)]);
    let end = |(what, file): (_, &PathBuf)| {
        let chain = files::certificates(folder, file).ok()?;
        Some((what, file.display().to_string(), metrics::expiry(&chain)?))
    };
    let mut ends: Vec<_> = all.filter_map(end).collect();
    // A file may be named with several keys.
    ends.sort();
    ends.dedup();
    ends
}

/// Shows the first certificate that bears the name asked for and that the client can check; else the
/// first it can check.
#[derive(Debug)]
struct Shown {
    keys: Vec<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let usable =
            || self.keys.iter().filter(|one| one.key.choose_scheme(hello.signature_schemes()).is_some());
        let named = hello.server_name().and_then(|name| {
            let name = ServerName::try_from(name).ok()?;
            usable().find(|one| bears(one, &name))
        });
        named.or_else(|| usable().next()).cloned()
    }
}

fn bears(one: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let leaf = one.cert.first().and_then(|leaf| webpki::EndEntityCert::try_from(leaf).ok());
    leaf.is_some_and(|leaf| leaf.verify_is_valid_for_subject_name(name).is_ok())
}
