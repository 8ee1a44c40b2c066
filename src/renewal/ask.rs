//! Asking the issuer, from inside: over mutual TLS with the internal certificate in use.

use std::sync::Arc;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Carries, NotCarried};
use crate::issuer::{LIST, RENEWAL};
use crate::limits::{INTERNAL_LIST_SIZE_MAX, ISSUER_ANSWER_WITHIN};
use crate::logs;
use crate::pki::ISSUER_TLS_NAME;
use crate::settings::DialAddress;
use crate::transport::{Internal, tls_config};

/// Why the issuer gives nothing.
#[derive(Debug, thiserror::Error)]
pub enum AskFault {
    /// Its own words.
    #[error("the issuer: {0}")]
    Refused(String),
    /// It could not be asked.
    #[error("{0}")]
    Failed(String),
}

impl AskFault {
    /// What somebody outside may know: not what is where inside.
    pub fn outside(&self) -> &str {
        match self {
            AskFault::Refused(text) => text,
            AskFault::Failed(_) => NOT_ASKED,
        }
    }
}

/// What somebody outside hears where the issuer is not reached.
pub const NOT_ASKED: &str = "the issuer could not be asked";

/// Where it is, and how it is spoken to.
#[derive(Clone)]
pub struct Issuer {
    host: String,
    port: u16,
    tls: Arc<ClientConfig>,
}

impl Issuer {
    /// At this address, known by the internal authority.
    ///
    /// # Errors
    /// When rustls has no TLS 1.3 with our algorithms.
    pub fn new(address: &DialAddress, internal: &Arc<Internal>) -> Result<Issuer, rustls::Error> {
        let DialAddress { host, port } = address.clone();
        Ok(Issuer { host, port, tls: tls_config::for_issuer(internal)? })
    }

    /// The list, in DER; empty where the issuer has none.
    ///
    /// # Errors
    /// Why there is none.
    pub fn list(&self) -> Result<Vec<u8>, String> {
        self.ask(Method::GET, LIST, Vec::new()).map_err(|fault| fault.to_string())
    }

    /// What comes of a renewal: a chain.
    ///
    /// # Errors
    /// Why there is none.
    pub fn renew(&self, message: &[u8]) -> Result<Vec<u8>, AskFault> {
        self.ask(Method::POST, RENEWAL, message.to_vec())
    }

    fn ask(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Vec<u8>, AskFault> {
        let failed =
            |text: String| AskFault::Failed(format!("the issuer {}:{}: {text}", self.host, self.port));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| failed(error.to_string()))?;
        let silent = || format!("no answer within {} s", ISSUER_ANSWER_WITHIN.as_secs());
        let answer = runtime.block_on(async {
            let talk = self.talk(method, path, body);
            tokio::time::timeout(ISSUER_ANSWER_WITHIN, talk).await.unwrap_or_else(|_| Err(silent()))
        });
        // Looking up a name cannot be given up; it must not hold up whoever asked.
        runtime.shutdown_background();
        answer.map_err(failed)?.map_err(AskFault::Refused)
    }

    /// What it gives, or why it gives nothing.
    async fn talk(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Result<Vec<u8>, String>, String> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
        let stream = stream.map_err(|error| error.to_string())?;
        let name = ServerName::try_from(ISSUER_TLS_NAME).map_err(|error| error.to_string())?;
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await;
        let stream = stream.map_err(|error| format!("TLS: {error}"))?;
        let broken = |error: hyper::Error| error.to_string();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header(HOST, ISSUER_TLS_NAME);
        let request = request.body(Full::new(Bytes::from(body))).map_err(|error| error.to_string())?;
        let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
        let body = Limited::new(body, INTERNAL_LIST_SIZE_MAX).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        if head.status == StatusCode::OK {
            return Ok(Ok(body.to_vec()));
        }
        let told = serde_json::from_slice::<serde_json::Value>(&body).ok();
        let told = told.and_then(|told| Some(told.get("error")?.as_str()?.to_owned())).unwrap_or_default();
        Ok(Err(logs::bounded(format!("{}: {}", head.status.as_u16(), told.escape_debug()))))
    }
}

impl Carries for Issuer {
    fn carry(
        &self,
        message: &dyn Fn() -> Result<Vec<u8>, String>,
        take: &mut dyn FnMut(&[u8]) -> Result<(), String>,
    ) -> Result<(), NotCarried> {
        let message = message().map_err(NotCarried::Failed)?;
        let chain = self.renew(&message).map_err(|fault| NotCarried::Failed(fault.to_string()))?;
        take(&chain).map_err(NotCarried::Failed)
    }
}
