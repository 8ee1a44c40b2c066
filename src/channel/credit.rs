//! How much may be sent: windows granted by the receiver, only for buffer it owns.
//!
//! A stream's window is given back as its consumer takes bytes away, half a window at a time; the
//! channel's as soon as a frame was handed out, so that a stream nobody reads holds back only itself.

use std::time::{Duration, Instant};

use crate::limits::{CHANNEL_WINDOW, STREAM_WINDOW_ANNOUNCED, STREAM_WINDOW_MAX, WINDOW_WORTH_LEAST};

/// The receiving end of a stream's window. Always: `granted + held + owed == size`.
#[derive(Debug)]
pub(super) struct ReceiveWindow {
    size: u32,
    /// What the peer may still send.
    granted: u32,
    /// Handed out, not yet consumed.
    held: u32,
    /// Consumed, not yet granted anew.
    owed: u32,
    /// By how much the window grew, for the budget.
    grown: u32,
    /// Bytes consumed since `measured_from`.
    measured: u32,
    measured_from: Instant,
}

impl ReceiveWindow {
    pub fn new(size: u32, now: Instant) -> ReceiveWindow {
        ReceiveWindow { size, granted: size, held: 0, owed: 0, grown: 0, measured: 0, measured_from: now }
    }

    pub fn grown(&self) -> u32 {
        self.grown
    }

    /// Bytes came and are handed out. `None`: more than was granted.
    pub fn hear(&mut self, count: u32) -> Option<()> {
        self.granted = self.granted.checked_sub(count)?;
        self.held += count;
        Some(())
    }

    /// Bytes were consumed. Gives what to grant anew, once half a window is owed.
    pub fn consume(&mut self, count: u32, pace: Pace<'_>) -> Option<u32> {
        assert!(count <= self.held, "only bytes that were handed out can be consumed");
        self.held -= count;
        self.owed += count;
        self.measure(count, pace);
        if u64::from(self.owed) * 2 < u64::from(self.size) {
            return None;
        }
        let grant = std::mem::take(&mut self.owed);
        self.granted += grant;
        Some(grant)
    }

    /// A body of so many bytes was announced: the window begins wider, as far as the budget goes. Gives what to
    /// grant for that.
    pub fn expect(&mut self, length: u64, budget: &mut u32) -> Option<u32> {
        let wanted = length.min(STREAM_WINDOW_ANNOUNCED as u64) as u32;
        let by = wanted.saturating_sub(self.size).min(*budget);
        *budget -= by;
        self.size += by;
        self.grown += by;
        self.granted += by;
        (by > 0).then_some(by)
    }

    /// A whole window consumed within two round trips: the window is what slows the sender. Within some
    /// milliseconds: it makes both sides run for little.
    fn measure(&mut self, count: u32, pace: Pace<'_>) {
        self.measured += count;
        if self.measured < self.size {
            return;
        }
        let took = pace.now.saturating_duration_since(self.measured_from);
        self.measured = 0;
        self.measured_from = pace.now;
        if pace.round_trip.is_some_and(|round_trip| took <= (2 * round_trip).max(WINDOW_WORTH_LEAST)) {
            self.grow(pace.budget);
        }
    }

    fn grow(&mut self, budget: &mut u32) {
        let room = (STREAM_WINDOW_MAX as u32).saturating_sub(self.size);
        let by = self.size.min(room).min(*budget);
        *budget -= by;
        self.size += by;
        self.grown += by;
        self.owed += by;
    }

    /// The sum above holds.
    pub fn is_sound(&self) -> bool {
        self.granted + self.held + self.owed == self.size
    }
}

/// What a window's growth depends on.
pub(super) struct Pace<'c> {
    pub now: Instant,
    pub round_trip: Option<Duration>,
    /// What the windows of the channel may still grow by.
    pub budget: &'c mut u32,
}

/// The receiving end of the channel's window.
#[derive(Debug)]
pub(super) struct ChannelWindow {
    granted: u32,
    owed: u32,
}

impl ChannelWindow {
    pub fn new() -> ChannelWindow {
        ChannelWindow { granted: CHANNEL_WINDOW as u32, owed: 0 }
    }

    pub fn granted(&self) -> u32 {
        self.granted
    }

    /// What is granted and owed together is the window.
    pub fn is_sound(&self) -> bool {
        (self.granted + self.owed) as usize == CHANNEL_WINDOW
    }

    /// Bytes came and leave the channel at once. Gives what to grant anew, or an error when more came
    /// than was granted.
    pub fn hear(&mut self, count: u32) -> Result<Option<u32>, Passed> {
        self.granted = self.granted.checked_sub(count).ok_or(Passed)?;
        self.owed += count;
        if (self.owed as usize) * 2 < CHANNEL_WINDOW {
            return Ok(None);
        }
        let grant = std::mem::take(&mut self.owed);
        self.granted += grant;
        Ok(Some(grant))
    }
}

/// More came than was granted.
#[derive(Debug)]
pub(super) struct Passed;

/// Credit to send, on a stream or on the channel.
#[derive(Clone, Copy, Debug)]
pub(super) struct SendCredit {
    left: u32,
    /// Bytes were refused for want of it: the next credit is worth an event.
    was_short: bool,
}

impl SendCredit {
    pub fn new(left: u32) -> SendCredit {
        SendCredit { left, was_short: false }
    }

    pub fn left(&self) -> usize {
        self.left as usize
    }

    pub fn note_wanted(&mut self, wanted: usize) {
        self.was_short |= wanted > self.left();
    }

    pub fn spend(&mut self, count: usize) {
        assert!(count <= self.left(), "never more is sent than credit allows");
        self.left -= count as u32;
    }

    /// Credit came: whether somebody waits for it. `None`: it passes `size_max`.
    pub fn hear(&mut self, count: u32, size_max: usize) -> Option<bool> {
        self.left = self.left.checked_add(count).filter(|&left| left as usize <= size_max)?;
        Some(std::mem::take(&mut self.was_short))
    }
}
