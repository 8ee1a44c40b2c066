//! Records of TLS 1.3 after the handshake, protected where they lie (`cipher.rs`).
//!
//! rustls makes every handshake and every key. Its record layer, though, copies a received record into
//! a vector of its own and a sent one twice; in a transfer that is most of what TLS costs. So a
//! connection that has carried some traffic is handed over: rustls gives the keys of both directions
//! and goes on deriving the next ones (`rustls::kernel`), and records are opened in the buffer they
//! were received into and sealed in the buffer they are sent from. What a record may be is RFC 8446 5;
//! after the handshake only KeyUpdate, tickets and alerts come beside data.

use std::ops::Range;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, Error, ExtractedSecrets, InvalidMessage,
    PeerMisbehaved, SupportedCipherSuite,
};

use super::cipher::{Cipher, NONCE, TAG};
use crate::limits::FRAME_HEADER_SIZE;

/// What goes on deriving keys.
enum Kernel {
    Server(KernelConnection<ServerConnectionData>),
    Client(KernelConnection<ClientConnectionData>),
}

/// One direction: its key, and how many records were protected with it.
pub(super) struct Half {
    cipher: Cipher,
    iv: [u8; NONCE],
    sequence: u64,
}

/// A connection whose records are protected here.
pub(super) struct Records {
    kernel: Kernel,
    sending: Half,
    receiving: Half,
    /// Records that one key may protect.
    records_max: u64,
    /// The beginning of a handshake message that goes on in the next record.
    message: Vec<u8>,
    /// Records since the last one that carried data.
    without_data: u32,
    /// The peer wants new keys of ours before our next data.
    owes_keys: bool,
    peer_closed: bool,
}

/// What became of received bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Opened {
    /// Bytes of the front that are done with.
    pub used: usize,
    /// Plain bytes, now at the very front.
    pub plain: usize,
}

impl Records {
    /// Takes over from rustls.
    ///
    /// # Errors
    /// When rustls does not hand its keys out; the connection is lost then.
    pub fn of_server(connection: UnbufferedServerConnection) -> Result<Records, Error> {
        let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
        let suite = kernel.negotiated_cipher_suite();
        Records::new(secrets, Kernel::Server(kernel), suite)
    }

    /// As [`Records::of_server`].
    pub fn of_client(connection: UnbufferedClientConnection) -> Result<Records, Error> {
        let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
        let suite = kernel.negotiated_cipher_suite();
        Records::new(secrets, Kernel::Client(kernel), suite)
    }

    fn new(secrets: ExtractedSecrets, kernel: Kernel, suite: SupportedCipherSuite) -> Result<Records, Error> {
        let suite = suite.tls13().ok_or_else(|| Error::General("not TLS 1.3".into()))?;
        let ExtractedSecrets { tx, rx } = secrets;
        Ok(Records {
            kernel,
            sending: Half::new(tx)?,
            receiving: Half::new(rx)?,
            records_max: suite.common.confidentiality_limit,
            message: Vec::new(),
            without_data: 0,
            owes_keys: false,
            peer_closed: false,
        })
    }

    /// Whether the peer said that it sends nothing more.
    pub fn is_peer_closed(&self) -> bool {
        self.peer_closed
    }

    // ── receiving ───────────────────────────────────────────────────────────────────────────────

    /// Opens the whole records at the front of `bytes`, in place.
    ///
    /// # Errors
    /// The peer broke the protocol; an alert that says so is in `out`.
    pub fn open(&mut self, bytes: &mut [u8], out: &mut Vec<u8>) -> Result<Opened, Error> {
        let mut opened = Opened { used: 0, plain: 0 };
        while !self.peer_closed {
            match self.open_next(bytes, &mut opened) {
                Ok(true) => {}
                Ok(false) => return Ok(opened),
                Err(broken) => return Err(self.tell(broken, out)),
            }
        }
        // Nothing counts after the closing alert.
        opened.used = bytes.len();
        Ok(opened)
    }

    /// As [`Records::open`], but what the records carried stays apart: `pieces` tells where, each with
    /// [`FOOTER`] bytes of nothing behind it and [`SPACING`] between it and the one before. Gives how many
    /// bytes of the front are done with.
    ///
    /// # Errors
    /// As [`Records::open`].
    pub fn open_spaced(
        &mut self,
        bytes: &mut [u8],
        pieces: &mut Vec<Range<usize>>,
        out: &mut Vec<u8>,
    ) -> Result<usize, Error> {
        let (mut at, mut to) = (0, 0);
        while !self.peer_closed {
            let Some((end, size)) = self.open_one(bytes, at, to, out)? else { return Ok(at) };
            at = end;
            if size > 0 {
                pieces.push(to..to + size);
                to += size + SPACING;
            }
        }
        // Nothing counts after the closing alert.
        Ok(bytes.len())
    }

