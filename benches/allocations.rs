//! Allocations of each case of `fixtures` after its warm-up, and whose they are.
//!
//! `cargo bench --bench allocations [-- FILTER]`. On the way of every good request nothing of ours may
//! allocate: where something does, this says from where, and ends with exit code 1. What rustls allocates
//! is counted apart: one for each record out, for which its interface has no other way.

mod fixtures;

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::process::ExitCode;

use fixtures::{BATCH, Case, When, Work};

/// Counts what this thread asks the system for while it is told to.
struct Counting;

thread_local! {
    static IS_COUNTING: Cell<bool> = const { Cell::new(false) };
    static MADE: RefCell<Made> = const { RefCell::new(Made { places: Vec::new(), unseen: 0 }) };
}

/// What was allocated while it was counted.
#[derive(Default)]
struct Made {
    places: Vec<Backtrace>,
    /// Those that were too many to look at.
    unseen: usize,
}

/// So many are looked at: twice as many as an exchange makes.
const PLACES_MAX: usize = 16 * BATCH;

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: as the caller promises.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Remembers from where; what that itself allocates is not counted.
fn note() {
    if IS_COUNTING.replace(false) {
        MADE.with_borrow_mut(|made| {
            if made.places.len() < PLACES_MAX {
                made.places.push(Backtrace::force_capture());
            } else {
                made.unseen += 1;
            }
        });
        IS_COUNTING.set(true);
    }
}

/// Who allocates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Ours,
    Rustls,
}

fn main() -> ExitCode {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let mut is_good = true;
    println!("{:<28} {:>8} {:>8}   per run", "", "ours", "rustls");
    for case in fixtures::cases().filter(|case| case.name.contains(&filter)) {
        is_good &= judge(case, &count(case));
    }
    assert!(can_see(), "an allocation was made and not seen: this program proves nothing");
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Says what was counted; false where it must not be.
fn judge(case: &Case, made: &Made) -> bool {
    let texts: Vec<String> = made.places.iter().map(Backtrace::to_string).collect();
    let ours: Vec<&String> = texts.iter().filter(|text| owner(text) == Owner::Ours).collect();
    let each = |count: usize| count as f64 / case.batch as f64;
    let is_good = ours.is_empty() && made.unseen == 0 || case.when == When::Rarely;
    let note = match (is_good, case.when) {
        (false, _) => "   too many",
        (true, When::EachRequest) => "",
        (true, When::Rarely) => "   (not for each request)",
    };
    let (counted, rustls) = (each(ours.len() + made.unseen), each(texts.len() - ours.len()));
    println!("{:<28} {counted:>8.2} {rustls:>8.2}{note}", case.name);
    if let (false, Some(first)) = (is_good, ours.first()) {
        println!("the first of them:\n{first}");
    }
    is_good
}

fn count(case: &Case) -> Made {
    let mut work = case.warm();
    work.prepare(case.batch);
    counted(work.as_mut(), case.batch)
}

fn counted(work: &mut dyn Work, runs: usize) -> Made {
    IS_COUNTING.set(true);
    for _ in 0..runs {
        work.run();
    }
    IS_COUNTING.set(false);
    MADE.take()
}

/// The first place that is neither this program's counting nor the standard library tells whose it is.
/// Places and not names: what was inlined has only the last part of its name.
fn owner(backtrace: &str) -> Owner {
    let mut places = backtrace.lines().filter_map(|line| line.trim_start().strip_prefix("at "));
    let passed = ["/rustc/", "/library/", "benches/allocations.rs"];
    let first = places.find(|place| !passed.iter().any(|part| place.contains(part)));
    if first.is_some_and(|place| place.contains("/rustls-0.")) { Owner::Rustls } else { Owner::Ours }
}

/// Whether one that is made is seen as ours.
fn can_see() -> bool {
    let mut work = || drop(std::hint::black_box(Box::new(7)));
    let Made { places, unseen } = counted(&mut work, BATCH);
    places.len() == BATCH && unseen == 0 && places.iter().all(|from| owner(&from.to_string()) == Owner::Ours)
}
