//! One end of a channel against a peer that keeps to no rule, driven by a list of bytes, beside a model
//! that reads every frame of both.
//!
//! The model is a second opinion on `docs/channel-protocol.md`: it knows what either may still say, holds
//! our end to it, and sees that a frame which our end takes changes the stream it names and nothing else.
//! Used by [`super::fuzz`] and by tests, which replay a failure from its seed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::frame::{self, FrameKind};
use super::mux::Channel;
use super::stream::Half;
use super::*;
use crate::limits::{
    CHANNEL_WINDOW, FRAME_PAYLOAD_SIZE_MAX, IDENTITY_SIZE_MAX, INTERIM_COUNT_MAX, STREAM_WINDOW_INITIAL,
    STREAM_WINDOW_MAX, WINDOW_GROWTH_BUDGET,
};

/// A stream as both ends may know it from their frames.
#[derive(Debug)]
struct Known {
    id: Option<StreamId>,
    sending: Half,
    receiving: Half,
    interims: usize,
    /// What we may still send, and the peer.
    may_send: usize,
    granted: usize,
    /// Heard and not yet consumed.
    held: usize,
}

/// Our end, what the peer said, and the model.
struct Match<'b> {
    side: Side,
    script: &'b [u8],
    now: Instant,
    channel: Channel,
    inbox: Vec<u8>,
    known: BTreeMap<u32, Known>,
    last_wire: u32,
    /// Every stream in the order in which it was opened.
    opened: Vec<u32>,
    /// The last stream that the peer takes, once it drains.
    taken: Option<u32>,
    /// Bytes of our end that the model has read.
    read: u64,
    may_send: usize,
    granted: usize,
    identities: BTreeSet<u32>,
    has_drained: bool,
    has_closed: bool,
    /// The list that was offered last.
    offered: Option<ListTag>,
}

const STREAMS_MAX: usize = 40;

/// Runs a script until it is over, or the channel is.
pub(super) fn run(side: Side, script: &[u8], now: Instant, first_wire: u32) {
    let mut channel = Channel::new(side, now);
    channel.last_wire = first_wire;
    let mut game = Match {
        side,
        script,
        now,
        channel,
        inbox: Vec::new(),
        known: BTreeMap::new(),
        last_wire: first_wire,
        opened: Vec::new(),
        taken: None,
        read: 0,
        may_send: CHANNEL_WINDOW,
        granted: CHANNEL_WINDOW,
        identities: BTreeSet::new(),
        has_drained: false,
        has_closed: false,
        offered: None,
    };
    while let Some(op) = game.byte() {
        let outcome = if op < 128 { game.peer_says(op) } else { game.we_do(op - 128) };
        game.read_ours();
        if let Err(error) = outcome {
            game.channel.close(error.close_code(), &error.to_string());
            game.read_ours();
        }
        if game.has_closed {
            return game.stay_silent();
        }
        game.compare();
    }
    game.finish();
}

// What the script says.
impl Match<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.script.split_first()?;
        self.script = rest;
        Some(*first)
    }

    fn number(&mut self) -> u8 {
        self.byte().unwrap_or(0)
    }

    /// A number below `bound`; 0 once the script is over.
    fn below(&mut self, bound: usize) -> usize {
        let number = usize::from(self.number()) << 8 | usize::from(self.number());
        number * bound / 65_536
    }

    /// So many bytes of the script, as far as there are.
    fn raw(&mut self, count: usize) -> Vec<u8> {
        let (front, rest) = self.script.split_at(count.min(self.script.len()));
        self.script = rest;
        front.to_vec()
    }

    /// The number of a stream: mostly one that lives, or the next.
    fn wire(&mut self) -> u32 {
        let choice = self.number();
        let live = self.known.keys().nth(usize::from(choice) % self.known.len().max(1)).copied();
        match choice {
            0..200 => live.unwrap_or(1),
            200..240 => self.last_wire.wrapping_add(u32::from(choice) - 200),
            _ => u32::from_be_bytes([self.number(), 0, 0, self.number()]),
        }
    }

    /// One of our streams that is at this point.
    fn ours(&mut self, fits: impl Fn(&Known) -> bool) -> Option<(u32, StreamId)> {
        let choice = usize::from(self.number());
        let fitting = |(wire, known): (&u32, &Known)| Some((*wire, known.id.filter(|_| fits(known))?));
        let all: Vec<_> = self.known.iter().filter_map(fitting).collect();
        (!all.is_empty()).then(|| all[choice % all.len()])
    }
}

