//! A link: a channel that is driven. It passes bytes between the wire and the channel's core, and
//! what the core says to the tasks that wait for it.
//!
//! What a request means is the role's business (`LinkEvents`); what frames mean, the core's.

use std::cell::{Cell, Ref, RefCell};
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use slab::Slab;

use super::cross::Crossing;
use super::mailbox::{Broken, Mailbox, Mailboxes};
use super::tls::Tls;
use super::wire::Wire;
use crate::channel::{
    Acknowledgement, Busy, Channel, ChannelError, CloseCode, Event, List, ListTag, Publication, ResetCode,
    RevisionTag, Side, StreamId, Verdict,
};
use crate::limits;
use crate::shard::{Deadline, Lent, Shard};

/// What a link tells its role. Called from the link's task; must not wait.
pub trait LinkEvents {
    /// Connector: a request came.
    fn opened(&self, link: &Rc<Link>, stream: Stream, message: &[u8]);
    /// Gateway: settings came.
    fn settings(&self, link: &Rc<Link>, publication: Publication);
    /// Gateway: keys of token issuers and blocked tokens came.
    fn tokens(&self, _link: &Rc<Link>, _publication: Publication) {}
    /// Gateway: the internal authority's revocation list came.
    fn revoked(&self, _link: &Rc<Link>, _list: Publication) {}
    /// Connector: the gateway asks for its next internal certificate. Gateway: what came of that.
    fn renewal(&self, _link: &Rc<Link>, _bytes: &[u8]) {}
    /// Connector: what became of the settings.
    fn acknowledged(&self, link: &Rc<Link>, acknowledgement: Acknowledgement);
    /// Gateway: a list was offered.
    fn list_offered(&self, _link: &Rc<Link>, _tag: ListTag) {}
    /// Gateway: a list came that was wanted.
    fn list(&self, _link: &Rc<Link>, _list: List) {}
    /// Connector: what the gateway makes of a list.
    fn list_acknowledged(&self, _link: &Rc<Link>, _acknowledgement: Acknowledgement) {}
    /// Connector: a client's identity.
    fn identity(&self, link: &Rc<Link>, number: u32, bytes: &[u8]);
    /// Connector: no further request names it.
    fn identity_gone(&self, link: &Rc<Link>, number: u32);
    /// Gateway: a stream or an identity was refused because too much waited to be sent, or because there
    /// were too many; now there is room.
    fn room(&self, _link: &Rc<Link>) {}
    /// The other side opens or takes no further stream.
    fn draining(&self, link: &Rc<Link>);
    /// Connector: another process takes the instance's place, and one more channel is wanted beside this one.
    fn makes_way(&self, _link: &Rc<Link>) {}
    /// Gateway: the other side gives no sign of life, or does again.
    fn stalled(&self, _link: &Rc<Link>, _is_stalled: bool) {}
}

/// Who hears what arrives for a stream.
#[derive(Clone)]
pub(super) enum Sink {
    /// A task of this shard.
    Here(Rc<Mailbox>),
    /// A task of another shard, by the number it gave the exchange.
    There { shard: usize, exchange: u64 },
}

/// A stream's place on a link.
struct Entry {
    sink: Sink,
    /// Of a stream that this side opened.
    id: Option<StreamId>,
}

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The connection ended or failed.
    #[error("the connection was lost: {0}")]
    Wire(std::io::Error),
    /// The connection ended without a word.
    #[error("the other side closed the connection")]
    Eof,
    /// The other side broke the protocol, or was silent.
    #[error("{0}")]
    Protocol(ChannelError),
    /// The other side said goodbye.
    #[error("closed by the other side: {0:?} {1}")]
    Closed(CloseCode, String),
    /// We put an end to it: no word, no stream, nothing more is heard.
    #[error("cut by this side: {0}")]
    Cut(String),
    /// We said goodbye.
    #[error("closed by this side")]
    Left,
}

/// See the file's head.
pub struct Link {
    /// Unique in its shard.
    pub id: u64,
    shard: Rc<Shard>,
    channel: RefCell<Channel>,
    sinks: RefCell<Slab<Entry>>,
    mailboxes: Mailboxes,
    /// Streams that found no room to send, in the order they asked.
    no_room: RefCell<VecDeque<u32>>,
    /// Streams that found no credit of the channel.
    no_credit: RefCell<VecDeque<u32>>,
    /// A stream or an identity was refused for want of room.
    has_refused: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    /// While the link is driven.
    wire: RefCell<Option<Wire>>,
    /// Where what was received lies, while it is looked at.
    pieces: RefCell<Vec<Range<usize>>>,
    lost: Cell<bool>,
    /// Why it is to end at once.
    cut: RefCell<Option<String>>,
    /// As was told last.
    stalled: Cell<bool>,
    next_identity: Cell<u32>,
    crossing: Option<Rc<Crossing>>,
    /// Bytes sent and received on the channel, plain.
    pub traffic: (Cell<u64>, Cell<u64>),
}

