//! A client that does what curl cannot: many requests in one write, half-closed connections, heads
//! byte by byte. TLS is rustls over a blocking socket; answers are read by a plain parser of its own.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, SupportedProtocolVersion,
};

use crate::harness::{PATIENCE, SERVICE};

pub struct Client {
    stream: StreamOwned<ClientConnection, TcpStream>,
    /// Read and not yet used.
    ahead: Vec<u8>,
}

/// An answer as it came.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub reason: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        find(&self.fields, name)
    }

    pub fn trailer(&self, name: &str) -> Option<&str> {
        find(&self.trailers, name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn find<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(held, _)| held.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

pub fn config(ca: &Path, pair: Option<(&Path, &Path)>) -> Arc<ClientConfig> {
    config_of(rustls::DEFAULT_VERSIONS, ca, pair)
}

/// The same with these versions of TLS alone.
pub fn config_of(
    versions: &[&'static SupportedProtocolVersion],
    ca: &Path,
    pair: Option<(&Path, &Path)>,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match pair {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_file_iter(certificate).unwrap().map(Result::unwrap).collect();
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()
        }
    })
}

impl Client {
    pub fn connect(address: SocketAddr, ca: &Path, pair: Option<(&Path, &Path)>) -> io::Result<Client> {
        Client::connect_with(address, config(ca, pair), PATIENCE)
    }

    /// `patience` bounds the handshake and every read after it.
    pub fn connect_with(
        address: SocketAddr,
        config: Arc<ClientConfig>,
        patience: Duration,
    ) -> io::Result<Client> {
        Client::over(TcpStream::connect(address)?, config, patience)
    }

    /// The same over a connection of the caller's.
    pub fn over(socket: TcpStream, config: Arc<ClientConfig>, patience: Duration) -> io::Result<Client> {
        Client::behind(&[], socket, config, patience)
    }

    /// The same with other bytes before the client's first, in one write with them.
    pub fn behind(
        first: &[u8],
        socket: TcpStream,
        config: Arc<ClientConfig>,
        patience: Duration,
    ) -> io::Result<Client> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(patience))?;
        socket.set_write_timeout(Some(patience))?;
        let name = ServerName::try_from(SERVICE).unwrap();
        let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, socket);
        let mut first = first.to_vec();
        while stream.conn.wants_write() {
            stream.conn.write_tls(&mut first)?;
        }
        stream.sock.write_all(&first)?;
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Client { stream, ahead: Vec::new() })
    }

    /// Whether it took up an earlier session.
    pub fn is_resumed(&self) -> bool {
        self.stream.conn.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    pub fn set_patience(&self, patience: Duration) {
        self.stream.sock.set_read_timeout(Some(patience)).unwrap();
        self.stream.sock.set_write_timeout(Some(patience)).unwrap();
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap();
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Sends bytes in records, of which the last was changed on its way.
    pub fn send_changed(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut records = Vec::new();
        for piece in bytes.chunks(16 * 1024) {
            self.stream.conn.writer().write_all(piece)?;
            while self.stream.conn.wants_write() {
                self.stream.conn.write_tls(&mut records)?;
            }
        }
        if let Some(last) = records.last_mut() {
            *last ^= 1;
        }
        self.stream.sock.write_all(&records)
    }

    /// One request without a body, and its answer.
    pub fn ask(&mut self, method: &str, target: &str) -> io::Result<Answer> {
        self.try_send(format!("{method} {target} HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n").as_bytes())?;
        if method == "HEAD" { self.read_headless() } else { self.read() }
    }

    /// Says that nothing more comes, and goes on reading.
    pub fn half_close(&mut self) {
        self.stream.conn.send_close_notify();
        self.stream.flush().unwrap();
        self.stream.sock.shutdown(Shutdown::Write).unwrap();
    }

    /// Ends TCP's sending side without TLS's goodbye.
    pub fn cut(&mut self) {
        self.stream.sock.shutdown(Shutdown::Write).unwrap();
    }

    /// Whether anything of an answer has come that was not used.
    pub fn has_heard(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Whether the other end has ended the connection; waits as long as patience allows.
    pub fn is_ended(&mut self) -> bool {
        !matches!(self.fill(), Ok(true))
    }

    /// Whether the other end says goodbye by TLS: true; or only stops, or resets, which is a cut. Nothing else
    /// may come.
    pub fn ends_with_goodbye(&mut self) -> bool {
        let StreamOwned { conn, sock } = &mut self.stream;
        loop {
            match conn.reader().read(&mut [0; 16]) {
                Ok(size) => {
                    assert_eq!((size, self.ahead.len()), (0, 0), "bytes behind what was awaited");
                    return true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
            match conn.read_tls(sock) {
                Ok(_) => conn.process_new_packets().map(drop).unwrap(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("it does not end"),
                Err(_) => return false,
            }
        }
    }

    /// Reads without ever writing: what could not be sent must not keep an answer from being read.
    fn fill(&mut self) -> io::Result<bool> {
        let StreamOwned { conn, sock } = &mut self.stream;
        let mut piece = [0; 16 * 1024];
        loop {
            match conn.reader().read(&mut piece) {
                Ok(size) => {
                    self.ahead.extend_from_slice(&piece[..size]);
                    return Ok(size > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                Err(error) => return Err(error),
            }
            conn.read_tls(sock)?;
            conn.process_new_packets().map_err(io::Error::other)?;
        }
    }

    fn need(&mut self) -> io::Result<()> {
        if self.fill()? { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.ahead.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.ahead.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.need()?;
        }
    }

    pub fn bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.ahead.len() < count {
            self.need()?;
        }
        Ok(self.ahead.drain(..count).collect())
    }

    fn fields(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// A head, interim ones too, without its body.
    pub fn read_headless(&mut self) -> io::Result<Answer> {
        let line = self.line()?;
        let mut parts = line.splitn(3, ' ');
        let (_, status) = (parts.next(), parts.next().and_then(|status| status.parse().ok()));
        let reason = parts.next().unwrap_or_default().to_owned();
        let fields = self.fields()?;
        Ok(Answer {
            status: status.ok_or(io::ErrorKind::InvalidData)?,
            reason,
            fields,
            body: Vec::new(),
            trailers: Vec::new(),
        })
    }

    /// A final answer with its body; not for HEAD.
    pub fn read(&mut self) -> io::Result<Answer> {
        let mut answer = self.read_headless()?;
        if answer.field("transfer-encoding") == Some("chunked") {
            loop {
                let size = self.line()?;
                let size = usize::from_str_radix(&size, 16).map_err(io::Error::other)?;
                if size == 0 {
                    break;
                }
                let piece = self.bytes(size + 2)?;
                answer.body.extend_from_slice(&piece[..size]);
            }
            answer.trailers = self.fields()?;
        } else if let Some(length) = answer.field("content-length") {
            let length = length.parse().map_err(io::Error::other)?;
            answer.body = self.bytes(length)?;
        } else if answer.status >= 200 && !matches!(answer.status, 204 | 304) {
            while self.fill()? {}
            answer.body = std::mem::take(&mut self.ahead);
        }
        Ok(answer)
    }
}
