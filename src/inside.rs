//! HTTPS inside the company, for services beside the data path: connections of connection points with an internal
//! certificate, and of nobody else.
//!
//! A little tokio runtime on one thread. Handshakes and connections have places apart, so that strangers take none of
//! the latter; that they take all of the former, each for as long as a handshake may last, is prevented only where
//! [`Bounds`] say what one address may have, and that somebody who is known takes all connections, where they say what
//! one name may have. What is answered is the service's business.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

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

use crate::dispatch::Neighbourhood;
use crate::limits::{
    DRAIN_WITHIN, INSIDE_CONNECTIONS_MAX, INSIDE_HANDSHAKE_WITHIN, INSIDE_HANDSHAKES_MAX,
    INSIDE_HEAD_SIZE_MAX, INSIDE_HEAD_WITHIN,
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

/// What one of many may have.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections of one name at once.
    pub connections_each: usize,
    /// Handshakes under way at once from one address; from one network of IPv6, of /64, twice as many.
    pub handshakes_each: usize,
    /// A connection's whole life, which is then for one question; `None`: as many as come, each within its time.
    pub connection_within: Option<Duration>,
}

impl Bounds {
    /// Whoever is heard is trusted not to take all there is.
    pub const NONE: Bounds = Bounds {
        connections_each: INSIDE_CONNECTIONS_MAX,
        handshakes_each: INSIDE_HANDSHAKES_MAX,
        connection_within: None,
    };
}

/// Counts the signals that ask to stop. From when there is one, none of them kills the process: it is made before
/// anybody hears that the service listens.
pub struct Stop {
    told: watch::Receiver<u32>,
    /// Nobody is served before.
    serves: Arc<AtomicBool>,
}

impl Stop {
    /// At the first signal what is under way may end, at the second it is given up. While the service starts the first
    /// ends the process, for a start may wait long for a folder that somebody holds, and leaves nothing by halves.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn on_signals() -> io::Result<Stop> {
        let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])?;
        let ((tell, told), serves) = (watch::channel(0), Arc::new(AtomicBool::new(false)));
        let stop = Stop { told, serves: serves.clone() };
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for _ in signals.forever() {
                if !serves.load(Ordering::Acquire) {
                    process::exit(0);
                }
                tell.send_modify(|count| *count += 1);
            }
        })?;
        Ok(stop)
    }

    /// One that is told by hand.
    #[cfg(test)]
    pub(crate) fn by_hand() -> (watch::Sender<u32>, Stop) {
        let (tell, told) = watch::channel(0);
        (tell, Stop { told, serves: Arc::default() })
    }
}