impl Link {
    /// A link whose hello is done. `crossing` is how streams of other shards are answered.
    pub fn new(shard: &Rc<Shard>, side: Side, crossing: Option<Rc<Crossing>>) -> Rc<Link> {
        Rc::new(Link {
            id: shard.next_id(),
            shard: shard.clone(),
            channel: RefCell::new(Channel::new(side, shard.now())),
            sinks: RefCell::default(),
            mailboxes: Mailboxes::new(&shard.ring),
            no_room: RefCell::default(),
            no_credit: RefCell::default(),
            has_refused: Cell::new(false),
            waker: RefCell::default(),
            wire: RefCell::default(),
            pieces: RefCell::default(),
            lost: Cell::new(false),
            cut: RefCell::default(),
            stalled: Cell::new(false),
            next_identity: Cell::new(0),
            crossing,
            traffic: Default::default(),
        })
    }

    /// Whether new streams can be opened.
    pub fn is_open(&self) -> bool {
        let channel = self.channel.borrow();
        !self.lost.get() && !channel.is_draining() && !channel.is_closed()
    }

    /// Whether something can be said on it, though it may take no new streams.
    pub fn is_up(&self) -> bool {
        !self.lost.get() && !self.channel.borrow().is_closed()
    }

    /// Gateway: the other side gives no sign of life, but is not given up.
    pub fn is_stalled(&self) -> bool {
        self.stalled.get()
    }

    /// Whether it can be told that a link stalls: whoever answers expects nothing.
    pub fn tells_stalls(&self) -> bool {
        self.channel.borrow().side() == Side::Gateway
    }

    /// Smoothed round trip.
    pub fn round_trip(&self) -> Option<Duration> {
        self.channel.borrow().round_trip()
    }

    /// Streams in use.
    pub fn stream_count(&self) -> usize {
        self.channel.borrow().stream_count()
    }

    /// Identities that stand.
    pub fn identity_count(&self) -> usize {
        self.channel.borrow().identity_count()
    }

    /// Opens a stream.
    ///
    /// # Errors
    /// Nothing was sent: another link may be tried.
    pub fn open(self: &Rc<Self>, message: &[u8]) -> Result<Stream, Busy> {
        let mailbox = self.mailboxes.take();
        let opened = self.open_for(message, Sink::Here(mailbox.clone()));
        let (id, token) = opened.inspect_err(|_| self.mailboxes.give_back(&mailbox))?;
        let place = Place::Here { link: self.clone(), id, token };
        Ok(Stream { mailbox, place, sent_end: Cell::new(false) })
    }

    pub(super) fn open_for(&self, message: &[u8], sink: Sink) -> Result<(StreamId, u32), Busy> {
        if self.lost.get() {
            return Err(Busy::Closed);
        }
        let token = self.sinks.borrow_mut().insert(Entry { sink, id: None }) as u32;
        match self.channel.borrow_mut().open(message, token) {
            Ok(id) => {
                self.sinks.borrow_mut()[token as usize].id = Some(id);
                self.kick();
                Ok((id, token))
            }
            Err(busy) => {
                self.sinks.borrow_mut().remove(token as usize);
                self.note_refused(busy);
                Err(busy)
            }
        }
    }

    /// Announces an identity; its number is valid on this link until [`Link::identity_gone`].
    ///
    /// # Errors
    /// When the link takes none.
    pub fn identity(&self, bytes: &[u8]) -> Result<u32, Busy> {
        let mut channel = self.channel.borrow_mut();
        let mut number = self.next_identity.get().wrapping_add(1);
        // A client may stay while four billion others come and go.
        while channel.knows_identity(number) {
            number = number.wrapping_add(1);
        }
        channel.identity(number, bytes).inspect_err(|busy| self.note_refused(*busy))?;
        drop(channel);
        self.next_identity.set(number);
        self.kick();
        Ok(number)
    }

    /// No further stream names this identity.
    pub fn identity_gone(&self, number: u32) {
        if !self.lost.get() {
            self.channel.borrow_mut().identity_gone(number);
            self.kick();
        }
    }

    /// Connector: publishes settings.
    pub fn publish(&self, revision: RevisionTag, bytes: &[u8]) {
        self.channel.borrow_mut().publish(revision, bytes);
        self.kick();
    }

    /// Connector: says which keys of token issuers it fetched and which tokens are blocked.
    pub fn publish_tokens(&self, revision: RevisionTag, bytes: &[u8]) {
        self.channel.borrow_mut().publish_tokens(revision, bytes);
        self.kick();
    }

