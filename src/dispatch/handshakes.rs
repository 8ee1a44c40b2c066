//! Whose handshake goes on next: when clients come back all at once, those connected keep their latency,
//! and nobody is turned away.
//!
//! Pure. A handshake is a few steps, each some hundred microseconds of arithmetic that no other task of
//! the shard can interrupt. In one turn of the shard so many steps are taken as fill
//! [`HandshakeBounds::turn`], one at least and four that had to wait at most; whoever comes later waits for
//! a later turn, and between two turns everybody else is served. What a step takes is known afterwards, so
//! those that are called at once are as many as would fit if each took what steps took lately. A shard with nothing else to do goes from turn to turn without sleeping,
//! so that the line moves as fast as the CPU allows.
//!
//! Three lines, and whose turn it is:
//!
//! 1. **Handshakes that have begun**, in the order in which their next flight came: they are nearly done,
//!    and what was spent on them would be lost. There are so many at most as hold a lease, which ends
//!    with the handshake, or a while after it began: peers that fall silent keep nobody out.
//! 2. **Clients that show a ticket of ours**, by rounds: in each round every ticket has its turn once.
//!    Thousands of them may share an address, each with a ticket of its own, and they cost a fraction of a
//!    new one; whoever shows one ticket again and again waits behind himself.
//! 3. **Clients that show none**, by rounds of their addresses (IPv6: every /64), so that the many of one
//!    address wait behind one another and not before those of the others.
//!
//! As long as both wait, of four that begin one is of the third line: a flood of tickets, which anybody
//! can gather, delays it and does not stop it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::limits;

/// Where a client comes from, as far as it can choose another address by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Neighbourhood(IpAddr);

