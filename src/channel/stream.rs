//! The streams of a channel: a slab that is reused, found by key from inside and by number from outside.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use slab::Slab;

use super::credit::{ReceiveWindow, SendCredit};

/// One exchange of a channel. Kept too long it is only stale: nothing happens to another stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId {
    /// Place in the slab.
    key: u32,
    /// Number on the wire.
    pub(super) wire: u32,
}

impl StreamId {
    /// The stream's number on the wire, for logs.
    pub fn number(self) -> u32 {
        self.wire
    }
}

/// What one side still sends on a stream.
///
/// Head ── final head ──▶ Body ── end ──▶ Ended        (an interim head stays in Head)
///
/// The connector's direction begins in Head; the gateway's in Body, or in Ended when the request has no
/// body. A stream is forgotten when both directions have ended, or with a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    Head,
    Body,
    Ended,
}

/// One stream as this side sees it.
#[derive(Debug)]
pub(super) struct Stream {
    pub wire: u32,
    /// What the shell calls it.
    pub token: u32,
    /// What we still send.
    pub sending: Half,
    /// What the peer still sends.
    pub receiving: Half,
    /// Interim heads seen or sent.
    pub interims: u8,
    pub credit: SendCredit,
    pub window: ReceiveWindow,
    /// Bytes ever queued before its OPEN.
    pub opened_at: u64,
}

impl Stream {
    pub fn is_over(&self) -> bool {
        self.sending == Half::Ended && self.receiving == Half::Ended
    }
}

/// The streams that live on a channel.
#[derive(Debug, Default)]
pub(super) struct Streams {
    slab: Slab<Stream>,
    by_wire: HashMap<u32, u32, BuildHasherDefault<NumberHasher>>,
}

impl Streams {
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    pub fn contains(&self, wire: u32) -> bool {
        self.by_wire.contains_key(&wire)
    }

    pub fn insert(&mut self, stream: Stream) -> StreamId {
        let wire = stream.wire;
        let key = self.slab.insert(stream) as u32;
        let before = self.by_wire.insert(wire, key);
        debug_assert_eq!(before, None, "a number names one stream at a time");
        StreamId { key, wire }
    }

    /// The stream, unless it was forgotten.
    pub fn get(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.slab.get_mut(id.key as usize).filter(|stream| stream.wire == id.wire)
    }

    /// The stream with this number on the wire.
    pub fn find(&mut self, wire: u32) -> Option<(StreamId, &mut Stream)> {
        let key = *self.by_wire.get(&wire)?;
        let stream = self.slab.get_mut(key as usize)?;
        Some((StreamId { key, wire }, stream))
    }

    pub fn remove(&mut self, id: StreamId) -> Option<Stream> {
        self.get(id)?;
        self.by_wire.remove(&id.wire);
        self.slab.try_remove(id.key as usize)
    }

    /// Every stream is found by its number, and nothing else is.
    pub fn is_sound(&self) -> bool {
        let is_found =
            |(key, stream): (usize, &Stream)| self.by_wire.get(&stream.wire) == Some(&(key as u32));
        self.by_wire.len() == self.slab.len() && self.slab.iter().all(is_found)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Stream> {
        self.slab.iter().map(|(_, stream)| stream)
    }
}

/// Spreads numbers that count up; they come from one authenticated peer in an order we check.
#[derive(Default)]
pub(super) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(u32::from(byte));
        }
    }

    /// The table takes its bucket from low bits and its tag from the highest: both must vary.
    fn write_u32(&mut self, number: u32) {
        let mixed = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}
