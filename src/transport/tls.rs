//! TLS over bytes: rustls without buffers of its own. What is to be sent is appended to the caller's
//! buffer. Knows no socket; certificates and trust come with the configuration (`tls_config.rs`).
//!
//! rustls makes the handshake and protects the first records; a TLS 1.3 connection that goes on to
//! carry traffic is handed over to `records.rs`, where the configuration allows it.

use std::ops::Range;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, Error, HandshakeKind, ProtocolVersion, ServerConfig};

use super::records::{self, Opened, Records};
use super::reseal::{self, Resealed};
use crate::allocations::{Whose, of_this_thread};
use crate::limits::FRAME_HEADER_SIZE;

/// One TLS connection, either side.
pub struct Tls {
    session: Session,
    handshaken: bool,
    peer_closed: bool,
    refused_renegotiation: bool,
    /// Records that are decrypted and hold the beginning of a handshake message: rustls remembers where
    /// in the bytes it lies, and panics when asked anything without them. Empty almost always.
    held: Vec<u8>,
    /// The peer broke the protocol.
    failed: bool,
    /// Bytes that rustls still carries before the connection is handed over; `None`: never. Small, because
    /// each connected client holds it.
    hand_over_in: Option<u16>,
}

enum Session {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
    /// The handshake is over, and traffic is carried.
    Handed(Box<Handed>),
    /// rustls did not let go of its keys: nothing can be sent or read.
    Gone,
}

/// A connection that rustls handed over, and what was known of it.
struct Handed {
    records: Records,
    certificates: Option<Vec<CertificateDer<'static>>>,
    is_resumed: bool,
    alpn: Option<Vec<u8>>,
}

/// Runs the same code on either kind of connection of rustls: their states differ in a type parameter
/// only.
macro_rules! either {
    ($session:expr, $connection:ident => $body:expr, $handed:pat => $instead:expr, $gone:expr) => {
        match $session {
            Session::Server($connection) => $body,
            Session::Client($connection) => $body,
            Session::Handed($handed) => $instead,
            Session::Gone => $gone,
        }
    };
}

impl Tls {
    /// The accepting side.
    ///
    /// # Errors
    /// When the configuration cannot serve.
    pub fn server(config: Arc<ServerConfig>) -> Result<Tls, Error> {
        let hands_over = config.enable_secret_extraction;
        Ok(Tls::new(Session::Server(Box::new(UnbufferedServerConnection::new(config)?)), hands_over))
    }

    /// The dialling side; the first `receive` with no bytes writes its hello.
    ///
    /// # Errors
    /// When the configuration cannot serve.
    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Tls, Error> {
        let hands_over = config.enable_secret_extraction;
        Ok(Tls::new(Session::Client(Box::new(UnbufferedClientConnection::new(config, name)?)), hands_over))
    }

    fn new(session: Session, hands_over: bool) -> Tls {
        Tls {
            hand_over_in: hands_over.then_some(HAND_OVER_AFTER),
            session,
            handshaken: false,
            peer_closed: false,
            refused_renegotiation: false,
            held: Vec::new(),
            failed: false,
        }
    }

    /// Whether application data may be sent.
    pub fn is_handshaken(&self) -> bool {
        self.handshaken
    }

    /// Whether the peer said that it sends nothing more.
    pub fn is_peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Whether the peer asked for another handshake (TLS 1.2) and was refused: servers that want a
    /// certificate late do. After a handshake of TLS 1.2 nothing else makes rustls speak by itself.
    pub fn has_refused_renegotiation(&self) -> bool {
        self.refused_renegotiation && self.version() == Some(ProtocolVersion::TLSv1_2)
    }