    /// Connector: says which internal certificates are revoked.
    pub fn publish_revoked(&self, revision: RevisionTag, bytes: &[u8]) {
        self.channel.borrow_mut().publish_revoked(revision, bytes);
        self.kick();
    }

    /// Gateway: asks for its next internal certificate. Connector: says what came of that.
    ///
    /// # Errors
    /// It is not its turn, or the link takes nothing now.
    pub fn renewal(&self, bytes: &[u8]) -> Result<(), Busy> {
        if self.lost.get() {
            return Err(Busy::Closed);
        }
        self.channel.borrow_mut().renewal(bytes)?;
        self.kick();
        Ok(())
    }

    /// The other side's chain, as far as the link is driven.
    pub fn with_peer<T>(&self, look: impl FnOnce(&[CertificateDer<'static>]) -> T) -> Option<T> {
        let wire = self.wire.borrow();
        wire.as_ref().and_then(Wire::tls).and_then(Tls::peer_certificates).map(look)
    }

    /// Ends it at once, whatever waits: every stream on it breaks off.
    pub fn cut(&self, why: &str) {
        self.cut.borrow_mut().get_or_insert_with(|| why.to_owned());
        self.kick();
    }

    /// Gateway: says what became of settings.
    pub fn acknowledge(&self, revision: RevisionTag, verdict: Verdict, text: &str) {
        self.channel.borrow_mut().acknowledge(revision, verdict, text);
        self.kick();
    }

    /// Connector: offers a list.
    pub fn offer_list(&self, tag: &ListTag) {
        self.channel.borrow_mut().offer_list(tag);
        self.kick();
    }

    /// Connector: sends the list that is wanted.
    pub fn send_list(&self, list: List) {
        self.channel.borrow_mut().send_list(list);
        self.kick();
    }

    /// Gateway: whether a list is wanted, or what became of it.
    pub fn answer_list(&self, tag: &ListTag, verdict: Verdict, text: &str) {
        self.channel.borrow_mut().answer_list(tag, verdict, text);
        self.kick();
    }

    /// Opens or takes no further stream; those that live go on.
    pub fn drain(&self) {
        self.channel.borrow_mut().drain();
        self.kick();
    }

    /// Connector: asks the gateway to open no further stream; what it opened before is served.
    pub fn leave(&self) {
        self.channel.borrow_mut().leave();
        self.kick();
    }

    /// Gateway: has the connection point dial one more channel, to the process that takes this one's place.
    pub fn make_way(&self) {
        self.channel.borrow_mut().make_way();
        self.kick();
    }

    /// The other side opens or takes no further stream.
    pub fn has_peer_drained(&self) -> bool {
        self.lost.get() || self.channel.borrow().has_peer_drained()
    }

    /// Says goodbye, once; the link ends when that is sent.
    pub fn close(&self, code: CloseCode, text: &str) {
        if !self.channel.borrow().is_closed() {
            self.channel.borrow_mut().close(code, text);
            self.kick();
        }
    }

    fn note_refused(&self, busy: Busy) {
        match busy {
            Busy::Backlog | Busy::Full => self.has_refused.set(true),
            Busy::Draining | Busy::Closed => {}
        }
    }

    fn kick(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    // ── streams of this link ────────────────────────────────────────────────────────────────────

    pub(super) fn send(&self, id: StreamId, token: u32, bytes: &[u8]) -> usize {
        let mut channel = self.channel.borrow_mut();
        let sent = channel.data(id, bytes);
        if sent < bytes.len() && !channel.lacks_credit(id, 1) {
            let has_room = channel.has_room_for_bulk();
            if has_room { self.wait_for_credit(token) } else { self.wait_for_room(token) }
        }
        drop(channel);
        if sent > 0 {
            self.kick();
        }
        sent
    }

    /// Passes records that `from` received on as they are, with at most `left` bytes of body in them.
    fn pass(&self, id: StreamId, token: u32, from: &mut Wire, left: u64) -> std::io::Result<Passed> {
        let Ok(mut wire) = self.wire.try_borrow_mut() else { return Ok(Passed::NotNow) };
        let Some(wire) = wire.as_mut().filter(|wire| wire.takes_records()) else { return Ok(Passed::NotNow) };
        let Some(first) = from.first_record() else { return Ok(Passed::NotNow) };
        if first as u64 > left {
            return Ok(Passed::NotNow);
        }
        let mut channel = self.channel.borrow_mut();
        if self.move_frames(&mut channel, wire).is_err() {
            return Ok(Passed::NotNow);
        }
        if channel.transmit_len() > 0 || !wire.has_room() {
            self.wait_for_room(token);
            // It sends what waits, and then calls.
            self.kick();
            return Ok(Passed::Blocked);
        }
        let credit = channel.passable(id, limits::TRANSFER_SIZE);
        if credit < first {
            if !channel.lacks_credit(id, first) {
                self.wait_for_credit(token);
            }
            return Ok(Passed::Blocked);
        }
        let content_max = usize::try_from(left).unwrap_or(usize::MAX).min(credit);
        let header = |size| Channel::data_header(id, size);
        let Some((content, framed, outcome)) = from.pass_records(wire, content_max, header)? else {
            return Ok(Passed::NotNow);
        };
        // Also what came before a broken record: it is sent, and the other end returns its credit.
        channel.passed(id, content, framed);
        self.traffic.0.set(self.traffic.0.get() + framed as u64);
        drop(channel);
        self.kick();
        outcome.map(|()| Passed::Bytes(content))
    }

    /// Moves frames that wait to the wire, as far as it has room.
    fn move_frames(&self, channel: &mut Channel, wire: &mut Wire) -> std::io::Result<()> {
        while channel.transmit_len() > 0 && wire.has_room() {
            self.move_run(channel, wire)?;
        }
        Ok(())
    }

    /// Moves as many frames as fit one record.
    fn move_run(&self, channel: &mut Channel, wire: &mut Wire) -> std::io::Result<()> {
        let size = channel.transmit_run(RECORD);
        wire.write(&channel.transmit()[..size])?;
        channel.transmitted(size);
        self.traffic.0.set(self.traffic.0.get() + size as u64);
        Ok(())
    }

    /// A stream that found no room at all is woken when there is some.
    fn wait_for_room(&self, token: u32) {
        wait_in(&self.no_room, token);
    }

    /// A stream that found no credit of the channel is woken when there is some.
    fn wait_for_credit(&self, token: u32) {
        wait_in(&self.no_credit, token);
    }

    pub(super) fn end(&self, id: StreamId, trailers: &[u8]) {
        self.channel.borrow_mut().end(id, trailers);
        self.kick();
    }

    pub(super) fn reset(&self, id: StreamId, code: ResetCode) {
        self.channel.borrow_mut().reset(id, code);
        self.kick();
    }

    pub(super) fn consumed(&self, id: StreamId, size: usize) {
        let mut channel = self.channel.borrow_mut();
        let before = channel.transmit_len();
        channel.consumed(id, size);
        let grew = channel.transmit_len() != before;
        drop(channel);
        if grew {
            self.kick();
        }
    }

    pub(super) fn release(&self, token: u32) {
        let mut sinks = self.sinks.borrow_mut();
        if sinks.contains(token as usize) {
            sinks.remove(token as usize);
        }
    }

    fn tell(&self, token: u32, here: impl FnOnce(&Mailbox), there: impl FnOnce(&Crossing, usize, u64)) {
        let sink = self.sinks.borrow().get(token as usize).map(|entry| entry.sink.clone());
        match sink {
            Some(Sink::Here(mailbox)) => here(&mailbox),
            Some(Sink::There { shard, exchange }) => {
                if let Some(crossing) = &self.crossing {
                    there(crossing, shard, exchange);
                }
            }
            // The task let go of the stream in this very turn.
            None => {}
        }
    }

    // ── driving ─────────────────────────────────────────────────────────────────────────────────

    /// Drives the link until it ends; then every stream on it has broken off.
    pub async fn drive(self: Rc<Self>, mut wire: Wire, events: Rc<dyn LinkEvents>) -> Cause {
        wire.use_own_buffer(true);
        *self.wire.borrow_mut() = Some(wire);
        let deadline = self.shard.deadline();
        let driven = Driven(self.clone());
        let cause = std::future::poll_fn(|context| self.poll_drive(context, &deadline, &events)).await;
        drop(driven);
        let wire = self.wire.take();
        let Some(mut wire) = wire else { return cause };
        let last_word = match &cause {
            Cause::Protocol(error) => Some((error.close_code(), error.to_string())),
            Cause::Cut(why) => Some((CloseCode::NotAccepted, why.clone())),
            Cause::Wire(_) | Cause::Eof | Cause::Closed(..) | Cause::Left => None,
        };
        if let Some((code, text)) = last_word {
            let mut channel = self.channel.borrow_mut();
            if !channel.is_closed() {
                let _ = wire.write(channel.break_off(code, &text));
            }
            drop(channel);
            let _ = wire.start_send();
        }
        if matches!(cause, Cause::Left) {
            let _ = wire.finish().await;
        }
        cause
    }

    /// Nothing is sent or heard any more: every stream has broken off.
    fn lose(&self) {
        self.lost.set(true);
        let sinks = std::mem::take(&mut *self.sinks.borrow_mut());
        for (_, Entry { sink, id }) in sinks {
            let not_taken = id.is_some_and(|id| self.channel.borrow_mut().is_untaken(id));
            let broken = Broken::Lost { not_taken };
            match sink {
                Sink::Here(mailbox) => mailbox.put_broken(broken),
                Sink::There { shard, exchange } => {
                    if let Some(crossing) = &self.crossing {
                        crossing.broke(shard, exchange, broken);
                    }
                }
            }
        }
    }

    fn poll_drive(
        self: &Rc<Self>,
        context: &mut Context<'_>,
        deadline: &Deadline,
        events: &Rc<dyn LinkEvents>,
    ) -> Poll<Cause> {
        *self.waker.borrow_mut() = Some(context.waker().clone());
        let mut wire = self.wire.borrow_mut();
        let Some(wire) = wire.as_mut() else { return Poll::Ready(Cause::Left) };
        if let Some(why) = self.cut.take() {
            return Poll::Ready(Cause::Cut(why));
        }
        match self.read(context, wire, events) {
            Ok(None) => {}
            Ok(Some(cause)) => return Poll::Ready(cause),
            Err(error) => return Poll::Ready(Cause::Protocol(error)),
        }
        let now = self.shard.now();
        if self.channel.borrow().poll_timeout().is_some_and(|due| due <= now)
            && let Err(error) = self.channel.borrow_mut().handle_timeout(now)
        {
            return Poll::Ready(Cause::Protocol(error));
        }
        let is_stalled = self.channel.borrow().is_stalled();
        if self.stalled.replace(is_stalled) != is_stalled {
            events.stalled(self, is_stalled);
        }
        if let Err(error) = self.write(context, wire) {
            return Poll::Ready(Cause::Wire(error));
        }
        if wire.has_room() {
            self.invite(context);
        }
        if self.has_refused.get() && self.channel.borrow().has_room_for_streams() {
            self.has_refused.set(false);
            events.room(self);
        }
        let channel = self.channel.borrow();
        if channel.is_closed() && channel.transmit_len() == 0 && wire.is_flushed() {
            return Poll::Ready(Cause::Left);
        }
        if let Some(due) = channel.poll_timeout() {
            deadline.set(now, due.saturating_duration_since(now));
            if deadline.poll(context) {
                context.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }

    /// Reads what there is, up to a share of the turn that leaves the other tasks theirs.
    fn read(
        self: &Rc<Self>,
        context: &mut Context<'_>,
        wire: &mut Wire,
        events: &Rc<dyn LinkEvents>,
    ) -> Result<Option<Cause>, ChannelError> {
        if let Some(cause) = self.take_frames(wire, events)? {
            return Ok(Some(cause));
        }
        let mut pieces = self.pieces.borrow_mut();
        for _ in 0..READS_PER_TURN {
            match wire.poll_pieces(context, &mut pieces) {
                Poll::Ready(Ok(true)) => {
                    let cause = match pieces.is_empty() {
                        true => self.take_frames(wire, events)?,
                        false => self.take_pieces(wire, &pieces, events)?,
                    };
                    if cause.is_some() {
                        return Ok(cause);
                    }
                }
                Poll::Ready(Ok(false)) => return Ok(Some(Cause::Eof)),
                Poll::Ready(Err(error)) => return Ok(Some(Cause::Wire(error))),
                Poll::Pending => return Ok(None),
            }
        }
        context.waker().wake_by_ref();
        Ok(None)
    }

    fn take_frames(
        self: &Rc<Self>,
        wire: &mut Wire,
        events: &Rc<dyn LinkEvents>,
    ) -> Result<Option<Cause>, ChannelError> {
        if wire.received().len() < SHARED_FROM {
            let (used, cause) = self.take_frames_of(wire.received(), Lying::Alone, events)?;
            wire.consume(used);
            return Ok(cause);
        }
        let (bytes, start) = wire.take_received();
        let size = bytes.len();
        let bytes = Lent::new(&self.shard.ring, bytes);
        let lying = Lying::In { buffer: &bytes, start, is_roomy: false };
        let (used, cause) = self.take_frames_of(bytes.bytes(start..size), lying, events)?;
        wire.put_back(bytes.bytes(start + used..size));
        Ok(cause)
    }

    /// Takes frames from `pieces` of what was received, one record's each.
    fn take_pieces(
        self: &Rc<Self>,
        wire: &mut Wire,
        pieces: &[Range<usize>],
        events: &Rc<dyn LinkEvents>,
    ) -> Result<Option<Cause>, ChannelError> {
        let (bytes, _) = wire.take_received();
        if bytes.len() < SHARED_FROM {
            let outcome = self.take_pieces_of(wire, &bytes, pieces, None, events);
            self.shard.ring.pool.borrow_mut().give_back(bytes);
            return outcome;
        }
        let buffer = Lent::new(&self.shard.ring, bytes);
        self.take_pieces_of(wire, buffer.bytes(0..buffer.size()), pieces, Some(&buffer), events)
    }

    fn take_pieces_of(
        self: &Rc<Self>,
        wire: &mut Wire,
        bytes: &[u8],
        pieces: &[Range<usize>],
        buffer: Option<&Rc<Lent>>,
        events: &Rc<dyn LinkEvents>,
    ) -> Result<Option<Cause>, ChannelError> {
        for (number, piece) in pieces.iter().enumerate() {
            let lying = match buffer {
                Some(buffer) => Lying::In { buffer, start: piece.start, is_roomy: true },
                None => Lying::Alone,
            };
            let (used, cause) = self.take_frames_of(&bytes[piece.clone()], lying, events)?;
            if cause.is_some() {
                return Ok(cause);
            }
            if used < piece.len() {
                // A frame goes on in the next record: ours never do. All that is left is put together.
                let mut rest = bytes[piece.start + used..piece.end].to_vec();
                pieces[number + 1..].iter().for_each(|piece| rest.extend_from_slice(&bytes[piece.clone()]));
                wire.put_back(&rest);
                return self.take_frames(wire, events);
            }
        }
        Ok(None)
    }

    /// Takes frames from the front of `bytes`, which may lie in a buffer that streams can keep. Gives how
    /// many bytes they had.
    fn take_frames_of(
        self: &Rc<Self>,
        bytes: &[u8],
        lying: Lying<'_>,
        events: &Rc<dyn LinkEvents>,
    ) -> Result<(usize, Option<Cause>), ChannelError> {
        let now = self.shard.now();
        let mut used = 0;
        let mut cause = None;
        while cause.is_none() {
            let frame = self.channel.borrow_mut().handle_frame(&bytes[used..], now)?;
            let Some((size, event)) = frame else { break };
            used += size;
            let lent = match lying {
                Lying::Alone => None,
                Lying::In { buffer, start, is_roomy } => {
                    Some(Kept { buffer, end: start + used, is_roomy: is_roomy && used == bytes.len() })
                }
            };
            cause = self.deliver(event, lent, events);
        }
        self.traffic.1.set(self.traffic.1.get() + used as u64);
        Ok((used, cause))
    }

    /// Tells what a frame means; `lent` is where it lies in a buffer that its stream can keep.
    fn deliver(
        self: &Rc<Self>,
        event: Event<'_>,
        lent: Option<Kept<'_>>,
        events: &Rc<dyn LinkEvents>,
    ) -> Option<Cause> {
        match event {
            Event::None | Event::Pong | Event::Status { .. } => {}
            Event::Opened { stream, message } => {
                let mailbox = self.mailboxes.take();
                let sink = Sink::Here(mailbox.clone());
                let token = self.sinks.borrow_mut().insert(Entry { sink, id: None }) as u32;
                self.channel.borrow_mut().set_token(stream, token);
                let place = Place::Here { link: self.clone(), id: stream, token };
                events.opened(self, Stream { mailbox, place, sent_end: Cell::new(false) }, message);
            }
            Event::Head { token, message, .. } => self.tell(
                token,
                |mailbox| mailbox.put_head(message),
                |crossing, shard, exchange| crossing.head(shard, exchange, message),
            ),
            Event::Data { token, data, .. } => self.tell(
                token,
                |mailbox| match lent {
                    // A frame ends with its payload.
                    Some(Kept { buffer, end, is_roomy }) => {
                        mailbox.put_shared(buffer, end - data.len()..end, is_roomy)
                    }
                    None => mailbox.put_data(data),
                },
                |crossing, shard, exchange| crossing.data(shard, exchange, data),
            ),
            Event::End { token, trailers, .. } => self.tell(
                token,
                |mailbox| mailbox.put_end(trailers),
                |crossing, shard, exchange| crossing.ended(shard, exchange, trailers),
            ),
            Event::Reset { token, code, .. } => self.tell(
                token,
                |mailbox| mailbox.put_broken(Broken::Reset(code)),
                |crossing, shard, exchange| crossing.broke(shard, exchange, Broken::Reset(code)),
            ),
            Event::Writable { token, .. } => self.wake_sender(token),
            Event::Room => {
                for token in std::mem::take(&mut *self.no_credit.borrow_mut()) {
                    self.wake_sender(token);
                }
            }
            Event::Settings(publication) => events.settings(self, *publication),
            Event::Tokens(publication) => events.tokens(self, *publication),
            Event::Revoked(list) => events.revoked(self, *list),
            Event::Renewal { bytes } => events.renewal(self, bytes),
            Event::SettingsAck(acknowledgement) => events.acknowledged(self, *acknowledgement),
            Event::ListOffered(tag) => events.list_offered(self, *tag),
            Event::List(list) => events.list(self, *list),
            Event::ListAck(acknowledgement) => events.list_acknowledged(self, *acknowledgement),
            Event::Identity { number, bytes } => events.identity(self, number, bytes),
            Event::IdentityGone { number } => events.identity_gone(self, number),
            Event::Drain => events.draining(self),
            Event::MakeWay => events.makes_way(self),
            Event::Close { code, text } => return Some(Cause::Closed(code, text.to_owned())),
        }
        None
    }

    fn wake_sender(&self, token: u32) {
        self.tell(token, Mailbox::wake, |crossing, shard, exchange| crossing.room(shard, exchange));
    }

    fn write(&self, context: &mut Context<'_>, wire: &mut Wire) -> std::io::Result<()> {
        let mut channel = self.channel.borrow_mut();
        while channel.transmit_len() > 0 {
            match wire.poll_space(context) {
                Poll::Ready(result) => result?,
                Poll::Pending => return Ok(()),
            }
            self.move_run(&mut channel, wire)?;
        }
        wire.start_send()?;
        if channel.is_closed() {
            wire.want_sent();
        }
        wire.watch(context);
        Ok(())
    }

    /// Lets senders go on that found no room: as many as the room is likely to hold, oldest first.
    fn invite(&self, context: &Context<'_>) {
        if !self.channel.borrow().has_room_for_bulk() {
            return;
        }
        for _ in 0..SENDERS_PER_TURN {
            let next = self.no_room.borrow_mut().pop_front();
            let Some(token) = next else { return };
            self.wake_sender(token);
        }
        // Those invited may have nothing left to send; then the next ones must not wait for ever.
        context.waker().wake_by_ref();
    }
}

/// Where bytes of frames lie.
#[derive(Clone, Copy)]
enum Lying<'b> {
    /// Where they are used at once.
    Alone,
    /// From `start` on in a buffer that streams can keep; all that one record carried, when `is_roomy`.
    In { buffer: &'b Rc<Lent>, start: usize, is_roomy: bool },
}

/// Where a frame ends in a buffer that its stream can keep; last in its record, when `is_roomy`.
#[derive(Clone, Copy)]
struct Kept<'b> {
    buffer: &'b Rc<Lent>,
    end: usize,
    is_roomy: bool,
}

/// What became of records that were to be passed on as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// So many bytes of the body went.
    Bytes(usize),
    /// Nothing can be sent now; the task is woken when something can.
    Blocked,
    /// They have to be read.
    NotNow,
}

fn wait_in(queue: &RefCell<VecDeque<u32>>, token: u32) {
    let mut queue = queue.borrow_mut();
    if !queue.contains(&token) {
        queue.push_back(token);
    }
}

/// A link that is driven; dropped, it is lost, also when its task panicked: then nobody must wait for
/// it, and no request be given to it.
struct Driven(Rc<Link>);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.lose();
    }
}

enum Place {
    /// On a link of this shard.
    Here { link: Rc<Link>, id: StreamId, token: u32 },
    /// On a link of another shard.
    There { crossing: Rc<Crossing>, shard: usize, exchange: u64 },
}

/// One exchange, as the task that serves it holds it. Dropped before both directions ended, it is
/// reset.
pub struct Stream {
    mailbox: Rc<Mailbox>,
    place: Place,
    sent_end: Cell<bool>,
}

impl Stream {
    pub(super) fn there(mailbox: Rc<Mailbox>, crossing: Rc<Crossing>, shard: usize, exchange: u64) -> Stream {
        Stream { mailbox, place: Place::There { crossing, shard, exchange }, sent_end: Cell::new(false) }
    }

