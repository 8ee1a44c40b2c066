//! The issuer as a process: roles with an internal certificate ask, over mutual TLS, and nobody else is heard. Who is
//! revoked is told the list, which says so, and nothing more: a connection point that is the only one can have itself
//! cut by the gateways that it brings the list to.
//!
//! Whoever asks, what is asked has to prove by itself for whom it is (`auth/renewal.rs`): a connection point carries
//! what a gateway asks, and can have nothing made in its name. The authority's key is read for each certificate and
//! forgotten with it; what is revoked meanwhile counts at once.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use rustls::pki_types::{CertificateDer, UnixTime};
use serde_json::json;

use super::counts::Counts;
use crate::admin::Doors;
use crate::auth::{InternalName, Renewal, RenewalFault, internal_identity, write_chain};
use crate::inside::{self, Peer, say, say_octets};
use crate::limits::{
    INTERNAL_FILES_EVERY, ISSUED_COUNT_MAX, ISSUED_WITHIN, ISSUER_ANSWER_WITHIN, RENEWAL_SIZE_MAX,
};
use crate::logs::{self, Quota};
use crate::pki::{self, Pki, PkiError, Terms};
use crate::transport::tls_config::{Credential, for_issuing};
use crate::transport::{Internal, StartError};

/// What an issuer starts with.
pub struct Start {
    /// Where roles come.
    pub listener: TcpListener,
    /// Folder of `cmg pki`, with the internal authority.
    pub folder: PathBuf,
    /// How long a certificate is good; `None`: as long as `cmg pki` makes it.
    pub life: Option<Duration>,
    /// The admin's listeners.
    pub doors: Doors,
}

/// Serves until a signal asks it to stop and what is under way has ended.
///
/// # Errors
/// The folder cannot be used; the system gives no thread or no listener.
pub fn run(start: Start) -> Result<(), StartError> {
    let Start { listener, folder, life, doors } = start;
    let broken = |error: &dyn std::fmt::Display| StartError(error.to_string());
    let internal = own(&folder).map_err(|error| broken(&error))?;
    let tls = for_issuing(&internal).map_err(|error| broken(&error))?;
    let list = look_after(&internal, &folder).map_err(|error| broken(&error))?;
    let counts = Arc::new(Counts::new(internal.clone()));
    let service = Arc::new(Service {
        internal,
        folder,
        life,
        counts,
        given: Mutex::default(),
        lines: Mutex::default(),
    });
    let _serving = doors.serve(service.counts.clone()).map_err(|error| broken(&error))?;
    let address = listener.local_addr().map_err(|error| broken(&error))?;
    tracing::info!(%address, list = %list.display(), "issuer listens");
    inside::run(listener, tls, service).map_err(|error| broken(&error))
}

fn own(folder: &Path) -> Result<Arc<Internal>, PkiError> {
    let pki = Pki::existing(folder)?;
    let (chain, key) = pki.issuer_identity()?;
    let unusable =
        |error: rustls::Error| PkiError::Unusable { path: pki.internal_ca(), reason: error.to_string() };
    Internal::new(&[pki.internal_authority()], Credential { chain, key }).map_err(unusable)
}

/// Reads the list whenever it changes, has the next one signed in time, and shows another certificate when the one
/// shown grows old; for as long as somebody needs them.
fn look_after(internal: &Arc<Internal>, folder: &Path) -> Result<PathBuf, PkiError> {
    let list = Pki::existing(folder)?.keep_internal_list()?;
    read_list(internal, &list)?;
    let (weak, folder, path) = (Arc::downgrade(internal), folder.to_owned(), list.clone());
    let look = move || {
        let mut seen = None;
        let mut kept = Instant::now();
        while let Some(internal) = weak.upgrade() {
            let mark = fs::metadata(&path).and_then(|facts| Ok((facts.modified()?, facts.len()))).ok();
            if mark != seen {
                match read_list(&internal, &path) {
                    Ok(()) => seen = mark,
                    Err(error) => tracing::error!(%error, "the list cannot be read; the one before stays"),
                }
            }
            if kept.elapsed() >= KEPT_EVERY {
                kept = Instant::now();
                if let Err(error) = keep(&internal, &folder) {
                    tracing::error!(%error, "neither list nor certificate can be kept up");
                }
            }
            drop(internal);
            thread::sleep(INTERNAL_FILES_EVERY);
        }
    };
    let started = thread::Builder::new().name("internal-list".to_owned()).spawn(look);
    started.map_err(|source| PkiError::File { path: list.clone(), source })?;
    Ok(list)
}

