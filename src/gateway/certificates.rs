//! The gateway's certificates: which one a client is shown, and whom to believe on channels. The files
//! were read and judged before (`review`).

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::settings::TlsVersion;
use crate::transport::tls_config::Credential;
use crate::transport::{FOR_CLIENTS, StartError, Tickets, tls_config};

/// TLS for clients.
///
/// # Errors
/// What the system or rustls says; mistakes in files were found before.
pub fn client_config(
    keys: Vec<Arc<CertifiedKey>>,
    ticket_secret: Option<&[u8; 32]>,
    tls_min: TlsVersion,
) -> Result<Arc<ServerConfig>, StartError> {
    let tickets = match ticket_secret {
        Some(secret) => Tickets::new(secret, FOR_CLIENTS),
        None => Tickets::of_this_process(FOR_CLIENTS)
            .map_err(|_| StartError("the system gives no randomness".into()))?,
    };
    tls_config::for_clients(Arc::new(Shown { keys }), tickets, tls_min)
        .map_err(|error| StartError(error.to_string()))
}

/// TLS for connection points.
///
/// # Errors
/// As [`client_config`].
pub fn channel_config(
    ca: &[CertificateDer<'static>],
    own: Credential,
) -> Result<Arc<ServerConfig>, StartError> {
    tls_config::for_channels(ca, own).map_err(|error| StartError(format!("internal certificate: {error}")))
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
