//! The token service as a process: connection points of one site ask, over mutual TLS, and nobody else is heard.
//!
//! A little tokio runtime on one thread: a site of 100,000 devices asks four times a second, and what takes time
//! is signing. A token is judged here once more, after gateway and connection point. A certificate (`Client-Cert`,
//! RFC 9440) was judged at the gateway alone, and is taken at the word of gateway and connection point, which is why
//! only connection points are listened to.

use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::Instant;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::counts::{Counts, Kind};
use super::exchange::{Given, NotExchanged, Shown, exchange};
use super::folder::guid;
use super::{Signer, StsError};
use crate::admin::Doors;
use crate::auth::token::{TokenFault, TokenKind, TokenKinds, bearer, issuer_of};
use crate::auth::{InternalRole, NoClientCert, client_cert_of, internal_identity, life_of, thumbprints};
use crate::limits::{
    DRAIN_WITHIN, STS_CONNECTIONS_MAX, STS_HANDSHAKE_WITHIN, STS_HANDSHAKES_MAX, STS_HEAD_SIZE_MAX,
    STS_HEAD_WITHIN,
};
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
    let stop = stop_signal()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let address = listener.local_addr()?;
    tracing::info!(%address, site = service.site, hierarchy = service.signer.hierarchy(), "token service listens");
    runtime.block_on(accept(listener, TlsAcceptor::from(tls), service, stop))
}

/// Counts the signals that ask to stop: at the first what is under way may end, at the second it is given up.
fn stop_signal() -> io::Result<watch::Receiver<u32>> {
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])?;
    let (tell, told) = watch::channel(0);
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        signals.forever().for_each(|_| tell.send_modify(|count| *count += 1));
    })?;
    Ok(told)
}

/// Takes connections up to the bounds; more wait in the kernel's queue.
async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    service: Arc<Service>,
    mut stop: watch::Receiver<u32>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let (handshakes, places) = (Semaphore::new(STS_HANDSHAKES_MAX), Semaphore::new(STS_CONNECTIONS_MAX));
    let (handshakes, places) = (Arc::new(handshakes), Arc::new(places));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let turn = handshakes.clone().acquire_owned().await.map_err(io::Error::other)?;
            listener.accept().await.map(|(stream, from)| (turn, stream, from))
        };
        let accepted = tokio::select! {
            accepted = next => accepted,
            _ = stop.changed() => break,
        };
        while connections.try_join_next().is_some() {}
        let (turn, stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                continue;
            }
        };
        let (tls, service, places, stop) = (tls.clone(), service.clone(), places.clone(), stop.clone());
        connections.spawn(async move {
            let Some((stream, peer)) = receive(stream, tls, &service).await else { return };
            // Who has no place keeps his turn until he has one, or waiting connections would have no bound.
            let Ok(_place) = places.acquire_owned().await else { return };
            drop(turn);
            if let Err(error) = converse(stream, &peer, &service, stop).await {
                tracing::debug!(%from, %error, "a connection ended");
            }
        });
    }
    tracing::info!("draining");
    drop(listener);
    tokio::select! {
        () = async { while connections.join_next().await.is_some() {} } => {}
        () = tokio::time::sleep(DRAIN_WITHIN) => {}
        _ = stop.changed() => {}
    }
    Ok(())
}

/// The handshake; gives who it is with, if that is a connection point of the site.
async fn receive(
    stream: TcpStream,
    tls: TlsAcceptor,
    service: &Service,
) -> Option<(TlsStream<TcpStream>, String)> {
    let from = stream.peer_addr().ok()?;
    let expected = || format!("a connection point of site {0}: cmg://site/{0}/connector/NAME", service.site);
    let stranger = |found: String| {
        service.counts.strangers.add(1);
        if service.may_log() {
            tracing::warn!(%from, found = logs::bounded(found), expected = expected(), "a stranger was not heard");
        }
    };
    stream.set_nodelay(true).ok()?;
    let stream = match timeout(STS_HANDSHAKE_WITHIN, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            stranger(error.to_string());
            return None;
        }
        Err(_) => {
            stranger("no handshake in time".to_owned());
            return None;
        }
    };
    let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    match connector_of(leaf.map(AsRef::as_ref), &service.site) {
        Ok(peer) => Some((stream, peer)),
        Err(found) => {
            stranger(found);
            None
        }
    }
}

async fn converse(
    stream: TlsStream<TcpStream>,
    peer: &str,
    service: &Service,
    mut stop: watch::Receiver<u32>,
) -> io::Result<()> {
    let answer = service_fn(|request| {
        let answer = service.answer(&request, peer);
        async move { Ok::<_, std::convert::Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(STS_HEAD_WITHIN)
        .max_buf_size(STS_HEAD_SIZE_MAX)
        .serve_connection(TokioIo::new(stream), answer);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stop.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    ended.map_err(io::Error::other)
}

/// Name of the connection point of this site whose certificate this is; else what it is instead.
fn connector_of(leaf: Option<&[u8]>, site: &str) -> Result<String, String> {
    let name = internal_identity(leaf.unwrap_or_default()).map_err(|fault| fault.to_string())?;
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

impl Service {
    fn answer(&self, request: &Request<Incoming>, peer: &str) -> Response<Full<Bytes>> {
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

fn say(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(body.to_string()));
    *answer.status_mut() = status;
    let fields = answer.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// The last segment of what it answers.
const NAME: &str = "CCM_STS";
/// What is exchanged.
const EXCHANGED: TokenKinds =
    TokenKinds::of(&[TokenKind::Registration, TokenKind::Client, TokenKind::Directory]);
/// When the system gives no descriptor.
const ACCEPT_AGAIN_AFTER: std::time::Duration = std::time::Duration::from_secs(1);

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
