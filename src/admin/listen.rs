//! Connections to admin listeners and to the control socket: counted, and ended in time. Neither a
//! forgotten browser tab nor a stuck scraper nor a stranger can hold the role's descriptors, and when all
//! places are taken, who has been there longest is shown out: strangers that say nothing must not keep a
//! liveness probe waiting.

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener as StdTcpListener;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::Doorway;
use crate::limits;

/// Before accepting again when the process has no descriptor left.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Where connections come in.
pub(super) enum Door {
    Plain(TcpListener),
    Tls(TcpListener, TlsAcceptor),
    Local(UnixListener),
}

/// Who is at the other end of the control socket, for the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    pub(super) uid: Option<u32>,
    pub(super) pid: Option<i32>,
}

enum Accepted {
    Plain(TcpStream),
    Tls(TcpStream, TlsAcceptor),
    Local(UnixStream),
}

impl Door {
    /// Listeners must not block; to be called within the runtime.
    pub(super) fn tcp(listener: StdTcpListener, tls: Option<Arc<ServerConfig>>) -> io::Result<Door> {
        let listener = TcpListener::from_std(listener)?;
        Ok(match tls {
            Some(config) => Door::Tls(listener, TlsAcceptor::from(config)),
            None => Door::Plain(listener),
        })
    }

    /// See [`Door::tcp`].
    pub(super) fn local(listener: StdUnixListener) -> io::Result<Door> {
        UnixListener::from_std(listener).map(Door::Local)
    }

    /// Answers by `router` whenever it is open, until it is given back.
    pub(super) async fn serve(self, router: Router, mut doorway: watch::Receiver<Doorway>) {
        let mut connections: VecDeque<AbortHandle> = VecDeque::new();
        while *doorway.borrow() != Doorway::Gone {
            let Some(accepted) = self.next(&mut doorway).await else { continue };
            match accepted {
                Ok(accepted) => {
                    connections.retain(|connection| !connection.is_finished());
                    if connections.len() >= limits::ADMIN_CONNECTIONS_MAX
                        && let Some(first) = connections.pop_front()
                    {
                        first.abort();
                    }
                    let live = timeout(limits::ADMIN_CONNECTION_WITHIN, accepted.live(router.clone()));
                    connections.push_back(tokio::spawn(live).abort_handle());
                }
                Err(_) => sleep(ACCEPT_AGAIN_AFTER).await,
            }
        }
    }

    /// The next connection; `None`: it was closed meanwhile, or is given back.
    async fn next(&self, doorway: &mut watch::Receiver<Doorway>) -> Option<io::Result<Accepted>> {
        when(doorway, |now| now != Doorway::Closed).await;
        let closed = async {
            when(doorway, |now| now != Doorway::Open).await;
            None
        };
        // Given up, an accept has taken nobody.
        futures_lite::future::or(closed, async { Some(self.accept().await) }).await
    }

    async fn accept(&self) -> io::Result<Accepted> {
        Ok(match self {
            Door::Plain(listener) => Accepted::Plain(listener.accept().await?.0),
            Door::Tls(listener, tls) => Accepted::Tls(listener.accept().await?.0, tls.clone()),
            Door::Local(listener) => Accepted::Local(listener.accept().await?.0),
        })
    }
}

/// Waits until it is so. When nobody can change it any more it stays as it is.
async fn when(doorway: &mut watch::Receiver<Doorway>, so: impl Fn(Doorway) -> bool) {
    if doorway.wait_for(|now| so(*now)).await.is_err() {
        std::future::pending().await
    }
}

impl Accepted {
    async fn live(self, router: Router) {
        match self {
            Accepted::Plain(stream) => converse(stream, router).await,
            Accepted::Tls(stream, tls) => {
                match timeout(limits::ADMIN_HEAD_WITHIN, tls.accept(stream)).await {
                    Ok(Ok(stream)) => converse(stream, router).await,
                    Ok(Err(error)) => tracing::debug!(%error, "admin listener: handshake failed"),
                    Err(_) => tracing::debug!("admin listener: no handshake in time"),
                }
            }
            Accepted::Local(stream) => {
                let peer = stream.peer_cred().ok();
                let caller = Caller {
                    uid: peer.as_ref().map(tokio::net::unix::UCred::uid),
                    pid: peer.as_ref().and_then(tokio::net::unix::UCred::pid),
                };
                converse(stream, router.layer(Extension(caller))).await;
            }
        }
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::ADMIN_HEAD_WITHIN)
        .max_buf_size(limits::ADMIN_HEAD_SIZE_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = connection.await {
        tracing::debug!(%error, "admin connection");
    }
}
