//! How a client's handshake goes on, step by step as its turn comes: the shell around
//! `dispatch::Handshakes`.

use std::cell::RefCell;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::gate::{self, Gate};
use crate::channel::HTTPS_ALPN;
use crate::dispatch::{HandshakeBounds, HandshakeTicket, Handshakes, Hello, Lease, Step};
use crate::limits;
use crate::shard::{Deadline, Polled, Shard};
use crate::transport::{Tls, Wire};

/// What a shard knows of handshakes under way.
pub struct Handshaking {
    line: RefCell<Handshakes<Waker>>,
    /// When a lease ends that somebody waits for: nothing else would wake the driver.
    lease_ends: Deadline,
    /// Makes numbers of tickets that nobody outside can foresee.
    numbers: RandomState,
}

impl Handshaking {
    /// Nobody is here.
    pub fn new(shard: &Shard) -> Handshaking {
        let line = RefCell::new(Handshakes::new(HandshakeBounds::default()));
        Handshaking { line, lease_ends: shard.deadline(), numbers: RandomState::new() }
    }

    /// Whether so many wait that no more clients should be accepted.
    pub fn is_crowded(&self) -> bool {
        self.line.borrow().is_crowded()
    }
}

impl Gate {
    /// Calls those who go next in this turn, and sees that there is another turn for the rest.
    pub fn call_handshakes(&self) {
        let Handshaking { line, lease_ends, .. } = &self.handshaking;
        let now = self.shard.now();
        if line.borrow().waiting() == 0 {
            return;
        }
        loop {
            let called = line.borrow_mut().poll_call(now).cloned();
            let Some(waker) = called else { break };
            waker.wake();
        }
        match line.borrow().poll_timeout() {
            None => self.shard.stay_awake(),
            Some(until) => lease_ends.set(now, until.saturating_duration_since(now)),
        }
    }

    fn count_handshakes(&self) {
        let (line, counters) = (self.handshaking.line.borrow(), self.counters());
        counters.handshakes_waiting.store(line.waiting() as u64, Ordering::Relaxed);
        let begun = line.begun() as u64;
        counters.handshakes_begun.store(begun, Ordering::Relaxed);
        if begun > counters.handshakes_begun_most.load(Ordering::Relaxed) {
            counters.handshakes_begun_most.store(begun, Ordering::Relaxed);
        }
    }
}

/// A handshake on its way.
pub struct Passage<'g> {
    gate: &'g Rc<Gate>,
    from: IpAddr,
    /// A place in line, and since when.
    place: Option<(HandshakeTicket, Instant)>,
    /// Since its first step.
    lease: Option<Lease>,
    /// Something was heard since the last step.
    is_news: bool,
    /// It is a connection point's, by what its hello offers.
    is_for_channels: bool,
}

