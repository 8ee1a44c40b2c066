//! What holds for origins that stand for one another: by hand, and by many random stories.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::dispatch::OriginSign::{self, Answered, Failed, ProbeFailed, ProbePassed, Unanswered};
use crate::dispatch::OriginState::{self, Down, Rising, Up};
use crate::dispatch::{OriginRules, Origins, Tried};
use crate::limits::{GROUP_ORIGINS_MAX, ORIGIN_ALIVE_FOR, RISING_SHARE_LEAST};

const SLOW_START: Duration = Duration::from_secs(30);
const RULES: OriginRules = OriginRules { failures: 3, successes: 2, slow_start: SLOW_START, is_probed: true };
const NAMES: [&str; 5] = ["mp1.corp", "mp2.corp", "mp3.corp", "mp4.corp:8080", "mp5.corp"];

/// Five origins; a group of three, one of a single one, and one that has two of the three.
fn origins(rules: OriginRules) -> Origins {
    Origins::new(&NAMES.map(|name| (rules, name)), &[vec![0, 1, 2], vec![3], vec![2, 0]], 0)
}

fn turns(origins: &mut Origins, group: usize, count: usize, now: Instant) -> Vec<usize> {
    (0..count).map(|_| origins.choose(group, now, |_| true)).collect()
}

fn fail(origins: &mut Origins, origin: usize, now: Instant) -> Option<OriginState> {
    (0..RULES.failures).filter_map(|_| origins.handle_sign(origin, Failed(now), now)).last()
}

fn raise(origins: &mut Origins, origin: usize, now: Instant) {
    assert_eq!(origins.handle_sign(origin, ProbePassed, now), None);
    assert_eq!(origins.handle_sign(origin, ProbePassed, now), Some(Rising));
}

/// How often each place of the first group has its turn in so many.
fn shares(origins: &mut Origins, count: usize, now: Instant) -> [usize; 3] {
    let mut shares = [0; 3];
    turns(origins, 0, count, now).into_iter().for_each(|place| shares[place] += 1);
    shares
}

#[test]
fn while_all_are_up_turns_are_strict_and_begin_elsewhere_on_each_shard() {
    let now = Instant::now();
    for first in 0..7 {
        let mut origins = Origins::new(&NAMES.map(|name| (RULES, name)), &[vec![0, 1, 2]], first);
        let expected: Vec<usize> = (0..9).map(|step| (first + step) % 3).collect();
        assert_eq!(turns(&mut origins, 0, 9, now), expected);
    }
}

#[test]
fn groups_take_turns_for_themselves_and_share_what_is_known_of_an_origin() {
    let (mut origins, now) = (origins(RULES), Instant::now());
    assert_eq!(turns(&mut origins, 0, 2, now), [0, 1]);
    assert_eq!(turns(&mut origins, 2, 3, now), [0, 1, 0]);
    assert_eq!(turns(&mut origins, 1, 2, now), [0, 0]);
    assert_eq!(fail(&mut origins, 2, now), Some(Down));
    // It is the last of one and the first of the other.
    assert_eq!(turns(&mut origins, 0, 4, now), [0, 1, 0, 1]);
    assert_eq!(turns(&mut origins, 2, 3, now), [1, 1, 1]);
}

#[test]
fn an_origin_is_down_after_so_many_failures_in_a_row_and_no_sooner() {
    let now = Instant::now();
    let rows: [(&[OriginSign], OriginState); 9] = [
        (&[Failed(now), Failed(now)], Up),
        (&[Failed(now), Failed(now), Answered, Failed(now), Failed(now)], Up),
        (&[Failed(now), Failed(now), Failed(now)], Down),
        (&[Unanswered(now), Failed(now), Unanswered(now)], Down),
        (&[ProbeFailed, ProbeFailed, ProbePassed, ProbeFailed, ProbeFailed], Up),
        (&[ProbeFailed, ProbeFailed, ProbeFailed], Down),
        // Requests are answered while what the probe asks for is not there: its operator has taken it out.
        (&[ProbeFailed, Answered, ProbeFailed, Answered, ProbeFailed], Down),
        // Nor do probes that pass make up for requests that fail.
        (&[Failed(now), ProbePassed, Failed(now), ProbePassed, Failed(now)], Down),
        // And the two are not added up.
        (&[Failed(now), ProbeFailed, Failed(now), ProbeFailed], Up),
    ];
    for (signs, expected) in rows {
        let mut origins = origins(RULES);
        let told: Vec<_> = signs.iter().filter_map(|sign| origins.handle_sign(1, *sign, now)).collect();
        assert_eq!(origins.state(1, now), expected, "{signs:?}");
        assert_eq!(told, if expected == Down { vec![Down] } else { vec![] }, "each change is told once");
    }
}

