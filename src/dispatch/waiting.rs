//! Requests that wait for a link: who may wait, who goes next, who gives way.
//!
//! Pure: knows no tasks; what wakes one is a value of the caller. A request holds one place from its
//! first wait to its end, and keeps it when it was called in vain. Sites take turns; within a site
//! rounds do what strict turns of clients would do: in each round every client that waits has one
//! request, and requests of a round go in the order they came. A request that comes now is put into the
//! first round that has not begun and in which its client has none, so each round is finite and nobody
//! starves.

use std::collections::{BTreeMap, BTreeSet};

use super::Neighbourhood;
use crate::limits;

/// Who a request belongs to. Thousands of clients may share one address, so a certificate is told from
/// others by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClientKey {
    /// SHA-256 of the leaf whose key the client holds.
    Certificate([u8; 32]),
    /// SHA-256 of who bears the token that the client showed.
    Bearer([u8; 32]),
    /// Of a client that showed none, and of all others that it could make itself look like.
    Address(Neighbourhood),
}

/// A place. Its number tells who came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// How waiting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A link has room, and it is this request's turn.
    Came,
    /// None had, for as long as a request may wait.
    TimedOut,
    /// The client has as many requests waiting as one client may.
    TooManyOfClient,
    /// All places are taken, and the newcomer's site and client hold their shares.
    NoPlace,
    /// All places are taken, and this one went to a site or client that held less than its share.
    Displaced,
    /// The gateway takes no more requests.
    Draining,
}

/// What a place says to whoever holds it.
///
/// ```text
/// Waiting ── room ──▶ Called ── a stream was found ──▶ (left)
///    ▲                   │
///    └──── in vain ──────┘        Waiting ── a newcomer with a better claim, draining ──▶ Ended
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is not its turn.
    Waiting,
    /// It may look for a link now.
    Called,
    /// It goes away without one.
    Ended(Outcome),
}

/// How many may wait.
#[derive(Clone, Copy, Debug)]
pub struct WaitingBounds {
    /// Places altogether.
    pub places: usize,
    /// Places that one client may hold at one site.
    pub of_client: usize,
    /// Requests of one site that look for a link at once, those on their way to another shard's
    /// included.
    pub called: usize,
}

impl Default for WaitingBounds {
    fn default() -> WaitingBounds {
        WaitingBounds {
            places: limits::WAITING_COUNT_MAX,
            of_client: limits::WAITING_OF_CLIENT_MAX,
            called: limits::WAITING_CALLED_MAX,
        }
    }
}

struct Place<W> {
    site: usize,
    client: ClientKey,
    round: u64,
    standing: Standing,
    waker: W,
}

#[derive(Default)]
struct Site {
    /// There was room when last heard of, and nobody has found none since.
    is_open: bool,
    /// Places held: those of `line`, and those called.
    held: usize,
    /// The latest round of which somebody was called.
    round: u64,
    /// Who waits and was not called, in the order of turns.
    line: BTreeSet<(u64, Ticket)>,
    clients: BTreeMap<ClientKey, Held>,
    /// Clients with requests in line, by how many, and by how young the youngest is.
    heaviest: BTreeSet<(usize, Ticket, ClientKey)>,
}

/// What one client holds at one site.
#[derive(Default)]
struct Held {
    count: usize,
    /// The last round with a request of this client.
    round: u64,
    /// Requests in line.
    line: BTreeSet<Ticket>,
}

/// See the file's head. `W` is what wakes the holder of a place.
pub struct Waiting<W> {
    bounds: WaitingBounds,
    sites: Vec<Site>,
    /// Places held, and those that ended and were not left yet.
    places: BTreeMap<Ticket, Place<W>>,
    next: u64,
    held: usize,
    /// The site that has somebody called next.
    turn: usize,
}

impl<W> Waiting<W> {
    /// Nobody waits for any of `sites` sites, numbered from 0.
    pub fn new(sites: usize, bounds: WaitingBounds) -> Waiting<W> {
        let sites = (0..sites).map(|_| Site::default()).collect();
        Waiting { bounds, sites, places: BTreeMap::new(), next: 0, held: 0, turn: 0 }
    }

    /// So many places from now on. Who has one keeps it.
    pub fn set_places(&mut self, places: usize) {
        self.bounds.places = places;
    }

