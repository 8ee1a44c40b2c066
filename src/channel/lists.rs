//! Lists of a site – revocation lists, and its block list – on their way to the gateway, apart from the
//! settings: offered first, so that one that the gateway has is not sent again; then in pieces.
//!
//! ```text
//! connector   LIST, no bytes (offer) ───────────────▶ gateway    Idle → Offered
//!             ◀── LIST_ACK wanted ───────────────────            Offered → Wanted
//!             LIST pieces ──────────────────────────▶            Wanted → Whole
//!             ◀── LIST_ACK in force, refused, … ─────            Offered or Whole → Idle
//! ```
//! One list at a time, so that a channel holds at most one of the greatest size.

use std::sync::Arc;

use super::bytes::Bytes;
use super::error::ChannelError;
use super::publication::{RevisionTag, TAG_SIZE, put_tag, take_tag};
use crate::limits::{BLOCK_LIST_SIZE_MAX, CRL_SIZE_MAX, FRAME_PAYLOAD_SIZE_MAX};

/// What a list is. The number is its code on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ListKind {
    /// A revocation list, DER.
    Revocation = 1,
    /// The site's block list, text.
    Blocked = 2,
}

impl ListKind {
    fn from_byte(byte: u8) -> Option<ListKind> {
        match byte {
            1 => Some(ListKind::Revocation),
            2 => Some(ListKind::Blocked),
            _ => None,
        }
    }

    /// Bytes it may have.
    pub const fn size_max(self) -> usize {
        match self {
            ListKind::Revocation => CRL_SIZE_MAX,
            ListKind::Blocked => BLOCK_LIST_SIZE_MAX,
        }
    }
}

/// Which list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListTag {
    /// What it is.
    pub kind: ListKind,
    /// Of a block list: higher is newer. Nothing to a revocation list, which has its number within.
    pub serial: u64,
    /// SHA-256 of the bytes.
    pub sha256: [u8; 32],
    /// How many they are.
    pub size: usize,
}

/// A list, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// Which.
    pub tag: ListTag,
    /// At most [`ListKind::size_max`]. Whether the hash is right is for the shell to check.
    pub bytes: Arc<[u8]>,
}

const FIXED_SIZE: usize = 1 + TAG_SIZE + 4 + 4;
const PIECE_SIZE_MAX: usize = FRAME_PAYLOAD_SIZE_MAX - FIXED_SIZE;
const _: () = assert!(CRL_SIZE_MAX <= u32::MAX as usize);

/// Payload of a LIST frame; without bytes an offer.
pub(super) fn encode(tag: &ListTag, offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(FIXED_SIZE + bytes.len());
    payload.push(tag.kind as u8);
    put_tag(&mut payload, &tag.revision());
    payload.extend_from_slice(&(tag.size as u32).to_be_bytes());
    payload.extend_from_slice(&(offset as u32).to_be_bytes());
    payload.extend_from_slice(bytes);
    payload
}

fn decode(payload: &[u8]) -> Option<(ListTag, usize, &[u8])> {
    let mut bytes = Bytes(payload);
    let kind = ListKind::from_byte(bytes.u8()?)?;
    let RevisionTag { serial, sha256 } = take_tag(&mut bytes)?;
    let (size, offset) = (bytes.u32()? as usize, bytes.u32()? as usize);
    let is_bounded = (1..=kind.size_max()).contains(&size) && offset + bytes.0.len() <= size;
    is_bounded.then_some((ListTag { kind, serial, sha256, size }, offset, bytes.0))
}

impl ListTag {
    /// As acknowledgements name it.
    pub fn revision(&self) -> RevisionTag {
        RevisionTag { serial: self.serial, sha256: self.sha256 }
    }
}

/// A list that is being sent.
#[derive(Debug)]
pub(super) struct OutgoingList {
    list: List,
    sent: usize,
}

impl OutgoingList {
    pub fn new(list: List) -> OutgoingList {
        assert!(list.bytes.len() == list.tag.size, "a tag is made of the bytes");
        OutgoingList { list, sent: 0 }
    }

    /// The next piece, as the payload of a LIST frame; and whether it is the last.
    pub fn next_piece(&mut self) -> (Vec<u8>, bool) {
        let List { tag, bytes } = &self.list;
        let end = bytes.len().min(self.sent + PIECE_SIZE_MAX);
        let payload = encode(tag, self.sent, &bytes[self.sent..end]);
        self.sent = end;
        (payload, end == bytes.len())
    }
}

/// Whose turn it is; see the file's head.
#[derive(Debug, Default)]
pub(super) enum Turn {
    #[default]
    Idle,
    Offered(ListTag),
    Wanted(ListTag, Vec<u8>),
    Whole(ListTag),
}

/// What a LIST frame was.
#[derive(Debug)]
pub(super) enum Heard {
    Offer(ListTag),
    Piece,
    Whole(List),
}