// What the peer says.
impl Match<'_> {
    fn peer_says(&mut self, op: u8) -> Result<(), ChannelError> {
        self.frame(op);
        let inbox = std::mem::take(&mut self.inbox);
        let mut used = 0;
        let outcome = loop {
            match self.channel.handle_frame(&inbox[used..], self.now) {
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
                Ok(Some((size, event))) => {
                    let (frame, same) =
                        frame::take(&inbox[used..]).expect("it was taken").expect("it is whole");
                    assert_eq!(size, same);
                    hear(self, frame, event);
                    used += size;
                }
            }
        };
        self.inbox = inbox[used..].to_vec();
        outcome
    }

    /// Puts a frame into the inbox: one that may pass where its kind is named, or anything.
    fn frame(&mut self, op: u8) {
        let mut wire = self.wire();
        let (kind, payload) = match op % 24 {
            0..=4 => (FrameKind::Data, vec![op; self.below(FRAME_PAYLOAD_SIZE_MAX + 1)]),
            5 | 6 => (FrameKind::End, self.trailers()),
            7 => (FrameKind::Reset, vec![self.number()]),
            8..=10 => (FrameKind::Credit, self.credit()),
            11..=13 => {
                wire = self.last_wire.wrapping_add(1 + u32::from(op / 120));
                (FrameKind::Open, self.open_message())
            }
            14 | 15 => (FrameKind::Head, self.head_message()),
            16 => (FrameKind::Identity, self.raw(7)),
            17 => (FrameKind::IdentityGone, Vec::new()),
            18 if op < 120 => (FrameKind::Settings, self.piece()),
            18 => (FrameKind::List, self.list_piece()),
            19 => (FrameKind::Ping, vec![op; 8]),
            20 => (FrameKind::Pong, vec![0; 8]),
            21 if op >= 120 => (FrameKind::Leave, Vec::new()),
            21 => (FrameKind::Drain, self.drained_at().to_be_bytes().to_vec()),
            22 if op >= 160 => (FrameKind::Revoked, self.piece()),
            22 if op >= 80 => (FrameKind::Renewal, self.raw(5)),
            22 => (FrameKind::Status, self.raw(5)),
            _ => {
                let count = usize::from(self.number());
                let bytes = self.raw(count);
                return self.inbox.extend_from_slice(&bytes);
            }
        };
        if matches!(op % 24, 18..=22) {
            wire = 0;
        }
        frame::put(&mut self.inbox, kind, wire, &payload);
    }

    /// Mostly one of the streams that were opened.
    fn drained_at(&mut self) -> u32 {
        let choice = usize::from(self.number());
        self.opened.get(choice % (self.opened.len() + 1)).copied().unwrap_or(choice as u32)
    }

    fn trailers(&mut self) -> Vec<u8> {
        let count = usize::from(self.number() % 16);
        self.raw(count)
    }

    fn credit(&mut self) -> Vec<u8> {
        let counts = [1, 1_000, STREAM_WINDOW_INITIAL as u32, STREAM_WINDOW_MAX as u32, u32::MAX];
        counts[usize::from(self.number()) % counts.len()].to_be_bytes().to_vec()
    }

    fn open_message(&mut self) -> Vec<u8> {
        let identity =
            self.identities.first().copied().filter(|_| self.number().is_multiple_of(2)).unwrap_or(0);
        request(self.number().is_multiple_of(2), identity, 1 + self.below(STREAM_WINDOW_INITIAL) as u32)
    }

    fn head_message(&mut self) -> Vec<u8> {
        let is_interim = self.number().is_multiple_of(3);
        response(is_interim)
    }

    /// A piece of settings: tag, total, offset, bytes.
    fn piece(&mut self) -> Vec<u8> {
        let (total, offset) = (self.below(60_000) as u32, self.below(40_000) as u32);
        let offset = if self.number().is_multiple_of(2) { 0 } else { offset };
        let size = self.below(16_000);
        let mut payload = vec![3; 40];
        payload.extend_from_slice(&total.to_be_bytes());
        payload.extend_from_slice(&offset.to_be_bytes());
        payload.extend_from_slice(&vec![9; size]);
        payload
    }

    /// An offer of a list, or a piece of the one that was offered last.
    fn list_piece(&mut self) -> Vec<u8> {
        let size = 1 + self.below(40_000);
        let tag = ListTag { kind: ListKind::Revocation, serial: 0, sha256: [8; 32], size };
        let offered = self.offered;
        match offered {
            Some(offered) if self.number().is_multiple_of(2) => {
                let offset = self.below(2) * 16_000;
                let size = offered.size.saturating_sub(offset).min(16_000);
                lists::encode(&offered, offset, &vec![6; size])
            }
            _ => lists::encode(&tag, 0, &[]),
        }
    }
}