    /// Opens one record; false when it is not whole.
    fn open_next(&mut self, bytes: &mut [u8], opened: &mut Opened) -> Result<bool, Broken> {
        let Some((end, size)) = self.open_record(bytes, opened.used, opened.plain)? else { return Ok(false) };
        opened.used = end;
        opened.plain += size;
        Ok(true)
    }

    /// Opens the record that begins at `at`; its plain bytes lie from `to` on afterwards, which is no later
    /// than its ciphertext. Gives where it ends and how many plain bytes it had. `None`: it is not whole.
    ///
    /// # Errors
    /// The peer broke the protocol; an alert that says so is in `out`.
    pub fn open_one(
        &mut self,
        bytes: &mut [u8],
        at: usize,
        to: usize,
        out: &mut Vec<u8>,
    ) -> Result<Option<(usize, usize)>, Error> {
        self.open_record(bytes, at, to).map_err(|broken| self.tell(broken, out))
    }

    /// Says to the peer what it did, if that is worth an alert.
    fn tell(&mut self, broken: Broken, out: &mut Vec<u8>) -> Error {
        let Broken { alert, error } = broken;
        match alert.map(|alert| self.seal_record(ALERT, &[FATAL, alert.into()], out)) {
            Some(Err(error)) => error,
            Some(Ok(())) | None => error,
        }
    }

    fn open_record(
        &mut self,
        bytes: &mut [u8],
        at: usize,
        to: usize,
    ) -> Result<Option<(usize, usize)>, Broken> {
        let Some(&header) = bytes[at..].first_chunk::<HEADER>() else { return Ok(None) };
        let [kind, _, _, high, low] = header;
        let size = usize::from(u16::from_be_bytes([high, low]));
        if size > PAYLOAD_MAX + EXPANSION_MAX {
            return Err(Broken::new(AlertDescription::RecordOverflow, Error::PeerSentOversizedRecord));
        }
        if kind != APPLICATION_DATA {
            return Err(unexpected(kind));
        }
        let end = at + HEADER + size;
        if bytes.len() < end {
            return Ok(None);
        }
        let inner = self.receiving.open(header, &mut bytes[to..end], at + HEADER - to)?;
        // The type is the last octet that is not padding.
        let Some(last) = inner.iter().rposition(|&byte| byte != 0) else {
            let error = PeerMisbehaved::IllegalTlsInnerPlaintext.into();
            return Err(Broken::new(AlertDescription::UnexpectedMessage, error));
        };
        // Padding counts (RFC 8446 5.4).
        if inner.len() > PAYLOAD_MAX + 1 {
            return Err(Broken::new(AlertDescription::RecordOverflow, Error::PeerSentOversizedRecord));
        }
        let (kind, content) = (inner[last], &inner[..last]);
        self.without_data += 1;
        if self.without_data > WITHOUT_DATA_MAX {
            let error = PeerMisbehaved::TooManyEmptyFragments.into();
            return Err(Broken::new(AlertDescription::UnexpectedMessage, error));
        }
        match kind {
            APPLICATION_DATA if self.message.is_empty() => {
                if last > 0 {
                    self.without_data = 0;
                }
                return Ok(Some((end, last)));
            }
            HANDSHAKE if !content.is_empty() => {
                self.message.extend_from_slice(content);
                self.hear_messages()?;
            }
            ALERT if self.message.is_empty() => {
                let content = [content.first().copied(), content.get(1).copied(), content.get(2).copied()];
                self.hear_alert(content)?;
            }
            kind => return Err(unexpected(kind)),
        }
        Ok(Some((end, 0)))
    }

    fn hear_alert(&mut self, content: [Option<u8>; 3]) -> Result<(), Broken> {
        let [Some(_), Some(what), None] = content else {
            let error = InvalidMessage::MessageTooShort.into();
            return Err(Broken::new(AlertDescription::DecodeError, error));
        };
        match AlertDescription::from(what) {
            AlertDescription::CloseNotify => self.peer_closed = true,
            // Whoever says so says close_notify next.
            AlertDescription::UserCanceled => {}
            // All others are fatal, and are not answered.
            what => return Err(Broken { alert: None, error: Error::AlertReceived(what) }),
        }
        Ok(())
    }