fn keep(internal: &Internal, folder: &Path) -> Result<(), PkiError> {
    let pki = Pki::existing(folder)?;
    pki.keep_internal_list()?;
    let shown = internal.own();
    let due = shown.cert.first().and_then(|leaf| pki::renewal_due(leaf, 0)).unwrap_or(0);
    if due <= UnixTime::now().as_secs() {
        let (chain, key) = pki.issuer_identity()?;
        let provider = rustls::crypto::ring::default_provider();
        if let Ok(own) = rustls::sign::CertifiedKey::from_der(chain, key, &provider) {
            internal.show(Arc::new(own));
        }
    }
    Ok(())
}

fn read_list(internal: &Internal, path: &Path) -> Result<(), PkiError> {
    let bytes = fs::read(path).map_err(|source| PkiError::File { path: path.to_owned(), source })?;
    match internal.take_lists(&bytes) {
        Ok(is_new) => {
            if is_new {
                let entries = internal.listed().lists.iter().map(|list| list.len()).sum::<usize>();
                tracing::info!(list = %path.display(), entries, "list in force");
            }
            Ok(())
        }
        Err(fault) => Err(PkiError::Unusable { path: path.to_owned(), reason: fault.to_string() }),
    }
}

struct Service {
    internal: Arc<Internal>,
    folder: PathBuf,
    life: Option<Duration>,
    counts: Arc<Counts>,
    /// When whom.
    given: Mutex<HashMap<InternalName, VecDeque<Instant>>>,
    /// Of what is refused.
    lines: Mutex<Quota>,
}

const _: () = assert!(ISSUED_WITHIN.as_secs() == 60 * 60, "as the refusal says");