/// What a frame that was taken means for the model; that the event says the same.
fn hear(game: &mut Match<'_>, frame: frame::Frame<'_>, event: Event<'_>) {
    let wire = frame.stream;
    let count = frame.payload.len();
    match frame.kind {
        FrameKind::Open => return hear_open(game, frame, event),
        FrameKind::Data => game.granted = game.granted.checked_sub(count).expect("no more than was granted"),
        FrameKind::Credit if wire == 0 => {
            game.may_send += number(frame.payload);
            assert!(game.may_send <= CHANNEL_WINDOW);
            return;
        }
        FrameKind::Drain => assert_eq!(game.taken.replace(number(frame.payload) as u32), None, "once"),
        FrameKind::Identity => assert!(game.identities.insert(wire) && count <= IDENTITY_SIZE_MAX),
        FrameKind::IdentityGone => assert!(game.identities.remove(&wire)),
        FrameKind::List => hear_list(game, &event),
        _ => {}
    }
    let is_of_stream = matches!(
        frame.kind,
        FrameKind::Data | FrameKind::Head | FrameKind::End | FrameKind::Reset | FrameKind::Credit
    );
    if !is_of_stream {
        return;
    }
    let Some(known) = game.known.get_mut(&wire) else {
        return assert_eq!(event, Event::None, "a stream that was forgotten is silent");
    };
    match frame.kind {
        FrameKind::Data => {
            assert_eq!(known.receiving, Half::Body);
            known.granted = known.granted.checked_sub(count).expect("no more than was granted");
            known.held += count;
            assert!(matches!(event, Event::Data { data, .. } if data == frame.payload));
        }
        FrameKind::Head => {
            assert_eq!((game.side, known.receiving), (Side::Gateway, Half::Head));
            let is_interim = message::is_interim(frame.payload).expect("it was taken");
            known.interims += usize::from(is_interim);
            known.receiving = if is_interim { Half::Head } else { Half::Body };
            assert!(known.interims <= INTERIM_COUNT_MAX && matches!(event, Event::Head { .. }));
        }
        FrameKind::End => {
            assert_eq!(known.receiving, Half::Body);
            known.receiving = Half::Ended;
            assert!(matches!(event, Event::End { trailers, .. } if trailers == frame.payload));
        }
        FrameKind::Credit => {
            known.may_send += number(frame.payload);
            assert!(known.may_send <= STREAM_WINDOW_MAX);
        }
        _ => assert!(matches!(event, Event::Reset { .. })),
    }
    let is_over = known.sending == Half::Ended && known.receiving == Half::Ended;
    if is_over || frame.kind == FrameKind::Reset {
        game.known.remove(&wire);
    }
}

fn hear_list(game: &mut Match<'_>, event: &Event<'_>) {
    assert_eq!(game.side, Side::Gateway);
    match event {
        Event::ListOffered(tag) => game.offered = Some(**tag),
        Event::List(list) => assert_eq!(Some(list.tag), game.offered, "nothing comes that was not offered"),
        _ => assert_eq!(*event, Event::None),
    }
}