    /// Takes whole handshake messages from the front of what came.
    fn hear_messages(&mut self) -> Result<(), Broken> {
        while let Some(&[kind, s0, s1, s2]) = self.message.first_chunk() {
            let size = u32::from_be_bytes([0, s0, s1, s2]) as usize;
            if size > MESSAGE_MAX {
                let error = InvalidMessage::HandshakePayloadTooLarge.into();
                return Err(Broken::new(AlertDescription::DecodeError, error));
            }
            let end = MESSAGE_HEADER + size;
            if self.message.len() < end {
                return Ok(());
            }
            match (kind, &mut self.kernel) {
                (KEY_UPDATE, _) => self.hear_key_update(end)?,
                (NEW_SESSION_TICKET, Kernel::Client(kernel)) => {
                    let ticket = kernel.handle_new_session_ticket(&self.message[MESSAGE_HEADER..end]);
                    ticket.map_err(|error| Broken::new(AlertDescription::DecodeError, error))?;
                }
                (_, Kernel::Client(_) | Kernel::Server(_)) => {
                    let error = Error::InappropriateHandshakeMessage {
                        expect_types: vec![rustls::HandshakeType::KeyUpdate],
                        got_type: kind.into(),
                    };
                    return Err(Broken::new(AlertDescription::UnexpectedMessage, error));
                }
            }
            self.message.drain(..end);
        }
        if self.message.is_empty() {
            self.message = Vec::new();
        }
        Ok(())
    }

    /// The peer protects what it sends next with new keys, and may want the same of us: before our next
    /// data, and once however often it asked until then. So one that asks and reads nothing has us keep
    /// no answers for it (RFC 8446 4.6.3).
    fn hear_key_update(&mut self, end: usize) -> Result<(), Broken> {
        // The keys change at a record's border.
        if self.message.len() != end {
            let error = PeerMisbehaved::KeyEpochWithPendingFragment.into();
            return Err(Broken::new(AlertDescription::UnexpectedMessage, error));
        }
        match self.message[MESSAGE_HEADER..end] {
            [NOT_REQUESTED] => {}
            [REQUESTED] => self.owes_keys = true,
            [_] => {
                let error = InvalidMessage::InvalidKeyUpdate.into();
                return Err(Broken::new(AlertDescription::IllegalParameter, error));
            }
            _ => {
                let error = InvalidMessage::InvalidKeyUpdate.into();
                return Err(Broken::new(AlertDescription::DecodeError, error));
            }
        }
        self.receiving = Half::new(match &mut self.kernel {
            Kernel::Server(kernel) => kernel.update_rx_secret()?,
            Kernel::Client(kernel) => kernel.update_rx_secret()?,
        })?;
        Ok(())
    }

    // ── sending ─────────────────────────────────────────────────────────────────────────────────

    /// Appends `bytes` to `out`, in records.
    ///
    /// # Errors
    /// When keys cannot be renewed.
    pub fn seal(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let records = bytes.len().div_ceil(PAYLOAD_MAX);
        out.reserve(bytes.len() + records * OVERHEAD);
        for piece in bytes.chunks(PAYLOAD_MAX) {
            if self.owes_keys || self.sending.sequence >= self.records_max.saturating_sub(1) {
                self.renew(out)?;
            }
            self.seal_record(APPLICATION_DATA, piece, out)?;
        }
        Ok(())
    }

    /// Appends a closing alert to `out`.
    ///
    /// # Errors
    /// When keys are used up.
    pub fn close(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        self.seal_record(ALERT, &[WARNING, AlertDescription::CloseNotify.into()], out)
    }

