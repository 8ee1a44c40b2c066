//! The token service as a process: connection points of one site ask, over mutual TLS, and nobody else is heard.
//!
//! One thread (`inside.rs`): a site of 100,000 devices asks four times a second, and what takes time is signing. A token
//! is judged here once more, after gateway and connection point. A certificate (`Client-Cert`, RFC 9440) was judged at
//! the gateway alone, and is taken at the word of gateway and connection point, which is why only connection points are
//! listened to.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use serde_json::json;

use super::counts::{Counts, Kind};
use super::exchange::{Given, NotExchanged, Shown, exchange};
use super::folder::guid;
use super::{Signer, StsError};
use crate::admin::Doors;
use crate::auth::token::{TokenFault, TokenKind, TokenKinds, bearer, issuer_of};
use crate::auth::{InternalRole, NoClientCert, client_cert_of, internal_identity, life_of, thumbprints};
use crate::inside::{self, Bounds, Peer, Stop, say};
use crate::logs::{self, Quota};
use crate::review::SiteTokens;
use crate::token_watch::{Audience, Known, State, Watch};

/// What a token service starts with.
pub struct Start {
    /// Where connection points come.
    pub listener: TcpListener,
    /// See [`tls`].
    pub tls: Arc<ServerConfig>,
    /// Code of the site.
    pub site: String,
    /// Whose tokens are exchanged.
    pub tokens: SiteTokens,
    /// What signs.
    pub signer: Signer,
    /// The admin's listeners.
    pub doors: Doors,
}

