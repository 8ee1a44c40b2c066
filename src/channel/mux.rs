//! One channel: what it is, what its shell wants from it, and what to send next.
//!
//! What the peer's frames do to it is in `receive.rs`.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;
use std::time::{Duration, Instant};

use super::credit::{ChannelWindow, Pace, ReceiveWindow, SendCredit};
use super::error::{ChannelError, CloseCode};
use super::frame::{self, FrameKind};
use super::lists::{self, List, ListTag, OutgoingList, Turn};
use super::message;
use super::out::OutBuffer;
use super::publication::{self, Acknowledgement, Incoming, Outgoing, Publication, RevisionTag, Verdict};
use super::pulse::Pulse;
use super::stream::{Half, NumberHasher, Stream, StreamId, Streams};
use super::{Busy, ResetCode, Side};
use crate::limits::{
    CHANNEL_OUT_SIZE_HARD_MAX, CHANNEL_OUT_SIZE_MAX, CHANNEL_WINDOW, FRAME_HEADER_SIZE,
    FRAME_PAYLOAD_SIZE_MAX, IDENTITY_COUNT_MAX, IDENTITY_SIZE_MAX, INTERIM_COUNT_MAX, INTERNAL_LIST_SIZE_MAX,
    SETTINGS_FEED_SIZE, STREAM_COUNT_MAX, STREAM_WINDOW_INITIAL, WINDOW_GROWTH_BUDGET,
};

/// One end of a channel, after its hello.
#[derive(Debug)]
pub struct Channel {
    pub(super) side: Side,
    pub(super) streams: Streams,
    pub(super) out: OutBuffer,
    pub(super) pulse: Pulse,
    /// Number of the latest stream, ours or the peer's; 0 before the first.
    pub(super) last_wire: u32,
    /// Stream numbers passed their greatest value: every number was in use once.
    pub(super) has_wrapped: bool,
    /// What we may send on the channel.
    pub(super) credit: SendCredit,
    /// What the peer may send on the channel.
    pub(super) window: ChannelWindow,
    /// What stream windows may still grow by.
    pub(super) growth_left: u32,
    pub(super) identities: HashSet<u32, BuildHasherDefault<NumberHasher>>,
    pub(super) incoming: Incoming,
    pub(super) incoming_tokens: Incoming,
    pub(super) incoming_revoked: Incoming,
    outgoing: Option<Outgoing>,
    /// The list that is being heard.
    pub(super) turn: Turn,
    outgoing_list: Option<OutgoingList>,
    outgoing_tokens: Option<Outgoing>,
    outgoing_revoked: Option<Outgoing>,
    /// RENEWAL was asked, and nothing has come of it yet.
    pub(super) is_renewing: bool,
    pub(super) draining: bool,
    /// The gateway was asked to open no further stream.
    leaving: bool,
    /// The latest stream that a draining peer took.
    pub(super) peer_drained_at: Option<u32>,
    pub(super) closed: bool,
    pub(super) peer_closed: bool,
    /// PONGs queued since the first of them, which stands at `pongs_from` of all bytes ever queued.
    pub(super) pongs: u32,
    pub(super) pongs_from: u64,
}

// What the channel looks like.
impl Channel {
    /// A channel whose hello is done. `poll_timeout` is due at once: the first ping measures the way.
    pub fn new(side: Side, now: Instant) -> Channel {
        Channel {
            side,
            streams: Streams::default(),
            out: OutBuffer::default(),
            pulse: Pulse::new(now, side == Side::Connector),
            last_wire: 0,
            has_wrapped: false,
            credit: SendCredit::new(CHANNEL_WINDOW as u32),
            window: ChannelWindow::new(),
            growth_left: WINDOW_GROWTH_BUDGET as u32,
            identities: HashSet::default(),
            incoming: Incoming::default(),
            incoming_tokens: Incoming::default(),
            incoming_revoked: Incoming::default(),
            outgoing: None,
            turn: Turn::default(),
            outgoing_list: None,
            outgoing_tokens: None,
            outgoing_revoked: None,
            is_renewing: false,
            draining: false,
            leaving: false,
            peer_drained_at: None,
            closed: false,
            peer_closed: false,
            pongs: 0,
            pongs_from: 0,
        }
    }

