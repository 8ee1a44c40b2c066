//! What rustls is told: for clients of the gateway, for channels, and for HTTPS origins.

use std::io;
use std::sync::Arc;

use ring::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    RootCertStore, ServerConfig, SignatureScheme,
};

use super::internal::Internal;
use super::key_exchange::QUICK_X25519;
use crate::auth::{self, CertificateFault};
use crate::channel::{ALPN, HTTPS_ALPN};
use crate::limits;
use crate::settings::TlsVersion;

/// A certificate chain with its key.
pub struct Credential {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of the leaf.
    pub key: PrivateKeyDer<'static>,
}

impl Clone for Credential {
    fn clone(&self) -> Credential {
        Credential { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

/// ring's algorithms, with another X25519; of the ciphers the quick ones first, on either side. AES-128-GCM is the one that
/// TLS 1.3 demands of everybody, and it comes with SHA-256, for which CPUs have instructions: with
/// AES-256-GCM comes SHA-384, for which they have none, and a handshake takes 25 us more. Who wants the
/// longer key alone is given it.
pub(super) fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    for group in &mut provider.kx_groups {
        if group.name() == QUICK_X25519.name() {
            *group = QUICK_X25519;
        }
    }
    // AWS-LC sets itself up at its first use, some 50 ms: now, and not in somebody's handshake.
    let _ = QUICK_X25519.start();
    provider.cipher_suites.sort_by_key(|suite| !is_quick(suite.suite()));
    Arc::new(provider)
}

fn is_quick(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    )
}

/// For the gateway's listeners: TLS 1.3, and 1.2 unless `tls_min` is higher; a certificate asked for and never required, one
/// ticket, no early data. ALPN is HTTP/1 alone, because the reason phrase lives there; a client that
/// speaks HTTP/1.0 may offer nothing else. The order of ciphers is ours: Windows and OpenSSL ask for
/// AES-256 first by habit.
///
/// # Errors
/// When a key does not belong to its certificate.
pub fn for_clients(
    resolver: Arc<dyn ResolvesServerCert>,
    tickets: Arc<dyn ProducesTickets>,
    tls_min: TlsVersion,
) -> Result<Arc<ServerConfig>, Error> {
    let provider = provider();
    let proof = Arc::new(ProofOnly { algorithms: provider.signature_verification_algorithms });
    let versions: &[_] = match tls_min {
        TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(proof)
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"http/1.0".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = tickets;
    config.send_tls13_tickets = 1;
    config.max_early_data_size = 0;
    config.ignore_client_order = true;
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

/// For the gateway's channel listeners: TLS 1.3, a certificate of the internal CA required that is not revoked.
///
/// # Errors
/// When rustls has no TLS 1.3 with these algorithms.
pub fn for_channels(internal: &Arc<Internal>) -> Result<Arc<ServerConfig>, Error> {
    for_internal(internal, false).map(Arc::new)
}

fn for_internal(internal: &Arc<Internal>, with_revoked: bool) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(internal.client_verifier(with_revoked))
        .with_cert_resolver(internal.clone());
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.enable_secret_extraction = true;
    Ok(config)
}

/// For a connection point that dials an instance.
///
/// # Errors
/// As [`for_channels`].
pub fn for_dialling(internal: &Arc<Internal>) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(internal.server_verifier())
        .with_client_cert_resolver(internal.clone());
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

/// [`for_channels`] for those that come by HTTPS. The name that is agreed on tells a connection point from a client
/// where both come in, before anybody shows a certificate.
pub fn for_https_channels(channels: &ServerConfig) -> Arc<ServerConfig> {
    let mut config = channels.clone();
    config.alpn_protocols = vec![HTTPS_ALPN.to_vec()];
    Arc::new(config)
}

/// [`for_dialling`] by HTTPS.
pub fn for_https_dialling(dialling: &ClientConfig) -> Arc<ClientConfig> {
    let mut config = dialling.clone();
    // Who looks at hellos on the way sees the ordinary name, too. No instance agrees on it.
    config.alpn_protocols = vec![HTTPS_ALPN.to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Whom a connection point believes behind an https URL.
pub enum OriginTrust {
    /// Chains to one of these, for the name in the URL.
    Roots(Vec<CertificateDer<'static>>),
    /// SHA-256 of the certificate itself, whatever it says.
    Thumbprint([u8; 32]),
}

/// For the issuer: roles alone are heard. Those that are revoked, too: it judges that by each request.
///
/// # Errors
/// As [`for_channels`].
pub fn for_issuing(internal: &Arc<Internal>) -> Result<Arc<ServerConfig>, Error> {
    let mut config = for_internal(internal, true)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.enable_secret_extraction = false;
    Ok(Arc::new(config))
}

/// For whoever has something to ask of the issuer.
///
/// # Errors
/// As [`for_channels`].
pub fn for_issuer(internal: &Arc<Internal>) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::clone(&*for_dialling(internal)?);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.enable_secret_extraction = false;
    Ok(Arc::new(config))
}

/// For a connection point that dials an HTTPS origin; its own certificate is offered in the first
/// handshake, because rustls refuses a later request.
///
/// # Errors
/// As [`for_channels`].
pub fn for_origin(trust: OriginTrust, own: Option<Credential>) -> Result<Arc<ClientConfig>, Error> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match trust {
        OriginTrust::Roots(ca) => builder.with_root_certificates(roots(&ca)?),
        OriginTrust::Thumbprint(sha256) => {
            let algorithms = provider().signature_verification_algorithms;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Pinned { sha256, algorithms }))
        }
    };
    let mut config = match own {
        Some(own) => builder.with_client_auth_cert(own.chain, own.key)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

pub(super) fn roots(ca: &[CertificateDer<'static>]) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for certificate in ca {
        store.add(certificate.clone())?;
    }
    Ok(store)
}

/// Proves in the handshake that the client holds the key of the certificate it shows, and nothing
/// else: who it is, is judged per request (`auth`), against the trust of the site the URL names.
#[derive(Debug)]
struct ProofOnly {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for ProofOnly {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let size = leaf.len() + intermediates.iter().map(|certificate| certificate.len()).sum::<usize>();
        let count = intermediates.len();
        if size > limits::CERTIFICATE_CHAIN_SIZE_MAX {
            return Err(invalid(CertificateFault::TooLong(size)));
        }
        if count > limits::INTERMEDIATE_COUNT_MAX {
            return Err(invalid(CertificateFault::TooManyIntermediates(count)));
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
            .map_err(|error| why_not_proved(certificate, error))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
            .map_err(|error| why_not_proved(certificate, error))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A signature by a key that is not taken cannot be verified; what is wrong is the key.
fn why_not_proved(certificate: &CertificateDer<'_>, error: Error) -> Error {
    match auth::key_fault(certificate) {
        None => error,
        Some(fault) => invalid(fault),
    }
}

fn invalid(fault: CertificateFault) -> Error {
    CertificateError::Other(OtherError(Arc::new(fault))).into()
}

/// Why a handshake failed, in words.
pub fn cause(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(CertificateError::Other(OtherError(fault)))) => fault.to_string(),
        _ => error.to_string(),
    }
}

/// Believes one certificate, by its SHA-256; the handshake still proves its key.
#[derive(Debug)]
struct Pinned {
    sha256: [u8; 32],
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if digest::digest(&digest::SHA256, leaf).as_ref() == self.sha256 {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
#[path = "tls_config_tests.rs"]
mod tests;