fn hear_open(game: &mut Match<'_>, frame: frame::Frame<'_>, event: Event<'_>) {
    assert_eq!(game.side, Side::Connector);
    let facts = message::open_facts(frame.payload).expect("it was taken");
    assert!(facts.identity == 0 || game.identities.contains(&facts.identity));
    let id = if let Event::Opened { stream, .. } = event { Some(stream) } else { None };
    assert_eq!(id.is_none(), game.has_drained, "only who drains turns a stream away");
    let known = Known {
        id,
        sending: Half::Head,
        receiving: if facts.has_body { Half::Body } else { Half::Ended },
        interims: 0,
        may_send: facts.window as usize,
        granted: STREAM_WINDOW_INITIAL,
        held: 0,
    };
    assert!(game.known.insert(frame.stream, known).is_none(), "a number names one stream");
    game.last_wire = frame.stream;
    game.opened.push(frame.stream);
}

fn number(payload: &[u8]) -> usize {
    payload.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

// What we do.
impl Match<'_> {
    fn we_do(&mut self, op: u8) -> Result<(), ChannelError> {
        match op % 16 {
            0 => self.open(),
            1..=3 => self.send(),
            4 => {
                if let Some((_, id)) = self.ours(|known| known.sending == Half::Body) {
                    self.channel.end(id, &[]);
                }
            }
            5 => self.answer(),
            6 => {
                if let Some((wire, id)) = self.ours(|_| true) {
                    self.channel.reset(id, ResetCode::from_byte(wire as u8));
                }
            }
            7..=9 => self.consume(),
            10 | 11 => {
                let count = self.below(self.channel.transmit_len() + 1);
                self.channel.transmitted(count);
            }
            12 => return self.pass_time(),
            13 => self.identify(),
            14 => self.tell_settings(),
            _ => match self.number() {
                0..8 => self.channel.drain(),
                8 => self.channel.close(CloseCode::Done, "enough"),
                _ => drop(self.channel.status(b"{}")),
            },
        }
        Ok(())
    }

    fn open(&mut self) {
        if self.side == Side::Connector || self.known.len() >= STREAMS_MAX {
            return;
        }
        let message = self.open_message();
        match self.channel.open(&message, 7) {
            Ok(id) => {
                self.read_ours();
                let known = self.known.get_mut(&id.number()).expect("its OPEN was just read");
                known.id = Some(id);
            }
            Err(Busy::Closed) => assert!(self.channel.is_closed()),
            Err(Busy::Draining) => assert!(self.channel.is_draining()),
            Err(busy) => assert_eq!(busy, Busy::Backlog),
        }
    }

    fn send(&mut self) {
        let Some((wire, id)) = self.ours(|known| known.sending == Half::Body) else { return };
        let wanted = self.below(100_000);
        let room = self.channel.has_room_for_bulk() && !self.has_closed;
        let sent = self.channel.data(id, &vec![1; wanted]);
        let credit = self.known[&wire].may_send.min(self.may_send);
        assert!(sent <= wanted.min(credit));
        assert_eq!(sent > 0, wanted > 0 && credit > 0 && room, "what may be sent is sent");
    }

    fn answer(&mut self) {
        let is_last = |known: &Known| known.sending == Half::Head;
        let Some((wire, id)) = self.ours(is_last).filter(|_| self.side == Side::Connector) else { return };
        let message = self.head_message();
        if self.channel.head(id, &message) == Err(Busy::Full) {
            assert_eq!(self.known[&wire].interims, INTERIM_COUNT_MAX);
        }
    }

    fn consume(&mut self) {
        let Some((wire, id)) = self.ours(|known| known.held > 0) else { return };
        let most = 1 + self.below(STREAM_WINDOW_MAX);
        let known = self.known.get_mut(&wire).expect("it was just picked");
        let count = known.held.min(most);
        known.held -= count;
        self.channel.consumed(id, count);
    }

    fn pass_time(&mut self) -> Result<(), ChannelError> {
        let passes = Duration::from_millis(self.below(16_000) as u64);
        self.now += passes;
        match self.channel.poll_timeout() {
            Some(due) if due <= self.now => self.channel.handle_timeout(self.now),
            _ => Ok(()),
        }
    }

    fn identify(&mut self) {
        if self.side == Side::Connector {
            return;
        }
        let number = 1 + u32::from(self.number() % 9);
        if self.identities.contains(&number) {
            self.channel.identity_gone(number);
            self.identities.remove(&number);
        } else if self.channel.identity(number, b"who").is_ok() {
            self.identities.insert(number);
        }
    }

    fn tell_settings(&mut self) {
        let revision = RevisionTag { serial: 1, sha256: [0; 32] };
        match self.side {
            Side::Connector => {
                let size = 1 + self.below(100_000);
                self.channel.publish(revision, &vec![5; size]);
                let tag = ListTag { kind: ListKind::Blocked, serial: 1, sha256: [0; 32], size };
                self.channel.offer_list(&tag);
                self.channel.send_list(List { tag, bytes: vec![5; size].into() });
            }
            // One for each publication: a shell has no other reason to.
            Side::Gateway if self.channel.has_room_for_bulk() => {
                self.channel.acknowledge(revision, Verdict::Refused, "no");
                if let Some(tag) = self.offered {
                    let verdict = [Verdict::Wanted, Verdict::InForce][self.below(2)];
                    self.channel.answer_list(&tag, verdict, "");
                }
            }
            Side::Gateway => {}
        }
    }
}

