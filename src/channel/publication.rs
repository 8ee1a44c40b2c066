//! A connection point's settings on their way to the gateway: in pieces, between answers.

use super::bytes::{Bytes, cut, put_text};
use super::error::ChannelError;
use super::frame::FrameKind;
use crate::limits::{FRAME_PAYLOAD_SIZE_MAX, SETTINGS_SIZE_MAX};

/// Which settings: of one site, the higher serial is newer; the hash tells copies that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevisionTag {
    /// Counts up with every change.
    pub serial: u64,
    /// SHA-256 of the bytes.
    pub sha256: [u8; 32],
}

/// Settings as published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Which they are. Whether the hash is right is for the shell to check.
    pub revision: RevisionTag,
    /// At most `limits::SETTINGS_SIZE_MAX` bytes.
    pub bytes: Vec<u8>,
}

/// What a gateway did with a publication. The number is its code on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// In force, on every shard.
    InForce = 0,
    /// A higher serial is in force; this one was ignored.
    Outdated = 1,
    /// The serial is in force with another hash; this link is marked diverged.
    Diverged = 2,
    /// It cannot be read, or claims what is not this site's; the text says what.
    Refused = 3,
    /// Of a list that was offered: it may be sent.
    Wanted = 4,
    /// A code that this version does not know. Never sent.
    Unknown = 255,
}

impl Verdict {
    fn from_byte(byte: u8) -> Verdict {
        match byte {
            0 => Verdict::InForce,
            1 => Verdict::Outdated,
            2 => Verdict::Diverged,
            3 => Verdict::Refused,
            4 => Verdict::Wanted,
            _ => Verdict::Unknown,
        }
    }
}

/// A gateway's answer to a publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// Which settings it speaks of.
    pub revision: RevisionTag,
    /// What became of them.
    pub verdict: Verdict,
    /// For the log of the connection point.
    pub text: String,
}

impl Acknowledgement {
    pub(super) fn encode(revision: RevisionTag, verdict: Verdict, text: &str) -> Vec<u8> {
        let mut payload = Vec::with_capacity(TAG_SIZE + 2 + text.len());
        put_tag(&mut payload, &revision);
        payload.push(verdict as u8);
        put_text(&mut payload, text);
        payload
    }

    pub(super) fn parse(kind: FrameKind, payload: &[u8]) -> Result<Acknowledgement, ChannelError> {
        let read = |mut bytes: Bytes<'_>| {
            let revision = take_tag(&mut bytes)?;
            let verdict = Verdict::from_byte(bytes.u8()?);
            let text = bytes.text()?.to_owned();
            bytes.0.is_empty().then_some(Acknowledgement { revision, verdict, text })
        };
        read(Bytes(payload)).ok_or(ChannelError::Malformed(kind, "not as long as it says"))
    }
}

pub(super) const TAG_SIZE: usize = 8 + 32;
const PIECE_FIXED_SIZE: usize = TAG_SIZE + 4 + 4;
const PIECE_SIZE_MAX: usize = FRAME_PAYLOAD_SIZE_MAX - PIECE_FIXED_SIZE;

pub(super) fn put_tag(out: &mut Vec<u8>, revision: &RevisionTag) {
    out.extend_from_slice(&revision.serial.to_be_bytes());
    out.extend_from_slice(&revision.sha256);
}

pub(super) fn take_tag(bytes: &mut Bytes<'_>) -> Option<RevisionTag> {
    Some(RevisionTag { serial: bytes.u64()?, sha256: bytes.array()? })
}

/// A publication that is being sent.
#[derive(Debug)]
pub(super) struct Outgoing {
    publication: Publication,
    sent: usize,
}

impl Outgoing {
    pub fn new(publication: Publication) -> Outgoing {
        assert!(publication.bytes.len() <= SETTINGS_SIZE_MAX, "settings are bounded when they are made");
        assert!(!publication.bytes.is_empty(), "settings always have bytes");
        Outgoing { publication, sent: 0 }
    }

    /// The next piece, as the payload of a SETTINGS frame; and whether it is the last.
    pub fn next_piece(&mut self) -> (Vec<u8>, bool) {
        let bytes = &self.publication.bytes;
        let end = bytes.len().min(self.sent + PIECE_SIZE_MAX);
        let mut payload = Vec::with_capacity(PIECE_FIXED_SIZE + end - self.sent);
        put_tag(&mut payload, &self.publication.revision);
        payload.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        payload.extend_from_slice(&(self.sent as u32).to_be_bytes());
        payload.extend_from_slice(&bytes[self.sent..end]);
        self.sent = end;
        (payload, end == bytes.len())
    }
}

/// A publication that is being heard. A piece with offset 0 begins anew.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    publication: Option<Box<Publication>>,
    /// Bytes it will have.
    total: usize,
}

impl Incoming {
    /// Takes the payload of a SETTINGS frame. Gives the publication when it is whole.
    pub fn hear(&mut self, payload: &[u8]) -> Result<Option<Box<Publication>>, ChannelError> {
        let read = |mut bytes: Bytes<'_>| Some((take_tag(&mut bytes)?, bytes.u32()?, bytes.u32()?));
        let (revision, total, offset) = read(Bytes(payload)).ok_or(ChannelError::BadPublication)?;
        let (total, offset) = (total as usize, offset as usize);
        let piece = &payload[PIECE_FIXED_SIZE..];
        if total > SETTINGS_SIZE_MAX || piece.is_empty() || offset + piece.len() > total {
            return Err(ChannelError::BadPublication);
        }
        let mut publication = match self.publication.take() {
            _ if offset == 0 => Box::new(Publication { revision, bytes: Vec::new() }),
            Some(begun) if self.continues(&begun, &revision, total, offset) => begun,
            Some(_) | None => return Err(ChannelError::BadPublication),
        };
        self.total = total;
        publication.bytes.extend_from_slice(piece);
        if publication.bytes.len() == total {
            return Ok(Some(publication));
        }
        self.publication = Some(publication);
        Ok(None)
    }

    fn continues(&self, begun: &Publication, revision: &RevisionTag, total: usize, offset: usize) -> bool {
        begun.revision == *revision && begun.bytes.len() == offset && self.total == total
    }
}

/// The front of a text that fits a CLOSE frame.
pub(super) fn close_text(text: &str) -> &str {
    cut(text, crate::limits::CHANNEL_TEXT_SIZE_MAX)
}