    // ── looking ─────────────────────────────────────────────────────────────────────────────────

    /// How many wait.
    #[inline]
    pub fn held(&self) -> usize {
        self.held
    }

    /// Whether somebody waits for `site`, so that a newcomer would overtake.
    pub fn has_line(&self, site: usize) -> bool {
        self.sites[site].held > 0
    }

    /// Whether those who wait for `site` wait for room.
    pub fn is_held_up(&self, site: usize) -> bool {
        self.has_line(site) && !self.sites[site].is_open
    }

    /// How it stands with a place; `None` when it was left.
    pub fn standing(&self, ticket: Ticket) -> Option<Standing> {
        self.places.get(&ticket).map(|place| place.standing)
    }

    // ── what happened ───────────────────────────────────────────────────────────────────────────

    /// A request found no link, or would overtake. Gives its place, and what wakes the request that
    /// had to give way for it.
    ///
    /// # Errors
    /// `TooManyOfClient`, `NoPlace`.
    pub fn enter(
        &mut self,
        site: usize,
        client: ClientKey,
        waker: W,
    ) -> Result<(Ticket, Option<&W>), Outcome> {
        let of_client = self.sites[site].count(&client);
        if of_client >= self.bounds.of_client {
            return Err(Outcome::TooManyOfClient);
        }
        let is_full = self.held >= self.bounds.places;
        let loser = if is_full { Some(self.loser(site, &client).ok_or(Outcome::NoPlace)?) } else { None };
        if let Some(loser) = loser {
            self.end(loser, Outcome::Displaced);
        }
        let ticket = Ticket(self.next);
        self.next += 1;
        let round = self.sites[site].take_in(client, ticket);
        self.places.insert(ticket, Place { site, client, round, standing: Standing::Waiting, waker });
        self.held += 1;
        assert!(loser.is_some() || self.held <= self.bounds.places, "one comes in for one that goes");
        let loser = loser.and_then(|loser| self.places.get(&loser));
        Ok((ticket, loser.map(|place| &place.waker)))
    }

    /// Whoever holds the place is woken otherwise from now on.
    pub fn set_waker(&mut self, ticket: Ticket, waker: W) {
        if let Some(place) = self.places.get_mut(&ticket) {
            place.waker = waker;
        }
    }

    /// A request found no link of `site`: those in line wait until there is room.
    pub fn hear_none(&mut self, site: usize) {
        self.sites[site].is_open = false;
    }

    /// A link of `site` came up, or has room again.
    pub fn hear_room(&mut self, site: usize) {
        self.sites[site].is_open = true;
    }

    /// Who was called found no link. The place is as it was before the call.
    pub fn put_back(&mut self, ticket: Ticket) {
        let Some(place) = self.places.get_mut(&ticket) else { return };
        if place.standing == Standing::Called {
            place.standing = Standing::Waiting;
            self.sites[place.site].line_up(&place.client, place.round, ticket);
            self.sites[place.site].is_open = false;
        }
    }

    /// Whoever held the place has a stream, or is gone. Nothing happens when it was left before.
    pub fn leave(&mut self, ticket: Ticket) {
        self.vacate(ticket);
        self.places.remove(&ticket);
    }

    /// Nobody of these sites is called any more; gives what wakes those who wait.
    pub fn drain(&mut self, which: impl Fn(usize) -> bool) -> impl Iterator<Item = &W> {
        let waits = |(ticket, place): (&Ticket, &Place<W>)| {
            (place.standing == Standing::Waiting && which(place.site)).then_some(*ticket)
        };
        let all: Vec<Ticket> = self.places.iter().filter_map(waits).collect();
        for ticket in &all {
            self.end(*ticket, Outcome::Draining);
        }
        all.into_iter().filter_map(|ticket| Some(&self.places.get(&ticket)?.waker))
    }

    // ── what to do next ─────────────────────────────────────────────────────────────────────────

    /// Calls the next request; gives what wakes it. To be asked after every change, until `None`.
    pub fn poll_call(&mut self) -> Option<&W> {
        let count = self.sites.len();
        let called_max = self.bounds.called;
        let (site, ticket) = (0..count).find_map(|step| {
            let site = (self.turn + step) % count;
            self.sites[site].call(called_max).map(|ticket| (site, ticket))
        })?;
        self.turn = site + 1;
        let place = self.places.get_mut(&ticket).expect("who stands in line holds a place");
        let client = place.client;
        place.standing = Standing::Called;
        self.sites[site].step_out(&client, place.round, ticket);
        Some(&self.places[&ticket].waker)
    }

