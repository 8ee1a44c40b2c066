//! Who clients are towards TLS: certificates, trust, and the sessions each may resume.
//!
//! A folder may hold ten thousands of pairs. They are named when the run begins and read when a client first shows them, so
//! that a run begins at once and a run of few clients reads few.

use super::plan::{Plan, TlsFiles};
use rustls::client::UnbufferedClientConnection;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, NamedGroup, RootCertStore, SignatureScheme};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// TLS 1.3 tickets a client keeps: each is used once, servers send two or four.
const TICKETS_MAX: usize = 4;

/// One pair, once it was read. Errors: a text for the user.
type Read = Result<Arc<ClientConfig>, String>;

/// What every connection of a run shares: one configuration per client certificate.
pub struct Identities {
    files: TlsFiles,
    provider: Arc<CryptoProvider>,
    trust: Arc<dyn ServerCertVerifier>,
    read: Box<[OnceLock<Read>]>,
    name: ServerName<'static>,
}

impl Identities {
    /// Reads trust and the first pair; `None` for plain HTTP. Errors: a text for the user.
    pub fn load(plan: &Plan) -> Result<Option<Self>, String> {
        let Some(files) = &plan.tls else { return Ok(None) };
        let name = ServerName::try_from(plan.name.clone())
            .map_err(|_| format!("--name {:?} is no server name", plan.name))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let trust = trust(files, &provider)?;
        let read = (0..files.pairs.len().max(1)).map(|_| OnceLock::new()).collect();
        let identities = Self { files: files.clone(), provider, trust, read, name };
        identities.config(0)?;
        Ok(Some(identities))
    }

    /// A connection of client `index`, which keeps its sessions in `memory`.
    pub fn connect(
        &self,
        index: usize,
        memory: &mut Option<Arc<ClientConfig>>,
    ) -> Result<UnbufferedClientConnection, String> {
        let config = match memory {
            Some(own) => Arc::clone(own),
            None if self.files.resumes => {
                let mut own = ClientConfig::clone(&*self.config(index)?);
                own.resumption = Resumption::store(Arc::new(Sessions::default()));
                Arc::clone(memory.insert(Arc::new(own)))
            }
            None => self.config(index)?,
        };
        UnbufferedClientConnection::new(config, self.name.clone()).map_err(|error| error.to_string())
    }

    fn config(&self, index: usize) -> Read {
        let index = index % self.read.len();
        self.read[index].get_or_init(|| self.read_pair(self.files.pairs.get(index))).clone()
    }

    fn read_pair(&self, pair: Option<&(PathBuf, PathBuf)>) -> Read {
        let Some((cert, key)) = pair else { return self.make(None).map_err(|error| error.to_string()) };
        let chain = certificates(cert)?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(|error| format!("{}: {error}", key.display()))?;
        self.make(Some((chain, key))).map_err(|error| format!("{}: {error}", cert.display()))
    }

    fn make(&self, pair: Option<Pair>) -> Result<Arc<ClientConfig>, rustls::Error> {
        let versions: &[&rustls::SupportedProtocolVersion] = match self.files.version.as_deref() {
            Some("1.2") => &[&rustls::version::TLS12],
            Some("1.3") => &[&rustls::version::TLS13],
            _ => rustls::ALL_VERSIONS,
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&self.trust));
        let mut config = match pair {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// The sessions one client may resume; it knows one server only.
#[derive(Debug, Default)]
struct Sessions(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    tickets: VecDeque<Tls13ClientSessionValue>,
}

impl Sessions {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.kept().group = Some(group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept().group
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.kept().tls12 = Some(value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.kept().tls12.clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.kept().tls12 = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut kept = self.kept();
        if kept.tickets.len() == TICKETS_MAX {
            kept.tickets.pop_front();
        }
        kept.tickets.push_back(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept().tickets.pop_back()
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let explain = |error: rustls::pki_types::pem::Error| format!("{}: {error}", file.display());
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).map_err(explain)?.collect();
    match found.map_err(explain)? {
        none if none.is_empty() => Err(format!("{}: no certificate", file.display())),
        some => Ok(some),
    }
}

fn trust(files: &TlsFiles, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let Some(file) = &files.ca else { return Ok(Arc::new(AnyServer(Arc::clone(provider)))) };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map(|verifier| verifier as Arc<dyn ServerCertVerifier>)
        .map_err(|error| error.to_string())
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Trust of `--insecure`: any certificate, but the handshake's signature must be right.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
