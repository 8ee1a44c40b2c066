//! A connection's bytes, plain or TLS: what comes in is opened in place, what goes out is sealed.
//!
//! Knows no sockets. TLS is rustls's unbuffered API: records are decrypted where they lie in the lent receive buffer; only the
//! tail of an incomplete record is kept.

use super::plan::{Plan, TlsFiles};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::path::Path;
use std::sync::Arc;

/// What every connection of a run shares: one configuration per client certificate.
pub struct Identities {
    configs: Vec<Arc<ClientConfig>>,
    name: ServerName<'static>,
}

impl Identities {
    /// Reads certificates and trust; `None` for plain HTTP. Errors: a text for the user.
    pub fn load(plan: &Plan) -> Result<Option<Self>, String> {
        let Some(files) = &plan.tls else { return Ok(None) };
        let name = ServerName::try_from(plan.name.clone())
            .map_err(|_| format!("--name {:?} is no server name", plan.name))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let trust = trust(files, &provider)?;
        let mut configs = Vec::new();
        for (cert, key) in &files.pairs {
            let chain = certificates(cert)?;
            let key_der =
                PrivateKeyDer::from_pem_file(key).map_err(|error| format!("{}: {error}", key.display()))?;
            configs.push(
                config(files, &provider, &trust, Some((chain, key_der)))
                    .map_err(|error| format!("{}: {error}", cert.display()))?,
            );
        }
        if configs.is_empty() {
            configs.push(config(files, &provider, &trust, None).map_err(|error| error.to_string())?);
        }
        Ok(Some(Self { configs, name }))
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

fn config(
    files: &TlsFiles,
    provider: &Arc<CryptoProvider>,
    trust: &Arc<dyn ServerCertVerifier>,
    pair: Option<Pair>,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let versions: &[&rustls::SupportedProtocolVersion] = match files.version.as_deref() {
        Some("1.2") => &[&rustls::version::TLS12],
        Some("1.3") => &[&rustls::version::TLS13],
        _ => rustls::ALL_VERSIONS,
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(trust));
    let mut config = match pair {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    config.resumption =
        if files.resumes { Resumption::in_memory_sessions(64) } else { Resumption::disabled() };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

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

/// One connection's way in and out.
pub enum Session {
    /// As it is.
    Plain,
    /// Through TLS.
    Tls(Box<Tls>),
}

/// The TLS of one connection.
pub struct Tls {
    connection: UnbufferedClientConnection,
    tail: Vec<u8>,
    has_begun: bool,
}

/// What came of received bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Requests may be sent.
    pub is_ready: bool,
    /// The peer said that nothing more comes.
    pub has_ended: bool,
}

/// Why a session ended.
#[derive(Debug)]
pub enum SessionError<E> {
    /// TLS went wrong.
    Tls(rustls::Error),
    /// The content was refused by its reader.
    Content(E),
}

impl Session {
    /// A session of connection `index`.
    pub fn new(identities: Option<&Identities>, index: usize) -> Result<Self, rustls::Error> {
        let Some(identities) = identities else { return Ok(Self::Plain) };
        let config = Arc::clone(&identities.configs[index % identities.configs.len()]);
        let connection = UnbufferedClientConnection::new(config, identities.name.clone())?;
        Ok(Self::Tls(Box::new(Tls { connection, tail: Vec::new(), has_begun: false })))
    }

    /// Opens `bytes` (none, to begin) and passes their content to `reader`; replies of TLS itself go to `staged`.
    pub fn open<E>(
        &mut self,
        bytes: &mut [u8],
        staged: &mut Vec<u8>,
        mut reader: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Opened, SessionError<E>> {
        let tls = match self {
            Self::Plain if bytes.is_empty() => return Ok(Opened { is_ready: true, has_ended: false }),
            Self::Plain => {
                reader(bytes).map_err(SessionError::Content)?;
                return Ok(Opened { is_ready: true, has_ended: false });
            }
            Self::Tls(tls) => tls,
        };
        if tls.tail.is_empty() {
            let (used, opened) = open_records(&mut tls.connection, bytes, staged, &mut reader)?;
            tls.tail.extend_from_slice(&bytes[used..]);
            tls.has_begun |= opened.is_ready;
            return Ok(opened);
        }
        tls.tail.extend_from_slice(bytes);
        let (used, opened) = open_records(&mut tls.connection, &mut tls.tail, staged, &mut reader)?;
        tls.tail.drain(..used);
        if tls.tail.is_empty() {
            tls.tail = Vec::new();
        }
        tls.has_begun |= opened.is_ready;
        Ok(opened)
    }

    /// Seals `plain` behind `staged`.
    pub fn seal(&mut self, plain: &[u8], staged: &mut Vec<u8>) -> Result<(), rustls::Error> {
        match self {
            Self::Plain => {
                staged.extend_from_slice(plain);
                Ok(())
            }
            Self::Tls(tls) => write(&mut tls.connection, staged, Some(plain)),
        }
    }

    /// Says that nothing more comes from us.
    pub fn end(&mut self, staged: &mut Vec<u8>) -> Result<(), rustls::Error> {
        match self {
            Self::Tls(tls) if tls.has_begun => write(&mut tls.connection, staged, None),
            Self::Plain | Self::Tls(_) => Ok(()),
        }
    }

    /// Whether this is plain, so that content need not be copied to be sealed.
    pub fn is_plain(&self) -> bool {
        matches!(self, Self::Plain)
    }
}

fn open_records<E>(
    connection: &mut UnbufferedClientConnection,
    bytes: &mut [u8],
    staged: &mut Vec<u8>,
    reader: &mut impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(usize, Opened), SessionError<E>> {
    let (mut used, mut opened) = (0, Opened::default());
    loop {
        let UnbufferedStatus { mut discard, state, .. } = connection.process_tls_records(&mut bytes[used..]);
        let mut is_idle = false;
        match state.map_err(SessionError::Tls)? {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let record = record.map_err(SessionError::Tls)?;
                    discard += record.discard;
                    reader(record.payload).map_err(SessionError::Content)?;
                }
            }
            ConnectionState::EncodeTlsData(mut data) => {
                encode(staged, |room| data.encode(room)).map_err(SessionError::Tls)?
            }
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::WriteTraffic(_) => (opened.is_ready, is_idle) = (true, true),
            ConnectionState::PeerClosed => opened.has_ended = true,
            ConnectionState::Closed => (opened.has_ended, is_idle) = (true, true),
            ConnectionState::BlockedHandshake => is_idle = true,
            _ => is_idle = true,
        }
        used += discard;
        if is_idle {
            return Ok((used, opened));
        }
    }
}

/// Appends a handshake record of unknown size.
fn encode(
    staged: &mut Vec<u8>,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), rustls::Error> {
    let start = staged.len();
    let mut room = 1024;
    loop {
        staged.resize(start + room, 0);
        match write(&mut staged[start..]) {
            Ok(size) => {
                staged.truncate(start + size);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(more)) => room = more.required_size,
            Err(EncodeError::AlreadyEncoded) => {
                staged.truncate(start);
                return Ok(());
            }
        }
    }
}

/// Seals content, or the closing alert when there is none.
fn write(
    connection: &mut UnbufferedClientConnection,
    staged: &mut Vec<u8>,
    content: Option<&[u8]>,
) -> Result<(), rustls::Error> {
    let start = staged.len();
    loop {
        let UnbufferedStatus { state, .. } = connection.process_tls_records(&mut []);
        match state? {
            ConnectionState::EncodeTlsData(mut data) => encode(staged, |room| data.encode(room))?,
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::WriteTraffic(mut traffic) => {
                let start = staged.len();
                let size = content.map_or(0, <[u8]>::len);
                // A record adds at most 5 + 8 + 17 bytes to at most 16 KiB of content; 64 leaves room for all of it.
                let mut room = size + (size / 16_000 + 1) * 64;
                loop {
                    staged.resize(start + room, 0);
                    let written = match content {
                        Some(content) => traffic.encrypt(content, &mut staged[start..]),
                        None => traffic.queue_close_notify(&mut staged[start..]),
                    };
                    match written {
                        Ok(size) => {
                            staged.truncate(start + size);
                            return Ok(());
                        }
                        Err(EncryptError::InsufficientSize(more)) => room = more.required_size,
                        Err(EncryptError::EncryptExhausted) => {
                            staged.truncate(start);
                            return Err(rustls::Error::EncryptError);
                        }
                    }
                }
            }
            _ => {
                staged.truncate(start);
                return Err(rustls::Error::General("TLS session takes no content".into()));
            }
        }
    }
}
