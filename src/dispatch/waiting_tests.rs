//! What holds for requests that wait: by hand, and by many random stories.

use proptest::prelude::*;

use super::*;

const BOUNDS: WaitingBounds = WaitingBounds { places: 12, of_client: 4, called: 3 };

fn client(number: u8) -> ClientKey {
    ClientKey::Certificate([number; 32])
}

/// Names of places; a name wakes its holder.
type Names = Waiting<&'static str>;

fn enter(waiting: &mut Names, site: usize, number: u8, name: &'static str) -> Ticket {
    waiting.enter(site, client(number), name).unwrap().0
}

/// Calls, serves, and so on until nobody is called any more: the order of names.
fn serve_all(waiting: &mut Names, tickets: &[(&'static str, Ticket)]) -> Vec<&'static str> {
    let mut order = Vec::new();
    while let Some(name) = waiting.poll_call().copied() {
        order.push(name);
        let (_, ticket) = tickets.iter().find(|(held, _)| *held == name).unwrap();
        waiting.leave(*ticket);
    }
    order
}

#[test]
fn clients_of_a_site_take_turns_and_each_goes_in_the_order_it_came() {
    let mut waiting = Names::new(1, BOUNDS);
    let names = [("a1", 1), ("a2", 1), ("a3", 1), ("b1", 2), ("c1", 3), ("b2", 2)];
    let tickets = names.map(|(name, number)| (name, enter(&mut waiting, 0, number, name)));
    assert_eq!(waiting.poll_call(), None, "there is no room yet");
    waiting.hear_room(0);
    assert_eq!(serve_all(&mut waiting, &tickets), ["a1", "b1", "c1", "a2", "b2", "a3"]);
    assert_eq!(waiting.held(), 0);
}

#[test]
fn sites_take_turns_and_one_without_room_does_not_hold_up_another() {
    let mut waiting = Names::new(3, BOUNDS);
    let names = [("a1", 0), ("a2", 0), ("b1", 1), ("c1", 2), ("c2", 2)];
    let tickets: Vec<_> = names
        .iter()
        .zip(0_u8..)
        .map(|((name, site), number)| (*name, enter(&mut waiting, *site, number, name)))
        .collect();
    waiting.hear_room(0);
    waiting.hear_room(2);
    assert_eq!(serve_all(&mut waiting, &tickets), ["a1", "c1", "a2", "c2"]);
    assert!(waiting.is_held_up(1) && !waiting.has_line(0));
}

#[test]
fn only_as_many_are_called_as_a_link_may_take_and_the_next_when_one_was_served_or_left() {
    let mut waiting = Names::new(1, BOUNDS);
    let tickets = ["a", "b", "c", "d", "e"].map(|name| enter(&mut waiting, 0, name.as_bytes()[0], name));
    waiting.hear_room(0);
    let called: Vec<_> = std::iter::from_fn(|| waiting.poll_call().copied()).collect();
    assert_eq!(called, ["a", "b", "c"]);
    waiting.leave(tickets[1]);
    assert_eq!(waiting.poll_call(), Some(&"d"));
    // One that was not called leaves; nobody else is called for it.
    waiting.leave(tickets[4]);
    assert_eq!(waiting.poll_call(), None);
    waiting.leave(tickets[4]);
    assert_eq!(waiting.held(), 3);
}

#[test]
fn who_was_called_in_vain_keeps_place_and_turn() {
    let mut waiting = Names::new(1, BOUNDS);
    let tickets = ["a", "b", "c"].map(|name| enter(&mut waiting, 0, name.as_bytes()[0], name));
    waiting.hear_room(0);
    while waiting.poll_call().is_some() {}
    for ticket in tickets {
        waiting.put_back(ticket);
    }
    assert!(waiting.is_held_up(0));
    assert_eq!(waiting.poll_call(), None);
    let late = enter(&mut waiting, 0, b'd', "d");
    waiting.hear_room(0);
    let named = [("a", tickets[0]), ("b", tickets[1]), ("c", tickets[2]), ("d", late)];
    assert_eq!(serve_all(&mut waiting, &named), ["a", "b", "c", "d"]);
}

#[test]
fn a_client_has_so_many_places_at_a_site_and_no_more() {
    let mut waiting = Names::new(2, BOUNDS);
    let tickets = [(); 4].map(|()| enter(&mut waiting, 0, 1, "a"));
    assert_eq!(waiting.enter(0, client(1), "a").unwrap_err(), Outcome::TooManyOfClient);
    enter(&mut waiting, 0, 2, "b");
    enter(&mut waiting, 1, 1, "a");
    waiting.leave(tickets[2]);
    enter(&mut waiting, 0, 1, "a");
    // An address is no certificate.
    let address = ClientKey::Address(std::net::IpAddr::from([127, 0, 0, 1]).into());
    assert!(waiting.enter(0, address, "c").is_ok());
}

#[test]
fn a_full_house_makes_room_for_a_site_below_its_share_until_it_has_it() {
    let mut waiting = Names::new(2, BOUNDS);
    let first: Vec<_> = (0..12).map(|number| enter(&mut waiting, 0, number, "a")).collect();
    for number in 0..6 {
        let (_, loser) = waiting.enter(1, client(number), "b").unwrap();
        assert_eq!(loser, Some(&"a"));
        let displaced = first[11 - usize::from(number)];
        assert_eq!(waiting.standing(displaced), Some(Standing::Ended(Outcome::Displaced)));
    }
    assert_eq!(waiting.enter(1, client(9), "b").unwrap_err(), Outcome::NoPlace);
    assert_eq!(waiting.enter(0, client(99), "a").unwrap_err(), Outcome::NoPlace);
    assert_eq!(waiting.held(), 12);
}

#[test]
fn a_full_site_makes_room_for_a_client_below_its_share_at_the_cost_of_the_heaviest() {
    let mut waiting = Names::new(1, BOUNDS);
    let flood: Vec<_> = (0..12).map(|number| enter(&mut waiting, 0, number / 4, "flood")).collect();
    let (mine, loser) = waiting.enter(0, client(9), "mine").unwrap();
    assert_eq!(loser, Some(&"flood"));
    assert_eq!(waiting.standing(flood[11]), Some(Standing::Ended(Outcome::Displaced)));
    assert_eq!(waiting.standing(mine), Some(Standing::Waiting));
    // The flood's own newcomer displaces nobody.
    assert_eq!(waiting.enter(0, client(2), "flood").unwrap_err(), Outcome::NoPlace);
}

#[test]
fn those_who_wait_hear_of_draining_and_those_called_may_go_on() {
    let mut waiting = Names::new(1, WaitingBounds { called: 1, ..BOUNDS });
    let tickets = ["a", "b", "c"].map(|name| enter(&mut waiting, 0, name.as_bytes()[0], name));
    waiting.hear_room(0);
    assert_eq!(waiting.poll_call(), Some(&"a"));
    assert_eq!(waiting.drain(|_| true).copied().collect::<Vec<_>>(), ["b", "c"]);
    assert_eq!(waiting.standing(tickets[0]), Some(Standing::Called));
    assert_eq!(waiting.standing(tickets[2]), Some(Standing::Ended(Outcome::Draining)));
    for ticket in tickets {
        waiting.leave(ticket);
    }
    assert_eq!((waiting.held(), waiting.standing(tickets[1])), (0, None));
}

// ── random stories ──────────────────────────────────────────────────────────────────────────────

#[derive(Clone, Debug)]
enum Step {
    Enter {
        site: usize,
        client: u8,
    },
    /// A link of the site came up with room for so many.
    Room {
        site: usize,
        streams: usize,
    },
    /// A client leaves, or its time is over.
    Leave {
        which: usize,
    },
    /// One that was called looks for a link.
    Look {
        which: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_usize, 0..5_u8).prop_map(|(site, client)| Step::Enter { site, client }),
        1 => (0..3_usize, 1..6_usize).prop_map(|(site, streams)| Step::Room { site, streams }),
        1 => any::<prop::sample::Index>().prop_map(|which| Step::Leave { which: which.index(1 << 16) }),
        4 => any::<prop::sample::Index>().prop_map(|which| Step::Look { which: which.index(1 << 16) }),
    ]
}

/// One who holds a place, as the story sees it.
#[derive(Clone, Debug)]
struct Guest {
    ticket: Ticket,
    name: u64,
    site: usize,
    client: u8,
    woken: bool,
    /// Clients served since it came, once each time.
    overtaken_by: Vec<u8>,
}

#[derive(Default)]
struct Story {
    guests: Vec<Guest>,
    /// Streams that links of a site can take.
    room: [usize; 3],
    next: u64,
}

impl Story {
    fn act(&mut self, waiting: &mut Waiting<u64>, step: &Step) {
        match *step {
            Step::Enter { site, client } => self.enter(waiting, site, client),
            Step::Room { site, streams } => {
                self.room[site] += streams;
                waiting.hear_room(site);
            }
            Step::Leave { which } if !self.guests.is_empty() => {
                let guest = self.guests.swap_remove(which % self.guests.len());
                waiting.leave(guest.ticket);
            }
            Step::Look { which } => {
                let called: Vec<usize> = (0..self.guests.len()).filter(|at| self.guests[*at].woken).collect();
                if !called.is_empty() {
                    self.look(waiting, called[which % called.len()]);
                }
            }
            Step::Leave { .. } => {}
        }
        while let Some(name) = waiting.poll_call().copied() {
            let guest =
                self.guests.iter_mut().find(|guest| guest.name == name).expect("only guests are called");
            assert!(!guest.woken, "called twice");
            guest.woken = true;
        }
    }

    fn enter(&mut self, waiting: &mut Waiting<u64>, site: usize, number: u8) {
        // A newcomer looks first, unless it would overtake.
        if !waiting.has_line(site) {
            if self.room[site] > 0 {
                self.room[site] -= 1;
                return;
            }
            waiting.hear_none(site);
        }
        let own = self.guests.iter().filter(|guest| guest.site == site && guest.client == number).count();
        self.next += 1;
        match waiting.enter(site, client(number), self.next) {
            Ok((ticket, loser)) => {
                assert!(own < BOUNDS.of_client);
                if let Some(loser) = loser.copied() {
                    let at = self.guests.iter().position(|guest| guest.name == loser).unwrap();
                    let loser = self.guests.swap_remove(at);
                    assert!(!loser.woken && self.guests.len() + 1 == BOUNDS.places);
                    assert_eq!(waiting.standing(loser.ticket), Some(Standing::Ended(Outcome::Displaced)));
                    waiting.leave(loser.ticket);
                }
                let (name, woken, overtaken_by) = (self.next, false, Vec::new());
                self.guests.push(Guest { ticket, name, site, client: number, woken, overtaken_by });
            }
            Err(Outcome::TooManyOfClient) => assert_eq!(own, BOUNDS.of_client),
            Err(Outcome::NoPlace) => assert_eq!(self.guests.len(), BOUNDS.places),
            Err(other) => panic!("{other:?}"),
        }
    }

    fn look(&mut self, waiting: &mut Waiting<u64>, at: usize) {
        let site = self.guests[at].site;
        if self.room[site] == 0 {
            waiting.put_back(self.guests[at].ticket);
            self.guests[at].woken = false;
            return;
        }
        self.room[site] -= 1;
        let served = self.guests.swap_remove(at);
        waiting.leave(served.ticket);
        for guest in self.guests.iter_mut().filter(|guest| guest.site == site && guest.name < served.name) {
            guest.overtaken_by.push(served.client);
        }
    }

    fn check(&self, waiting: &Waiting<u64>) {
        assert_eq!(waiting.held(), self.guests.len());
        assert!(self.guests.len() <= BOUNDS.places);
        for site in 0..3 {
            let here = || self.guests.iter().filter(|guest| guest.site == site);
            let called = here().filter(|guest| guest.woken).count();
            assert!(called <= BOUNDS.called, "a herd");
            // No wake is lost: where there is room, as many as may look for it do.
            if self.room[site] > 0 {
                assert_eq!(called, here().count().min(BOUNDS.called), "somebody sleeps beside room");
            }
            assert_eq!(waiting.has_line(site), here().count() > 0);
        }
        for guest in &self.guests {
            let standing = if guest.woken { Standing::Called } else { Standing::Waiting };
            assert_eq!(waiting.standing(guest.ticket), Some(standing));
            // Who came later goes first only while its client has had fewer turns: at most once for each
            // request of the guest's own client that stands before, and those that look at the same time.
            for number in 0..5 {
                let count = guest.overtaken_by.iter().filter(|client| **client == number).count();
                let bound = BOUNDS.of_client + BOUNDS.called;
                assert!(count <= bound, "client {number} overtook {guest:?} {count} times");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn bounds_hold_nobody_starves_and_no_wake_is_lost(steps in prop::collection::vec(step(), 1..300)) {
        let mut waiting = Waiting::new(3, BOUNDS);
        let mut story = Story::default();
        for step in &steps {
            story.act(&mut waiting, step);
            story.check(&waiting);
        }
        // With room enough, everybody is served.
        for site in 0..3 {
            story.act(&mut waiting, &Step::Room { site, streams: 100 });
        }
        for _ in 0..100 {
            story.act(&mut waiting, &Step::Look { which: 0 });
        }
        prop_assert!(story.guests.is_empty(), "left behind: {:?}", story.guests);
        prop_assert_eq!(waiting.held(), 0);
    }
}
