//! What the peer's frames do to a channel.
//!
//! Everything is checked before it is believed: order, windows, counts, and who may say what. A frame
//! for a stream that lived once is late and passed over; one for a stream that never lived is an error.

use std::time::Instant;

use super::credit::{ReceiveWindow, SendCredit};
use super::error::{ChannelError, CloseCode};
use super::frame::{self, Frame, FrameKind};
use super::lists::Heard;
use super::message;
use super::mux::Channel;
use super::publication::Acknowledgement;
use super::stream::{Half, Stream, StreamId};
use super::{Event, ResetCode, Side};
use crate::limits::{
    CHANNEL_OUT_STALLED_SIZE, CHANNEL_TEXT_SIZE_MAX, CHANNEL_WINDOW, IDENTITY_COUNT_MAX, IDENTITY_SIZE_MAX,
    INTERIM_COUNT_MAX, INTERNAL_LIST_SIZE_MAX, PONG_COUNT_MAX, STREAM_COUNT_MAX, STREAM_WINDOW_INITIAL,
    STREAM_WINDOW_MAX,
};

/// How far the number of a new stream may be from the one before: every number between is in use.
const STREAM_STEP_MAX: u32 = STREAM_COUNT_MAX as u32 + 1;

impl Channel {
    /// Takes one frame from the front of `bytes`: its size on the wire and what it means. `None`: more
    /// bytes are needed.
    ///
    /// # Errors
    /// The peer broke the protocol: `close` with the error's code and let the connection go.
    pub fn handle_frame<'b>(
        &mut self,
        bytes: &'b [u8],
        now: Instant,
    ) -> Result<Option<(usize, Event<'b>)>, ChannelError> {
        let Some((frame, size)) = frame::take(bytes)? else { return Ok(None) };
        if self.peer_closed {
            return Err(ChannelError::AfterClose);
        }
        if self.out.len() > CHANNEL_OUT_STALLED_SIZE {
            return Err(ChannelError::NotReading);
        }
        match frame.kind {
            FrameKind::Ping => self.pulse.hear_ping(now),
            _ => self.pulse.hear(now),
        }
        let event = self.hear(frame, now)?;
        Ok(Some((size, event)))
    }

    fn hear<'b>(&mut self, frame: Frame<'b>, now: Instant) -> Result<Event<'b>, ChannelError> {
        match frame.kind {
            FrameKind::Data => self.hear_data(frame),
            FrameKind::Open => self.hear_open(frame),
            FrameKind::Head => self.hear_head(frame),
            FrameKind::End => self.hear_end(frame),
            FrameKind::Reset => self.hear_reset(frame),
            FrameKind::Credit => self.hear_credit(frame),
            FrameKind::Identity => self.hear_identity(frame),
            FrameKind::IdentityGone => self.hear_identity_gone(frame),
            FrameKind::Settings
            | FrameKind::Tokens
            | FrameKind::SettingsAck
            | FrameKind::Ping
            | FrameKind::Pong
            | FrameKind::Drain
            | FrameKind::Leave
            | FrameKind::Status
            | FrameKind::List
            | FrameKind::ListAck
            | FrameKind::Revoked
            | FrameKind::Renewal
            | FrameKind::Close => self.hear_channel(frame, now),
            FrameKind::Ignored => Ok(Event::None),
            FrameKind::Hello | FrameKind::HelloReply => Err(ChannelError::Unexpected(frame.kind)),
        }
    }

    fn hear_channel<'b>(&mut self, frame: Frame<'b>, now: Instant) -> Result<Event<'b>, ChannelError> {
        if frame.stream != 0 {
            return Err(ChannelError::Malformed(frame.kind, "a stream where none belongs"));
        }
        match frame.kind {
            FrameKind::Settings => self.hear_settings(frame),
            FrameKind::Tokens => self.hear_tokens(frame),
            FrameKind::SettingsAck => {
                self.only(Side::Connector, frame.kind)?;
                Ok(Event::SettingsAck(Box::new(Acknowledgement::parse(frame.kind, frame.payload)?)))
            }
            FrameKind::List => self.hear_list(frame),
            FrameKind::ListAck => {
                self.only(Side::Connector, frame.kind)?;
                Ok(Event::ListAck(Box::new(Acknowledgement::parse(frame.kind, frame.payload)?)))
            }
            FrameKind::Ping => self.hear_ping(frame),
            FrameKind::Pong => {
                self.pulse.hear_pong(exactly(&frame)?, now)?;
                Ok(Event::Pong)
            }
            FrameKind::Drain => self.hear_drain(frame),
            FrameKind::Leave => self.hear_leave(frame),
            FrameKind::Revoked => self.hear_revoked(frame),
            FrameKind::Renewal => self.hear_renewal(frame),
            FrameKind::Status => Ok(Event::Status { bytes: frame.payload }),
            FrameKind::Close => self.hear_close(frame),
            other => Err(ChannelError::Unexpected(other)),
        }
    }

    fn hear_open<'b>(&mut self, frame: Frame<'b>) -> Result<Event<'b>, ChannelError> {
        self.only(Side::Connector, frame.kind)?;
        let facts = message::open_facts(frame.payload)
            .ok_or(ChannelError::Malformed(frame.kind, "too short, or its window is out of range"))?;
        if !self.knows_identity(facts.identity) {
            return Err(ChannelError::BadIdentity(facts.identity));
        }
        if self.peer_drained_at.is_some() {
            return Err(ChannelError::Unexpected(frame.kind));
        }
        self.hear_number(frame.stream)?;
        if self.streams.len() >= STREAM_COUNT_MAX {
            return Err(ChannelError::TooManyStreams);
        }
        if self.draining {
            self.put(FrameKind::Reset, frame.stream, &[ResetCode::NotBegun.to_byte()]);
            return Ok(Event::None);
        }
        let stream = self.streams.insert(Stream {
            wire: frame.stream,
            token: u32::MAX,
            sending: Half::Head,
            receiving: if facts.has_body { Half::Body } else { Half::Ended },
            interims: 0,
            credit: SendCredit::new(facts.window),
            window: ReceiveWindow::new(STREAM_WINDOW_INITIAL as u32, self.pulse.now()),
            opened_at: 0,
        });
        self.expect(stream, facts.length);
        Ok(Event::Opened { stream, message: frame.payload })
    }

    fn hear_number(&mut self, wire: u32) -> Result<(), ChannelError> {
        let step = wire.wrapping_sub(self.last_wire);
        let is_in_order = wire != 0 && (1..=STREAM_STEP_MAX).contains(&step);
        if !is_in_order || self.streams.contains(wire) {
            return Err(ChannelError::StreamOrder(wire));
        }
        self.has_wrapped |= wire < self.last_wire;
        self.last_wire = wire;
        Ok(())
    }

    fn hear_head<'b>(&mut self, frame: Frame<'b>) -> Result<Event<'b>, ChannelError> {
        self.only(Side::Gateway, frame.kind)?;
        let is_interim =
            message::is_interim(frame.payload).ok_or(ChannelError::Malformed(frame.kind, "too short"))?;
        let Some((stream, entry)) = self.find(&frame)? else { return Ok(Event::None) };
        if entry.receiving != Half::Head {
            return Err(ChannelError::StreamState(frame.kind, frame.stream));
        }
        if !is_interim {
            entry.receiving = Half::Body;
        } else if usize::from(entry.interims) < INTERIM_COUNT_MAX {
            entry.interims += 1;
        } else {
            return Err(ChannelError::TooManyInterims(frame.stream));
        }
        let token = entry.token;
        if !is_interim {
            self.expect(stream, message::answer_length(frame.payload));
        }
        Ok(Event::Head { stream, token, message: frame.payload })
    }

    /// The peer announced a body: it may send more of it at once.
    fn expect(&mut self, stream: StreamId, length: u64) {
        let Some(entry) = self.streams.get(stream) else { return };
        if let Some(grant) = entry.window.expect(length, &mut self.growth_left) {
            self.put(FrameKind::Credit, stream.wire, &grant.to_be_bytes());
        }
    }

    fn hear_data<'b>(&mut self, frame: Frame<'b>) -> Result<Event<'b>, ChannelError> {
        let count = frame.payload.len() as u32;
        if count == 0 {
            return Err(ChannelError::Malformed(frame.kind, "no bytes"));
        }
        let grant = self.window.hear(count).map_err(|_| ChannelError::ChannelWindow)?;
        if let Some(grant) = grant {
            self.put(FrameKind::Credit, 0, &grant.to_be_bytes());
        }
        let Some((stream, entry)) = self.find(&frame)? else { return Ok(Event::None) };
        if entry.receiving != Half::Body {
            return Err(ChannelError::StreamState(frame.kind, frame.stream));
        }
        entry.window.hear(count).ok_or(ChannelError::StreamWindow(frame.stream))?;
        Ok(Event::Data { stream, token: entry.token, data: frame.payload })
    }

    fn hear_end<'b>(&mut self, frame: Frame<'b>) -> Result<Event<'b>, ChannelError> {
        let Some((stream, entry)) = self.find(&frame)? else { return Ok(Event::None) };
        if entry.receiving != Half::Body {
            return Err(ChannelError::StreamState(frame.kind, frame.stream));
        }
        entry.receiving = Half::Ended;
        let token = entry.token;
        if entry.is_over() {
            self.forget(stream);
        }
        Ok(Event::End { stream, token, trailers: frame.payload })
    }

    fn hear_reset<'b>(&mut self, frame: Frame<'b>) -> Result<Event<'b>, ChannelError> {
        let [code] = exactly(&frame)?;
        let Some((stream, entry)) = self.find(&frame)? else { return Ok(Event::None) };
        let token = entry.token;
        self.forget(stream);
        Ok(Event::Reset { stream, token, code: ResetCode::from_byte(code) })
    }

    fn hear_credit<'b>(&mut self, frame: Frame<'b>) -> Result<Event<'b>, ChannelError> {
        let count = u32::from_be_bytes(exactly(&frame)?);
        if count == 0 {
            return Err(ChannelError::Malformed(frame.kind, "no credit"));
        }
        let overflow = ChannelError::CreditOverflow(frame.stream);
        if frame.stream == 0 {
            let is_awaited = self.credit.hear(count, CHANNEL_WINDOW).ok_or(overflow)?;
            return Ok(if is_awaited { Event::Room } else { Event::None });
        }
        let Some((stream, entry)) = self.find(&frame)? else { return Ok(Event::None) };
        let is_awaited = entry.credit.hear(count, STREAM_WINDOW_MAX).ok_or(overflow)?;
        Ok(if is_awaited { Event::Writable { stream, token: entry.token } } else { Event::None })
    }

    fn hear_identity<'b>(&mut self, frame: Frame<'b>) -> Result<Event<'b>, ChannelError> {
        self.only(Side::Connector, frame.kind)?;
        if frame.payload.len() > IDENTITY_SIZE_MAX {
            return Err(ChannelError::Malformed(frame.kind, "too long"));
        }
        if self.identities.len() >= IDENTITY_COUNT_MAX {
            return Err(ChannelError::TooManyIdentities);
        }
        if frame.stream == 0 || !self.identities.insert(frame.stream) {
            return Err(ChannelError::BadIdentity(frame.stream));
        }
        Ok(Event::Identity { number: frame.stream, bytes: frame.payload })
    }

    fn hear_identity_gone<'b>(&mut self, frame: Frame<'b>) -> Result<Event<'b>, ChannelError> {
        self.only(Side::Connector, frame.kind)?;
        let [] = exactly(&frame)?;
        if !self.identities.remove(&frame.stream) {
            return Err(ChannelError::BadIdentity(frame.stream));
        }
        Ok(Event::IdentityGone { number: frame.stream })
    }

    #[cold]
    fn hear_settings<'b>(&mut self, frame: Frame<'b>) -> Result<Event<'b>, ChannelError> {
        self.only(Side::Gateway, frame.kind)?;
        let whole = self.incoming.hear(frame.payload)?;
        Ok(whole.map_or(Event::None, Event::Settings))
    }

    #[cold]
    fn hear_list<'b>(&mut self, frame: Frame<'b>) -> Result<Event<'b>, ChannelError> {
        self.only(Side::Gateway, frame.kind)?;
        Ok(match self.turn.hear(frame.payload)? {
            Heard::Offer(tag) => Event::ListOffered(Box::new(tag)),
            Heard::Piece => Event::None,
            Heard::Whole(list) => Event::List(Box::new(list)),
        })
    }

    #[cold]
    fn hear_tokens<'b>(&mut self, frame: Frame<'b>) -> Result<Event<'b>, ChannelError> {
        self.only(Side::Gateway, frame.kind)?;
        let whole = self.incoming_tokens.hear(frame.payload)?;
        Ok(whole.map_or(Event::None, Event::Tokens))
    }

    #[cold]
    fn hear_revoked<'b>(&mut self, frame: Frame<'b>) -> Result<Event<'b>, ChannelError> {
        self.only(Side::Gateway, frame.kind)?;
        let whole = self.incoming_revoked.hear(frame.payload)?;
        if whole.as_ref().is_some_and(|list| list.bytes.len() > INTERNAL_LIST_SIZE_MAX) {
            return Err(ChannelError::BadPublication);
        }
        Ok(whole.map_or(Event::None, Event::Revoked))
    }

    /// A gateway asks once and waits for what comes of it.
    #[cold]
    fn hear_renewal<'b>(&mut self, frame: Frame<'b>) -> Result<Event<'b>, ChannelError> {
        let is_in_turn = match self.side {
            Side::Gateway => std::mem::take(&mut self.is_renewing),
            Side::Connector => !std::mem::replace(&mut self.is_renewing, true),
        };
        if !is_in_turn {
            return Err(ChannelError::Unexpected(frame.kind));
        }
        Ok(Event::Renewal { bytes: frame.payload })
    }

    fn hear_ping<'b>(&mut self, frame: Frame<'b>) -> Result<Event<'b>, ChannelError> {
        let payload: [u8; 8] = exactly(&frame)?;
        if self.out.sent() >= self.pongs_from {
            self.pongs = 0;
            self.pongs_from = self.out.total() + 1;
        }
        if self.pongs >= PONG_COUNT_MAX {
            return Err(ChannelError::PingFlood);
        }
        self.pongs += 1;
        self.put(FrameKind::Pong, 0, &payload);
        Ok(Event::None)
    }

    fn hear_drain<'b>(&mut self, frame: Frame<'b>) -> Result<Event<'b>, ChannelError> {
        let last = u32::from_be_bytes(exactly(&frame)?);
        if self.peer_drained_at.is_some() || (last != 0 && !self.was_opened(last)) {
            return Err(ChannelError::Malformed(frame.kind, "drained twice, or at a stream to come"));
        }
        self.peer_drained_at = Some(last);
        Ok(Event::Drain)
    }

    /// A connection point wants to end; a gateway has another process take its place.
    fn hear_leave<'b>(&mut self, frame: Frame<'b>) -> Result<Event<'b>, ChannelError> {
        let [] = exactly(&frame)?;
        match self.side {
            Side::Gateway => {
                self.drain();
                Ok(Event::Drain)
            }
            Side::Connector => Ok(Event::MakeWay),
        }
    }

    fn hear_close<'b>(&mut self, frame: Frame<'b>) -> Result<Event<'b>, ChannelError> {
        let malformed = ChannelError::Malformed(frame.kind, "no code, or no text");
        let (code, text) = frame.payload.split_first().ok_or(malformed)?;
        let text = std::str::from_utf8(text).map_err(|_| malformed)?;
        if text.len() > CHANNEL_TEXT_SIZE_MAX {
            return Err(malformed);
        }
        self.peer_closed = true;
        Ok(Event::Close { code: CloseCode::from_byte(*code), text })
    }

    fn only(&self, side: Side, kind: FrameKind) -> Result<(), ChannelError> {
        if self.side == side { Ok(()) } else { Err(ChannelError::Unexpected(kind)) }
    }

    /// The stream of a frame; `None` when it lived once and is forgotten.
    fn find(&mut self, frame: &Frame<'_>) -> Result<Option<(StreamId, &mut Stream)>, ChannelError> {
        if !self.was_opened(frame.stream) {
            return Err(ChannelError::NeverOpened(frame.kind, frame.stream));
        }
        Ok(self.streams.find(frame.stream))
    }

    fn was_opened(&self, wire: u32) -> bool {
        wire != 0 && (self.has_wrapped || wire <= self.last_wire)
    }
}

/// A payload of exactly `N` bytes.
fn exactly<const N: usize>(frame: &Frame<'_>) -> Result<[u8; N], ChannelError> {
    frame.payload.try_into().map_err(|_| ChannelError::Malformed(frame.kind, "not as long as it must be"))
}