    /// Says that new keys follow, and takes them.
    fn renew(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        self.seal_record(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, NOT_REQUESTED], out)?;
        self.owes_keys = false;
        self.sending = Half::new(match &mut self.kernel {
            Kernel::Server(kernel) => kernel.update_tx_secret()?,
            Kernel::Client(kernel) => kernel.update_tx_secret()?,
        })?;
        Ok(())
    }

    fn seal_record(&mut self, kind: u8, content: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let [high, low] = ((content.len() + 1 + TAG) as u16).to_be_bytes();
        let header = [APPLICATION_DATA, 3, 3, high, low];
        out.extend_from_slice(&header);
        let start = out.len();
        out.extend_from_slice(content);
        out.push(kind);
        match self.sending.seal(header, &mut out[start..]) {
            Ok(tag) => out.extend_from_slice(&tag),
            Err(error) => {
                // What is not protected must not stay where it would be sent.
                out.truncate(start - HEADER);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Whether so many more records can be sealed before something must be said in between: new keys.
    pub fn seals_on(&self, records: u64) -> bool {
        !self.owes_keys && self.sending.sequence.saturating_add(records) < self.records_max.saturating_sub(1)
    }

    /// Seals `size` bytes of data where they lie: behind [`HEADER`] bytes of room from `at` on, and with
    /// [`FOOTER`] behind them. Gives where the record ends.
    ///
    /// # Errors
    /// When keys are used up: nothing of it may be sent.
    pub fn seal_in_place(&mut self, bytes: &mut [u8], at: usize, size: usize) -> Result<usize, Error> {
        let [high, low] = ((size + FOOTER) as u16).to_be_bytes();
        let header = [APPLICATION_DATA, 3, 3, high, low];
        let (start, end) = (at + HEADER, at + HEADER + size);
        bytes[at..start].copy_from_slice(&header);
        bytes[end] = APPLICATION_DATA;
        let tag = self.sending.seal(header, &mut bytes[start..=end])?;
        bytes[end + 1..end + FOOTER].copy_from_slice(&tag);
        Ok(end + FOOTER)
    }

    #[cfg(test)]
    pub fn limit(&mut self, records_max: u64) {
        self.records_max = records_max;
    }
}

impl Half {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Half, Error> {
        let (cipher, iv) = Cipher::new(&secrets)?;
        Ok(Half { cipher, iv, sequence })
    }

    /// The nonce of the next record (RFC 8446 5.3); none is ever used twice.
    fn nonce(&mut self) -> Option<[u8; NONCE]> {
        let mut nonce = self.iv;
        for (byte, of_sequence) in nonce[NONCE - 8..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= of_sequence;
        }
        self.sequence = self.sequence.checked_add(1)?;
        Some(nonce)
    }

    /// Opens the ciphertext from `from` on; its content lies at the front of `bytes` afterwards.
    fn open<'b>(
        &mut self,
        header: [u8; HEADER],
        bytes: &'b mut [u8],
        from: usize,
    ) -> Result<&'b [u8], Broken> {
        let failed = || Broken::new(AlertDescription::BadRecordMac, Error::DecryptError);
        let nonce = self.nonce().ok_or_else(failed)?;
        self.cipher.open(nonce, header, bytes, from).ok_or_else(failed)
    }

    fn seal(&mut self, header: [u8; HEADER], bytes: &mut [u8]) -> Result<[u8; TAG], Error> {
        let nonce = self.nonce().ok_or(Error::EncryptError)?;
        self.cipher.seal(nonce, header, bytes).ok_or(Error::EncryptError)
    }
}

/// The peer broke the protocol: what it is told, and what we say of it.
struct Broken {
    alert: Option<AlertDescription>,
    error: Error,
}

impl Broken {
    fn new(alert: AlertDescription, error: Error) -> Broken {
        Broken { alert: Some(alert), error }
    }
}

impl From<Error> for Broken {
    fn from(error: Error) -> Broken {
        Broken::new(AlertDescription::InternalError, error)
    }
}

fn unexpected(kind: u8) -> Broken {
    let error = Error::InappropriateMessage {
        expect_types: vec![ContentType::ApplicationData],
        got_type: ContentType::from(kind),
    };
    Broken::new(AlertDescription::UnexpectedMessage, error)
}

/// RFC 8446 5.1 and 5.2: types of content.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
/// RFC 8446 4: types of handshake messages.
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
/// RFC 8446 4.6.3: what a KeyUpdate asks for.
const NOT_REQUESTED: u8 = 0;
/// See [`NOT_REQUESTED`].
const REQUESTED: u8 = 1;
/// RFC 8446 6: levels of alerts.
const WARNING: u8 = 1;
const FATAL: u8 = 2;
/// Type, version, length.
pub(super) const HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;
/// Between what two records carried, where it is to be sealed again: the first one's footer and the next
/// one's header have room in it, with the header of the frame that the next one begins with.
pub(super) const SPACING: usize = FOOTER + HEADER - FRAME_HEADER_SIZE;
/// What stands behind the content of a record of ours: its type and tag.
pub(super) const FOOTER: usize = 1 + TAG;
/// What a record of ours is longer than its content.
const OVERHEAD: usize = HEADER + FOOTER;
/// RFC 8446 5.1.
pub(super) const PAYLOAD_MAX: usize = 16 * 1024;
/// RFC 8446 5.2: what a protected record may add.
const EXPANSION_MAX: usize = 256;
/// Bytes of one handshake message: tickets of servers have some hundred.
const MESSAGE_MAX: usize = 16 * 1024;
/// Records without data between two that carry some: new keys, tickets, alerts that end nothing, and
/// empty ones. Each costs us a decryption, and moves nothing that a deadline looks at. As many as
/// BoringSSL allows of empty ones, and rustls of new keys.
const WITHOUT_DATA_MAX: u32 = 32;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "records_tests.rs"]
pub(in crate::transport) mod tests;
