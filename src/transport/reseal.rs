//! Bytes of a body on their way from one TLS connection to another, opened and sealed again in the
//! buffer they were received into.
//!
//! A body that passes through a gateway is decrypted and encrypted once each; copying it from the
//! client's record into a frame and from the frame into the channel's record cost as much as both
//! (measured: 27 % of the gateway's CPU per MiB upwards). Here a record is opened some bytes to the left
//! of where it lay, where the channel's record wants it: behind a record's and a frame's header. The
//! few bytes that no longer fit the channel's record, because a frame has a header and a client's record
//! has none, move on to the next one. So a byte is touched by the two ciphers and by nobody else.
//!
//! Knows neither sockets nor channels: what stands before the bytes of a frame is the caller's.

use std::ops::Range;

use rustls::Error;

use super::records::{FOOTER, HEADER, PAYLOAD_MAX, Records};
use crate::limits::{FRAME_HEADER_SIZE, FRAME_PAYLOAD_SIZE_MAX, RESEAL_HEADROOM};

/// What became of the records of a buffer.
#[derive(Debug, PartialEq)]
pub(super) struct Resealed {
    /// Bytes of the front that are records to send.
    pub sealed: usize,
    /// From here on the buffer is as it was.
    pub used: usize,
    /// Bytes of content that passed.
    pub content: usize,
    /// Bytes of frames that passed: content with its headers.
    pub framed: usize,
    /// Whether the peer broke the protocol behind that; an alert that says so is in `out`.
    pub outcome: Result<(), Error>,
}

/// The whole records at the front of `bytes`, as far as their content cannot be more than `content_max`
/// bytes: where they end, and how much content they may have at most.
pub(super) fn passable(bytes: &[u8], content_max: usize) -> (usize, usize) {
    let (mut end, mut content) = (0, 0);
    while let Some((size, most)) = next(&bytes[end..])
        && content + most <= content_max
        && size <= bytes.len() - end
    {
        end += size;
        content += most;
    }
    (end, content)
}

/// Content that the record at the front may have at most, once it is whole.
pub(super) fn first(bytes: &[u8]) -> Option<usize> {
    next(bytes).filter(|(size, _)| *size <= bytes.len()).map(|(_, most)| most)
}

/// Bytes of the record at the front, and of its content at most.
fn next(bytes: &[u8]) -> Option<(usize, usize)> {
    let [_, _, _, high, low] = *bytes.first_chunk::<HEADER>()?;
    let size = usize::from(u16::from_be_bytes([high, low]));
    Some((HEADER + size, size.saturating_sub(FOOTER)))
}

/// Opens the records of `from` in `range`, which are whole, and seals their content in frames of `to` at
/// the front of `bytes`; `range` begins behind [`RESEAL_HEADROOM`] bytes of room. `header` gives the
/// header of a frame of so many bytes. `to` must seal on for as many records as the range may need.
///
/// # Errors
/// `to` cannot seal; its connection is lost. Where the peer of `from` broke the protocol, what came before is
/// sealed all the same.
pub(super) fn reseal(
    from: &mut Records,
    to: &mut Records,
    bytes: &mut [u8],
    range: Range<usize>,
    header: impl Fn(u16) -> [u8; FRAME_HEADER_SIZE],
    out: &mut Vec<u8>,
) -> Result<Resealed, Error> {
    let mut frames = Frames { to, record: 0, end: PREFIX, header, content: 0, framed: 0 };
    let (mut at, mut outcome) = (range.start, Ok(()));
    while at < range.end && !from.is_peer_closed() {
        if !frames.leaves_alone(bytes, at) {
            break;
        }
        match from.open_one(&mut bytes[..range.end], at, frames.end, out) {
            Ok(Some((next, size))) => {
                at = next;
                frames.take(bytes, size)?;
            }
            Ok(None) => break,
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    frames.finish(bytes)?;
    let Frames { record: sealed, content, framed, .. } = frames;
    Ok(Resealed { sealed, used: at, content, framed, outcome })
}

/// Frames that are being filled, one in each record.
struct Frames<'r, H> {
    to: &'r mut Records,
    /// Where the record begins that is being filled.
    record: usize,
    /// Where its content ends so far.
    end: usize,
    header: H,
    content: usize,
    framed: usize,
}

impl<H: Fn(u16) -> [u8; FRAME_HEADER_SIZE]> Frames<'_, H> {
    /// Content of the frame that is being filled.
    fn filled(&self) -> usize {
        self.end - self.record - PREFIX
    }

    /// Whether the record at `at` can be opened and all of it sealed without touching what lies behind it.
    fn leaves_alone(&self, bytes: &[u8], at: usize) -> bool {
        let Some((size, most)) = next(&bytes[at..]) else { return false };
        let whole = (self.filled() + most) / FRAME_PAYLOAD_SIZE_MAX;
        let end = self.end + most + whole * (FOOTER + PREFIX) + FOOTER;
        self.end <= at + HEADER && end <= at + size
    }

    /// Content was added behind what there is.
    fn take(&mut self, bytes: &mut [u8], size: usize) -> Result<(), Error> {
        self.end += size;
        while self.filled() > FRAME_PAYLOAD_SIZE_MAX {
            let full = self.record + PREFIX + FRAME_PAYLOAD_SIZE_MAX;
            let (rest, next) = (self.end - full, full + FOOTER);
            bytes.copy_within(full..self.end, next + PREFIX);
            self.seal(bytes, FRAME_PAYLOAD_SIZE_MAX)?;
            self.end = self.record + PREFIX + rest;
        }
        Ok(())
    }

    fn finish(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        match self.filled() {
            0 => Ok(()),
            size => self.seal(bytes, size),
        }
    }

    /// Seals a frame of `size` bytes; the next record begins behind it.
    fn seal(&mut self, bytes: &mut [u8], size: usize) -> Result<(), Error> {
        let start = self.record + HEADER;
        bytes[start..start + FRAME_HEADER_SIZE].copy_from_slice(&(self.header)(size as u16));
        self.record = self.to.seal_in_place(bytes, self.record, FRAME_HEADER_SIZE + size)?;
        self.end = self.record + PREFIX;
        self.content += size;
        self.framed += FRAME_HEADER_SIZE + size;
        Ok(())
    }
}

/// Records that a buffer of so many bytes may need, when it is sealed again.
pub(super) fn records_of(size: usize) -> u64 {
    (size / FRAME_PAYLOAD_SIZE_MAX + 2) as u64
}

/// What stands before the content: headers of record and frame.
const PREFIX: usize = HEADER + FRAME_HEADER_SIZE;
/// The first record of a buffer always has room, whatever its size.
const _: () = assert!(RESEAL_HEADROOM >= 2 * (PREFIX + FOOTER));
/// A record of frames is as large as its content, prefix and footer; a full one of a client has so many
/// bytes less around as many: the room lasts for the records of a whole transfer.
const _: () = assert!(
    RESEAL_HEADROOM
        >= 2 * (PREFIX + FOOTER)
            + (crate::limits::TRANSFER_SIZE / PAYLOAD_MAX) * (PAYLOAD_MAX - FRAME_PAYLOAD_SIZE_MAX)
);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "reseal_tests.rs"]
mod tests;
