//! The issuer as a process: connection points ask, over mutual TLS with their internal certificate, and nobody else is
//! heard. Who is revoked is told the list, which says so, and nothing more: a connection point that is the only one can
//! have itself cut by the gateways that it brings the list to.
//!
//! Whoever asks, what is asked has to prove by itself for whom it is (`auth/renewal.rs`): a connection point carries
//! what a gateway asks, and can have nothing made in its name. The authority's key is read for each certificate and
//! forgotten with it; what is revoked meanwhile counts at once.
//!
//! Whoever is about to be revoked may want the list kept from others: each has few places and each connection little
//! time ([`BOUNDS`]), and what waits for the folder does so on another thread (`desk.rs`).

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use rustls::pki_types::CertificateDer;
use serde_json::json;
use tokio::sync::Semaphore;

use super::counts::Counts;
use super::desk::{Desk, Refused};
use super::upkeep::Upkeep;
use crate::admin::Doors;
use crate::auth::{RenewalFault, internal_identity};
use crate::inside::{self, Bounds, Peer, Stop, say, say_octets};
use crate::limits::{
    ISSUER_ANSWER_WITHIN, ISSUER_CONNECTION_WITHIN, ISSUER_CONNECTIONS_EACH_MAX, ISSUER_HANDSHAKES_EACH_MAX,
    RENEWAL_SIZE_MAX,
};
use crate::logs::{self, Quota};
use crate::pki::{Pki, PkiError};
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
    let stop = Stop::on_signals().map_err(|error| broken(&error))?;
    let pki = Pki::existing(&folder).map_err(|error| broken(&error))?;
    let internal = own(&pki).map_err(|error| broken(&error))?;
    let tls = for_issuing(&internal).map_err(|error| broken(&error))?;
    let counts = Arc::new(Counts::new(internal.clone()));
    let upkeep = Upkeep::new(&internal, &pki, folder.clone(), &counts);
    upkeep.start().map_err(|error| broken(&error))?;
    let list = pki.internal_list();
    let desk = Desk::new(&internal, folder, life, &counts);
    let service = Arc::new(Service::new(internal, desk, counts));
    let _serving = doors.serve(service.counts.clone()).map_err(|error| broken(&error))?;
    let address = listener.local_addr().map_err(|error| broken(&error))?;
    tracing::info!(%address, list = %list.display(), "issuer listens");
    inside::run(listener, tls, service, BOUNDS, stop).map_err(|error| broken(&error))
}

pub(super) fn own(pki: &Pki) -> Result<Arc<Internal>, PkiError> {
    let (chain, key) = pki.issuer_identity()?;
    let unusable =
        |error: rustls::Error| PkiError::Unusable { path: pki.internal_ca(), reason: error.to_string() };
    Internal::new(&[pki.internal_authority()], Credential { chain, key }).map_err(unusable)
}

pub(super) struct Service {
    internal: Arc<Internal>,
    desk: Arc<Desk>,
    /// One certificate is made at a time.
    turn: Arc<Semaphore>,
    counts: Arc<Counts>,
    /// Of what is refused.
    lines: Mutex<Quota>,
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
        self.answer_to(request, &peer.name, is_revoked).await
    }
}

impl Service {
    pub(super) fn new(internal: Arc<Internal>, desk: Desk, counts: Arc<Counts>) -> Service {
        let (desk, turn) = (Arc::new(desk), Arc::new(Semaphore::new(1)));
        Service { internal, desk, turn, counts, lines: Mutex::default() }
    }

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
                    Ok(Ok(body)) => self.renew(body.to_bytes(), peer).await,
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

    /// On another thread, for it waits for the folder and the disk; by whoever's turn it is, which lasts until that is
    /// done, whatever became of the connection.
    async fn renew(&self, bytes: Bytes, peer: &str) -> Response<Full<Bytes>> {
        let turn = self.turn.clone().acquire_owned().await;
        let (desk, by) = (self.desk.clone(), peer.to_owned());
        let given = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            desk.give(&bytes, &by)
        });
        match given.await {
            Ok(Ok(chain)) => say_octets(StatusCode::OK, "application/octet-stream", chain),
            Ok(Err(refused)) => self.refuse(&refused, peer),
            // It panicked, which the log tells.
            Err(_) => say(StatusCode::INTERNAL_SERVER_ERROR, &json!({ "error": "see its log" })),
        }
    }

    fn refuse(&self, refused: &Refused, peer: &str) -> Response<Full<Bytes>> {
        let cause = logs::bounded(refused.to_string());
        let (status, counter, told) = match refused {
            Refused::Fault(_) | Refused::Broken(PkiError::IsRevoked(_)) => {
                (StatusCode::FORBIDDEN, &self.counts.refused, cause.as_str())
            }
            Refused::Broken(PkiError::TooMany(_)) => {
                (StatusCode::TOO_MANY_REQUESTS, &self.counts.excessive, cause.as_str())
            }
            // What is wrong with files of this machine is nobody's business elsewhere.
            Refused::Broken(_) => (StatusCode::INTERNAL_SERVER_ERROR, &self.counts.broken, "see its log"),
        };
        counter.add(1);
        if self.may_log() {
            tracing::warn!(peer, cause, "no certificate is made");
        }
        say(status, &json!({ "error": told }))
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
/// Nobody keeps the list from others.
const BOUNDS: Bounds = Bounds {
    connections_each: ISSUER_CONNECTIONS_EACH_MAX,
    handshakes_each: ISSUER_HANDSHAKES_EACH_MAX,
    connection_within: Some(ISSUER_CONNECTION_WITHIN),
};