    /// What arrived.
    pub fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// Bytes that arrived for this exchange.
    pub fn data(&self) -> Ref<'_, [u8]> {
        self.mailbox.data()
    }

    /// Marks `size` of [`Stream::data`] as taken: the other hop may send as many anew.
    pub fn consume(&self, size: usize) {
        if size == 0 {
            return;
        }
        self.mailbox.consume(size);
        self.has_taken(size);
    }

    fn has_taken(&self, size: usize) {
        match &self.place {
            Place::Here { link, id, .. } => link.consumed(*id, size),
            Place::There { crossing, shard, exchange } => crossing.consumed(*shard, *exchange, size),
        }
    }

    /// Passes the first bytes that arrived on to `to`, sealed where they lie; how many, 0 when they have to
    /// be written. The other hop may send as many anew. `size_max`: more must not pass.
    ///
    /// # Errors
    /// When TLS cannot send.
    pub fn pass_on(&self, to: &mut Wire, size_max: u64) -> std::io::Result<usize> {
        if !to.writes_in_place() || self.mailbox.data().len() as u64 > size_max {
            return Ok(0);
        }
        let Some((buffer, range)) = self.mailbox.take_roomy() else { return Ok(0) };
        let size = range.len();
        if !to.write_in_place(&buffer, range.clone())? {
            to.write(buffer.bytes(range))?;
        }
        self.has_taken(size);
        Ok(size)
    }