    // ── places ──────────────────────────────────────────────────────────────────────────────────

    /// Who gives way for a newcomer when all places are taken: the youngest request of the client that
    /// holds most, at the site that holds most when the newcomer's site holds less than its share, else
    /// at the newcomer's own when the client holds less than its share there.
    fn loser(&self, site: usize, client: &ClientKey) -> Option<Ticket> {
        let own = &self.sites[site];
        let is_other = |(number, other): &(usize, &Site)| *number != site && other.held > 0;
        let others = self.sites.iter().enumerate().filter(is_other);
        let share = self.bounds.places / (others.clone().count() + 1);
        if own.held < share {
            let heaviest = others.max_by_key(|(_, other)| other.line.len()).map(|(_, other)| other);
            return heaviest.filter(|other| other.held > share).and_then(Site::youngest_of_heaviest);
        }
        let others = own.clients.len() - usize::from(own.clients.contains_key(client));
        let share = own.held / (others + 1);
        let is_heavier = |ticket: &Ticket| own.count(&self.places[ticket].client) > share;
        let is_below = own.count(client) < share;
        own.youngest_of_heaviest().filter(|ticket| is_below && is_heavier(ticket))
    }

    fn end(&mut self, ticket: Ticket, outcome: Outcome) {
        self.vacate(ticket);
        if let Some(place) = self.places.get_mut(&ticket) {
            place.standing = Standing::Ended(outcome);
        }
    }

    /// Takes a place that was not ended out of every count.
    fn vacate(&mut self, ticket: Ticket) {
        let Some(place) = self.places.get(&ticket) else { return };
        let site = &mut self.sites[place.site];
        match place.standing {
            Standing::Ended(_) => return,
            Standing::Waiting => site.step_out(&place.client, place.round, ticket),
            Standing::Called => {}
        }
        site.let_out(&place.client);
        self.held -= 1;
    }
}

impl Site {
    fn count(&self, client: &ClientKey) -> usize {
        self.clients.get(client).map_or(0, |held| held.count)
    }

    fn youngest_of_heaviest(&self) -> Option<Ticket> {
        self.heaviest.last().map(|(_, youngest, _)| *youngest)
    }

    /// Gives a newcomer its round.
    fn take_in(&mut self, client: ClientKey, ticket: Ticket) -> u64 {
        let held = self.clients.entry(client).or_default();
        held.count += 1;
        held.round = held.round.max(self.round) + 1;
        let round = held.round;
        self.held += 1;
        self.line_up(&client, round, ticket);
        round
    }

    fn let_out(&mut self, client: &ClientKey) {
        let held = self.clients.get_mut(client).expect("who holds a place is known");
        held.count -= 1;
        if held.count == 0 {
            self.clients.remove(client);
        }
        self.held -= 1;
    }

    fn line_up(&mut self, client: &ClientKey, round: u64, ticket: Ticket) {
        self.line.insert((round, ticket));
        self.weigh(client, |line| line.insert(ticket));
    }

    fn step_out(&mut self, client: &ClientKey, round: u64, ticket: Ticket) {
        self.line.remove(&(round, ticket));
        self.weigh(client, |line| line.remove(&ticket));
    }

    /// Changes a client's requests in line, and its weight with them.
    fn weigh(&mut self, client: &ClientKey, change: impl FnOnce(&mut BTreeSet<Ticket>) -> bool) {
        let held = self.clients.get_mut(client).expect("who holds a place is known");
        let weight = |line: &BTreeSet<Ticket>| line.last().map(|youngest| (line.len(), *youngest, *client));
        let before = weight(&held.line);
        change(&mut held.line);
        let after = weight(&held.line);
        if let Some(before) = before {
            self.heaviest.remove(&before);
        }
        self.heaviest.extend(after);
    }

    /// Whose turn it is, if there is room and not too many look for it already.
    fn call(&mut self, called_max: usize) -> Option<Ticket> {
        let called = self.held - self.line.len();
        if !self.is_open || called >= called_max {
            return None;
        }
        let (round, ticket) = *self.line.first()?;
        self.round = self.round.max(round);
        Some(ticket)
    }
}