// What we said, and whether we may.
impl Match<'_> {
    /// Reads the frames that our end queued since the last time.
    fn read_ours(&mut self) {
        let new = (self.channel.out.total() - self.read) as usize;
        self.read = self.channel.out.total();
        let waiting = self.channel.transmit();
        let mut bytes = waiting[waiting.len() - new..].to_vec();
        while let Some((frame, size)) = frame::take(&bytes).expect("our frames are well-formed") {
            self.read_frame(frame);
            bytes.drain(..size);
        }
        assert!(bytes.is_empty(), "our frames are whole");
    }

    fn read_frame(&mut self, frame: frame::Frame<'_>) {
        assert!(!self.has_closed, "nothing comes behind the last word");
        let wire = frame.stream;
        let count = frame.payload.len();
        match frame.kind {
            FrameKind::Open => self.read_open(frame),
            FrameKind::Data => {
                self.may_send = self.may_send.checked_sub(count).expect("within the channel's credit");
                let known = self.known.get_mut(&wire).expect("a stream that lives");
                known.may_send = known.may_send.checked_sub(count).expect("within the stream's credit");
                assert!(known.sending == Half::Body && count > 0);
            }
            FrameKind::Head => {
                let head = ResponseMessage::parse(frame.payload).expect("as it was written");
                let known = self.known.get_mut(&wire).expect("a stream that lives");
                assert_eq!((self.side, known.sending), (Side::Connector, Half::Head));
                known.interims += usize::from(head.is_interim());
                known.sending = if head.is_interim() { Half::Head } else { Half::Body };
            }
            FrameKind::End => {
                let known = self.known.get_mut(&wire).expect("a stream that lives");
                assert_eq!(known.sending, Half::Body);
                known.sending = Half::Ended;
                if known.receiving == Half::Ended {
                    self.known.remove(&wire);
                }
            }
            FrameKind::Reset => drop(self.known.remove(&wire).expect("a stream that lives")),
            FrameKind::Credit if wire == 0 => {
                self.granted += number(frame.payload);
                assert!(self.granted <= CHANNEL_WINDOW);
            }
            FrameKind::Credit => {
                let known = self.known.get_mut(&wire).expect("a stream that lives");
                known.granted += number(frame.payload);
                assert!(known.receiving != Half::Ended && known.granted + known.held <= STREAM_WINDOW_MAX);
            }
            FrameKind::Drain => assert!(!std::mem::replace(&mut self.has_drained, true)),
            FrameKind::Close => self.has_closed = true,
            FrameKind::Settings
            | FrameKind::Tokens
            | FrameKind::SettingsAck
            | FrameKind::Identity
            | FrameKind::IdentityGone
            | FrameKind::Ping
            | FrameKind::Pong
            | FrameKind::Status
            | FrameKind::List
            | FrameKind::Leave
            | FrameKind::Revoked
            | FrameKind::Renewal
            | FrameKind::ListAck => {}
            FrameKind::Hello | FrameKind::HelloReply | FrameKind::Ignored => panic!("{:?}", frame.kind),
        }
    }

    fn read_open(&mut self, frame: frame::Frame<'_>) {
        let request = RequestMessage::parse(frame.payload).expect("as it was written");
        assert!(self.side == Side::Gateway && !self.has_drained && self.taken.is_none());
        assert!(matches!(frame.stream.wrapping_sub(self.last_wire), 1..=3) && frame.stream != 0);
        self.last_wire = frame.stream;
        self.opened.push(frame.stream);
        let known = Known {
            id: None,
            sending: if request.has_body { Half::Body } else { Half::Ended },
            receiving: Half::Head,
            interims: 0,
            may_send: STREAM_WINDOW_INITIAL,
            granted: request.window as usize,
            held: 0,
        };
        assert!(self.known.insert(frame.stream, known).is_none(), "a number names one stream");
    }

    /// Our end and the model know the same.
    fn compare(&mut self) {
        self.channel.assert_sound();
        assert_eq!(self.channel.stream_count(), self.known.len());
        assert_eq!(self.channel.credit.left(), self.may_send);
        assert_eq!(self.channel.window.granted() as usize, self.granted);
        for (wire, known) in &self.known {
            let (id, stream) = self.channel.streams.find(*wire).expect("it lives");
            assert!(known.id == Some(id), "known to the shell by one name");
            let seen = (stream.sending, stream.receiving, stream.credit.left());
            assert_eq!(seen, (known.sending, known.receiving, known.may_send), "stream {wire}");
        }
        let place = |wire: u32| self.opened.iter().position(|one| *one == wire);
        if let Some(last) = self.taken.and_then(place) {
            for (wire, known) in self.known.iter().filter(|_| self.side == Side::Gateway) {
                let is_behind = place(*wire).is_some_and(|place| place > last);
                assert!(known.id.is_none_or(|id| self.channel.is_excluded(id) == is_behind), "stream {wire}");
            }
        }
    }
}