#[test]
fn one_that_answers_others_is_not_down_for_requests_that_it_aborts_or_leaves_without_an_answer() {
    let (mut origins, begin) = (origins(RULES), Instant::now());
    let (answered, now) = (begin + Duration::from_secs(100), begin + Duration::from_secs(200));
    origins.handle_alive(1, answered);
    // What another shard says late takes nothing back.
    origins.handle_alive(1, begin);
    for _ in 0..RULES.failures * 2 {
        for came in [begin, answered, answered + ORIGIN_ALIVE_FOR] {
            assert_eq!(origins.handle_sign(1, Unanswered(came), now), None);
        }
        for came in [begin, answered] {
            assert_eq!(origins.handle_sign(1, Failed(came), now), None, "it is reached by others since");
        }
    }
    let behind = answered + ORIGIN_ALIVE_FOR + Duration::from_millis(1);
    let told: Vec<_> =
        [behind; 3].iter().filter_map(|came| origins.handle_sign(1, Unanswered(*came), now)).collect();
    assert_eq!(told, [Down], "nobody was answered since");
    origins.handle_alive(0, answered);
    let behind = answered + Duration::from_millis(1);
    let told: Vec<_> =
        [behind; 3].iter().filter_map(|came| origins.handle_sign(0, Failed(*came), now)).collect();
    assert_eq!(told, [Down], "who cannot reach it has not chosen that");
}

#[test]
fn probes_bring_an_origin_back_and_answers_only_where_nobody_probes() {
    let now = Instant::now();
    let mut probed = origins(RULES);
    fail(&mut probed, 0, now);
    assert_eq!(probed.handle_sign(0, Answered, now), None);
    assert_eq!(probed.handle_sign(0, ProbePassed, now), None);
    assert_eq!(probed.handle_sign(0, ProbeFailed, now), None);
    raise(&mut probed, 0, now);
    let mut alone = origins(OriginRules { is_probed: false, ..RULES });
    fail(&mut alone, 0, now);
    assert_eq!(alone.handle_sign(0, Answered, now), Some(Up));
    let mut at_once = origins(OriginRules { slow_start: Duration::ZERO, successes: 1, ..RULES });
    fail(&mut at_once, 0, now);
    assert_eq!(at_once.handle_sign(0, ProbePassed, now), Some(Up));
}

#[test]
fn the_share_of_one_that_comes_back_grows_to_that_of_the_others() {
    let (mut origins, begin) = (origins(RULES), Instant::now());
    fail(&mut origins, 1, begin);
    assert_eq!(shares(&mut origins, 100, begin), [50, 0, 50]);
    raise(&mut origins, 1, begin);
    // In a thousand turns around it has as many of its own as its share says, and the others all of theirs.
    let mut before = 0;
    for seconds in 0..=30 {
        let now = begin + Duration::from_secs(seconds);
        let share = RULES.share(Duration::from_secs(seconds)) as usize;
        assert!(share >= before && share >= RISING_SHARE_LEAST as usize);
        before = share;
        let [a, b, c] = shares(&mut origins, 2_000 + share * 10, now);
        assert!(b.abs_diff(share * 10) <= 1 && a.abs_diff(c) <= 1, "{seconds} s: {a} {b} {c} of {share}");
    }
    assert_eq!(before, 100);
    let now = begin + SLOW_START;
    assert_eq!(origins.state(1, now), Up);
    assert_eq!(origins.handle_sign(1, ProbePassed, now), Some(Up), "told with the next look");
}

#[test]
fn one_that_falls_while_it_rises_needs_twice_as_many_probes_the_next_time() {
    let (mut origins, mut now) = (origins(RULES), Instant::now());
    let probes = |origins: &mut Origins| {
        let mut count = 0;
        while origins.state(0, now) == Down {
            origins.handle_sign(0, ProbePassed, now);
            count += 1;
        }
        count
    };
    fail(&mut origins, 0, now);
    let mut counts = Vec::new();
    for _ in 0..8 {
        counts.push(probes(&mut origins));
        assert_eq!(origins.handle_sign(0, Failed(now), now), Some(Down), "one failure is enough");
    }
    assert_eq!(counts, [2, 4, 8, 16, 32, 64, 64, 64]);
    // One that had its whole share begins anew.
    probes(&mut origins);
    now += SLOW_START;
    origins.handle_sign(0, ProbePassed, now);
    fail(&mut origins, 0, now);
    assert_eq!((origins.state(0, now), origins.handle_sign(0, ProbePassed, now)), (Down, None));
    assert_eq!(origins.handle_sign(0, ProbePassed, now), Some(Rising));
}