    /// The peer's chain, leaf first, once the handshake is done.
    pub fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        either!(
            &self.session,
            connection => connection.peer_certificates(),
            handed => handed.certificates.as_deref(),
            None
        )
    }

    /// Whether the handshake took up an earlier session.
    pub fn is_resumed(&self) -> bool {
        either!(
            &self.session,
            connection => connection.handshake_kind() == Some(HandshakeKind::Resumed),
            handed => handed.is_resumed,
            false
        )
    }

    /// The version agreed on.
    pub fn version(&self) -> Option<ProtocolVersion> {
        either!(
            &self.session,
            connection => connection.protocol_version(),
            _ => Some(ProtocolVersion::TLSv1_3),
            None
        )
    }

    /// The protocol agreed on by ALPN.
    pub fn alpn(&self) -> Option<&[u8]> {
        either!(
            &self.session,
            connection => connection.alpn_protocol(),
            handed => handed.alpn.as_deref(),
            None
        )
    }

    /// Reads ciphertext from the front of `bytes`, in place: decrypted records go to `plain`, what the
    /// protocol answers is appended to `out`. Gives how many bytes it is done with; the rest is the
    /// beginning of a record and comes again, with more behind it.
    ///
    /// # Errors
    /// The peer broke the protocol; an alert that says so is in `out`.
    pub fn receive(
        &mut self,
        bytes: &mut [u8],
        out: &mut Vec<u8>,
        plain: &mut impl FnMut(&[u8]),
    ) -> Result<usize, Error> {
        if self.is_handed_over() {
            let opened = self.receive_in_place(bytes, out)?;
            if opened.plain > 0 {
                plain(&bytes[..opened.plain]);
            }
            return Ok(opened.used);
        }
        let _counted = of_this_thread(Whose::Tls);
        let Tls { session, handshaken, peer_closed, refused_renegotiation, held, failed, hand_over_in } =
            self;
        // Those bytes are at the front of these.
        *held = Vec::new();
        either!(session, connection => {
            let mut at = 0;
            loop {
                let UnbufferedStatus { mut discard, state } = connection.process_tls_records(&mut bytes[at..]);
                let mut waits = false;
                match state {
                    Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                        while let Some(record) = traffic.next_record() {
                            let record = record?;
                            discard += record.discard;
                            *hand_over_in = hand_over_in.map(|left| less(left, record.payload.len()));
                            let _counted = of_this_thread(Whose::Ours);
                            plain(record.payload);
                        }
                    }
                    Ok(ConnectionState::EncodeTlsData(mut data)) => {
                        *refused_renegotiation |= *handshaken;
                        encode(&mut data, out)?;
                    }
                    Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
                    Ok(ConnectionState::WriteTraffic(_)) => {
                        *handshaken = true;
                        waits = true;
                    }
                    Ok(ConnectionState::PeerClosed) => *peer_closed = true,
                    Ok(ConnectionState::Closed) => {
                        *peer_closed = true;
                        waits = true;
                    }
                    Ok(ConnectionState::BlockedHandshake) => waits = true,
                    // Early data is never offered; a new state would be one this code cannot know.
                    Ok(_) => return Err(Error::General("unexpected TLS state".into())),
                    Err(error) => {
                        *failed = true;
                        // rustls has an alert ready that names the error to the peer, perhaps behind
                        // the flight that it belongs to. Once that is out it must not be asked again:
                        // it would read the same bytes once more.
                        at += discard;
                        let begin = out.len();
                        while !ends_with_alert(&out[begin..]) {
                            let UnbufferedStatus { discard, state } =
                                connection.process_tls_records(&mut bytes[at..]);
                            let Ok(ConnectionState::EncodeTlsData(mut data)) = state else { break };
                            encode(&mut data, out)?;
                            at += discard;
                        }
                        return Err(error);
                    }
                }
                at += discard;
                if waits {
                    if begins_with_record(&bytes[at..]) {
                        *held = bytes[at..].to_vec();
                    }
                    return Ok(at);
                }
            }
        }, _ => unreachable!("looked at above"), Err(Error::HandshakeNotComplete))
    }

    /// Whether received bytes can be opened where they lie.
    pub fn is_handed_over(&self) -> bool {
        matches!(self.session, Session::Handed(_))
    }

    /// As [`Tls::receive`], on a connection that was handed over; the plain bytes lie at the front of
    /// `bytes` afterwards.
    ///
    /// # Errors
    /// As [`Tls::receive`].
    pub(super) fn receive_in_place(&mut self, bytes: &mut [u8], out: &mut Vec<u8>) -> Result<Opened, Error> {
        let Session::Handed(handed) = &mut self.session else { return Err(Error::HandshakeNotComplete) };
        if self.failed {
            return Err(Error::HandshakeNotComplete);
        }
        let opened = handed.records.open(bytes, out);
        self.failed = opened.is_err();
        self.peer_closed = handed.records.is_peer_closed();
        opened
    }

    /// As [`Tls::receive_in_place`], but the plain bytes stay in pieces: see [`Records::open_spaced`].
    ///
    /// # Errors
    /// As [`Tls::receive`].
    pub(super) fn receive_spaced(
        &mut self,
        bytes: &mut [u8],
        pieces: &mut Vec<Range<usize>>,
        out: &mut Vec<u8>,
    ) -> Result<usize, Error> {
        let Session::Handed(handed) = &mut self.session else { return Err(Error::HandshakeNotComplete) };
        if self.failed {
            return Err(Error::HandshakeNotComplete);
        }
        let used = handed.records.open_spaced(bytes, pieces, out);
        self.failed = used.is_err();
        self.peer_closed = handed.records.is_peer_closed();
        used
    }

    /// Seals what lies in `bytes` behind the room for a record's header and before that for its footer. False:
    /// not now, for something else has to be said first or records are not protected here.
    ///
    /// # Errors
    /// When keys are used up.
    pub(super) fn seal_in_place(&mut self, bytes: &mut [u8]) -> Result<bool, Error> {
        match &mut self.session {
            Session::Handed(handed) if !self.failed && handed.records.seals_on(1) => {
                let size = bytes.len() - records::HEADER - records::FOOTER;
                handed.records.seal_in_place(bytes, 0, size).map(|_| true)
            }
            Session::Handed(_) | Session::Server(_) | Session::Client(_) | Session::Gone => Ok(false),
        }
    }

    /// Opens the records in `range` of `bytes` and seals them for `to` at its front: see [`reseal`]. `None`:
    /// not now, for one of the two has something else to say or does not protect its records here.
    ///
    /// # Errors
    /// As [`reseal::reseal`].
    pub(super) fn reseal(
        &mut self,
        to: &mut Tls,
        bytes: &mut [u8],
        range: Range<usize>,
        header: impl Fn(u16) -> [u8; FRAME_HEADER_SIZE],
        out: &mut Vec<u8>,
    ) -> Result<Option<Resealed>, Error> {
        let (Session::Handed(from), Session::Handed(into)) = (&mut self.session, &mut to.session) else {
            return Ok(None);
        };
        if self.failed || to.failed || !into.records.seals_on(reseal::records_of(range.len())) {
            return Ok(None);
        }
        let done = reseal::reseal(&mut from.records, &mut into.records, bytes, range, header, out);
        self.peer_closed = from.records.is_peer_closed();
        match &done {
            Ok(resealed) => self.failed = resealed.outcome.is_err(),
            Err(_) => to.failed = true,
        }
        done.map(Some)
    }

    /// Hands the connection over, once it has carried enough to be worth it.
    fn hand_over(&mut self, carried: usize) -> Result<(), Error> {
        let Some(left) = &mut self.hand_over_in else { return Ok(()) };
        *left = less(*left, carried);
        // Something half heard stays with rustls, which alone knows where it is.
        // Nor does rustls say what it has to, with nothing sent.
        if *left > 0 || carried == 0 || self.peer_closed || !self.held.is_empty() {
            return Ok(());
        }
        self.hand_over_in = None;
        if self.version() != Some(ProtocolVersion::TLSv1_3) {
            return Ok(());
        }
        let certificates = self.peer_certificates().map(<[_]>::to_vec);
        let (is_resumed, alpn) = (self.is_resumed(), self.alpn().map(<[_]>::to_vec));
        let records = match std::mem::replace(&mut self.session, Session::Gone) {
            Session::Server(connection) => Records::of_server(*connection)?,
            Session::Client(connection) => Records::of_client(*connection)?,
            session @ (Session::Handed(_) | Session::Gone) => {
                self.session = session;
                return Ok(());
            }
        };
        self.session = Session::Handed(Box::new(Handed { records, certificates, is_resumed, alpn }));
        Ok(())
    }

    /// Encrypts `bytes` and appends the records to `out`.
    ///
    /// # Errors
    /// Before the handshake is done, after the keys are used up, or after the peer broke the protocol.
    pub fn send(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        if self.failed {
            return Err(Error::HandshakeNotComplete);
        }
        let _counted = of_this_thread(Whose::Tls);
        either!(&mut self.session, connection => loop {
            match connection.process_tls_records(&mut self.held).state? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    let start = out.len();
                    let records = bytes.len() / records::PAYLOAD_MAX + 1;
                    {
                        let _counted = of_this_thread(Whose::Ours);
                        out.resize(start + bytes.len() + records * RECORD_OVERHEAD, 0);
                    }
                    let size = match traffic.encrypt(bytes, &mut out[start..]) {
                        // New keys that the peer asked for are announced before the data.
                        Err(EncryptError::InsufficientSize(needed)) => {
                            out.resize(start + needed.required_size, 0);
                            traffic.encrypt(bytes, &mut out[start..])
                        }
                        sealed => sealed,
                    };
                    out.truncate(start + *size.as_ref().unwrap_or(&0));
                    size.map_err(exhausted)?;
                    // Now nothing that rustls wants to say is waiting.
                    return self.hand_over(bytes.len());
                }
                ConnectionState::EncodeTlsData(mut data) => encode(&mut data, out)?,
                ConnectionState::TransmitTlsData(sent) => sent.done(),
                ConnectionState::PeerClosed => self.peer_closed = true,
                _ => return Err(Error::HandshakeNotComplete),
            }
        }, handed => handed.records.seal(bytes, out), Err(Error::HandshakeNotComplete))
    }

    /// Appends a closing alert to `out`, so that the peer can tell an end from a cut.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        if self.failed {
            return;
        }
        either!(&mut self.session, connection => loop {
            match connection.process_tls_records(&mut self.held).state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let start = out.len();
                    out.resize(start + RECORD_OVERHEAD * 2, 0);
                    let size = traffic.queue_close_notify(&mut out[start..]).unwrap_or(0);
                    out.truncate(start + size);
                    return;
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    if encode(&mut data, out).is_err() {
                        return;
                    }
                }
                Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
                Ok(ConnectionState::PeerClosed) => self.peer_closed = true,
                _ => return,
            }
        }, handed => {
            let start = out.len();
            if handed.records.close(out).is_err() {
                out.truncate(start);
            }
        }, ());
    }
}