/// Why nothing is given.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{0}")]
    Fault(#[from] RenewalFault),
    #[error("{0} had {ISSUED_COUNT_MAX} within the last hour")]
    TooMany(InternalName),
    #[error("{0}")]
    Broken(#[from] PkiError),
}

impl inside::Service for Service {
    fn admit(&self, leaf: &[u8]) -> Result<String, String> {
        internal_identity(leaf).map(|name| name.to_string()).map_err(|fault| fault.to_string())
    }

    fn stranger(&self, from: SocketAddr, found: String) {
        self.counts.strangers.add(1);
        if self.may_log() {
            tracing::warn!(%from, found = logs::bounded(found), "somebody was not heard who is no role");
        }
    }

    async fn answer(&self, request: Request<Incoming>, peer: &Peer) -> Response<Full<Bytes>> {
        let is_revoked = self.internal.is_revoked(&[CertificateDer::from(peer.leaf.as_slice())]);
        let mut answer = self.answer_to(request, &peer.name, is_revoked).await;
        if is_revoked {
            // Its place is for others.
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

impl Service {
    async fn answer_to(
        &self,
        request: Request<Incoming>,
        peer: &str,
        is_revoked: bool,
    ) -> Response<Full<Bytes>> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, LIST) => {
                self.counts.lists.add(1);
                say_octets(StatusCode::OK, "application/pkix-crl", self.internal.listed().bytes.clone())
            }
            (&Method::POST, RENEWAL) if is_revoked => self.refuse(&RenewalFault::Revoked.into(), peer),
            (&Method::POST, RENEWAL) => {
                let body = Limited::new(request.into_body(), RENEWAL_SIZE_MAX).collect();
                match tokio::time::timeout(ISSUER_ANSWER_WITHIN, body).await {
                    Ok(Ok(body)) => self.renew(&body.to_bytes(), peer),
                    Ok(Err(_)) | Err(_) => {
                        let text = "the request is cut, too long or too slow";
                        say(StatusCode::BAD_REQUEST, &json!({ "error": text }))
                    }
                }
            }
            _ => {
                self.counts.mistaken.add(1);
                say(StatusCode::NOT_FOUND, &json!({ "error": format!("GET {LIST} or POST {RENEWAL}") }))
            }
        }
    }

    fn renew(&self, bytes: &[u8], peer: &str) -> Response<Full<Bytes>> {
        match self.give(bytes, peer) {
            Ok(chain) => say_octets(StatusCode::OK, "application/octet-stream", chain),
            Err(refused) => self.refuse(&refused, peer),
        }
    }

    fn refuse(&self, refused: &Refused, peer: &str) -> Response<Full<Bytes>> {
        let cause = logs::bounded(refused.to_string());
        let (status, counter, told) = match refused {
            Refused::Fault(_) | Refused::Broken(PkiError::IsRevoked(_)) => {
                (StatusCode::FORBIDDEN, &self.counts.refused, cause.as_str())
            }
            Refused::TooMany(_) => (StatusCode::TOO_MANY_REQUESTS, &self.counts.excessive, cause.as_str()),
            // What is wrong with files of this machine is nobody's business elsewhere.
            Refused::Broken(_) => (StatusCode::INTERNAL_SERVER_ERROR, &self.counts.broken, "see its log"),
        };
        counter.add(1);
        if self.may_log() {
            tracing::warn!(peer, cause, "no certificate is made");
        }
        say(status, &json!({ "error": told }))
    }

    fn give(&self, bytes: &[u8], peer: &str) -> Result<Vec<u8>, Refused> {
        let renewable = Renewal::parse(bytes)?.judge(&self.internal.trust(), UnixTime::now())?;
        if !self.may_give(&renewable.name, Instant::now()) {
            return Err(Refused::TooMany(renewable.name));
        }
        let pki = Pki::existing(&self.folder)?.under(Terms { key: None, life: self.life });
        let chain = pki.renew(&renewable)?;
        let written = write_chain(&chain).ok_or(RenewalFault::Malformed("its chain would be too long"))?;
        self.counts.given.add(1);
        let leaf = chain.first().map(AsRef::as_ref).unwrap_or_default();
        let serial = pki::serial_of(leaf).map(|serial| serial.to_string()).unwrap_or_default();
        let until = pki::not_after(leaf).and_then(|end| i64::try_from(end).ok());
        let until = until.and_then(|end| jiff::Timestamp::from_second(end).ok());
        let until = until.map(|end| end.to_string()).unwrap_or_default();
        tracing::info!(name = %renewable.name, serial, until, carried_by = peer, "an internal certificate was made");
        Ok(written)
    }

    /// Whether it may have one more; that counts it.
    fn may_give(&self, name: &InternalName, now: Instant) -> bool {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let is_past = |at: &Instant| now.duration_since(*at) >= ISSUED_WITHIN;
        given.retain(|_, times| {
            while times.front().is_some_and(is_past) {
                times.pop_front();
            }
            !times.is_empty()
        });
        let times = given.entry(name.clone()).or_default();
        let may = times.len() < ISSUED_COUNT_MAX;
        if may {
            times.push_back(now);
        }
        may
    }

    /// Whether one more line may be written of what is refused.
    fn may_log(&self) -> bool {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now())
    }
}

/// Where the next certificate is asked for.
pub const RENEWAL: &str = "/renewal";
/// Where the list is.
pub const LIST: &str = "/list";
/// How often list and certificate are looked at for their age.
const KEPT_EVERY: Duration = Duration::from_secs(60);