#[test]
fn a_request_that_came_before_a_change_says_nothing_of_what_is_now() {
    let (mut origins, begin) = (origins(RULES), Instant::now());
    let now = begin + Duration::from_secs(20);
    fail(&mut origins, 0, now);
    raise(&mut origins, 0, now);
    assert_eq!(origins.handle_sign(0, Failed(begin), now), None);
    assert_eq!(origins.handle_sign(0, Failed(now), now), Some(Down));
}

#[test]
fn what_another_shard_found_holds_here_too() {
    let (mut origins, begin) = (origins(RULES), Instant::now());
    origins.handle_state(0, Down, begin);
    assert_eq!(turns(&mut origins, 0, 4, begin), [1, 2, 1, 2]);
    origins.handle_state(0, Rising, begin);
    assert_eq!(origins.state(0, begin), Rising);
    let now = begin + SLOW_START;
    origins.handle_state(0, Up, now);
    assert_eq!(shares(&mut origins, 30, now), [10, 10, 10]);
    assert_eq!(origins.handle_sign(0, Answered, now), None, "nothing is told twice");
}

#[test]
fn that_a_rise_is_over_is_no_news_of_one_that_fell_meanwhile() {
    let (mut origins, begin) = (origins(RULES), Instant::now());
    fail(&mut origins, 0, begin);
    raise(&mut origins, 0, begin);
    let now = begin + SLOW_START;
    fail(&mut origins, 0, now);
    // Said by a shard that had not heard of it: all are to agree, whatever they heard first.
    origins.handle_state(0, Up, now);
    assert_eq!(origins.state(0, now), Down);
    raise(&mut origins, 0, now);
    let rows = [
        (RULES, Down, Up, false),
        (RULES, Down, Rising, true),
        (RULES, Rising, Up, true),
        (RULES, Up, Down, true),
        (RULES, Up, Up, false),
        (OriginRules { slow_start: Duration::ZERO, ..RULES }, Down, Up, true),
        (OriginRules { is_probed: false, ..RULES }, Down, Up, true),
    ];
    for (rules, before, said, may) in rows {
        assert_eq!(rules.may_follow(before, said), may, "{before:?} {said:?} {rules:?}");
    }
}

#[test]
fn one_without_room_is_passed_over_while_another_has_some() {
    let (mut origins, now) = (origins(RULES), Instant::now());
    let chosen: Vec<_> = (0..4).map(|_| origins.choose(0, now, |origin| origin != 1)).collect();
    assert_eq!(chosen, [0, 2, 0, 2]);
    let chosen: Vec<_> = (0..3).map(|_| origins.choose(0, now, |_| false)).collect();
    assert_eq!(chosen, [0, 1, 2], "they wait in line, each where its turn is");
    fail(&mut origins, 2, now);
    let chosen: Vec<_> = (0..3).map(|_| origins.choose(0, now, |origin| origin == 2)).collect();
    assert_eq!(chosen, [0, 1, 0], "one that is down has room, and is no better for it");
}

#[test]
fn where_all_are_down_they_are_asked_in_turn() {
    let (mut origins, now) = (origins(RULES), Instant::now());
    (0..3).for_each(|origin| assert_eq!(fail(&mut origins, origin, now), Some(Down)));
    assert_eq!(turns(&mut origins, 0, 4, now), [0, 1, 2, 0]);
    assert_eq!(origins.elsewhere(0, Tried::default().with(0), |_| true), None, "but not one behind another");
}

#[test]
fn a_request_goes_elsewhere_to_each_that_is_not_down_once() {
    let (mut origins, now) = (origins(RULES), Instant::now());
    let first = origins.choose(0, now, |_| true);
    let mut tried = Tried::default().with(first);
    let second = origins.elsewhere(0, tried, |_| true).unwrap();
    tried = tried.with(second);
    let third = origins.elsewhere(0, tried, |_| true).unwrap();
    let mut all = [first, second, third];
    all.sort();
    assert_eq!(all, [0, 1, 2]);
    assert_eq!(origins.elsewhere(0, tried.with(third), |_| true), None);
    assert_eq!(turns(&mut origins, 0, 3, now), [1, 2, 0], "it took nobody's turn");
    fail(&mut origins, 1, now);
    assert_eq!(origins.elsewhere(0, Tried::default().with(0), |_| true), Some(2));
    assert_eq!(origins.elsewhere(0, Tried::default().with(0), |origin| origin == 1), Some(2));
    assert_eq!(origins.elsewhere(1, Tried::default().with(0), |_| true), None, "one alone has no other");
}

