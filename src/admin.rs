//! The admin listener of a role: reads, never changes anything.
//!
//! `/healthz` the process lives · `/readyz` it can serve · `/status` JSON · `/metrics` Prometheus text.
//! A thread of its own with a small tokio runtime: what is asked here never waits for a shard, nor a
//! shard for it. What the answers say is the role's business ([`Report`]).
//!
//! On loopback a foreign `Host` is refused, so that no web page can read this through a name that was
//! pointed at 127.0.0.1. Off loopback only `/healthz` and `/readyz` are served.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

/// What a role tells about itself. Called from the admin thread: answers come from atomics or from what
/// the shards left behind, and never wait for a shard.
pub trait Report: Send + Sync + 'static {
    /// Whether the role can do its work now.
    fn is_ready(&self) -> bool;
    /// Everything an operator may want to see, as JSON.
    fn status(&self) -> serde_json::Value;
    /// Counters in Prometheus text format 0.0.4.
    fn metrics(&self) -> String;
}

/// Connections at once: a few scrapers and a curious operator.
const CONNECTION_COUNT_MAX: usize = 64;
/// A connection's whole life. Whoever still wants to ask then connects again.
const CONNECTION_WITHIN: Duration = Duration::from_secs(60);
/// Before accepting again when the process has no descriptor left.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Binds, then serves from a thread of its own until the process ends. Port 0 takes a free one; the
/// address bound is returned.
///
/// # Errors
/// The address cannot be bound, or the thread not started.
pub fn serve(address: SocketAddr, report: Arc<dyn Report>) -> io::Result<SocketAddr> {
    let listener = StdListener::bind(address)
        .map_err(|error| io::Error::new(error.kind(), format!("admin listener {address}: {error}")))?;
    listener.set_nonblocking(true)?;
    let bound = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let router = router(report, bound.ip().is_loopback());
    thread::Builder::new().name("admin".into()).spawn(move || {
        if let Err(error) = runtime.block_on(run(listener, router)) {
            tracing::error!(%error, "the admin listener ended");
        }
    })?;
    Ok(bound)
}

async fn run(listener: StdListener, router: Router) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(CONNECTION_COUNT_MAX));
    axum::serve(Bounded { listener, places }, router).await
}

fn router(report: Arc<dyn Report>, is_loopback: bool) -> Router {
    let health = Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(readyz));
    let router = if is_loopback {
        health
            .route("/status", get(status))
            .route("/metrics", get(metrics))
            .layer(middleware::from_fn(refuse_foreign_host))
    } else {
        health
    };
    router.with_state(report)
}

async fn readyz(State(report): State<Arc<dyn Report>>) -> (StatusCode, &'static str) {
    if report.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

async fn status(State(report): State<Arc<dyn Report>>) -> Json<serde_json::Value> {
    Json(report.status())
}

async fn metrics(State(report): State<Arc<dyn Report>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], report.metrics())
}

async fn refuse_foreign_host(request: Request, next: Next) -> Response {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let field = hosts.next().map(|value| value.to_str().is_ok_and(is_own_host));
    let target = request.uri().authority().map(|authority| is_own_host(authority.as_str()));
    // HTTP/1.0 needs no Host, and no browser leaves it out.
    if hosts.next().is_some() || field == Some(false) || target == Some(false) {
        return (StatusCode::MISDIRECTED_REQUEST, "this listener answers to loopback names only\n")
            .into_response();
    }
    next.run(request).await
}

/// Whether a Host value names loopback, with or without a port.
fn is_own_host(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(address, _)| address),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// A listener whose connections are counted and end in time: neither a forgotten browser tab nor a
/// stuck scraper can hold the role's descriptors.
struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl axum::serve::Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // The semaphore is never closed; if it were, an unbounded connection beats a deaf listener.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let end = Box::pin(tokio::time::sleep(CONNECTION_WITHIN));
                    return (Connection { stream, end, _place: place }, peer);
                }
                Err(_) => tokio::time::sleep(ACCEPT_AGAIN_AFTER).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

