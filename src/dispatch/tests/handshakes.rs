//! Claims about the order of handshakes, time moved by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::dispatch::{HandshakeBounds, HandshakeTicket, Handshakes, Lease, Neighbourhood, Step};
use crate::seeded::{Random, for_each_seed};

const STEP: Duration = Duration::from_micros(150);

fn bounds() -> HandshakeBounds {
    HandshakeBounds { turn: Duration::from_micros(100), begun: 4, lease: Duration::from_secs(1), waiting: 8 }
}

fn new(address: &str) -> Step {
    Step::New(address.parse::<std::net::IpAddr>().unwrap().into())
}

/// A line of named clients, and the time of its turn.
struct Scene {
    line: Handshakes<&'static str>,
    places: BTreeMap<&'static str, HandshakeTicket>,
    now: Instant,
}

impl Scene {
    fn new() -> Scene {
        Scene { line: Handshakes::new(bounds()), places: BTreeMap::new(), now: Instant::now() }
    }

    fn wait(&mut self, name: &'static str, step: Step) {
        let ticket = self.line.line_up(step, name);
        self.places.insert(name, ticket);
    }

    /// Time of one turn is used up, as if by others.
    fn spend_turn(&mut self) {
        self.line.spend(STEP, self.now);
    }

    fn next_turn(&mut self) {
        self.now += Duration::from_millis(1);
    }

    /// Whoever is called in this turn takes a step, begins if it is a hello, and ends its handshake.
    fn take(&mut self) -> Option<&'static str> {
        let name = *self.line.poll_call(self.now)?;
        let ticket = self.places[name];
        assert!(self.line.is_called(ticket));
        self.line.leave(ticket);
        let lease = self.line.begin(self.now);
        self.line.spend(STEP, self.now);
        self.line.end(&lease);
        Some(name)
    }

    /// One after the other, a turn each.
    fn order(&mut self) -> Vec<&'static str> {
        let mut order = Vec::new();
        while self.line.waiting() > 0 {
            self.next_turn();
            order.extend(self.take());
            assert!(self.take().is_none(), "one step fills a turn");
        }
        order
    }
}

#[test]
fn a_step_goes_at_once_when_nobody_else_did_in_this_turn() {
    let mut scene = Scene::new();
    for step in [new("192.0.2.1"), Step::Returning(7), Step::Later] {
        scene.next_turn();
        assert!(scene.line.may_go(step, scene.now), "{step:?}");
        scene.spend_turn();
        assert!(!scene.line.may_go(step, scene.now), "{step:?}: the turn is full");
    }
    assert_eq!(scene.line.waiting(), 0);
}

#[test]
fn small_steps_share_a_turn_until_its_time_is_up() {
    let mut scene = Scene::new();
    let mut taken = 0;
    while scene.line.may_go(Step::Later, scene.now) {
        scene.line.spend(Duration::from_micros(30), scene.now);
        taken += 1;
    }
    assert_eq!(taken, 4, "the fourth passes the bound of 100 us");
}

#[test]
fn nobody_overtakes_those_in_line_but_a_handshake_that_has_begun() {
    let mut scene = Scene::new();
    scene.wait("first", new("192.0.2.1"));
    scene.next_turn();
    assert!(!scene.line.may_go(new("192.0.2.2"), scene.now));
    assert!(!scene.line.may_go(Step::Returning(7), scene.now));
    assert!(scene.line.may_go(Step::Later, scene.now));
    // Not even that once somebody was told that it is its turn.
    assert_eq!(scene.line.poll_call(scene.now), Some(&"first"));
    assert!(!scene.line.may_go(Step::Later, scene.now));
}

