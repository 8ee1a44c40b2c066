//! How requests of a shard wait for a link: the shell around `dispatch::Waiting`.
//!
//! Whoever looks for a link in vain lines up, and is woken when it is its turn. Links of this shard say
//! that they have room again; those of others by messages. A site's held requests have a line of their own:
//! they come back by thousands when a channel is lost, and nobody shall stand behind them, nor they behind others.
//! To the core they are those of another site, so that they share places and turns with the rest as sites do.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use super::GatewayMessage;
use super::gate::Gate;
use super::request::Request;
use crate::dispatch::{ClientKey, Outcome, Standing, Ticket, Waiting, WaitingBounds};
use crate::limits;
use crate::refusal::Refusal;

/// What a shard knows of waiting.
pub struct Line {
    waiting: RefCell<Waiting<Waker>>,
    /// By site and shard: its links had no room for a request of ours, and it has not said otherwise.
    full: RefCell<Vec<Vec<bool>>>,
    /// By site and shard: a request of that shard found no room here, and it wants to be told.
    turned_away: RefCell<Vec<Vec<bool>>>,
}

/// A request's place, from its first wait until a link took it or it ended.
pub struct Place {
    gate: Rc<Gate>,
    /// Its number.
    pub ticket: Ticket,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.leave(self.ticket);
    }
}

/// What a client is told that waited in vain; `None`: it did not.
pub fn refusal(outcome: Outcome) -> Option<Refusal> {
    match outcome {
        Outcome::Came => None,
        Outcome::TooManyOfClient => Some(Refusal::TooManyRequests),
        Outcome::TimedOut | Outcome::NoPlace | Outcome::Displaced | Outcome::Draining => {
            Some(Refusal::NoConnector)
        }
    }
}

/// Lines of one site: of its held requests, and of the others.
const LINES: usize = 2;

fn line_of(site: usize, is_held: bool) -> usize {
    LINES * site + usize::from(is_held)
}

impl Line {
    /// Nobody waits on a shard with so many sites and places, one of so many shards.
    pub fn new(sites: usize, shards: usize, places: usize) -> Line {
        let called = limits::WAITING_CALLED_MAX / LINES;
        let bounds = WaitingBounds { places, called, ..WaitingBounds::default() };
        let waiting = RefCell::new(Waiting::new(LINES * sites, bounds));
        let (full, turned_away) = (vec![vec![false; shards]; sites], vec![vec![false; shards]; sites]);
        Line { waiting, full: RefCell::new(full), turned_away: RefCell::new(turned_away) }
    }

    /// So many places from now on.
    pub fn set_places(&self, places: usize) {
        self.waiting.borrow_mut().set_places(places);
    }

    /// Whether requests here, held ones or others, wait for room on links of a site.
    pub fn is_held_up(&self, site: usize, is_held: bool) -> bool {
        self.waiting.borrow().is_held_up(line_of(site, is_held))
    }

    /// Whether links of another shard have said that they have no room.
    pub fn is_full_elsewhere(&self, site: usize, shard: usize) -> bool {
        self.full.borrow()[site][shard]
    }

    fn hear_room(&self, site: usize) {
        let mut waiting = self.waiting.borrow_mut();
        [false, true].into_iter().for_each(|is_held| waiting.hear_room(line_of(site, is_held)));
    }

    /// They say so.
    pub fn hear_full(&self, shard: usize, site: usize) {
        self.full.borrow_mut()[site][shard] = true;
    }
}

impl Gate {
    /// Whether a request may look for a link: it was called, or would overtake nobody of its kind.
    pub fn may_look(&self, request: &Request, place: Option<&Place>) -> bool {
        let waiting = self.line.waiting.borrow();
        if waiting.held() == 0 {
            return true;
        }
        let standing = place.and_then(|place| waiting.standing(place.ticket));
        standing == Some(Standing::Called) || !waiting.has_line(line_of(request.site, request.is_held))
    }