struct Connection {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Connection {
    fn check_end(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.end.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_end(context)?;
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_end(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    struct Sample(AtomicBool);

    impl Report for Sample {
        fn is_ready(&self) -> bool {
            self.0.load(Ordering::Relaxed)
        }
        fn status(&self) -> serde_json::Value {
            serde_json::json!({ "role": "sample" })
        }
        fn metrics(&self) -> String {
            "cmg_up 1\n".to_owned()
        }
    }

    fn start(address: &str) -> (SocketAddr, Arc<Sample>) {
        let report = Arc::new(Sample(AtomicBool::new(true)));
        let bound = serve(address.parse().unwrap(), Arc::clone(&report) as Arc<dyn Report>).unwrap();
        (bound, report)
    }

    fn ask(address: SocketAddr, head: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "{head}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn get(address: SocketAddr, path: &str) -> String {
        ask(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}"))
    }

    #[test]
    fn a_role_is_asked_over_http() {
        let (address, report) = start("127.0.0.1:0");
        assert!(get(address, "/healthz").starts_with("HTTP/1.1 200"));
        assert!(get(address, "/readyz").starts_with("HTTP/1.1 200"));
        report.0.store(false, Ordering::Relaxed);
        assert!(get(address, "/healthz").starts_with("HTTP/1.1 200"));
        assert!(get(address, "/readyz").starts_with("HTTP/1.1 503"));
        assert!(get(address, "/status").ends_with("{\"role\":\"sample\"}"));
        let metrics = get(address, "/metrics");
        assert!(
            metrics.contains("text/plain; version=0.0.4") && metrics.ends_with("cmg_up 1\n"),
            "{metrics}"
        );
        assert!(get(address, "/other").starts_with("HTTP/1.1 404"));
    }

    #[test]
    fn nothing_but_reading_is_offered() {
        let (address, _) = start("127.0.0.1:0");
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CCM_POST"] {
            let answer = ask(address, &format!("{method} /status HTTP/1.1\r\nHost: {address}"));
            assert!(answer.starts_with("HTTP/1.1 405"), "{method}: {answer}");
        }
    }

    #[test]
    fn a_foreign_host_is_refused() {
        let (address, _) = start("127.0.0.1:0");
        let rows = [
            ("Host: localhost", true),
            ("Host: LOCALHOST:9", true),
            ("Host: 127.0.0.1", true),
            ("Host: 127.3.2.1:80", true),
            ("Host: [::1]:80", true),
            ("Host: evil.example", false),
            ("Host: localhost.evil.example", false),
            ("Host: 127.0.0.1.evil.example", false),
            ("Host: 10.0.0.1", false),
            ("Host: [::2]", false),
            ("Host: [::1", false),
            ("Host:", false),
            ("Host: localhost\r\nHost: evil.example", false),
        ];
        for (host, accepted) in rows {
            let answer = ask(address, &format!("GET /status HTTP/1.1\r\n{host}"));
            assert_eq!(answer.starts_with("HTTP/1.1 200"), accepted, "{host}: {answer}");
        }
        let absolute = ask(address, "GET http://evil.example/status HTTP/1.1\r\nHost: localhost");
        assert!(absolute.starts_with("HTTP/1.1 421"), "{absolute}");
        assert!(ask(address, "GET /status HTTP/1.0").starts_with("HTTP/1.0 200"));
    }

    #[test]
    fn off_loopback_only_health_is_served() {
        let (address, _) = start("0.0.0.0:0");
        let address = SocketAddr::from(([127, 0, 0, 1], address.port()));
        for (path, status) in [("/healthz", 200), ("/readyz", 200), ("/status", 404), ("/metrics", 404)] {
            let answer = ask(address, &format!("GET {path} HTTP/1.1\r\nHost: pod.example"));
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
        }
    }

    #[test]
    fn a_taken_address_is_an_error_that_names_it() {
        let (address, report) = start("127.0.0.1:0");
        let error = serve(address, report).expect_err("taken").to_string();
        assert!(error.contains(&address.to_string()), "{error}");
    }

    #[test]
    fn connections_beyond_the_bound_wait_for_one_to_leave() {
        let (address, _) = start("127.0.0.1:0");
        let mut held: Vec<_> =
            (0..CONNECTION_COUNT_MAX).map(|_| TcpStream::connect(address).unwrap()).collect();
        // Each held connection is known to be accepted once it was answered.
        for stream in &mut held {
            write!(stream, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
        }
        let mut waiting = TcpStream::connect(address).unwrap();
        write!(waiting, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        waiting.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert!(waiting.read(&mut [0; 16]).is_err(), "beyond the bound");
        held.pop();
        waiting.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert!(waiting.read(&mut [0; 16]).unwrap() > 0);
    }
}
