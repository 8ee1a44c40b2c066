//! Asking a running role, from the outside: over its admin listener or its control socket.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::{material, socket};
use crate::limits;
use crate::settings::AdminSettings;
use crate::transport::tls_config::{OriginTrust, for_origin};

/// Where a role is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Host (IPv6 without brackets) and port of an admin listener, and whom to believe there; without
    /// that, in plain.
    Listener {
        /// Name or address.
        host: String,
        /// Its port.
        port: u16,
        /// TLS.
        trust: Option<Trust>,
        /// File with the token.
        token_file: Option<PathBuf>,
    },
    /// A control socket.
    Socket(PathBuf),
}

/// Whom to believe, PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Chains to one of these certificates, for the name that was dialled.
    Authority(PathBuf),
    /// Exactly the first certificate of this file, whatever it says.
    Certificate(PathBuf),
}

impl Target {
    /// The admin listener of a role of this machine with these settings; paths start from `folder`.
    pub fn of(settings: &AdminSettings, folder: &Path) -> Target {
        let host = match settings.address.ip() {
            // Who listens everywhere listens here.
            IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(address) if address.is_unspecified() => IpAddr::from(Ipv6Addr::LOCALHOST),
            address => address,
        };
        let protection = settings.protection.as_ref();
        Target::Listener {
            host: host.to_string(),
            port: settings.address.port(),
            trust: protection.map(|files| Trust::Certificate(folder.join(&files.identity.chain))),
            token_file: protection.map(|files| folder.join(&files.token_file)),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Listener { host, port, trust, .. } => {
                let scheme = if trust.is_some() { "https" } else { "http" };
                if host.contains(':') {
                    write!(f, "{scheme}://[{host}]:{port}")
                } else {
                    write!(f, "{scheme}://{host}:{port}")
                }
            }
            Target::Socket(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// As in 200.
    pub status: u16,
    /// Octets that are no UTF-8 are replaced.
    pub body: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// A file that we need is not what it must be.
    #[error("{0}")]
    File(String),
    /// Nobody is there.
    #[error("{0}")]
    Unreachable(std::io::Error),
    /// Somebody is there, and the talk failed.
    #[error("{0}")]
    Broken(String),
    /// Somebody is there, and does not answer.
    #[error("no answer within {} s", limits::ADMIN_ANSWER_WITHIN.as_secs())]
    Silent,
}

/// Asks, and waits for the answer; for a while only.
///
/// # Errors
/// No answer.
pub fn ask(target: &Target, method: &str, path: &str, body: &str) -> Result<Answer, AskError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| AskError::Broken(error.to_string()))?;
    let method =
        Method::from_bytes(method.as_bytes()).map_err(|error| AskError::Broken(error.to_string()))?;
    let request = Request::builder().method(method).uri(path).header(HOST, host(target));
    let request = match token(target)? {
        Some(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
        None => request,
    };
    let request = request.body(body.to_owned()).map_err(|error| AskError::Broken(error.to_string()))?;
    let answer = async {
        let within: Duration = limits::ADMIN_ANSWER_WITHIN;
        tokio::time::timeout(within, reach(target, request)).await.unwrap_or(Err(AskError::Silent))
    };
    runtime.block_on(answer)
}

fn host(target: &Target) -> String {
    let text = target.to_string();
    match (target, text.split_once("://")) {
        (Target::Listener { .. }, Some((_, authority))) => authority.to_owned(),
        _ => "localhost".to_owned(),
    }
}

fn token(target: &Target) -> Result<Option<String>, AskError> {
    let Target::Listener { token_file: Some(path), .. } = target else { return Ok(None) };
    let wrong = |(found, expected)| AskError::File(format!("token file: found {found}, expected {expected}"));
    material::read_token(path).map(Some).map_err(wrong)
}

async fn reach(target: &Target, request: Request<String>) -> Result<Answer, AskError> {
    let (host, port, trust) = match target {
        Target::Listener { host, port, trust, .. } => (host, port, trust),
        Target::Socket(path) => {
            let stream = socket::connect(path).and_then(UnixStream::from_std);
            return talk(stream.map_err(AskError::Unreachable)?, request).await;
        }
    };
    let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(AskError::Unreachable)?;
    let Some(trust) = trust else { return talk(stream, request).await };
    let tls = TlsConnector::from(trust.config()?);
    let name = ServerName::try_from(host.clone()).map_err(|error| AskError::Broken(error.to_string()))?;
    let stream =
        tls.connect(name, stream).await.map_err(|error| AskError::Broken(format!("TLS: {error}")))?;
    talk(stream, request).await
}

impl Trust {
    fn config(&self) -> Result<std::sync::Arc<rustls::ClientConfig>, AskError> {
        let read = |path| {
            material::certificates(path)
                .map_err(|found| AskError::File(format!("found {found}, expected PEM with a certificate")))
        };
        let trust = match self {
            Trust::Authority(path) => OriginTrust::Roots(read(path)?),
            Trust::Certificate(path) => OriginTrust::Thumbprint(material::sha256(&read(path)?[0])),
        };
        for_origin(trust, None).map_err(|error| AskError::File(error.to_string()))
    }
}

async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<String>,
) -> Result<Answer, AskError> {
    let broken = |error: hyper::Error| AskError::Broken(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
    let body = Limited::new(body, limits::ADMIN_ANSWER_SIZE_MAX).collect().await;
    let body = body.map_err(|error| AskError::Broken(error.to_string()))?.to_bytes();
    Ok(Answer { status: head.status.as_u16(), body: String::from_utf8_lossy(&body).into_owned() })
}
