//! One client's TLS and HTTP on the floor: ciphertext in, ciphertext of answers out, in place and unbuffered.

use std::sync::Arc;

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{Error, ServerConfig};

/// Heads longer than this end their connection.
const HEAD_SIZE_MAX: usize = 16 * 1024;
/// What a record adds to its content, at most.
const RECORD_OVERHEAD: usize = 64;
const BODY_SIZE: usize = 200;
const ID_SIZE_MAX: usize = 64;

/// A client's session.
pub struct Session {
    tls: Box<UnbufferedServerConnection>,
    /// The beginning of a record.
    tail: Vec<u8>,
    /// The beginning of a head, and behind it whole ones that wait to be answered.
    heads: Vec<u8>,
    answer: Vec<u8>,
}

impl Session {
    /// Before the first byte.
    pub fn new(config: Arc<ServerConfig>) -> Result<Session, Error> {
        let tls = Box::new(UnbufferedServerConnection::new(config)?);
        Ok(Session { tls, tail: Vec::new(), heads: Vec::new(), answer: Vec::new() })
    }

    /// Takes ciphertext; what is to be sent is appended to `out`. Whether the connection goes on.
    pub fn take(&mut self, bytes: &mut [u8], out: &mut Vec<u8>) -> Result<bool, Error> {
        if self.tail.is_empty() {
            let used = open(&mut self.tls, &mut self.heads, bytes, out)?;
            self.tail.extend_from_slice(&bytes[used..]);
            return self.answer_heads(out);
        }
        let mut tail = std::mem::take(&mut self.tail);
        tail.extend_from_slice(bytes);
        let used = open(&mut self.tls, &mut self.heads, &mut tail, out)?;
        tail.drain(..used);
        if !tail.is_empty() {
            self.tail = tail;
        }
        self.answer_heads(out)
    }

    /// Answers every whole head; whether all of them were GETs.
    fn answer_heads(&mut self, out: &mut Vec<u8>) -> Result<bool, Error> {
        let mut used = 0;
        while let Some(size) = memchr::memmem::find(&self.heads[used..], b"\r\n\r\n") {
            let head = &self.heads[used..used + size];
            if !head.starts_with(b"GET ") {
                return Ok(false);
            }
            self.answer.clear();
            answer(id_of(head), &mut self.answer);
            seal(&mut self.tls, &self.answer, out)?;
            used += size + 4;
        }
        self.heads.drain(..used);
        if self.heads.is_empty() {
            // At rest a client holds its TLS state and nothing else, as one of the gateway does.
            self.heads = Vec::new();
            self.answer = Vec::new();
        }
        Ok(self.heads.len() < HEAD_SIZE_MAX)
    }
}

/// `id=` in the request line.
fn id_of(head: &[u8]) -> &[u8] {
    let line = &head[..memchr::memchr(b'\r', head).unwrap_or(head.len())];
    let Some(at) = memchr::memmem::find(line, b"id=") else { return b"-" };
    let rest = &line[at + 3..];
    let end = rest.iter().position(|byte| b"& ".contains(byte)).unwrap_or(rest.len());
    &rest[..end.min(ID_SIZE_MAX)]
}

/// 200 bytes that repeat the id, so that a client can tell its answer from another's.
fn answer(id: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 200\r\nX-Id: ");
    out.extend_from_slice(id);
    out.extend_from_slice(b"\r\n\r\nid=");
    let body = out.len() - 3;
    out.extend_from_slice(id);
    out.resize(body + BODY_SIZE, b'.');
}

/// Opens records in place: how many bytes were used.
fn open(
    tls: &mut UnbufferedServerConnection,
    heads: &mut Vec<u8>,
    bytes: &mut [u8],
    out: &mut Vec<u8>,
) -> Result<usize, Error> {
    let mut used = 0;
    loop {
        let UnbufferedStatus { mut discard, state, .. } = tls.process_tls_records(&mut bytes[used..]);
        let mut waits = false;
        match state? {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard += record.discard;
                    heads.extend_from_slice(record.payload);
                }
            }
            ConnectionState::EncodeTlsData(mut data) => encode(|room| data.encode(room), out)?,
            ConnectionState::TransmitTlsData(data) => data.done(),
            // The end of the connection itself follows, and is waited for.
            ConnectionState::PeerClosed => {}
            _ => waits = true,
        }
        used += discard;
        if waits {
            return Ok(used);
        }
    }
}

fn encode(
    mut write: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let start = out.len();
    let mut room = 1024;
    loop {
        out.resize(start + room, 0);
        match write(&mut out[start..]) {
            Ok(size) => {
                out.truncate(start + size);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(needed)) => room = needed.required_size,
            Err(EncodeError::AlreadyEncoded) => {
                out.truncate(start);
                return Ok(());
            }
        }
    }
}

fn seal(tls: &mut UnbufferedServerConnection, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    loop {
        let UnbufferedStatus { state, .. } = tls.process_tls_records(&mut []);
        match state? {
            ConnectionState::WriteTraffic(mut traffic) => {
                let start = out.len();
                out.resize(start + plain.len() + RECORD_OVERHEAD, 0);
                let size = traffic.encrypt(plain, &mut out[start..]).map_err(|_| Error::EncryptError)?;
                out.truncate(start + size);
                return Ok(());
            }
            ConnectionState::EncodeTlsData(mut data) => encode(|room| data.encode(room), out)?,
            ConnectionState::TransmitTlsData(data) => data.done(),
            _ => return Err(Error::HandshakeNotComplete),
        }
    }
}