    /// Sends body bytes: as many as are taken now. The task is woken when more may be.
    pub fn send(&self, bytes: &[u8]) -> usize {
        match &self.place {
            Place::Here { link, id, token } => link.send(*id, *token, bytes),
            Place::There { crossing, shard, exchange } => crossing.send(*shard, *exchange, bytes),
        }
    }

    /// Sends the first records of a body that `from` received, at most `left` bytes of it, without their
    /// being read here: they are opened and sealed where they lie.
    ///
    /// # Errors
    /// The peer of `from` broke the protocol.
    pub fn pass(&self, from: &mut Wire, left: u64) -> std::io::Result<Passed> {
        match &self.place {
            Place::Here { link, id, token } => link.pass(*id, *token, from, left),
            Place::There { .. } => Ok(Passed::NotNow),
        }
    }

    /// Connector: sends a head of the answer.
    ///
    /// # Errors
    /// `Busy::Backlog`: the task is woken when there is room. `Busy::Full`: one interim head too many.
    pub fn head(&self, message: &[u8]) -> Result<(), Busy> {
        match &self.place {
            Place::Here { link, id, token } => {
                let done = link.channel.borrow_mut().head(*id, message);
                match done {
                    Ok(()) => link.kick(),
                    Err(Busy::Backlog) => link.wait_for_room(*token),
                    Err(Busy::Full | Busy::Draining | Busy::Closed) => {}
                }
                done
            }
            Place::There { .. } => Err(Busy::Closed),
        }
    }

