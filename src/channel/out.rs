//! Frames that wait to be sent: one contiguous run of bytes, so that many leave in one TLS record.

use super::frame::{self, FrameKind};
use crate::limits::{CHANNEL_OUT_SIZE_MAX, FRAME_HEADER_SIZE};

/// Queued frames behind a start that moves as they are sent.
#[derive(Debug, Default)]
pub(super) struct OutBuffer {
    bytes: Vec<u8>,
    start: usize,
    /// Bytes ever queued.
    total: u64,
}

impl OutBuffer {
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes ever sent.
    pub fn sent(&self) -> u64 {
        self.total - self.len() as u64
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Appends a frame whose payload fits one.
    pub fn frame(&mut self, kind: FrameKind, stream: u32, payload: &[u8]) {
        let size = FRAME_HEADER_SIZE + payload.len();
        self.make_room(size);
        frame::put(&mut self.bytes, kind, stream, payload);
        self.total += size as u64;
    }

    /// Frames of `size` bytes were sent past this buffer, which is empty.
    pub fn pass(&mut self, size: usize) {
        assert!(self.len() == 0, "what waits is sent first");
        self.total += size as u64;
    }

    /// The first `count` bytes were sent.
    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.len(), "only what was offered can have been sent");
        self.start += count;
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(2 * CHANNEL_OUT_SIZE_MAX);
            self.start = 0;
        }
    }

    /// Moves the rest to the front when that frees at least as much as it moves; otherwise the buffer
    /// grows, so that a byte is moved at most once on average.
    fn make_room(&mut self, size: usize) {
        let is_full = self.bytes.len() + size > self.bytes.capacity();
        if is_full && self.start >= self.len() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }
}