    /// Which end this is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// Either side drains: no stream is opened any more.
    pub fn is_draining(&self) -> bool {
        self.draining || self.peer_drained_at.is_some()
    }

    /// Either side said CLOSE.
    pub fn is_closed(&self) -> bool {
        self.closed || self.peer_closed
    }

    /// Streams that have not ended in both directions.
    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// Identities that stand.
    pub fn identity_count(&self) -> usize {
        self.identities.len()
    }

    /// The peer was asked something and gives no sign of life, though it is not given up yet: streams are better
    /// opened elsewhere, and a connector better has another channel. The next frame ends that.
    pub fn is_stalled(&self) -> bool {
        self.pulse.is_stalled()
    }

    /// Smoothed round trip, once one was measured.
    pub fn round_trip(&self) -> Option<Duration> {
        self.pulse.round_trip()
    }

    /// This stream has no credit of its own for `count` bytes, or is forgotten; `Event::Writable` tells when
    /// it has more.
    pub fn lacks_credit(&mut self, stream: StreamId, count: usize) -> bool {
        self.streams.get(stream).is_none_or(|entry| entry.credit.left() < count)
    }

    /// Bytes that wait to be sent.
    pub fn transmit_len(&self) -> usize {
        self.out.len()
    }

    /// `data` has room for more than it holds.
    pub fn has_room_for_bulk(&self) -> bool {
        self.out.len() < CHANNEL_OUT_SIZE_MAX
    }

    /// Streams and identities are taken, and little enough waits that this stays so for some.
    pub fn has_room_for_streams(&self) -> bool {
        let is_full = self.streams.len() >= STREAM_COUNT_MAX || self.identities.len() >= IDENTITY_COUNT_MAX;
        self.has_room_for_bulk() && !is_full
    }

    /// The peer cannot have taken this stream: no byte of its OPEN has left, or the peer's DRAIN says so. Even
    /// if the channel is lost before a RESET, the request may be sent elsewhere.
    pub fn is_untaken(&mut self, stream: StreamId) -> bool {
        let sent = self.out.sent();
        self.is_excluded(stream) || self.streams.get(stream).is_some_and(|entry| sent <= entry.opened_at)
    }

    /// The peer's DRAIN says that it never took this stream.
    pub(super) fn is_excluded(&self, stream: StreamId) -> bool {
        let Some(taken) = self.peer_drained_at else { return false };
        stream.wire.wrapping_sub(taken).wrapping_sub(1) < self.last_wire.wrapping_sub(taken)
    }

    /// When `handle_timeout` wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        (!self.is_closed()).then(|| self.pulse.due())
    }
}

