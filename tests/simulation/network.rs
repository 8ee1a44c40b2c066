//! Bytes on their way between two ends of a channel: in order, late, stalled by a cut.

use std::time::{Duration, Instant};

use cmg::channel::{Channel, Side};

/// SplitMix64: small, and the same for ever.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn is_one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    /// Mostly short, now and then long.
    pub fn micros(&mut self, usual: usize) -> Duration {
        let most = if self.is_one_in(20) { usual * 30 } else { usual };
        Duration::from_micros(1 + self.below(most) as u64)
    }
}

/// What comes to an end.
pub enum Parcel {
    Bytes(Vec<u8>),
    /// The other end is gone.
    Eof,
}

/// One direction.
#[derive(Default)]
pub struct Way {
    /// When what was sent last arrives: nothing overtakes.
    pub last: Option<Instant>,
    /// Sent into a cut: it comes when that is healed.
    pub stuck: Vec<Parcel>,
    /// Arrived, of a frame that is not whole.
    pub inbox: Vec<u8>,
    /// The end that sends had no room for all that was to go.
    pub is_full: bool,
}

/// A channel of a connection point to a gateway.
pub struct Link {
    pub gateway: usize,
    pub point: usize,
    /// At the gateway and at the connection point; gone where it is known to be lost.
    pub ends: [Option<Channel>; 2],
    /// By the end that sends.
    pub ways: [Way; 2],
}

pub const GATEWAY: usize = 0;
pub const CONNECTOR: usize = 1;

impl Link {
    pub fn new(gateway: usize, point: usize, now: Instant) -> Link {
        let ends = [Some(Channel::new(Side::Gateway, now)), Some(Channel::new(Side::Connector, now))];
        Link { gateway, point, ends, ways: Default::default() }
    }

    pub fn is_open(&self) -> bool {
        self.ends[GATEWAY].as_ref().is_some_and(|channel| !channel.is_draining() && !channel.is_closed())
    }

    pub fn is_stalled(&self) -> bool {
        self.ends[GATEWAY].as_ref().is_some_and(Channel::is_stalled)
    }
}