impl Turn {
    /// Takes the payload of a LIST frame.
    pub fn hear(&mut self, payload: &[u8]) -> Result<Heard, ChannelError> {
        let (tag, offset, piece) = decode(payload).ok_or(ChannelError::BadPublication)?;
        match std::mem::take(self) {
            Turn::Idle if piece.is_empty() && offset == 0 => {
                *self = Turn::Offered(tag);
                Ok(Heard::Offer(tag))
            }
            Turn::Wanted(wanted, mut bytes)
                if wanted == tag && offset == bytes.len() && !piece.is_empty() =>
            {
                bytes.extend_from_slice(piece);
                if bytes.len() < tag.size {
                    *self = Turn::Wanted(tag, bytes);
                    return Ok(Heard::Piece);
                }
                *self = Turn::Whole(tag);
                Ok(Heard::Whole(List { tag, bytes: bytes.into() }))
            }
            Turn::Idle | Turn::Offered(_) | Turn::Wanted(..) | Turn::Whole(_) => {
                Err(ChannelError::BadPublication)
            }
        }
    }

    /// Our answer to what was heard of this list; whether one was due.
    pub fn answer(&mut self, tag: &ListTag, is_wanted: bool) -> bool {
        match self {
            Turn::Offered(offered) if offered == tag && is_wanted => {
                *self = Turn::Wanted(*tag, Vec::new());
                true
            }
            Turn::Offered(heard) | Turn::Whole(heard) if heard == tag && !is_wanted => {
                *self = Turn::Idle;
                true
            }
            Turn::Idle | Turn::Offered(_) | Turn::Wanted(..) | Turn::Whole(_) => false,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn list(size: usize) -> List {
        let tag = ListTag { kind: ListKind::Revocation, serial: 0, sha256: [3; 32], size };
        List { tag, bytes: vec![9; size].into() }
    }

    fn offer(turn: &mut Turn, tag: &ListTag) -> bool {
        matches!(turn.hear(&encode(tag, 0, &[])), Ok(Heard::Offer(heard)) if heard == *tag)
    }

    #[test]
    fn a_list_that_is_wanted_arrives_in_pieces() {
        let list = list(100_000);
        let mut turn = Turn::default();
        assert!(offer(&mut turn, &list.tag));
        assert!(turn.answer(&list.tag, true));
        let mut outgoing = OutgoingList::new(list.clone());
        loop {
            let (piece, is_last) = outgoing.next_piece();
            assert!(piece.len() <= FRAME_PAYLOAD_SIZE_MAX);
            match turn.hear(&piece).unwrap() {
                Heard::Whole(heard) => {
                    assert!(is_last);
                    assert_eq!(heard, list);
                    break;
                }
                Heard::Piece => assert!(!is_last),
                Heard::Offer(_) => panic!("an offer"),
            }
        }
        assert!(!turn.answer(&list.tag, true), "it came already");
        assert!(turn.answer(&list.tag, false));
        assert!(offer(&mut turn, &list.tag), "the next one may be offered");
    }

    #[test]
    fn nothing_is_taken_that_was_not_wanted() {
        let one = list(10);
        let other = ListTag { sha256: [4; 32], ..one.tag };
        let piece = |tag: &ListTag, offset, size| encode(tag, offset, &vec![0; size]);
        let rows: [(&str, Turn, Vec<u8>); 9] = [
            ("a piece at first", Turn::Idle, piece(&one.tag, 0, 10)),
            ("an offer in the middle", Turn::Idle, piece(&one.tag, 5, 0)),
            ("an offer before the answer", Turn::Offered(one.tag), piece(&one.tag, 0, 0)),
            ("a piece before the answer", Turn::Offered(one.tag), piece(&one.tag, 0, 10)),
            ("another list", Turn::Wanted(one.tag, vec![]), piece(&other, 0, 10)),
            ("a gap", Turn::Wanted(one.tag, vec![0; 2]), piece(&one.tag, 3, 1)),
            ("a piece without bytes", Turn::Wanted(one.tag, vec![]), piece(&one.tag, 0, 0)),
            ("too many bytes", Turn::Wanted(one.tag, vec![0; 9]), piece(&one.tag, 9, 2)),
            ("an offer before the verdict", Turn::Whole(one.tag), piece(&one.tag, 0, 0)),
        ];
        for (what, mut turn, payload) in rows {
            assert!(turn.hear(&payload).is_err(), "{what}");
        }
    }

    #[test]
    fn an_offer_of_too_much_or_of_nothing_known_is_an_error() {
        let one = list(10).tag;
        let blocked = ListKind::Blocked;
        let rows = [
            ListTag { size: 0, ..one },
            ListTag { size: CRL_SIZE_MAX + 1, ..one },
            ListTag { kind: blocked, size: BLOCK_LIST_SIZE_MAX + 1, ..one },
        ];
        for tag in rows {
            assert!(Turn::default().hear(&encode(&tag, 0, &[])).is_err(), "{tag:?}");
        }
        let mut unknown = encode(&one, 0, &[]);
        unknown[0] = 3;
        assert!(Turn::default().hear(&unknown).is_err());
        assert!(Turn::default().hear(&[1; FIXED_SIZE - 1]).is_err());
    }
}