/// Whether the last of these records is an alert: by its type, or, encrypted by TLS 1.3, by its size,
/// which is below that of any other record.
fn ends_with_alert(mut records: &[u8]) -> bool {
    const ALERT: u8 = 21;
    const APPLICATION_DATA: u8 = 23;
    let mut is_alert = false;
    while let [kind, _, _, high, low, rest @ ..] = records {
        let size = usize::from(u16::from_be_bytes([*high, *low]));
        is_alert = *kind == ALERT || *kind == APPLICATION_DATA && size == ENCRYPTED_ALERT_SIZE;
        records = rest.get(size..).unwrap_or_default();
    }
    is_alert
}

/// Level, description, type and tag (RFC 8446 5.2, 6).
const ENCRYPTED_ALERT_SIZE: usize = 2 + 1 + 16;

/// Whether a whole record is at the front: one that rustls could not be done with.
fn begins_with_record(bytes: &[u8]) -> bool {
    bytes.first_chunk().is_some_and(|&[_, _, _, high, low]: &[u8; 5]| {
        bytes.len() - 5 >= usize::from(u16::from_be_bytes([high, low]))
    })
}

fn encode<D>(data: &mut EncodeTlsData<'_, D>, out: &mut Vec<u8>) -> Result<(), Error> {
    let start = out.len();
    let mut room = 1024;
    loop {
        out.resize(start + room, 0);
        match data.encode(&mut out[start..]) {
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

fn exhausted(error: EncryptError) -> Error {
    match error {
        EncryptError::EncryptExhausted => Error::EncryptError,
        EncryptError::InsufficientSize(_) => Error::General("a record larger than its bound".into()),
    }
}

/// What is left after `carried` more bytes.
fn less(left: u16, carried: usize) -> u16 {
    left.saturating_sub(u16::try_from(carried).unwrap_or(u16::MAX))
}

/// What rustls carries itself: a connection of one small exchange is not worth the change of hands,
/// which costs about as much as the protection of this.
const HAND_OVER_AFTER: u16 = 8 * 1024;
/// Header 5, explicit nonce 8 (TLS 1.2), content type 1 (TLS 1.3), tag 16; rounded up.
const RECORD_OVERHEAD: usize = 40;

#[cfg(test)]
mod tests {
    use rustls::server::{ClientHello, ResolvesServerCert};
    use rustls::sign::CertifiedKey;

    use super::*;

    #[derive(Debug)]
    struct Nothing;

    impl ResolvesServerCert for Nothing {
        fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            None
        }
    }

    fn server() -> Tls {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has the default versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Nothing));
        Tls::server(Arc::new(config)).expect("a server")
    }

    #[test]
    fn a_handshake_message_beyond_its_bound_is_an_error_however_it_arrives() {
        let hello = [0x16, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff, 0x16, 3, 1, 0, 1, 1];
        for first in 1..=hello.len() {
            let (mut tls, mut out) = (server(), Vec::new());
            let mut received = hello[..first].to_vec();
            let mut outcome = tls.receive(&mut received, &mut out, &mut |_| {});
            if let Ok(used) = outcome {
                let mut rest = received.split_off(used);
                rest.extend_from_slice(&hello[first..]);
                outcome = tls.receive(&mut rest, &mut out, &mut |_| {});
            }
            assert!(outcome.is_err(), "split at {first}");
            assert!(tls.send(b"answer", &mut out).is_err(), "split at {first}");
            tls.close(&mut out);
        }
    }

    #[test]
    fn the_beginning_of_a_message_is_held_while_something_else_is_asked() {
        let (mut tls, mut out) = (server(), Vec::new());
        let mut part = [0x16, 3, 1, 0, 4, 1, 0, 1, 0];
        let used = tls.receive(&mut part, &mut out, &mut |_| {}).expect("no more than a beginning");
        assert_eq!(used, 0, "rustls is not done with it");
        assert!(tls.send(b"too early", &mut out).is_err());
        tls.close(&mut out);
        let used = tls.receive(&mut part, &mut out, &mut |_| {}).expect("still a beginning");
        assert_eq!(used, 0);
    }
}