// How it ends.
impl Match<'_> {
    /// Behind the last word nothing is said, whatever the shell still asks for.
    fn stay_silent(&mut self) {
        assert!(self.channel.is_closed() && self.channel.poll_timeout().is_none());
        let queued = self.channel.out.total();
        if let Some((_, id)) = self.ours(|known| known.sending == Half::Body) {
            assert_eq!(self.channel.data(id, b"late"), 0);
            self.channel.end(id, &[]);
        }
        self.channel.drain();
        assert_eq!(self.channel.out.total(), queued);
    }

    /// Every stream can be given up, and then nothing of it is left.
    fn finish(&mut self) {
        let ids: Vec<StreamId> = self.known.values().filter_map(|known| known.id).collect();
        ids.into_iter().for_each(|id| self.channel.reset(id, ResetCode::Cancelled));
        assert_eq!(self.channel.stream_count(), 0);
        assert_eq!(self.channel.growth_left, WINDOW_GROWTH_BUDGET as u32);
        self.channel.transmitted(self.channel.transmit_len());
    }
}

fn request(has_body: bool, identity: u32, window: u32) -> Vec<u8> {
    let start = RequestStart {
        request_id: [0; 16],
        identity,
        window,
        has_body,
        length: None,
        is_tunnel: false,
        expect_continue: false,
        method: b"GET",
        target: b"/",
        host: b"",
    };
    let mut message = Vec::new();
    RequestWriter::new(&mut message, &start).expect("small").finish();
    message
}

fn response(is_interim: bool) -> Vec<u8> {
    let (status, body) = if is_interim { (103, Body::None) } else { (200, Body::Unknown) };
    let start = ResponseStart { status, reason: b"", length: None, body };
    let mut message = Vec::new();
    ResponseWriter::new(&mut message, &start).expect("small").finish();
    message
}