// What its shell wants.
impl Channel {
    /// Time passed: pings a silent peer.
    ///
    /// # Errors
    /// `ChannelError::Lost` when it was silent for `limits::CHANNEL_LOST_AFTER`.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), ChannelError> {
        if self.is_closed() {
            return Ok(());
        }
        if let Some(payload) = self.pulse.look(now, self.out.total())? {
            self.put(FrameKind::Ping, 0, &payload);
        }
        Ok(())
    }

    /// Gateway: opens a stream with a message written by [`super::RequestWriter`]; `token` comes back
    /// with its events.
    pub fn open(&mut self, message: &[u8], token: u32) -> Result<StreamId, Busy> {
        assert_eq!(self.side, Side::Gateway, "only a gateway opens streams");
        let facts = message::open_facts(message).expect("written by RequestWriter");
        assert!(self.knows_identity(facts.identity), "an identity is sent before a stream names it");
        self.admit_stream()?;
        let wire = self.next_wire();
        let sending = if facts.has_body { Half::Body } else { Half::Ended };
        let stream = Stream {
            wire,
            token,
            sending,
            receiving: Half::Head,
            interims: 0,
            credit: SendCredit::new(STREAM_WINDOW_INITIAL as u32),
            window: ReceiveWindow::new(facts.window, self.pulse.now()),
            opened_at: self.out.total(),
        };
        self.put(FrameKind::Open, wire, message);
        self.pulse.ask();
        Ok(self.streams.insert(stream))
    }

    fn admit_stream(&self) -> Result<(), Busy> {
        if self.is_closed() {
            return Err(Busy::Closed);
        }
        if self.is_draining() {
            return Err(Busy::Draining);
        }
        if self.streams.len() >= STREAM_COUNT_MAX {
            return Err(Busy::Full);
        }
        if self.has_backlog() { Err(Busy::Backlog) } else { Ok(()) }
    }

    fn next_wire(&mut self) -> u32 {
        loop {
            self.last_wire = self.last_wire.wrapping_add(1);
            self.has_wrapped |= self.last_wire == 0;
            let is_taken = self.last_wire == 0 || (self.has_wrapped && self.streams.contains(self.last_wire));
            if !is_taken {
                return self.last_wire;
            }
        }
    }

    /// What the shell calls a stream from now on.
    pub fn set_token(&mut self, stream: StreamId, token: u32) {
        if let Some(stream) = self.streams.get(stream) {
            stream.token = token;
        }
    }

    /// Connector: sends a head of an answer, written by [`super::ResponseWriter`]. Interim heads may
    /// come before the final one. A forgotten stream: nothing happens.
    ///
    /// # Errors
    /// `Busy::Backlog`; `Busy::Full` for more interim heads than allowed (drop it).
    pub fn head(&mut self, stream: StreamId, message: &[u8]) -> Result<(), Busy> {
        let is_interim = message::is_interim(message).expect("written by ResponseWriter");
        let has_backlog = self.has_backlog();
        let Some(entry) = self.streams.get(stream) else { return Ok(()) };
        assert_eq!(entry.sending, Half::Head, "one final head, from the connector, before any body");
        if has_backlog {
            return Err(Busy::Backlog);
        }
        if is_interim && usize::from(entry.interims) >= INTERIM_COUNT_MAX {
            return Err(Busy::Full);
        }
        if is_interim {
            entry.interims += 1;
        } else {
            entry.sending = Half::Body;
        }
        self.put(FrameKind::Head, stream.wire, message);
        // Nothing has to come of an answer, but whether the peer is there.
        self.pulse.ask();
        Ok(())
    }

    /// Sends bytes of a body or tunnel: as many as stream, channel and send buffer have room for now,
    /// possibly 0. Offer the rest after `Event::Writable`, `Event::Room` or `transmitted`. A forgotten
    /// stream takes nothing.
    pub fn data(&mut self, stream: StreamId, bytes: &[u8]) -> usize {
        let room = CHANNEL_OUT_SIZE_MAX.saturating_sub(self.out.len());
        let accepted = self.offer(stream, bytes.len(), room);
        self.spend(stream, accepted);
        for piece in bytes[..accepted].chunks(FRAME_PAYLOAD_SIZE_MAX) {
            self.out.frame(FrameKind::Data, stream.wire, piece);
        }
        accepted
    }

    /// How many of `wanted` bytes stream and channel have credit for now, at most `room`. Offer the rest
    /// after `Event::Writable` or `Event::Room`.
    fn offer(&mut self, stream: StreamId, wanted: usize, room: usize) -> usize {
        if self.closed {
            return 0;
        }
        let Some(entry) = self.streams.get(stream) else { return 0 };
        assert_eq!(entry.sending, Half::Body, "body bytes come between head and end");
        entry.credit.note_wanted(wanted);
        let wanted = wanted.min(entry.credit.left()).min(room);
        self.credit.note_wanted(wanted);
        wanted.min(self.credit.left())
    }

    fn spend(&mut self, stream: StreamId, count: usize) {
        let Some(entry) = self.streams.get(stream) else { return };
        entry.credit.spend(count);
        self.credit.spend(count);
    }

    /// Bytes of a body that the shell may send by itself now, in frames with [`Channel::data_header`]: of
    /// `wanted` as many as there is credit for, and none while other frames wait, which come first. Offer
    /// the rest as in [`Channel::data`].
    pub fn passable(&mut self, stream: StreamId, wanted: usize) -> usize {
        let room = if self.out.len() == 0 { usize::MAX } else { 0 };
        self.offer(stream, wanted, room)
    }

    /// The shell sent so many bytes of a body, `framed` with their headers: at most what
    /// [`Channel::passable`] gave.
    pub fn passed(&mut self, stream: StreamId, count: usize, framed: usize) {
        self.spend(stream, count);
        self.out.pass(framed);
    }

    /// What stands before a piece of a body of `size` bytes.
    pub fn data_header(stream: StreamId, size: u16) -> [u8; FRAME_HEADER_SIZE] {
        frame::header(FrameKind::Data, stream.wire, size)
    }

    /// Ends our direction; `trailers` as written by [`super::TrailersWriter`], or empty. A forgotten
    /// stream: nothing happens.
    pub fn end(&mut self, stream: StreamId, trailers: &[u8]) {
        let Some(entry) = self.streams.get(stream) else { return };
        assert_eq!(entry.sending, Half::Body, "a direction ends once, and after its head");
        entry.sending = Half::Ended;
        let is_over = entry.is_over();
        self.put(FrameKind::End, stream.wire, trailers);
        if is_over {
            self.forget(stream);
        }
    }

    /// Breaks a stream off in both directions and forgets it.
    pub fn reset(&mut self, stream: StreamId, code: impl Into<ResetCode>) {
        if self.forget(stream) {
            self.put(FrameKind::Reset, stream.wire, &[code.into().to_byte()]);
        }
    }

    /// The consumer of a stream took `count` bytes that came as `Event::Data`: the peer may send as many
    /// anew, and more when the window is what holds it back.
    pub fn consumed(&mut self, stream: StreamId, count: usize) {
        let Some(entry) = self.streams.get(stream) else { return };
        let count = u32::try_from(count).expect("a window is less than 4 GiB");
        let pace = Pace {
            now: self.pulse.now(),
            round_trip: self.pulse.round_trip(),
            budget: &mut self.growth_left,
        };
        let grant = entry.window.consume(count, pace);
        let may_send = entry.receiving != Half::Ended;
        if let Some(grant) = grant.filter(|_| may_send) {
            self.put(FrameKind::Credit, stream.wire, &grant.to_be_bytes());
        }
    }

    /// Gateway: tells an identity under a number that is not 0 and not in use.
    ///
    /// # Errors
    /// `Busy::Full` with as many as allowed; `Busy::Backlog`; `Busy::Closed`.
    pub fn identity(&mut self, number: u32, bytes: &[u8]) -> Result<(), Busy> {
        assert_eq!(self.side, Side::Gateway, "only a gateway knows clients");
        assert!(bytes.len() <= IDENTITY_SIZE_MAX && number != 0, "identities are bounded when they are made");
        if self.is_closed() {
            return Err(Busy::Closed);
        }
        if self.identities.len() >= IDENTITY_COUNT_MAX {
            return Err(Busy::Full);
        }
        if self.has_backlog() {
            return Err(Busy::Backlog);
        }
        assert!(self.identities.insert(number), "a number names one identity at a time");
        self.put(FrameKind::Identity, number, bytes);
        Ok(())
    }

    /// Gateway: no further stream names this identity. Streams that do may go on. Unknown: nothing
    /// happens.
    pub fn identity_gone(&mut self, number: u32) {
        if self.identities.remove(&number) {
            self.put(FrameKind::IdentityGone, number, &[]);
        }
    }

    /// Connector: publishes settings; they leave in pieces between answers. What was being published
    /// before is given up.
    pub fn publish(&mut self, revision: RevisionTag, bytes: &[u8]) {
        assert_eq!(self.side, Side::Connector, "only a connection point publishes");
        self.outgoing = Some(Outgoing::new(Publication { revision, bytes: bytes.to_vec() }));
        self.feed();
    }

    /// Connector: says which keys of token issuers it fetched and which tokens are blocked; as
    /// [`publish`](Self::publish), behind settings.
    pub fn publish_tokens(&mut self, revision: RevisionTag, bytes: &[u8]) {
        assert_eq!(self.side, Side::Connector, "only a connection point publishes");
        self.outgoing_tokens = Some(Outgoing::new(Publication { revision, bytes: bytes.to_vec() }));
        self.feed();
    }

    /// Connector: says which internal certificates are revoked, before anything else that is published; as
    /// [`publish`](Self::publish).
    pub fn publish_revoked(&mut self, revision: RevisionTag, bytes: &[u8]) {
        assert_eq!(self.side, Side::Connector, "only a connection point publishes");
        assert!(bytes.len() <= INTERNAL_LIST_SIZE_MAX, "lists are bounded when they are read");
        self.outgoing_revoked = Some(Outgoing::new(Publication { revision, bytes: bytes.to_vec() }));
        self.feed();
    }

    /// Gateway: asks for its next internal certificate. Connector: says what came of that. At most
    /// [`FRAME_PAYLOAD_SIZE_MAX`] bytes.
    ///
    /// # Errors
    /// It is not its turn: something was asked already, or nothing was; `Busy::Backlog`; `Busy::Closed`.
    pub fn renewal(&mut self, bytes: &[u8]) -> Result<(), Busy> {
        assert!(bytes.len() <= FRAME_PAYLOAD_SIZE_MAX, "renewals are bounded when they are made");
        if self.is_closed() {
            return Err(Busy::Closed);
        }
        if self.is_renewing == (self.side == Side::Gateway) {
            return Err(Busy::Full);
        }
        if self.has_backlog() {
            return Err(Busy::Backlog);
        }
        self.is_renewing = self.side == Side::Gateway;
        self.put(FrameKind::Renewal, 0, bytes);
        Ok(())
    }

    /// Gateway: says what became of settings. A text longer than 255 bytes is cut.
    pub fn acknowledge(&mut self, revision: RevisionTag, verdict: Verdict, text: &str) {
        assert_eq!(self.side, Side::Gateway, "only a gateway acknowledges settings");
        self.put(FrameKind::SettingsAck, 0, &Acknowledgement::encode(revision, verdict, text));
    }

    /// Connector: offers a list; `Event::ListAck` says whether it is wanted. One at a time: the next only
    /// behind a verdict other than *wanted*.
    pub fn offer_list(&mut self, tag: &ListTag) {
        assert_eq!(self.side, Side::Connector, "only a connection point has lists");
        self.put(FrameKind::List, 0, &lists::encode(tag, 0, &[]));
    }

    /// Connector: sends the list that was offered and is wanted, in pieces between answers.
    pub fn send_list(&mut self, list: List) {
        assert_eq!(self.side, Side::Connector, "only a connection point has lists");
        self.outgoing_list = Some(OutgoingList::new(list));
        self.feed();
    }

    /// Gateway: whether a list is wanted, or what became of it. A text longer than 255 bytes is cut.
    pub fn answer_list(&mut self, tag: &ListTag, verdict: Verdict, text: &str) {
        assert_eq!(self.side, Side::Gateway, "only a gateway acknowledges lists");
        if self.turn.answer(tag, verdict == Verdict::Wanted) {
            self.put(FrameKind::ListAck, 0, &Acknowledgement::encode(tag.revision(), verdict, text));
        }
    }

    /// Opens (gateway) or takes (connector) no further stream; those that live go on. Streams that
    /// arrive nevertheless are answered with `ResetCode::NotBegun` here.
    pub fn drain(&mut self) {
        if !std::mem::replace(&mut self.draining, true) {
            self.put(FrameKind::Drain, 0, &self.last_wire.to_be_bytes());
        }
    }

    /// Connector: asks the gateway to open no further stream. Its DRAIN is the answer; what it opened before that is
    /// taken like any other, so that nothing is turned away.
    pub fn leave(&mut self) {
        assert_eq!(self.side, Side::Connector, "a gateway knows itself what it opens");
        if !std::mem::replace(&mut self.leaving, true) {
            self.put(FrameKind::Leave, 0, &[]);
        }
    }

    /// Gateway: another process takes the instance's place. The connection point dials one more channel, which comes
    /// to that one; this channel goes on meanwhile.
    pub fn make_way(&mut self) {
        assert_eq!(self.side, Side::Gateway, "a connection point dials whenever it wants");
        if !self.is_draining() {
            self.put(FrameKind::Leave, 0, &[]);
        }
    }

    /// The peer opens, or takes, no further stream.
    pub fn has_peer_drained(&self) -> bool {
        self.peer_drained_at.is_some()
    }

    /// Sends a report, JSON of at most `limits::FRAME_PAYLOAD_SIZE_MAX` bytes.
    ///
    /// # Errors
    /// `Busy::Backlog`: reports wait for better times.
    pub fn status(&mut self, bytes: &[u8]) -> Result<(), Busy> {
        assert!(bytes.len() <= FRAME_PAYLOAD_SIZE_MAX, "reports are bounded when they are made");
        if !self.has_room_for_bulk() {
            return Err(Busy::Backlog);
        }
        self.put(FrameKind::Status, 0, bytes);
        Ok(())
    }

    /// Says the last word past all that waits, and gives it alone: whoever opened a stream that still waits is told
    /// that it never left (`is_untaken`), so it must not. To be called between whole frames.
    pub fn break_off(&mut self, code: CloseCode, text: &str) -> &[u8] {
        let before = self.out.len();
        self.close(code, text);
        &self.out.as_slice()[before..]
    }

    /// Says the last word: nothing is queued behind it. A text longer than 255 bytes is cut.
    pub fn close(&mut self, code: CloseCode, text: &str) {
        let text = publication::close_text(text);
        let mut payload = Vec::with_capacity(1 + text.len());
        payload.push(code as u8);
        payload.extend_from_slice(text.as_bytes());
        self.put(FrameKind::Close, 0, &payload);
        self.closed = true;
        (self.outgoing, self.outgoing_tokens, self.outgoing_list) = (None, None, None);
        self.outgoing_revoked = None;
    }
}

