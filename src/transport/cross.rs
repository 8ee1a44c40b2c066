//! Exchanges whose link belongs to another shard: the same stream, carried by messages.
//!
//! The shard of the client keeps the mailbox; the shard of the link keeps what it was sent and could
//! not pass on yet. Both are bounded by the same windows as everywhere: the link's side grants what
//! it has passed on, the client's side what it has taken.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use super::link::{Link, Sink, Stream};
use super::mailbox::{Broken, Mailbox, Mailboxes};
use crate::channel::{ResetCode, StreamId};
use crate::limits::STREAM_WINDOW_INITIAL;
use crate::shard::Ring;

/// What shards tell each other about an exchange; `exchange` is the number the client's shard gave.
pub enum CrossMessage {
    /// To the link's shard.
    Data(u64, Vec<u8>),
    /// To the link's shard: the client's direction ended.
    End(u64, Vec<u8>),
    /// To the link's shard.
    Reset(u64, ResetCode),
    /// To the link's shard: the client's shard took body bytes of the answer.
    Consumed(u64, usize),
    /// To the client's shard.
    Head(u64, Vec<u8>),
    /// To the client's shard.
    AnswerData(u64, Vec<u8>),
    /// To the client's shard: the answer ended.
    AnswerEnd(u64, Vec<u8>),
    /// To the client's shard.
    Broke(u64, Broken),
    /// To the client's shard: so many bytes were passed on.
    Granted(u64, usize),
}

/// An exchange of a client of this shard on a link elsewhere.
struct Away {
    mailbox: Rc<Mailbox>,
    credit: Cell<usize>,
}

/// An exchange of a client elsewhere on a link of this shard.
struct Guest {
    link: Rc<Link>,
    id: StreamId,
    token: u32,
    /// Sent by the client's shard, not yet taken by the channel.
    waiting: Vec<u8>,
    end: Option<Vec<u8>>,
}

type Send = Box<dyn Fn(usize, usize, CrossMessage)>;

/// One shard's side of all exchanges that cross.
pub struct Crossing {
    here: usize,
    ring: Rc<Ring>,
    mailboxes: Mailboxes,
    send: Send,
    away: RefCell<HashMap<u64, Away>>,
    guests: RefCell<HashMap<(usize, u64), Guest>>,
    next: Cell<u64>,
}

impl Crossing {
    /// `send(to, from, message)` puts a message into another shard's inbox.
    pub fn new(here: usize, ring: &Rc<Ring>, send: Send) -> Rc<Crossing> {
        let (away, guests) = Default::default();
        let (ring, mailboxes) = (ring.clone(), Mailboxes::new(ring));
        Rc::new(Crossing { here, ring, mailboxes, send, away, guests, next: Cell::new(1) })
    }

    fn tell(&self, to: usize, message: CrossMessage) {
        (self.send)(to, self.here, message);
    }

    // ── the client's shard ──────────────────────────────────────────────────────────────────────

    /// Begins an exchange on shard `to`: gives its number, to be sent with the request, and the stream.
    pub fn begin(self: &Rc<Self>, to: usize) -> (u64, Stream) {
        let mailbox = self.mailboxes.take();
        let exchange = self.next.get();
        self.next.set(exchange + 1);
        let away = Away { mailbox: mailbox.clone(), credit: Cell::new(STREAM_WINDOW_INITIAL) };
        self.away.borrow_mut().insert(exchange, away);
        (exchange, Stream::there(mailbox, self.clone(), to, exchange))
    }

    pub(super) fn send(&self, shard: usize, exchange: u64, bytes: &[u8]) -> usize {
        let away = self.away.borrow();
        let Some(entry) = away.get(&exchange) else { return 0 };
        let size = bytes.len().min(entry.credit.get());
        if size > 0 {
            entry.credit.set(entry.credit.get() - size);
            self.tell(shard, CrossMessage::Data(exchange, bytes[..size].to_vec()));
        }
        size
    }

    pub(super) fn end(&self, shard: usize, exchange: u64, trailers: &[u8]) {
        self.tell(shard, CrossMessage::End(exchange, trailers.to_vec()));
    }

    pub(super) fn reset(&self, shard: usize, exchange: u64, code: ResetCode) {
        self.tell(shard, CrossMessage::Reset(exchange, code));
    }

    pub(super) fn consumed(&self, shard: usize, exchange: u64, size: usize) {
        self.tell(shard, CrossMessage::Consumed(exchange, size));
    }

    pub(super) fn release(&self, exchange: u64, mailbox: &Rc<Mailbox>) {
        self.away.borrow_mut().remove(&exchange);
        self.mailboxes.give_back(mailbox);
    }

    // ── the link's shard ────────────────────────────────────────────────────────────────────────

    /// Takes an exchange from shard `from` onto `link`, if that takes it.
    pub fn admit(&self, from: usize, exchange: u64, link: &Rc<Link>, message: &[u8]) -> bool {
        let sink = Sink::There { shard: from, exchange };
        let Ok((id, token)) = link.open_for(message, sink) else { return false };
        let guest = Guest { link: link.clone(), id, token, waiting: Vec::new(), end: None };
        self.guests.borrow_mut().insert((from, exchange), guest);
        true
    }

