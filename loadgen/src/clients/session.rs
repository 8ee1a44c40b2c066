//! A connection's bytes, plain or TLS: what comes in is opened in place, what goes out is sealed.
//!
//! Knows no sockets. TLS is rustls's unbuffered API: records are decrypted where they lie in the lent receive buffer; only the
//! tail of an incomplete record is kept.

use rustls::HandshakeKind;
use rustls::client::UnbufferedClientConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};

/// One connection's way in and out.
pub enum Session {
    /// As it is.
    Plain,
    /// Through TLS.
    Tls(Box<Tls>),
}

/// The TLS of one connection.
pub struct Tls {
    connection: UnbufferedClientConnection,
    tail: Vec<u8>,
    has_begun: bool,
}

/// What came of received bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Requests may be sent.
    pub is_ready: bool,
    /// The peer said that nothing more comes.
    pub has_ended: bool,
}

/// Why a session ended.
#[derive(Debug)]
pub enum SessionError<E> {
    /// TLS went wrong.
    Tls(rustls::Error),
    /// The content was refused by its reader.
    Content(E),
}

impl Session {
    /// A session in TLS, or a plain one.
    pub fn new(connection: Option<UnbufferedClientConnection>) -> Self {
        connection.map_or(Self::Plain, |connection| {
            Self::Tls(Box::new(Tls { connection, tail: Vec::new(), has_begun: false }))
        })
    }

    /// Whether the handshake resumed an earlier session.
    pub fn is_resumed(&self) -> bool {
        match self {
            Self::Plain => false,
            Self::Tls(tls) => tls.connection.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }

    /// Opens `bytes` (none, to begin) and passes their content to `reader`; replies of TLS itself go to `staged`.
    pub fn open<E>(
        &mut self,
        bytes: &mut [u8],
        staged: &mut Vec<u8>,
        mut reader: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Opened, SessionError<E>> {
        let tls = match self {
            Self::Plain if bytes.is_empty() => return Ok(Opened { is_ready: true, has_ended: false }),
            Self::Plain => {
                reader(bytes).map_err(SessionError::Content)?;
                return Ok(Opened { is_ready: true, has_ended: false });
            }
            Self::Tls(tls) => tls,
        };
        if tls.tail.is_empty() {
            let (used, opened) = open_records(&mut tls.connection, bytes, staged, &mut reader)?;
            tls.tail.extend_from_slice(&bytes[used..]);
            tls.has_begun |= opened.is_ready;
            return Ok(opened);
        }
        tls.tail.extend_from_slice(bytes);
        let (used, opened) = open_records(&mut tls.connection, &mut tls.tail, staged, &mut reader)?;
        tls.tail.drain(..used);
        if tls.tail.is_empty() {
            tls.tail = Vec::new();
        }
        tls.has_begun |= opened.is_ready;
        Ok(opened)
    }

    /// Seals `plain` behind `staged`.
    pub fn seal(&mut self, plain: &[u8], staged: &mut Vec<u8>) -> Result<(), rustls::Error> {
        match self {
            Self::Plain => {
                staged.extend_from_slice(plain);
                Ok(())
            }
            Self::Tls(tls) => write(&mut tls.connection, staged, Some(plain)),
        }
    }

    /// Says that nothing more comes from us.
    pub fn end(&mut self, staged: &mut Vec<u8>) -> Result<(), rustls::Error> {
        match self {
            Self::Tls(tls) if tls.has_begun => write(&mut tls.connection, staged, None),
            Self::Plain | Self::Tls(_) => Ok(()),
        }
    }

    /// Whether this is plain, so that content need not be copied to be sealed.
    pub fn is_plain(&self) -> bool {
        matches!(self, Self::Plain)
    }
}

fn open_records<E>(
    connection: &mut UnbufferedClientConnection,
    bytes: &mut [u8],
    staged: &mut Vec<u8>,
    reader: &mut impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(usize, Opened), SessionError<E>> {
    let (mut used, mut opened) = (0, Opened::default());
    loop {
        let UnbufferedStatus { mut discard, state, .. } = connection.process_tls_records(&mut bytes[used..]);
        let mut is_idle = false;
        match state.map_err(SessionError::Tls)? {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let record = record.map_err(SessionError::Tls)?;
                    discard += record.discard;
                    reader(record.payload).map_err(SessionError::Content)?;
                }
            }
            ConnectionState::EncodeTlsData(mut data) => {
                encode(staged, |room| data.encode(room)).map_err(SessionError::Tls)?
            }
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::WriteTraffic(_) => (opened.is_ready, is_idle) = (true, true),
            ConnectionState::PeerClosed => opened.has_ended = true,
            ConnectionState::Closed => (opened.has_ended, is_idle) = (true, true),
            ConnectionState::BlockedHandshake => is_idle = true,
            _ => is_idle = true,
        }
        used += discard;
        if is_idle {
            return Ok((used, opened));
        }
    }
}

/// Appends a handshake record of unknown size.
fn encode(
    staged: &mut Vec<u8>,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), rustls::Error> {
    let start = staged.len();
    let mut room = 1024;
    loop {
        staged.resize(start + room, 0);
        match write(&mut staged[start..]) {
            Ok(size) => {
                staged.truncate(start + size);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(more)) => room = more.required_size,
            Err(EncodeError::AlreadyEncoded) => {
                staged.truncate(start);
                return Ok(());
            }
        }
    }
}

/// Seals content, or the closing alert when there is none.
fn write(
    connection: &mut UnbufferedClientConnection,
    staged: &mut Vec<u8>,
    content: Option<&[u8]>,
) -> Result<(), rustls::Error> {
    let start = staged.len();
    loop {
        let UnbufferedStatus { state, .. } = connection.process_tls_records(&mut []);
        match state? {
            ConnectionState::EncodeTlsData(mut data) => encode(staged, |room| data.encode(room))?,
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::WriteTraffic(mut traffic) => {
                let start = staged.len();
                let size = content.map_or(0, <[u8]>::len);
                // A record adds at most 5 + 8 + 17 bytes to at most 16 KiB of content; 64 leaves room for all of it.
                let mut room = size + (size / 16_000 + 1) * 64;
                loop {
                    staged.resize(start + room, 0);
                    let written = match content {
                        Some(content) => traffic.encrypt(content, &mut staged[start..]),
                        None => traffic.queue_close_notify(&mut staged[start..]),
                    };
                    match written {
                        Ok(size) => {
                            staged.truncate(start + size);
                            return Ok(());
                        }
                        Err(EncryptError::InsufficientSize(more)) => room = more.required_size,
                        Err(EncryptError::EncryptExhausted) => {
                            staged.truncate(start);
                            return Err(rustls::Error::EncryptError);
                        }
                    }
                }
            }
            _ => {
                staged.truncate(start);
                return Err(rustls::Error::General("TLS session takes no content".into()));
            }
        }
    }
}