impl<'g> Passage<'g> {
    /// The handshake of a client from there; `is_news`: its first bytes were heard already.
    pub fn new(gate: &'g Rc<Gate>, from: IpAddr, is_news: bool) -> Passage<'g> {
        Passage { gate, from, place: None, lease: None, is_news, is_for_channels: false }
    }

    /// Whether a step was taken.
    pub fn has_begun(&self) -> bool {
        self.lease.is_some()
    }

    /// Carries the handshake through. What answers the last flight is held back for what is written next
    /// if the client has said something behind it.
    ///
    /// # Errors
    /// `UnexpectedEof` when the client left; `InvalidData` with rustls's error when it broke the protocol:
    /// its alert is written and may not have left.
    pub fn poll(&mut self, wire: &mut Wire, context: &Context<'_>) -> Polled<()> {
        loop {
            if self.is_its_turn(wire, context) {
                self.take_step(wire)?;
                if wire.tls().is_none_or(Tls::is_handshaken) {
                    return Poll::Ready(self.as_agreed(wire));
                }
                continue;
            }
            if self.place.is_some() && wire.heard().len() > limits::HANDSHAKE_AHEAD_SIZE_MAX {
                // One that waits has said more than any hello: the rest stays with it.
                wire.pause();
                wire.watch(context);
                return Poll::Pending;
            }
            match std::task::ready!(wire.poll_hear(context))? {
                true => self.is_news = true,
                // One that has said all it will may have said enough: its turn comes.
                false if self.place.is_some() && self.lease.is_some() => {
                    wire.watch(context);
                    return Poll::Pending;
                }
                false => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            }
        }
    }

    /// Whether a step may be taken now; if there is one to take and it may not, it is in line afterwards.
    fn is_its_turn(&mut self, wire: &Wire, context: &Context<'_>) -> bool {
        let mut line = self.gate.handshaking.line.borrow_mut();
        if let Some((ticket, _)) = self.place {
            let is_called = line.is_called(ticket);
            if !is_called {
                line.set_waker(ticket, context.waker().clone());
            }
            return is_called;
        }
        let (Some(step), now) = (self.next_step(wire), self.gate.shard.now()) else { return false };
        // A resumed handshake has nothing costly left.
        if step == Step::Later && wire.tls().is_some_and(Tls::is_resumed) || line.may_go(step, now) {
            return true;
        }
        let step = self.favoured(step, wire);
        self.place = Some((line.line_up(step, context.waker().clone()), now));
        drop(line);
        gate::add(&self.gate.counters().handshakes_delayed, 1);
        self.gate.count_handshakes();
        self.gate.call_handshakes();
        false
    }

    fn next_step(&self, wire: &Wire) -> Option<Step> {
        if !self.is_news {
            return None;
        }
        if self.lease.is_some() {
            return Some(Step::Later);
        }
        match Hello::read(wire.heard()) {
            Hello::Partial => None,
            Hello::Whole { .. } => Some(Step::New(self.from.into())),
        }
    }

    /// Before it lines up: a ticket spares a client the line of its address. Only one of ours does, so that
    /// nobody passes by with an invented one.
    fn favoured(&self, step: Step, wire: &Wire) -> Step {
        match (step, Hello::read(wire.heard())) {
            (Step::New(_), Hello::Whole { ticket: Some(ticket), .. })
                if self.gate.local().clients.ticketer.decrypt(ticket).is_some() =>
            {
                Step::Returning(self.gate.handshaking.numbers.hash_one(ticket))
            }
            _ => step,
        }
    }

    fn take_step(&mut self, wire: &mut Wire) -> io::Result<()> {
        let Gate { handshaking: Handshaking { line, .. }, shard, .. } = &**self.gate;
        let now = shard.now();
        self.leave_line();
        if self.lease.is_none() {
            self.lease = Some(line.borrow_mut().begin(now));
            self.gate.count_handshakes();
            self.answer_as_whom(wire)?;
        }
        self.is_news = false;
        let begun = Instant::now();
        let done = wire.answer_heard();
        line.borrow_mut().spend(begun.elapsed(), now);
        self.gate.call_handshakes();
        done
    }

    /// A connection point that comes in by HTTPS is answered by the side that believes the internal CA alone: it never
    /// is a client, and no client gets there.
    fn answer_as_whom(&mut self, wire: &mut Wire) -> io::Result<()> {
        let common = &self.gate.common;
        if common.settings.https_among_clients && Hello::read(wire.heard()).offers(HTTPS_ALPN) {
            self.is_for_channels = true;
            wire.begin_tls(Tls::server(self.gate.local().https_channels.clone()).map_err(io::Error::other)?);
        }
        Ok(())
    }

    /// Who was taken for a connection point is one by rustls's reading, too: certificates of the internal CA must not be
    /// taken for a client's.
    fn as_agreed(&self, wire: &Wire) -> io::Result<()> {
        if self.is_for_channels && wire.tls().and_then(Tls::alpn) != Some(HTTPS_ALPN) {
            let what = "its hello offers a channel, and none was agreed on";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(())
    }

    fn leave_line(&mut self) {
        let Some((ticket, since)) = self.place.take() else { return };
        let handshaking = &self.gate.handshaking;
        let was_crowded = handshaking.is_crowded();
        handshaking.line.borrow_mut().leave(ticket);
        self.gate.counters().handshake_waited.observe(self.gate.shard.now().saturating_duration_since(since));
        self.gate.count_handshakes();
        if was_crowded && !handshaking.is_crowded() {
            self.gate.wake_acceptors();
        }
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        self.leave_line();
        if let Some(lease) = self.lease.take() {
            self.gate.handshaking.line.borrow_mut().end(&lease);
            self.gate.count_handshakes();
        }
        self.gate.call_handshakes();
    }
}