// What to do next.
impl Channel {
    /// What waits to be sent, in one piece. Take as much from its front as there is room for, then call
    /// `transmitted`.
    pub fn transmit(&self) -> &[u8] {
        self.out.as_slice()
    }

    /// How much of `transmit` to take for one TLS record of at most `size_max` bytes: whole frames, so
    /// that the other side finds none split between two records. The largest frame fits the largest
    /// record.
    pub fn transmit_run(&self, size_max: usize) -> usize {
        frame::run(self.out.as_slice(), size_max)
    }

    /// The first `count` bytes of `transmit` are on their way.
    pub fn transmitted(&mut self, count: usize) {
        self.out.consume(count);
        let has_list = self.outgoing_list.is_some() || self.outgoing_revoked.is_some();
        if self.outgoing.is_some() || self.outgoing_tokens.is_some() || has_list {
            self.feed();
        }
    }

    /// Queues settings, and then lists, while little else waits.
    #[cold]
    fn feed(&mut self) {
        while self.out.len() < SETTINGS_FEED_SIZE {
            let (kind, (piece, is_last)) = if let Some(outgoing) = &mut self.outgoing_revoked {
                (FrameKind::Revoked, outgoing.next_piece())
            } else if let Some(outgoing) = &mut self.outgoing {
                (FrameKind::Settings, outgoing.next_piece())
            } else if let Some(outgoing) = &mut self.outgoing_tokens {
                (FrameKind::Tokens, outgoing.next_piece())
            } else if let Some(outgoing) = &mut self.outgoing_list {
                (FrameKind::List, outgoing.next_piece())
            } else {
                return;
            };
            if is_last {
                match kind {
                    FrameKind::Revoked => self.outgoing_revoked = None,
                    FrameKind::Settings => self.outgoing = None,
                    FrameKind::Tokens => self.outgoing_tokens = None,
                    _ => self.outgoing_list = None,
                }
            }
            self.put(kind, 0, &piece);
        }
    }

    pub(super) fn has_backlog(&self) -> bool {
        self.out.len() >= CHANNEL_OUT_SIZE_HARD_MAX
    }

    /// Whether the number is one that stands, or 0, which names nobody.
    pub fn knows_identity(&self, number: u32) -> bool {
        number == 0 || self.identities.contains(&number)
    }

    /// Queues a frame, unless the last word was said.
    pub(super) fn put(&mut self, kind: FrameKind, stream: u32, payload: &[u8]) {
        if !self.closed {
            self.out.frame(kind, stream, payload);
        }
    }

    /// Forgets a stream; whether there was one.
    pub(super) fn forget(&mut self, stream: StreamId) -> bool {
        let Some(stream) = self.streams.remove(stream) else { return false };
        self.growth_left += stream.window.grown();
        true
    }
}