    /// Nothing of the exchange was begun: its shard may try elsewhere.
    pub fn turn_away(&self, from: usize, exchange: u64) {
        self.tell(from, CrossMessage::Broke(exchange, Broken::Reset(ResetCode::NotBegun)));
    }

    pub(super) fn head(&self, to: usize, exchange: u64, message: &[u8]) {
        self.tell(to, CrossMessage::Head(exchange, message.to_vec()));
    }

    pub(super) fn data(&self, to: usize, exchange: u64, bytes: &[u8]) {
        self.tell(to, CrossMessage::AnswerData(exchange, bytes.to_vec()));
    }

    pub(super) fn ended(&self, to: usize, exchange: u64, trailers: &[u8]) {
        self.tell(to, CrossMessage::AnswerEnd(exchange, trailers.to_vec()));
    }

    pub(super) fn broke(&self, to: usize, exchange: u64, broken: Broken) {
        if let Some(guest) = self.guests.borrow_mut().remove(&(to, exchange)) {
            guest.link.release(guest.token);
        }
        self.tell(to, CrossMessage::Broke(exchange, broken));
    }

    /// The link has room again for a guest that was refused.
    pub(super) fn room(&self, shard: usize, exchange: u64) {
        // The link's own borrows are over only after this turn; the guest is served from the inbox.
        self.tell(self.here, CrossMessage::Data(GUEST | exchange, (shard as u64).to_be_bytes().to_vec()));
    }

    fn pass_on(&self, from: usize, exchange: u64) {
        let mut guests = self.guests.borrow_mut();
        let Some(guest) = guests.get_mut(&(from, exchange)) else { return };
        // Room may be told of when all has gone: behind its end a stream takes nothing, not even nothing.
        if !guest.waiting.is_empty() {
            let sent = guest.link.send(guest.id, guest.token, &guest.waiting);
            guest.waiting.drain(..sent);
            if sent > 0 {
                self.tell(from, CrossMessage::Granted(exchange, sent));
            }
        }
        if guest.waiting.is_empty()
            && let Some(trailers) = guest.end.take()
        {
            guest.link.end(guest.id, &trailers);
        }
    }

    // ── the inbox ───────────────────────────────────────────────────────────────────────────────

    /// Handles one message from shard `from`.
    pub fn handle(&self, from: usize, message: CrossMessage) {
        match message {
            CrossMessage::Data(exchange, shard) if exchange & GUEST != 0 => {
                let from = shard.try_into().map_or(0, u64::from_be_bytes) as usize;
                self.pass_on(from, exchange & !GUEST);
            }
            CrossMessage::Data(exchange, bytes) => {
                if let Some(guest) = self.guests.borrow_mut().get_mut(&(from, exchange)) {
                    guest.waiting.extend_from_slice(&bytes);
                }
                self.pass_on(from, exchange);
            }
            CrossMessage::End(exchange, trailers) => {
                if let Some(guest) = self.guests.borrow_mut().get_mut(&(from, exchange)) {
                    guest.end = Some(trailers);
                }
                self.pass_on(from, exchange);
            }
            CrossMessage::Reset(exchange, code) => {
                if let Some(guest) = self.guests.borrow_mut().remove(&(from, exchange)) {
                    guest.link.reset(guest.id, code);
                    guest.link.release(guest.token);
                }
            }
            CrossMessage::Consumed(exchange, size) => {
                if let Some(guest) = self.guests.borrow().get(&(from, exchange)) {
                    guest.link.consumed(guest.id, size);
                }
            }
            CrossMessage::Head(exchange, message) => {
                self.at(exchange, |away| away.mailbox.put_head(&message))
            }
            CrossMessage::AnswerData(exchange, bytes) => {
                self.at(exchange, |away| away.mailbox.put_data(&bytes))
            }
            CrossMessage::AnswerEnd(exchange, trailers) => {
                self.at(exchange, |away| away.mailbox.put_end(&trailers));
            }
            CrossMessage::Broke(exchange, broken) => {
                self.at(exchange, |away| away.mailbox.put_broken(broken))
            }
            CrossMessage::Granted(exchange, size) => self.at(exchange, |away| {
                away.credit.set(away.credit.get() + size);
                away.mailbox.wake();
            }),
        }
    }

    fn at(&self, exchange: u64, what: impl FnOnce(&Away)) {
        if let Some(away) = self.away.borrow().get(&exchange) {
            what(away);
        }
    }

    /// Exchanges that cross now: those of our clients elsewhere, and guests here.
    pub fn counts(&self) -> (usize, usize) {
        (self.away.borrow().len(), self.guests.borrow().len())
    }

    /// The ring of this shard.
    pub fn ring(&self) -> &Rc<Ring> {
        &self.ring
    }
}

/// Marks a message to oneself: this guest may go on.
const GUEST: u64 = 1 << 63;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "cross_tests.rs"]
mod tests;