impl From<IpAddr> for Neighbourhood {
    fn from(address: IpAddr) -> Neighbourhood {
        Neighbourhood(match address.to_canonical() {
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// What would be done next in a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Answering the hello of a client that shows a ticket of ours: this one, by a number made of it.
    Returning(u64),
    /// Answering the hello of any other, from there.
    New(Neighbourhood),
    /// Reading a later flight.
    Later,
}

/// Somebody's place in a line.
pub type HandshakeTicket = u64;

/// What a handshake holds from its first step to its end.
#[derive(Debug, PartialEq, Eq)]
pub struct Lease(u64);

/// How much may happen at once.
#[derive(Clone, Copy, Debug)]
pub struct HandshakeBounds {
    /// Time of steps in one turn, after which no further one is taken in it.
    pub turn: Duration,
    /// Handshakes that have begun and hold a lease.
    pub begun: usize,
    /// How long one holds it at most.
    pub lease: Duration,
    /// Clients in line from which on no more are accepted.
    pub waiting: usize,
}

impl Default for HandshakeBounds {
    fn default() -> HandshakeBounds {
        HandshakeBounds {
            turn: limits::HANDSHAKE_TURN,
            begun: limits::HANDSHAKES_BEGUN_MAX,
            lease: limits::HANDSHAKE_LEASE,
            waiting: limits::HANDSHAKES_WAITING_MAX,
        }
    }
}

struct Place<W> {
    step: Step,
    /// Its round, in a line of rounds.
    round: u64,
    waker: W,
}

/// What those with the same key have in a line of rounds.
#[derive(Default)]
struct Crowd {
    waiting: usize,
    /// The last round with one of them.
    round: u64,
}

/// A line in which every key has its turn once in each round.
struct Rounds<K> {
    waiting: BTreeSet<(u64, HandshakeTicket)>,
    crowds: BTreeMap<K, Crowd>,
    /// The latest round of which somebody was called.
    round: u64,
}

impl<K: Ord> Rounds<K> {
    fn new() -> Rounds<K> {
        Rounds { waiting: BTreeSet::new(), crowds: BTreeMap::new(), round: 0 }
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn first(&self) -> Option<HandshakeTicket> {
        self.waiting.first().map(|(_, ticket)| *ticket)
    }

    /// Gives its round.
    fn line_up(&mut self, key: K, ticket: HandshakeTicket) -> u64 {
        let crowd = self.crowds.entry(key).or_default();
        let round = crowd.round.max(self.round) + 1;
        *crowd = Crowd { waiting: crowd.waiting + 1, round };
        self.waiting.insert((round, ticket));
        round
    }

    fn remove(&mut self, key: &K, round: u64, ticket: HandshakeTicket) {
        self.waiting.remove(&(round, ticket));
        if let Some(crowd) = self.crowds.get_mut(key) {
            crowd.waiting -= 1;
            if crowd.waiting == 0 {
                self.crowds.remove(key);
            }
        }
    }
}

struct Begun {
    until: Instant,
    has_ended: bool,
}

/// See the file's head. `W` is what wakes the holder of a place.
pub struct Handshakes<W> {
    bounds: HandshakeBounds,
    /// The turn in which `spent` was.
    turn: Option<Instant>,
    spent: Duration,
    places: BTreeMap<HandshakeTicket, Place<W>>,
    next: HandshakeTicket,
    later: BTreeSet<HandshakeTicket>,
    returning: Rounds<u64>,
    new: Rounds<Neighbourhood>,
    /// Of the second line, called one after the other while the third waited.
    favoured: u32,
    /// Whose turn it is, until they have taken their step or left.
    called: BTreeSet<HandshakeTicket>,
    /// What a step takes: a running average.
    usual: Duration,
    /// In the order of their begin, from the first that may still hold its lease.
    begun: VecDeque<Begun>,
    /// Number of the first.
    first: u64,
    holding: usize,
}

impl<W> Handshakes<W> {
    /// Nobody is here.
    pub fn new(bounds: HandshakeBounds) -> Handshakes<W> {
        Handshakes {
            bounds,
            turn: None,
            spent: Duration::ZERO,
            places: BTreeMap::new(),
            next: 0,
            later: BTreeSet::new(),
            returning: Rounds::new(),
            new: Rounds::new(),
            favoured: 0,
            called: BTreeSet::new(),
            usual: Duration::ZERO,
            begun: VecDeque::new(),
            first: 0,
            holding: 0,
        }
    }

    // ── looks ───────────────────────────────────────────────────────────────────────────────────

    /// How many wait for their turn, the one called included.
    pub fn waiting(&self) -> usize {
        self.places.len()
    }

    /// Handshakes that have begun and hold a lease.
    pub fn begun(&self) -> usize {
        self.holding
    }

    /// Whether so many wait that further clients had better wait in the kernel.
    pub fn is_crowded(&self) -> bool {
        self.waiting() >= self.bounds.waiting
    }

    /// Whether it is this one's turn.
    pub fn is_called(&self, ticket: HandshakeTicket) -> bool {
        self.called.contains(&ticket)
    }

    /// When to call again although nothing has happened; `None`: only what happens changes anything.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let hellos_wait = !self.returning.is_empty() || !self.new.is_empty();
        // Later flights need no lease: for them there is always a next turn.
        (hellos_wait && self.later.is_empty() && self.holding >= self.bounds.begun)
            .then(|| self.begun.front().map(|one| one.until))?
    }

    // ── what happened ───────────────────────────────────────────────────────────────────────────

    /// Whether a step may be taken at once: there is time left in this turn, and nobody is overtaken.
    pub fn may_go(&mut self, step: Step, now: Instant) -> bool {
        self.enter_turn(now);
        if !self.called.is_empty() || self.spent >= self.bounds.turn {
            return false;
        }
        match step {
            Step::Later => self.later.is_empty(),
            Step::Returning(_) | Step::New(_) => self.places.is_empty() && self.may_begin(),
        }
    }

    /// It has to wait.
    pub fn line_up(&mut self, step: Step, waker: W) -> HandshakeTicket {
        let ticket = self.next;
        self.next += 1;
        let round = match step {
            Step::Later => {
                self.later.insert(ticket);
                0
            }
            Step::Returning(shown) => self.returning.line_up(shown, ticket),
            Step::New(from) => self.new.line_up(from, ticket),
        };
        self.places.insert(ticket, Place { step, round, waker });
        ticket
    }

    /// Who is to be woken for this place from now on.
    pub fn set_waker(&mut self, ticket: HandshakeTicket, waker: W) {
        if let Some(place) = self.places.get_mut(&ticket) {
            place.waker = waker;
        }
    }

    /// Its step is about to be taken, or it left: the place is free.
    pub fn leave(&mut self, ticket: HandshakeTicket) {
        let Some(place) = self.places.remove(&ticket) else { return };
        if !self.called.remove(&ticket) {
            self.unline(ticket, &place.step, place.round);
        }
    }

    /// A hello is about to be answered.
    pub fn begin(&mut self, now: Instant) -> Lease {
        self.begun.push_back(Begun { until: now + self.bounds.lease, has_ended: false });
        self.holding += 1;
        Lease(self.first + self.begun.len() as u64 - 1)
    }

    /// A handshake is over, one way or the other.
    pub fn end(&mut self, lease: &Lease) {
        let held = lease.0.checked_sub(self.first).and_then(|at| self.begun.get_mut(at as usize));
        if let Some(begun) = held.filter(|begun| !begun.has_ended) {
            begun.has_ended = true;
            self.holding -= 1;
        }
        while self.begun.front().is_some_and(|begun| begun.has_ended) {
            self.begun.pop_front();
            self.first += 1;
        }
    }

    /// A step took so long.
    pub fn spend(&mut self, took: Duration, now: Instant) {
        self.enter_turn(now);
        self.spent += took;
        self.usual = (7 * self.usual + took) / 8;
    }

    // ── what to do next ─────────────────────────────────────────────────────────────────────────

    /// Calls the next, if it may go in this turn; to be asked until it calls nobody. It is called until it
    /// leaves its place.
    pub fn poll_call(&mut self, now: Instant) -> Option<&W> {
        self.enter_turn(now);
        let price = self.usual.max(self.bounds.turn / CALLED_MAX);
        if self.spent + price * self.called.len() as u32 >= self.bounds.turn {
            return None;
        }
        let ticket = self.choose()?;
        let place = self.places.get(&ticket).expect("everybody in a line has a place");
        let (step, round) = (place.step, place.round);
        self.favoured = match step {
            Step::Returning(_) if !self.new.is_empty() => self.favoured + 1,
            Step::Returning(_) | Step::New(_) => 0,
            Step::Later => self.favoured,
        };
        match step {
            Step::Later => {}
            Step::Returning(_) => self.returning.round = self.returning.round.max(round),
            Step::New(_) => self.new.round = self.new.round.max(round),
        }
        self.unline(ticket, &step, round);
        self.called.insert(ticket);
        self.places.get(&ticket).map(|place| &place.waker)
    }

    fn choose(&self) -> Option<HandshakeTicket> {
        if let Some(first) = self.later.first() {
            return Some(*first);
        }
        let is_hello = |ticket| self.places.get(ticket).is_some_and(|place| place.step != Step::Later);
        let beginning = self.called.iter().filter(|ticket| is_hello(ticket)).count();
        if self.holding + beginning >= self.bounds.begun {
            return None;
        }
        let (new, returning) = (self.new.first(), self.returning.first());
        if self.favoured >= FAVOURED_MAX { new.or(returning) } else { returning.or(new) }
    }

    fn may_begin(&self) -> bool {
        self.holding < self.bounds.begun
    }

    fn unline(&mut self, ticket: HandshakeTicket, step: &Step, round: u64) {
        match step {
            Step::Later => drop(self.later.remove(&ticket)),
            Step::Returning(shown) => self.returning.remove(shown, round, ticket),
            Step::New(from) => self.new.remove(from, round, ticket),
        }
    }

    /// Another turn has its own time; leases end by time, too.
    fn enter_turn(&mut self, now: Instant) {
        if self.turn == Some(now) {
            return;
        }
        (self.turn, self.spent) = (Some(now), Duration::ZERO);
        while let Some(begun) = self.begun.front().filter(|begun| begun.has_ended || begun.until <= now) {
            self.holding -= usize::from(!begun.has_ended);
            self.begun.pop_front();
            self.first += 1;
        }
    }
}

/// Called at once, at most: none takes less than so much of a turn, whatever steps took lately.
const CALLED_MAX: u32 = 4;
/// Of the second line, one after the other, while the third waits.
const FAVOURED_MAX: u32 = 3;