    /// A request found no link. It gets a place, or back the one it has.
    ///
    /// # Errors
    /// Why it may not wait.
    pub fn line_up(
        self: &Rc<Self>,
        place: &mut Option<Place>,
        request: &Request,
        client: impl FnOnce() -> ClientKey,
    ) -> Result<(), Outcome> {
        // Nobody comes to a gateway that ends, but who is there goes on to take requests.
        if self.is_draining() && !self.has_link(request.site) {
            return Err(Outcome::Draining);
        }
        // The line is let go of before anybody is woken, and before a place is dropped: both look at it.
        let entered = {
            let mut waiting = self.line.waiting.borrow_mut();
            match place.as_ref().filter(|place| waiting.standing(place.ticket).is_some()) {
                Some(held) => {
                    waiting.put_back(held.ticket);
                    None
                }
                None => {
                    let line = line_of(request.site, request.is_held);
                    if !waiting.has_line(line) {
                        waiting.hear_none(line);
                    }
                    let (ticket, loser) = waiting.enter(line, client(), Waker::noop().clone())?;
                    Some((ticket, loser.cloned()))
                }
            }
        };
        if let Some((ticket, loser)) = entered {
            *place = Some(Place { gate: self.clone(), ticket });
            loser.iter().for_each(Waker::wake_by_ref);
        }
        self.call_waiting();
        Ok(())
    }

    /// Whether it is this request's turn.
    pub fn poll_turn(&self, place: Option<&Place>, context: &Context<'_>) -> Poll<Outcome> {
        let Some(place) = place else { return Poll::Ready(Outcome::NoPlace) };
        let mut waiting = self.line.waiting.borrow_mut();
        match waiting.standing(place.ticket) {
            Some(Standing::Waiting) => {
                waiting.set_waker(place.ticket, context.waker().clone());
                Poll::Pending
            }
            Some(Standing::Called) => Poll::Ready(Outcome::Came),
            Some(Standing::Ended(outcome)) => Poll::Ready(outcome),
            None => Poll::Ready(Outcome::NoPlace),
        }
    }

    /// A place is free; whoever is next is called.
    pub fn leave(&self, ticket: Ticket) {
        self.line.waiting.borrow_mut().leave(ticket);
        self.call_waiting();
    }

    /// A link of this shard came up or has room again.
    pub fn hear_room(&self, site: usize) {
        self.line.hear_room(site);
        self.call_waiting();
        let (here, mut turned_away) = (self.port.here(), self.line.turned_away.borrow_mut());
        for (shard, is_told) in turned_away[site].iter_mut().enumerate().filter(|(_, is_told)| **is_told) {
            *is_told = false;
            self.port.send(shard, GatewayMessage::Room { shard: here, site, has_room: true });
        }
    }

    /// The same of another shard.
    pub fn hear_room_elsewhere(&self, shard: usize, site: usize) {
        self.line.full.borrow_mut()[site][shard] = false;
        self.line.hear_room(site);
        self.call_waiting();
    }

    /// A request of shard `from` found no link here: the shard is told, now and when that changes.
    pub fn note_turned_away(&self, from: usize, site: usize) {
        self.line.turned_away.borrow_mut()[site][from] = true;
        self.port.send(from, GatewayMessage::Room { shard: self.port.here(), site, has_room: false });
    }

    /// Those who wait for a site without a link are told that nobody is called any more.
    pub fn drain_waiting(&self) {
        let is_over = |line: usize| !self.has_link(line / LINES);
        let wakers: Vec<Waker> = self.line.waiting.borrow_mut().drain(is_over).cloned().collect();
        wakers.iter().for_each(Waker::wake_by_ref);
        self.call_waiting();
    }

    fn call_waiting(&self) {
        loop {
            let called = self.line.waiting.borrow_mut().poll_call().cloned();
            let Some(waker) = called else { break };
            waker.wake();
        }
        let held = self.line.waiting.borrow().held();
        self.counters().waiting.store(held as u64, Ordering::Relaxed);
    }
}