#[test]
fn what_must_meet_again_meets_at_the_same_origin_whoever_sends_it() {
    let now = Instant::now();
    let order = [vec![0, 1, 2], vec![2, 0, 1]];
    let mut one = Origins::new(&NAMES.map(|name| (RULES, name)), &order, 0);
    let mut counts = [0; 3];
    for number in 0..3_000 {
        let key = format!("/CCM_Incoming/{{{number:08x}}}");
        let [a, b] = [0, 1].map(|group| order[group][one.prefer(group, key.as_bytes(), now)]);
        assert_eq!(a, b, "the order in the settings does not matter");
        counts[a] += 1;
    }
    assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}");
    // With one down only those go elsewhere that were its own.
    let key = |number: usize| format!("/x/{number}");
    let before: Vec<_> = (0..300).map(|number| one.prefer(0, key(number).as_bytes(), now)).collect();
    fail(&mut one, 1, now);
    for (number, before) in before.iter().enumerate() {
        let place = one.prefer(0, key(number).as_bytes(), now);
        assert!(place != 1 && (place == *before || *before == 1));
    }
    raise(&mut one, 1, now);
    assert!(
        (0..300).all(|number| one.prefer(0, key(number).as_bytes(), now) != 1),
        "nothing new while it rises"
    );
}

#[test]
fn an_origin_in_doubt_is_probed_sooner() {
    let (mut origins, now) = (origins(RULES), Instant::now());
    let (every, again) = (Duration::from_secs(5), Duration::from_secs(1));
    let mut after = |sign| {
        origins.handle_sign(0, sign, now);
        origins.probe_after(0, every, again)
    };
    let signs = [ProbePassed, ProbeFailed, ProbeFailed, ProbeFailed, ProbeFailed, ProbePassed, ProbePassed];
    assert_eq!(signs.map(&mut after), [every, again, again, every, every, again, every]);
    assert_eq!(origins.probe_after(0, Duration::from_millis(100), again), Duration::from_millis(100));
}

// ── any story ───────────────────────────────────────────────────────────────────────────────────

#[derive(Clone, Copy, Debug)]
enum Event {
    Sign(usize, u8),
    Told(usize, u8),
    Turns(u8),
    Time(u16),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        (0..3_usize, 0..5_u8).prop_map(|(origin, sign)| Event::Sign(origin, sign)),
        (0..3_usize, 0..3_u8).prop_map(|(origin, state)| Event::Told(origin, state)),
        (1..20_u8).prop_map(Event::Turns),
        (0..20_000_u16).prop_map(Event::Time),
    ];
    proptest::collection::vec(event, 0..200)
}

fn sign(number: u8, now: Instant) -> OriginSign {
    [Answered, Failed(now), ProbePassed, ProbeFailed, Unanswered(now)][usize::from(number)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// Nobody is asked who is down while another is not; nothing is told that was said before; and strict turns
    /// come back by themselves once all are up.
    #[test]
    fn in_any_story_those_who_are_down_are_left_alone(events in events(), first in 0..GROUP_ORIGINS_MAX) {
        let mut origins = Origins::new(&NAMES.map(|name| (RULES, name)), &[vec![0, 1, 2]], first);
        let mut now = Instant::now();
        let mut said = [Up; 3];
        for event in events {
            match event {
                Event::Sign(origin, number) => {
                    let before = origins.state(origin, now);
                    if let Some(state) = origins.handle_sign(origin, sign(number, now), now) {
                        prop_assert_ne!(state, said[origin]);
                        said[origin] = state;
                    }
                    let after = origins.state(origin, now);
                    prop_assert_eq!(said[origin], after);
                    prop_assert!(!(before == Down && after == Up), "none comes back at once");
                }
                Event::Told(origin, number) => {
                    origins.handle_state(origin, [Up, Rising, Down][usize::from(number)], now);
                    said[origin] = origins.state(origin, now);
                }
                Event::Turns(count) => {
                    let states = [0, 1, 2].map(|origin| origins.state(origin, now));
                    for place in turns(&mut origins, 0, count.into(), now) {
                        prop_assert!(states[place] != Down || states == [Down; 3]);
                    }
                }
                Event::Time(millis) => now += Duration::from_millis(millis.into()),
            }
        }
        for origin in 0..3 {
            origins.handle_state(origin, Rising, now);
        }
        now += SLOW_START;
        let chosen = turns(&mut origins, 0, 30, now);
        prop_assert!(chosen.windows(2).all(|pair| pair[1] == (pair[0] + 1) % 3), "{:?}", chosen);
    }
}