    /// Ends our direction.
    pub fn end(&self, trailers: &[u8]) {
        if self.sent_end.replace(true) {
            return;
        }
        match &self.place {
            Place::Here { link, id, .. } => link.end(*id, trailers),
            Place::There { crossing, shard, exchange } => crossing.end(*shard, *exchange, trailers),
        }
    }

    /// Our direction ended with the head.
    pub fn has_no_body(&self) {
        self.sent_end.set(true);
    }

    /// Breaks the exchange off.
    pub fn reset(&self, code: ResetCode) {
        match &self.place {
            Place::Here { link, id, .. } => link.reset(*id, code),
            Place::There { crossing, shard, exchange } => crossing.reset(*shard, *exchange, code),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let over = self.sent_end.get() && self.mailbox.has_end();
        // The other shard keeps a guest until it hears that nobody waits for it.
        let must_tell = !over || matches!(self.place, Place::There { .. });
        if must_tell && self.mailbox.broken().is_none() {
            self.reset(ResetCode::Cancelled);
        }
        match &self.place {
            Place::Here { link, token, .. } => {
                link.release(*token);
                link.mailboxes.give_back(&self.mailbox);
            }
            Place::There { crossing, exchange, .. } => crossing.release(*exchange, &self.mailbox),
        }
    }
}

/// What one poll may read: 4 buffers of 128 KiB are about 0.1 ms of decryption.
const READS_PER_TURN: usize = 4;
/// A sender offers up to a whole send; one fills a channel's send buffer.
const SENDERS_PER_TURN: usize = 1;
const _: () = assert!(SENDERS_PER_TURN * limits::TRANSFER_SIZE <= limits::CHANNEL_OUT_SIZE_MAX);
/// From so many received bytes on, streams keep the buffer they came in instead of copies.
const SHARED_FROM: usize = 8 * 1024;
/// Bytes of one TLS record.
const RECORD: usize = 16 * 1024;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::shard::{self, Place, Slots};

    #[test]
    fn the_number_of_an_identity_that_stands_is_not_given_again_when_all_have_been_given() {
        let (tell, told) = mpsc::channel();
        let place = Place { index: 0, cpu: shard::allowed_cpus()[0], slots: 64, owner: Slots::ByRing };
        shard::start(place, move |shard| {
            let link = Link::new(&shard, Side::Gateway, None);
            let first = link.identity(b"stays").unwrap();
            link.next_identity.set(u32::MAX - 1);
            let further = [(); 3].map(|()| link.identity(b"comes").unwrap());
            tell.send((first, further)).unwrap();
            (|| 0, async {})
        })
        .unwrap();
        assert_eq!(told.recv_timeout(Duration::from_secs(20)), Ok((1, [u32::MAX, 2, 3])));
    }
}