/// Serves until it is to stop and what is under way has ended.
///
/// # Errors
/// The system gives no thread.
pub fn run(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    service: Arc<impl Service>,
    bounds: Bounds,
    stop: Stop,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    stop.serves.store(true, Ordering::Release);
    let ended = runtime.block_on(accept(listener, TlsAcceptor::from(tls), service, bounds, stop.told));
    // What still waits for a file on another thread was given its time.
    runtime.shutdown_background();
    ended
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

/// Takes connections up to the bounds; more wait in the kernel's queue.
async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    service: Arc<impl Service>,
    bounds: Bounds,
    mut stop: watch::Receiver<u32>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let handshakes = Arc::new(Semaphore::new(INSIDE_HANDSHAKES_MAX));
    let places = Arc::new(Semaphore::new(INSIDE_CONNECTIONS_MAX));
    let (of_whence, of_name) = (Places::new(bounds.handshakes_each), Shares::new(bounds.connections_each));
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
        let Some(share) = of_whence.take(from.ip()) else {
            service.stranger(from, "too many handshakes at once from this address or network".to_owned());
            continue;
        };
        let (tls, service, places, stop) = (tls.clone(), service.clone(), places.clone(), stop.clone());
        let of_name = of_name.clone();
        let visit = async move {
            let Some((stream, peer)) = receive(stream, from, tls, &*service).await else { return };
            let Some(_share) = of_name.take(peer.name.clone()) else {
                service.stranger(from, format!("{}, which has too many connections at once", peer.name));
                return;
            };
            // Who has no place keeps his turn until he has one, or waiting connections would have no bound.
            let Ok(_place) = places.acquire_owned().await else { return };
            drop((turn, share));
            let is_for_one = bounds.connection_within.is_some();
            if let Err(error) = converse(stream, &peer, &*service, is_for_one, stop).await {
                tracing::debug!(%from, %error, "a connection ended");
            }
        };
        connections.spawn(async move {
            match bounds.connection_within {
                None => visit.await,
                Some(within) if timeout(within, visit).await.is_ok() => {}
                Some(_) => tracing::debug!(%from, "a connection took too long"),
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
    let stream = match timeout(INSIDE_HANDSHAKE_WITHIN, tls.accept(stream)).await {
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
    is_for_one: bool,
    mut stop: watch::Receiver<u32>,
) -> io::Result<()> {
    let answer = service_fn(|request| async move {
        Ok::<_, std::convert::Infallible>(service.answer(request, peer).await)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(INSIDE_HEAD_WITHIN)
        .max_buf_size(INSIDE_HEAD_SIZE_MAX)
        .keep_alive(!is_for_one)
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

/// The handshakes of each address, and of each network of IPv6: whoever has one address can choose any of its network,
/// and shall leave something to its neighbours there.
struct Places {
    of_address: Arc<Shares<IpAddr>>,
    of_network: Arc<Shares<Neighbourhood>>,
}

impl Places {
    fn new(each: usize) -> Places {
        Places { of_address: Shares::new(each), of_network: Shares::new(2 * each) }
    }

    /// As [`Shares::take`].
    fn take(&self, from: IpAddr) -> Option<(Share<IpAddr>, Share<Neighbourhood>)> {
        Some((self.of_address.take(from.to_canonical())?, self.of_network.take(from.into())?))
    }
}

/// How much each has of something that nobody may have all of.
struct Shares<K> {
    each: usize,
    had: Mutex<HashMap<K, usize>>,
}

impl<K: Clone + Eq + Hash> Shares<K> {
    fn new(each: usize) -> Arc<Shares<K>> {
        Arc::new(Shares { each, had: Mutex::default() })
    }

    /// One more for `of`, given back when it is dropped; `None`: that has all it may have.
    fn take(self: &Arc<Self>, of: K) -> Option<Share<K>> {
        let mut had = self.had.lock().unwrap_or_else(PoisonError::into_inner);
        let count = had.get(&of).copied().unwrap_or(0);
        if count >= self.each {
            return None;
        }
        had.insert(of.clone(), count + 1);
        Some(Share { of, shares: self.clone() })
    }
}

struct Share<K: Eq + Hash> {
    of: K,
    shares: Arc<Shares<K>>,
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut had = self.shares.had.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = had.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                had.remove(&self.of);
            }
        }
    }
}

/// When the system gives no descriptor.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_more_than_his_share_and_it_takes_nothing_from_others() {
        let shares = Shares::new(2);
        let held = [shares.take("a"), shares.take("a")];
        assert!(held.iter().all(Option::is_some) && shares.take("a").is_none());
        assert!(shares.take("b").is_some());
        drop(held);
        assert!(shares.had.lock().unwrap().is_empty(), "who has nothing costs nothing");
        assert!(shares.take("a").is_some());
    }

    #[test]
    fn an_address_leaves_its_network_something_and_a_network_the_others() {
        let places = Places::new(1);
        let from = |text: &str| text.parse::<IpAddr>().unwrap();
        let _held = places.take(from("2001:db8::1")).unwrap();
        assert!(places.take(from("2001:db8::1")).is_none());
        let _held = places.take(from("2001:db8::2")).expect("its neighbour has a place");
        assert!(places.take(from("2001:db8::ffff:0:0:3")).is_none(), "any of a /64 is his to choose");
        assert!(places.of_address.had.lock().unwrap().len() == 2, "who has no place costs nothing");
        assert!(places.take(from("2001:db8:0:1::1")).is_some());
        let _held = places.take(from("192.0.2.7")).unwrap();
        assert!(places.take(from("::ffff:192.0.2.7")).is_none(), "it is the same however it is written");
        assert!(places.take(from("192.0.2.8")).is_some());
    }
}
