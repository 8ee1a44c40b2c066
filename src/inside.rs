//! HTTPS inside the company, for services beside the data path: connections of roles with an internal certificate,
//! and of nobody else.
//!
//! A little tokio runtime on one thread; bounds on handshakes and connections, so that a stranger keeps out nobody
//! who is known. What is answered is the service's business.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use signal_hook::consts::{SIGINT, SIGTERM};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::limits::{
    DRAIN_WITHIN, STS_CONNECTIONS_MAX, STS_HANDSHAKE_WITHIN, STS_HANDSHAKES_MAX, STS_HEAD_SIZE_MAX,
    STS_HEAD_WITHIN,
};

/// Somebody who is heard.
pub struct Peer {
    /// Who it is.
    pub name: String,
    /// The certificate that it showed, in DER.
    pub leaf: Vec<u8>,
}

/// What is served.
pub trait Service: Send + Sync + 'static {
    /// Who somebody is that shows this certificate (DER).
    ///
    /// # Errors
    /// It is nobody who is heard; who else.
    fn admit(&self, leaf: &[u8]) -> Result<String, String>;
    /// Somebody was not heard.
    fn stranger(&self, from: SocketAddr, found: String);
    /// Answers one of those who are.
    fn answer(
        &self,
        request: Request<Incoming>,
        peer: &Peer,
    ) -> impl Future<Output = Response<Full<Bytes>>> + Send;
}

/// Serves until a signal asks it to stop and what is under way has ended.
///
/// # Errors
/// The system gives no thread.
pub fn run(listener: TcpListener, tls: Arc<ServerConfig>, service: Arc<impl Service>) -> io::Result<()> {
    let stop = stop_signal()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(accept(listener, TlsAcceptor::from(tls), service, stop))
}

/// An answer in JSON.
pub fn say(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    say_octets(status, "application/json", body.to_string())
}

/// An answer in octets.
pub fn say_octets(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let fields = answer.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
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
    service: Arc<impl Service>,
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
            let Some((stream, peer)) = receive(stream, from, tls, &*service).await else { return };
            // Who has no place keeps his turn until he has one, or waiting connections would have no bound.
            let Ok(_place) = places.acquire_owned().await else { return };
            drop(turn);
            if let Err(error) = converse(stream, &peer, &*service, stop).await {
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

/// The handshake; gives who it is with, if that is somebody who is heard.
async fn receive(
    stream: TcpStream,
    from: SocketAddr,
    tls: TlsAcceptor,
    service: &impl Service,
) -> Option<(TlsStream<TcpStream>, Peer)> {
    stream.set_nodelay(true).ok()?;
    let stream = match timeout(STS_HANDSHAKE_WITHIN, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            service.stranger(from, error.to_string());
            return None;
        }
        Err(_) => {
            service.stranger(from, "no handshake in time".to_owned());
            return None;
        }
    };
    let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let leaf = leaf.map(|leaf| leaf.to_vec()).unwrap_or_default();
    match service.admit(&leaf) {
        Ok(name) => Some((stream, Peer { name, leaf })),
        Err(found) => {
            service.stranger(from, found);
            None
        }
    }
}

async fn converse(
    stream: TlsStream<TcpStream>,
    peer: &Peer,
    service: &impl Service,
    mut stop: watch::Receiver<u32>,
) -> io::Result<()> {
    let answer = service_fn(|request| async move {
        Ok::<_, std::convert::Infallible>(service.answer(request, peer).await)
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

/// When the system gives no descriptor.
const ACCEPT_AGAIN_AFTER: std::time::Duration = std::time::Duration::from_secs(1);