/// TLS of the service: `chain` and `key` are its own, and who asks must show a certificate of one of `internal`.
///
/// # Errors
/// What cannot be used.
pub fn tls(
    internal: &[CertificateDer<'static>],
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for one in internal {
        roots.add(one.clone())?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Who comes again is judged again: a resumed session would pass the verifier by. A few connections a day.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Serves until a signal asks it to stop and what is under way has ended.
///
/// # Errors
/// The system gives no thread or no listener.
pub fn run(start: Start) -> io::Result<()> {
    let Start { listener, tls, site, tokens, signer, doors } = start;
    let (watch, state) = Watch::new(&tokens, &Known::default());
    let held = Arc::new(Held(RwLock::new(state)));
    watch.start(Held::audience(&held))?;
    let counts = Arc::new(Counts::new(site.clone(), signer.hierarchy().to_owned()));
    let _serving = doors.serve(counts.clone())?;
    let own = issuer_of(signer.hierarchy());
    let own = tokens.issuers.iter().filter(|one| one.issuer == own).map(|one| one.name.clone()).collect();
    let service = Arc::new(Service { site, signer, own, held, counts, lines: Mutex::default() });
    let address = listener.local_addr()?;
    let stop = Stop::on_signals()?;
    tracing::info!(%address, site = service.site, hierarchy = service.signer.hierarchy(), "token service listens");
    inside::run(listener, tls, service, Bounds::NONE, stop)
}

/// Name of the connection point of this site whose certificate this is; else what it is instead.
fn connector_of(leaf: &[u8], site: &str) -> Result<String, String> {
    let name = internal_identity(leaf).map_err(|fault| fault.to_string())?;
    let is_ours = name.role == InternalRole::Connector && name.site.as_deref() == Some(site);
    if is_ours { Ok(name.to_string()) } else { Err(name.to_string()) }
}

/// What tokens are judged by, changed when keys or blocked tokens change.
struct Held(RwLock<Arc<State>>);

impl Held {
    fn now(&self) -> Arc<State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn audience(held: &Arc<Held>) -> impl Audience + use<> {
        Telling(Arc::downgrade(held))
    }
}

struct Telling(std::sync::Weak<Held>);

impl Audience for Telling {
    fn is_there(&self) -> bool {
        self.0.strong_count() > 0
    }

    fn hear(&self, state: &Arc<State>) {
        if let Some(held) = self.0.upgrade() {
            *held.0.write().unwrap_or_else(PoisonError::into_inner) = state.clone();
        }
    }
}

struct Service {
    site: String,
    signer: Signer,
    /// Names of the issuers whose tokens were given here.
    own: Vec<String>,
    held: Arc<Held>,
    counts: Arc<Counts>,
    /// Of what is refused.
    lines: Mutex<Quota>,
}

/// Why nothing is given.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{0}")]
    Token(#[from] TokenFault),
    #[error("{0}")]
    Kind(#[from] NotExchanged),
    #[error(
        "neither a token nor a certificate; expected Authorization: Bearer, or Client-Cert of the connection point"
    )]
    Nothing,
    #[error("{0}")]
    Certificate(#[from] NoClientCert),
    #[error("{0}")]
    Broken(#[from] StsError),
}

impl inside::Service for Service {
    fn admit(&self, leaf: &[u8]) -> Result<String, String> {
        connector_of(leaf, &self.site)
    }

    fn stranger(&self, from: SocketAddr, found: String) {
        self.counts.strangers.add(1);
        if self.may_log() {
            let expected =
                format!("a connection point of site {0}: cmg://site/{0}/connector/NAME", self.site);
            tracing::warn!(%from, found = logs::bounded(found), expected, "a stranger was not heard");
        }
    }

    async fn answer(&self, request: Request<Incoming>, peer: &Peer) -> Response<Full<Bytes>> {
        self.answer_to(&request, &peer.name)
    }
}

impl Service {
    fn answer_to(&self, request: &Request<Incoming>, peer: &str) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let last = path.strip_suffix('/').unwrap_or(path).rsplit('/').next().unwrap_or_default();
        if !last.eq_ignore_ascii_case(NAME) {
            self.counts.mistaken.add(1);
            return say(StatusCode::NOT_FOUND, &json!({ "error": "invalid_request" }));
        }
        if !matches!(*request.method(), Method::GET | Method::POST) {
            self.counts.mistaken.add(1);
            let mut answer = say(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": "invalid_request" }));
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, POST"));
            return answer;
        }
        match self.give(request.headers(), peer) {
            Ok((kind, body)) => {
                self.counts.exchanged(kind);
                say(StatusCode::OK, &body)
            }
            Err(Refused::Broken(error)) => {
                self.counts.broken.add(1);
                if self.may_log() {
                    tracing::error!(%error, "no token can be made");
                }
                say(StatusCode::INTERNAL_SERVER_ERROR, &json!({ "error": "server_error" }))
            }
            Err(refused) => {
                self.counts.refused.add(1);
                if self.may_log() {
                    let cause = logs::bounded(refused.to_string());
                    tracing::warn!(peer, cause, "token refused");
                }
                // The cause is in the log: it names what the site believes.
                let mut answer = say(StatusCode::UNAUTHORIZED, &json!({ "error": "invalid_token" }));
                let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
                answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
                answer
            }
        }
    }

    /// Whether one more line may be written of what is refused: a stranger must not fill the log.
    fn may_log(&self) -> bool {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now())
    }

    fn give(&self, fields: &HeaderMap, peer: &str) -> Result<(Kind, serde_json::Value), Refused> {
        let now = UnixTime::now();
        let given = |shown: Shown<'_>| {
            exchange(self.signer.hierarchy(), shown, now.as_secs(), || guid().map_err(Refused::from))
        };
        // Whoever shows a token is judged by it, whatever else is there: a certificate that came with a token
        // was perhaps judged by nobody.
        let (given, kind, parent) = if fields.contains_key(header::AUTHORIZATION) {
            let named = fields.get_all(header::AUTHORIZATION).iter().map(HeaderValue::as_bytes);
            let token = bearer(named, EXCHANGED)?;
            let facts = self.held.now().issuers().verify(token, now)?;
            let kind = match facts.kind {
                TokenKind::Registration => Kind::Registration,
                TokenKind::Client => Kind::Client,
                TokenKind::Directory => Kind::Directory,
                TokenKind::Ccm => return Err(NotExchanged::Kind(facts.kind).into()),
            };
            let is_own = self.own.contains(&facts.issuer);
            (given(Shown::Token(&facts, is_own))?, kind, facts.label)
        } else {
            let (thumbprints, until) = certificate(fields)?;
            (given(Shown::Certificate(&thumbprints, until))?, Kind::Certificate, String::new())
        };
        let Given { device, session, session_life, client } = given;
        let mut body = json!({
            "access_token": self.signer.sign(&session)?,
            "token_type": "Bearer",
            "expires_in": session_life,
            "device_id": device,
        });
        if let Some(client) = client {
            body["client_token"] = self.signer.sign(&client)?.into();
            let until = client["exp"].as_u64().unwrap_or_default();
            body["client_token_expires_in"] = until.saturating_sub(now.as_secs()).into();
            self.counts.own.add(1);
            // Nothing of it is kept but this line: by it the devices are found that came with a token that leaked.
            // A renewed one has the device's name, which is found already.
            if let Kind::Registration = kind {
                tracing::info!(device, shown = parent, peer, "a device got a token of its own");
            }
        }
        Ok((kind, body))
    }
}

/// SHA-256 and end of the one certificate in `Client-Cert`.
fn certificate(fields: &HeaderMap) -> Result<(Vec<[u8; 32]>, u64), Refused> {
    let values = fields.get_all("client-cert").iter().map(HeaderValue::as_bytes);
    let der = client_cert_of(values)?.ok_or(Refused::Nothing)?;
    let life = life_of(&der).ok_or(NoClientCert)?;
    Ok((thumbprints(&der), life.until))
}

/// The last segment of what it answers.
const NAME: &str = "CCM_STS";
/// What is exchanged.
const EXCHANGED: TokenKinds =
    TokenKinds::of(&[TokenKind::Registration, TokenKind::Client, TokenKind::Directory]);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;

    use super::*;

    #[test]
    fn only_one_whole_certificate_is_taken() {
        let made = rcgen::generate_simple_self_signed(["device".to_owned()]).unwrap();
        let text = BASE64.encode(made.cert.der());
        let whole = format!(":{text}:");
        let rows: [(&[&str], bool); 8] = [
            (&[&whole], true),
            (&[], false),
            (&[&whole, &whole], false),
            (&[&text], false),
            (&["::"], false),
            (&[":bGVhZg==:"], false),
            (&[&whole.replacen('M', "?", 1)], false),
            (&[&format!("{whole}, {whole}")], false),
        ];
        for (values, is_taken) in rows {
            let mut fields = HeaderMap::new();
            for value in values {
                fields.append("client-cert", value.parse().unwrap());
            }
            assert_eq!(certificate(&fields).is_ok(), is_taken, "{values:?}");
        }
    }
}