#[test]
fn begun_ones_go_first_then_those_with_tickets_then_the_others_by_turns_of_their_addresses() {
    type Row<'a> = (&'a [(&'static str, Step)], &'a [&'static str]);
    let table: [Row; 6] = [
        (&[("a", Step::Returning(1)), ("b", Step::Returning(2))], &["a", "b"]),
        (
            // One ticket, shown again and again.
            &[
                ("a", Step::Returning(1)),
                ("a2", Step::Returning(1)),
                ("a3", Step::Returning(1)),
                ("b", Step::Returning(2)),
            ],
            &["a", "b", "a2", "a3"],
        ),
        (&[("n", new("192.0.2.1")), ("r", Step::Returning(7)), ("l", Step::Later)], &["l", "r", "n"]),
        // Four of one address wait behind one another, not before those of the others.
        (
            &[
                ("a1", new("192.0.2.1")),
                ("a2", new("192.0.2.1")),
                ("a3", new("192.0.2.1")),
                ("a4", new("192.0.2.1")),
                ("b1", new("192.0.2.2")),
                ("b2", new("192.0.2.2")),
                ("c1", new("198.51.100.1")),
            ],
            &["a1", "b1", "c1", "a2", "b2", "a3", "a4"],
        ),
        // A network of /64 is one address, and an IPv4 address is itself however it is written.
        (
            &[
                ("a1", new("2001:db8::1")),
                ("a2", new("2001:db8::2")),
                ("a3", new("2001:db8::ffff:0:0:3")),
                ("b1", new("2001:db8:0:1::1")),
                ("c1", new("::ffff:192.0.2.1")),
                ("c2", new("192.0.2.1")),
            ],
            &["a1", "b1", "c1", "a2", "c2", "a3"],
        ),
        // Of four that begin one has no ticket.
        (
            &[
                ("n1", new("192.0.2.1")),
                ("n2", new("192.0.2.1")),
                ("r1", Step::Returning(1)),
                ("r2", Step::Returning(2)),
                ("r3", Step::Returning(3)),
                ("r4", Step::Returning(4)),
                ("r5", Step::Returning(5)),
            ],
            &["r1", "r2", "r3", "n1", "r4", "r5", "n2"],
        ),
    ];
    for (waiting, order) in table {
        let mut scene = Scene::new();
        for (name, step) in waiting {
            scene.wait(name, *step);
        }
        assert_eq!(scene.order(), order);
    }
}

#[test]
fn one_that_comes_late_from_another_address_is_next_but_for_the_round_that_is_under_way() {
    let mut scene = Scene::new();
    for name in ["a1", "a2", "a3", "a4", "a5", "a6", "a7"] {
        scene.wait(name, new("192.0.2.1"));
    }
    scene.next_turn();
    assert_eq!(scene.take(), Some("a1"));
    scene.wait("b1", new("192.0.2.2"));
    scene.wait("b2", new("192.0.2.2"));
    assert_eq!(scene.order(), ["a2", "b1", "a3", "b2", "a4", "a5", "a6", "a7"]);
}

#[test]
fn whoever_leaves_holds_nobody_up_called_or_not() {
    let mut scene = Scene::new();
    for name in ["a", "b", "c"] {
        scene.wait(name, new("192.0.2.1"));
    }
    scene.spend_turn();
    scene.next_turn();
    assert_eq!(scene.line.poll_call(scene.now), Some(&"a"));
    scene.line.leave(scene.places["a"]);
    scene.line.leave(scene.places["b"]);
    scene.line.leave(scene.places["b"]);
    // Those left without a step, so the turn has all its time.
    assert_eq!(scene.line.poll_call(scene.now), Some(&"c"));
    scene.line.leave(scene.places["c"]);
    assert_eq!((scene.line.waiting(), scene.line.poll_call(scene.now)), (0, None));
}

#[test]
fn so_many_are_called_at_once_as_fit_a_turn_by_what_steps_took_lately() {
    let table = [
        // A step lately, and how many go in a turn of 100 us.
        (0, 4),
        (10, 4),
        (40, 3),
        (60, 2),
        (99, 2),
        (110, 1),
        (5_000, 1),
    ];
    for (lately, count) in table {
        let mut scene = Scene::new();
        for _ in 0..100 {
            scene.line.spend(Duration::from_micros(lately), scene.now);
        }
        scene.next_turn();
        for name in ["a", "b", "c", "d", "e", "f"] {
            scene.wait(name, Step::Later);
        }
        let called = std::iter::from_fn(|| scene.line.poll_call(scene.now).copied()).count();
        assert_eq!(called, count, "{lately} us");
        // Another turn calls nobody before those are done.
        scene.next_turn();
        assert_eq!(scene.line.poll_call(scene.now), None);
        scene.line.leave(scene.places["a"]);
        assert!(scene.line.poll_call(scene.now).is_some(), "one has gone, another goes");
    }
}

#[test]
fn those_called_at_once_do_not_begin_beyond_the_bound() {
    let mut scene = Scene::new();
    let _held: Vec<Lease> = (0..3).map(|_| scene.line.begin(scene.now)).collect();
    for name in ["a", "b"] {
        scene.wait(name, Step::Returning(7));
    }
    scene.wait("l", Step::Later);
    assert_eq!(scene.line.poll_call(scene.now), Some(&"l"));
    assert_eq!(scene.line.poll_call(scene.now), Some(&"a"));
    assert_eq!(scene.line.poll_call(scene.now), None, "the last lease is its own");
}

#[test]
fn no_more_begin_than_there_are_leases_and_those_that_fall_silent_lose_theirs() {
    let mut scene = Scene::new();
    let leases: Vec<Lease> = (0..4).map(|_| scene.line.begin(scene.now)).collect();
    let begun = scene.now;
    assert!(!scene.line.may_go(new("192.0.2.1"), scene.now));
    assert!(!scene.line.may_go(Step::Returning(7), scene.now));
    assert!(scene.line.may_go(Step::Later, scene.now));
    scene.wait("n", new("192.0.2.1"));
    scene.wait("r", Step::Returning(7));
    assert_eq!(scene.line.poll_call(scene.now), None);
    assert_eq!(scene.line.poll_timeout(), Some(begun + bounds().lease));
    // One ends: one begins.
    scene.line.end(&leases[2]);
    assert_eq!((scene.line.begun(), scene.line.poll_timeout()), (3, None));
    assert_eq!(scene.line.poll_call(scene.now), Some(&"r"));
    scene.line.leave(scene.places["r"]);
    let _held = scene.line.begin(scene.now);
    assert_eq!(scene.line.poll_call(scene.now), None);
    // All others are silent for a second.
    scene.now = begun + bounds().lease;
    assert_eq!(scene.line.poll_call(scene.now), Some(&"n"));
    assert_eq!(scene.line.begun(), 0);
    // They end late, which is nobody's concern any more.
    scene.line.leave(scene.places["n"]);
    let late = scene.line.begin(scene.now);
    leases.iter().for_each(|lease| scene.line.end(lease));
    assert_eq!(scene.line.begun(), 1);
    scene.line.end(&late);
    scene.line.end(&late);
    assert_eq!(scene.line.begun(), 0);
}

#[test]
fn it_is_crowded_from_the_bound_on_and_takes_who_comes_all_the_same() {
    let mut scene = Scene::new();
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    for (index, name) in names.into_iter().enumerate() {
        assert_eq!(scene.line.is_crowded(), index >= bounds().waiting);
        scene.wait(name, Step::Returning(index as u64));
    }
    assert_eq!(scene.order(), names);
    assert!(!scene.line.is_crowded());
}

#[test]
fn a_thousand_of_one_address_delay_another_by_two_steps() {
    let mut line = Handshakes::new(HandshakeBounds { waiting: 5_000, ..bounds() });
    for number in 0..5_000_u32 {
        line.line_up(new("192.0.2.1"), number);
    }
    let mut now = Instant::now();
    let alone = line.line_up(new("192.0.2.2"), u32::MAX);
    let mut steps = 0;
    while let Some(name) = line.poll_call(now).copied() {
        steps += 1;
        if line.is_called(alone) {
            assert_eq!(name, u32::MAX);
            break;
        }
        line.leave(HandshakeTicket::from(name));
        line.spend(STEP, now);
        now += Duration::from_millis(1);
    }
    assert_eq!(steps, 2);
}

/// Nobody who waits can go on before a lease ends.
fn blocked_for_good(line: &Handshakes<()>, waiting: &BTreeMap<HandshakeTicket, Step>) -> bool {
    let not_called = waiting.iter().filter(|(ticket, _)| !line.is_called(**ticket));
    let mut steps = not_called.map(|(_, step)| *step).peekable();
    line.begun() >= bounds().begun && steps.peek().is_some() && steps.all(|step| step != Step::Later)
}

/// Everything that can happen, in any order: nobody is lost or called twice, bounds hold, and as soon as
/// there is time and room somebody is called.
#[test]
fn seeded_handshakes_are_each_called_once_within_their_bounds() {
    for_each_seed(300, |seed| {
        let mut random = Random(seed);
        let mut line = Handshakes::new(bounds());
        let (start, mut now) = (Instant::now(), Instant::now());
        let mut waiting: BTreeMap<HandshakeTicket, Step> = BTreeMap::new();
        let mut called = BTreeSet::new();
        let mut leases: Vec<(Lease, Instant)> = Vec::new();
        for _ in 0..400 {
            match random.below(7) {
                0 => now += Duration::from_micros(1 + random.next() % 400_000),
                1 | 2 => {
                    let step = match random.below(4) {
                        0 => Step::Later,
                        1 => Step::Returning(random.next() % 3),
                        from => new(&format!("192.0.2.{from}")),
                    };
                    if !line.may_go(step, now) {
                        let ticket = line.line_up(step, ());
                        assert!(waiting.insert(ticket, step).is_none());
                    }
                }
                3 if !waiting.is_empty() => {
                    let at = random.below(waiting.len());
                    let ticket = *waiting.keys().nth(at).unwrap();
                    waiting.remove(&ticket);
                    line.leave(ticket);
                }
                4 if !leases.is_empty() => {
                    let (lease, _) = leases.swap_remove(random.below(leases.len()));
                    line.end(&lease);
                }
                5 => line.spend(Duration::from_micros(random.next() % 120), now),
                _ => {
                    let is_free = waiting.keys().all(|ticket| !line.is_called(*ticket));
                    while line.poll_call(now).is_some() {}
                    let now_called = waiting.keys().filter(|ticket| line.is_called(**ticket));
                    let now_called: Vec<HandshakeTicket> = now_called.copied().collect();
                    assert!(now_called.len() <= 4);
                    if random.below(2) == 0 && !now_called.is_empty() {
                        let ticket = now_called[random.below(now_called.len())];
                        assert!(called.insert(ticket), "called twice");
                        let step = waiting.remove(&ticket).unwrap();
                        line.leave(ticket);
                        if step != Step::Later {
                            assert!(line.begun() < bounds().begun);
                            leases.push((line.begin(now), now));
                        }
                        line.spend(STEP, now);
                    } else if is_free && now_called.is_empty() && !waiting.is_empty() {
                        now += Duration::from_micros(1);
                        let has_next = line.poll_call(now).is_some();
                        let blocked = line.begun() >= bounds().begun
                            && waiting.values().all(|step| *step != Step::Later);
                        assert_eq!(has_next, !blocked, "{:?} since {:?}", line.poll_timeout(), now - start);
                        assert!(!blocked || line.poll_timeout().is_some_and(|until| until > now));
                    }
                    if !blocked_for_good(&line, &waiting) {
                        assert_eq!(line.poll_timeout(), None, "somebody may go on in the next turn");
                    }
                }
            }
            let held = leases.iter().filter(|(_, begun)| *begun + bounds().lease > now).count();
            line.spend(Duration::ZERO, now);
            assert_eq!(line.begun(), held);
            assert_eq!(line.waiting(), waiting.len());
        }
    });
}

#[test]
fn a_neighbourhood_is_an_address_or_a_network_of_64_bits() {
    let of = |text: &str| Neighbourhood::from(text.parse::<std::net::IpAddr>().unwrap());
    assert_eq!(of("2001:db8::1"), of("2001:db8:0:0:ffff::"));
    assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
}
