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

use fixtures::{BATCH, Case, WARM_UP, When, Work};

/// Counts what this thread asks the system for while it is told to.
struct Counting;

thread_local! {
    static IS_COUNTING: Cell<bool> = const { Cell::new(false) };
    static MADE: RefCell<Vec<Backtrace>> = const { RefCell::new(Vec::new()) };
}

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
        let from = Backtrace::force_capture();
        MADE.with_borrow_mut(|made| made.push(from));
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
fn judge(case: &Case, made: &[Backtrace]) -> bool {
    let texts: Vec<String> = made.iter().map(Backtrace::to_string).collect();
    let ours: Vec<&String> = texts.iter().filter(|text| owner(text) == Owner::Ours).collect();
    let each = |count: usize| count as f64 / BATCH as f64;
    let is_good = ours.is_empty() || case.when == When::Rarely;
    let note = match (is_good, case.when) {
        (false, _) => "   too many",
        (true, When::EachRequest) => "",
        (true, When::Rarely) => "   (not for each request)",
    };
    let rustls = texts.len() - ours.len();
    println!("{:<28} {:>8.2} {:>8.2}{note}", case.name, each(ours.len()), each(rustls));
    if !is_good {
        println!("the first of them:\n{}", ours[0]);
    }
    is_good
}

fn count(case: &Case) -> Vec<Backtrace> {
    let mut work = (case.make)();
    for _ in 0..WARM_UP / BATCH {
        work.prepare(BATCH);
        (0..BATCH).for_each(|_| work.run());
    }
    work.prepare(BATCH);
    counted(work.as_mut())
}

fn counted(work: &mut dyn Work) -> Vec<Backtrace> {
    IS_COUNTING.set(true);
    for _ in 0..BATCH {
        work.run();
    }
    IS_COUNTING.set(false);
    MADE.take()
}

/// The first frame that is neither this program's counting nor the standard library tells whose it is.
fn owner(backtrace: &str) -> Owner {
    let frames = backtrace.lines().filter_map(|line| line.trim_start().split_once(": "));
    let mut names = frames.map(|(_, name)| name.trim_start_matches('<'));
    let first = names.find(|name| {
        let passed =
            ["std::", "core::", "alloc::", "allocations::note", "allocations::Counting", "__rust", "__rustc"];
        !passed.iter().any(|prefix| name.starts_with(prefix))
    });
    if first.is_some_and(|name| name.starts_with("rustls::")) { Owner::Rustls } else { Owner::Ours }
}

/// Whether one that is made is seen as ours.
fn can_see() -> bool {
    let mut work = || drop(std::hint::black_box(Box::new(7)));
    let made = counted(&mut work);
    made.len() == BATCH && made.iter().all(|from| owner(&from.to_string()) == Owner::Ours)
}
