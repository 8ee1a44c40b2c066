//! A site in one thread: gateways and connection points by their cores, a network that delays, stalls and cuts,
//! clients that take their time, and a clock that is moved by hand.
//!
//! Everything is decided by a seed, so that what fails comes again: each failure prints the line that replays it.
//! What must hold, at every step and in the end, stands in `world.rs`. `CMG_SEED=n` runs one seed,
//! `CMG_SEEDS=n` as many instead of the usual.
#![allow(clippy::unwrap_used)]

mod network;
mod world;

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use world::{Plant, World};

/// Events of one seed before everything is mended and must come to rest.
const STEPS: usize = 2_000;
const SEEDS: u64 = 10_000;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

fn run(seed: u64, plant: Plant) -> Result<world::Tally, String> {
    let ran = catch_unwind(AssertUnwindSafe(|| World::new(seed, plant).run(STEPS)));
    ran.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
    })
}

/// Runs seeds on every CPU until one fails, which is given with what it said.
fn search(seeds: std::ops::Range<u64>, plant: Plant) -> Result<world::Tally, (u64, String)> {
    let (next, end) = (AtomicU64::new(seeds.start), seeds.end);
    let work = || {
        let mut sum = world::Tally::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return Ok(sum);
            }
            match run(seed, plant) {
                Ok(tally) => sum.add(&tally),
                Err(text) => {
                    next.store(end, Ordering::Relaxed);
                    return Err((seed, text));
                }
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut sum = world::Tally::default();
        let mut failed = None;
        for thread in running {
            match thread.join().unwrap() {
                Ok(tally) => sum.add(&tally),
                Err(found) => failed = failed.or(Some(found)),
            }
        }
        failed.map_or(Ok(sum), Err)
    })
}

#[test]
fn no_request_is_lost_doubled_or_misrouted_whatever_the_network_does() {
    let seeds = match number("CMG_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("CMG_SEEDS").unwrap_or(SEEDS),
    };
    let count = seeds.end - seeds.start;
    match search(seeds, Plant::Nothing) {
        Ok(tally) => {
            println!("{count} seeds of {STEPS} steps: {tally:?}");
            if count >= SEEDS {
                tally.assert_telling();
            }
        }
        Err((seed, text)) => panic!(
            "{text}\nreplay: CMG_SEED={seed} cargo test --test simulation no_request_is_lost -- --nocapture"
        ),
    }
}

#[test]
fn a_planted_bug_is_found() {
    for plant in [Plant::RepeatsWhatMustNotBe, Plant::TakesSilenceForNotSent, Plant::ForgetsWhoWaits] {
        let (seed, text) = search(0..SEEDS, plant).expect_err(&format!("{plant:?} was not found"));
        println!("{plant:?}: found by seed {seed}: {text}");
        assert!(run(seed, plant).is_err(), "the seed replays it");
    }
}
