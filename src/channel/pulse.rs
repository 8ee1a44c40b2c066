//! Whether the peer lives, and how far away it is.
//!
//! Each side sees to it that it says something and hears something every few seconds: so a link whose
//! one direction is busy for long is not mistaken for a dead one. Who asks something, or answers, and hears nothing
//! at all for a second asks whether the peer is there; one that does not even say that stalls, long before it is given
//! up. A connector has it stall when any ping is not answered. That the peer asks in its turn is no answer: its pings
//! come as well where only the way to it is cut.

use std::time::{Duration, Instant};

use super::error::ChannelError;
use crate::limits::{
    CHANNEL_LOST_AFTER, CONNECTOR_PING_AFTER, GATEWAY_PING_AFTER, PROBE_AFTER, ROUND_TRIP_EVERY,
    STALLED_AFTER,
};

/// Silence, pings and the round trip of one channel.
#[derive(Debug)]
pub(super) struct Pulse {
    born: Instant,
    now: Instant,
    heard: Instant,
    /// A frame came that may be an answer: any but a ping.
    answered: Instant,
    /// When to look again.
    check_at: Instant,
    /// Bytes queued when we last looked.
    queued: u64,
    pinged: Option<Instant>,
    /// Pings without their pong.
    unanswered: u32,
    round_trip: Option<Duration>,
    expects: Expects,
    /// Every ping asks something.
    is_watchful: bool,
}

/// Whether the peer has something to say.
///
/// Nothing ── asked ──▶ Word ── looked ──▶ Since ── a ping unanswered ──▶ Sign     (any ── answered ──▶ Nothing)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expects {
    Nothing,
    /// Something was asked, and it was not looked since.
    Word,
    /// Something was asked by then.
    Since(Instant),
    /// It stalls: no sign of life came for a ping.
    Sign,
}

impl Pulse {
    pub fn new(now: Instant, is_watchful: bool) -> Pulse {
        Pulse {
            born: now,
            now,
            heard: now,
            answered: now,
            check_at: now,
            queued: 0,
            pinged: None,
            unanswered: 0,
            round_trip: None,
            expects: Expects::Nothing,
            is_watchful,
        }
    }

    /// The latest time this channel was told.
    pub fn now(&self) -> Instant {
        self.now
    }

    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    pub fn due(&self) -> Instant {
        let regular = self.check_at.min(self.heard + CHANNEL_LOST_AFTER);
        match self.expects {
            Expects::Nothing | Expects::Sign => regular,
            Expects::Word => regular.min(self.now),
            Expects::Since(asked) => match self.probed(asked) {
                Some(pinged) => regular.min(pinged + STALLED_AFTER),
                None => regular.min(asked + PROBE_AFTER),
            },
        }
    }

    /// The ping that left behind what was asked.
    fn probed(&self, asked: Instant) -> Option<Instant> {
        self.pinged.filter(|pinged| self.unanswered > 0 && *pinged > asked)
    }

    /// The peer asks whether we are there: it lives, and that does not say that it hears us.
    pub fn hear_ping(&mut self, now: Instant) {
        self.now = now;
        self.heard = now;
    }

    /// Any other frame came.
    pub fn hear(&mut self, now: Instant) {
        self.hear_ping(now);
        self.answered = now;
        self.expects = Expects::Nothing;
    }

    /// Something was asked of the peer.
    pub fn ask(&mut self) {
        if self.expects == Expects::Nothing {
            self.expects = Expects::Word;
        }
    }

    /// The peer was asked something, and then whether it is there, and says nothing.
    pub fn is_stalled(&self) -> bool {
        self.expects == Expects::Sign
    }

    /// Whether it is time to ask if the peer is there, because it says nothing.
    fn look_at_asked(&mut self, now: Instant) -> bool {
        match self.expects {
            Expects::Nothing | Expects::Sign => false,
            Expects::Word => {
                self.expects = Expects::Since(now);
                false
            }
            Expects::Since(asked) => match self.probed(asked) {
                Some(pinged) if now >= pinged + STALLED_AFTER => {
                    self.expects = Expects::Sign;
                    false
                }
                Some(_) => false,
                None => now >= asked + PROBE_AFTER,
            },
        }
    }

    /// Time passed; `queued`: bytes ever queued to the peer. Gives the payload of a ping to send.
    pub fn look(&mut self, now: Instant, queued: u64) -> Result<Option<[u8; 8]>, ChannelError> {
        self.now = now;
        if now >= self.heard + CHANNEL_LOST_AFTER {
            return Err(ChannelError::Lost);
        }
        let is_probe = self.look_at_asked(now);
        if now < self.check_at && !is_probe {
            return Ok(None);
        }
        // Who is to see within seconds that it is not heard asks itself, also one that is asked.
        let (last, ping_after) = match self.is_watchful {
            true => (self.answered, CONNECTOR_PING_AFTER),
            false => (self.heard, GATEWAY_PING_AFTER),
        };
        // One ping has no answer yet, and more would say no more.
        if self.is_stalled() {
            self.check_at = now + ping_after;
            return Ok(None);
        }
        let is_stale = self.pinged.is_none_or(|pinged| now >= pinged + ROUND_TRIP_EVERY);
        let is_quiet = now >= last + ping_after || queued == self.queued;
        self.queued = queued;
        if !is_stale && !is_quiet && !is_probe {
            self.check_at = last + ping_after;
            return Ok(None);
        }
        self.check_at = now + ping_after;
        self.pinged = Some(now);
        self.unanswered += 1;
        if self.is_watchful && self.expects == Expects::Nothing && now > self.answered {
            self.expects = Expects::Since(self.answered);
        }
        let age = now.saturating_duration_since(self.born).as_nanos() as u64;
        Ok(Some(age.to_be_bytes()))
    }

    /// A pong came with the payload of its ping.
    pub fn hear_pong(&mut self, payload: [u8; 8], now: Instant) -> Result<(), ChannelError> {
        self.unanswered = self.unanswered.checked_sub(1).ok_or(ChannelError::UnaskedPong)?;
        let sent = Duration::from_nanos(u64::from_be_bytes(payload));
        let age = now.saturating_duration_since(self.born);
        let sample = age.checked_sub(sent).ok_or(ChannelError::UnaskedPong)?;
        self.round_trip = Some(self.round_trip.map_or(sample, |before| (3 * before + sample) / 4));
        Ok(())
    }
}
