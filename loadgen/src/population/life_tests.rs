use super::super::request::Site;
use super::super::run::Next;
use super::*;

fn habits(schedule: Schedule, burst: Option<Burst>) -> Habits {
    Habits { features: (0..FEATURES.len()).collect(), schedule, burst, speed: 60.0, seed: 7 }
}

/// What one connection asks within `time`: kind of each step, and when. Answers come at once, held ones after their hold.
fn live(habits: &Habits, index: u32, start: Instant, time: Duration) -> Vec<(Kind, Duration)> {
    let site = Site { host: "h".into(), management_point: 1, update_point: 2, signer: None };
    let (mut life, mut now, mut asked) = (Life::new(habits, index, start), start, Vec::new());
    while now - start < time {
        match life.next(habits, now) {
            Deed::Rest(at) | Deed::Away(at) => now = at.max(now),
            Deed::Run(mut run) => loop {
                let kinds: Vec<Kind> =
                    FEATURES.iter().flat_map(|feature| feature.steps).map(|step| step.kind).collect();
                let kind = kinds.get(usize::from(run.name())).copied();
                match run.next(&site, 1, 0) {
                    Next::Ask(request) => {
                        asked.push((kind.expect("a step"), now - start));
                        now += request.expect.held;
                        run.lost("unanswered, which does not matter here");
                    }
                    Next::Cannot(..) => asked.push((kind.expect("a step"), now - start)),
                    Next::Done => break,
                }
            },
        }
    }
    asked.retain(|(_, at)| *at < time);
    asked
}

fn shares(asked: &[(Kind, Duration)]) -> Vec<f64> {
    let count = |kind| asked.iter().filter(|(found, _)| *found == kind).count();
    Kind::ALL.iter().map(|(kind, ..)| count(*kind) as f64 * 100.0 / asked.len() as f64).collect()
}

#[test]
fn benchmark_timers_make_the_suggested_mix() {
    let expected = habits(Schedule::Benchmark, None).shares();
    for ((_, name, suggested), found) in Kind::ALL.iter().zip(expected) {
        assert!((suggested - found).abs() < 2.0, "{name}: {found} instead of {suggested}");
    }
}

#[test]
fn what_clients_do_is_what_timers_let_expect() {
    let start = Instant::now();
    for schedule in [Schedule::Product, Schedule::Benchmark] {
        let habits = habits(schedule, None);
        // Eight days of 40 people, at sixty times the speed.
        let time = Duration::from_secs(8 * 86_400) / 60;
        let asked: Vec<_> = (0..80).flat_map(|index| live(&habits, index, start, time)).collect();
        for ((_, name, _), (found, expected)) in
            Kind::ALL.iter().zip(shares(&asked).into_iter().zip(habits.shares()))
        {
            assert!((found - expected).abs() < 1.5, "{schedule:?} {name}: {found} instead of {expected}");
        }
        let per_hour = asked.len() as f64 / 40.0 / (8.0 * 24.0);
        assert!((5.0..10.0).contains(&per_hour), "{per_hour} requests of a person in an hour");
    }
}

#[test]
fn the_same_seed_is_the_same_life() {
    let (start, time) = (Instant::now(), Duration::from_secs(3600));
    let first = live(&habits(Schedule::Product, None), 4, start, time);
    assert!(!first.is_empty());
    assert_eq!(first, live(&habits(Schedule::Product, None), 4, start, time));
    let other = Habits { seed: 8, ..habits(Schedule::Product, None) };
    assert_ne!(first, live(&other, 4, start, time));
}

#[test]
fn bursts_bring_everybody_and_everything() {
    let start = Instant::now();
    for (burst, window) in [(Burst::StartOfDay, START_OF_DAY), (Burst::AfterOutage, AFTER_OUTAGE)] {
        let habits = habits(Schedule::Product, Some(burst));
        let window = window / 60;
        let per_second = |from: Duration, to: Duration| {
            let asked = (0..400).flat_map(|index| live(&habits, index, start, to));
            asked.filter(|(_, at)| *at >= from).count() as f64 / (to - from).as_secs_f64()
        };
        let (during, later) = (
            per_second(Duration::ZERO, window),
            per_second(window * 2, window * 2 + Duration::from_secs(60)),
        );
        assert!(during > later * 2.0, "{burst:?}: {during} and then {later}");
    }
    // Most of those who come back do so at once.
    let habits = habits(Schedule::Product, Some(Burst::AfterOutage));
    let early = (0..400).filter(|index| {
        let asked = live(&habits, *index, start, AFTER_OUTAGE / 60);
        asked.first().is_some_and(|(_, at)| *at < AFTER_OUTAGE / 240)
    });
    assert!(early.count() > 200);
}

#[test]
fn five_failures_make_a_client_hold_off() {
    let habits = habits(Schedule::Product, None);
    let (mut now, mut waits) = (Instant::now(), Vec::new());
    let mut life = Life::new(&habits, 0, now);
    for _ in 0..6 {
        life.failed(&habits, now);
        waits.push(life.not_before - now);
        now += Duration::from_millis(10);
    }
    let (retry, hold_off) = (RETRY_AFTER / 60, FAILING_WITHIN / 60);
    assert!(waits[..4].iter().all(|wait| (retry / 2..retry * 3 / 2).contains(wait)), "{waits:?}");
    assert!(waits[4..].iter().all(|wait| (hold_off / 2..hold_off * 3 / 2).contains(wait)), "{waits:?}");
}

/// What one feature alone makes of 20 people's two months.
fn asked_of(name: &str) -> usize {
    let habits =
        Habits { features: vec![features::find(name).expect("known")], ..habits(Schedule::Product, None) };
    let (start, time) = (Instant::now(), Duration::from_secs(60 * 86_400) / 60);
    (0..20).map(|index| live(&habits, index, start, time).len()).sum()
}

#[test]
fn whatever_has_a_time_is_asked_for_and_nothing_else() {
    for feature in FEATURES {
        assert_eq!(asked_of(feature.name) > 0, has_time(feature.name), "{}", feature.name);
    }
}

#[test]
fn only_chosen_features_are_used() {
    let chosen = ["policy", "notifications"].map(|name| features::find(name).expect("known"));
    let habits = Habits { features: chosen.to_vec(), ..habits(Schedule::Product, None) };
    let (start, time) = (Instant::now(), Duration::from_secs(3600));
    let kinds: Vec<_> =
        (0..20).flat_map(|index| live(&habits, index, start, time)).map(|(kind, _)| kind).collect();
    assert!(
        kinds.contains(&Kind::Notification) && kinds.contains(&Kind::Message) && kinds.contains(&Kind::Get)
    );
    assert!(
        !kinds.contains(&Kind::Upload) && !kinds.contains(&Kind::Token) && !kinds.contains(&Kind::Content)
    );
}
