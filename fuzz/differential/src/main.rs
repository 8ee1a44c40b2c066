//! Reads the same octets with cmg, llhttp and h11: what cmg takes for a message, both others must take for
//! the same one, or the difference must stand in the table of `compare.rs` with its reason.

mod compare;
mod generate;
mod readers;
mod reading;
// The same numbers for ever; what else stands there is for tests of cmg itself.
#[allow(dead_code)]
#[path = "../../../src/seeded.rs"]
mod seeded;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;

use compare::{Case, EXPLAINED, Reader, What, explain, is_taken};
use readers::{H11, Llhttp};
use reading::{End, Kind, Reading, ours};

/// Compares cmg's reading of HTTP with llhttp's and h11's.
#[derive(Parser)]
struct Options {
    /// How many inputs.
    #[arg(long, default_value_t = 200_000)]
    inputs: u64,
    /// Number of the first one; `--from N --inputs 1` replays it.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Threads, each with a process of h11.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Differences without an explanation after which to stop.
    #[arg(long, default_value_t = 20)]
    most: u64,
}

/// Inputs of one turn of a thread.
const BATCH: u64 = 2_048;

#[derive(Default)]
struct Counts {
    inputs: u64,
    taken: u64,
    whole: u64,
    explained: Vec<u64>,
    unexplained: u64,
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        self.inputs += other.inputs;
        self.taken += other.taken;
        self.whole += other.whole;
        self.explained.resize(EXPLAINED.len(), 0);
        self.explained.iter_mut().zip(&other.explained).for_each(|(all, some)| *all += some);
        self.unexplained += other.unexplained;
    }
}

fn main() -> std::process::ExitCode {
    let options = Options::parse();
    let (next, stop, all) = (AtomicU64::new(0), AtomicBool::new(false), Mutex::new(Counts::default()));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| work(&options, &next, &stop, &all));
        }
    });
    let counts = all.into_inner().expect("no thread panics with it");
    report(&counts, began);
    if counts.unexplained > 0 { std::process::ExitCode::FAILURE } else { std::process::ExitCode::SUCCESS }
}

fn work(options: &Options, next: &AtomicU64, stop: &AtomicBool, all: &Mutex<Counts>) {
    let (mut llhttp, mut h11) = (Llhttp::new(), H11::start());
    while !stop.load(Ordering::Relaxed) {
        let first = next.fetch_add(BATCH, Ordering::Relaxed);
        if first >= options.inputs {
            return;
        }
        let last = (first + BATCH).min(options.inputs);
        let counts = batch(options.from + first..options.from + last, &mut llhttp, &mut h11);
        let mut all = all.lock().expect("no thread panics with it");
        all.add(&counts);
        if all.unexplained >= options.most {
            stop.store(true, Ordering::Relaxed);
        }
    }
}

fn batch(numbers: std::ops::Range<u64>, llhttp: &mut Llhttp, h11: &mut H11) -> Counts {
    let explained = vec![0; EXPLAINED.len()];
    let mut counts = Counts { inputs: numbers.end - numbers.start, explained, ..Counts::default() };
    let mut taken = Vec::new();
    for number in numbers {
        let (kind, bytes) = generate::input(number);
        let ours = ours(kind, &bytes);
        if is_taken(&ours) {
            taken.push((number, kind, bytes, ours));
        }
    }
    counts.taken = taken.len() as u64;
    counts.whole = taken.iter().filter(|(.., ours)| matches!(ours.end, End::Complete(_))).count() as u64;
    let asked: Vec<(Kind, &[u8])> =
        taken.iter().map(|(_, kind, bytes, _)| (*kind, bytes.as_slice())).collect();
    let read = h11.read(&asked).expect("h11 reads whatever it is given");
    for ((number, kind, bytes, ours), theirs) in taken.iter().zip(read) {
        judge(*number, *kind, bytes, ours, Reader::H11, &theirs, &mut counts);
        let theirs = with_known_method(llhttp, *kind, bytes, ours);
        judge(*number, *kind, bytes, ours, Reader::Llhttp, &theirs, &mut counts);
    }
    counts
}

fn judge(
    number: u64,
    kind: Kind,
    bytes: &[u8],
    ours: &Reading,
    reader: Reader,
    theirs: &Reading,
    counts: &mut Counts,
) {
    let case = Case { kind, reader, bytes, ours, theirs };
    let Some(what) = case.difference() else { return };
    match explain(&case, what) {
        Some(row) => counts.explained[row] += 1,
        None => {
            counts.unexplained += 1;
            tell(number, &case, what);
        }
    }
}

fn tell(number: u64, case: &Case<'_>, what: What) {
    let Case { kind, reader, bytes, ours, theirs } = case;
    eprintln!(
        "── {kind:?} {number}: {what:?} differs from {reader:?}\n{}\nours:   {}\ntheirs: {}",
        bytes.escape_ascii(),
        show(ours),
        show(theirs)
    );
}

fn show(reading: &Reading) -> String {
    let list = |fields: &[(Vec<u8>, Vec<u8>)]| -> String {
        fields
            .iter()
            .map(|(name, value)| format!(" [{}: {}]", name.escape_ascii(), value.escape_ascii()))
            .collect()
    };
    format!(
        "{} {} 1.{} {} {}{} body {}, trailers{}, {:?}, keeps {:?}",
        reading.method.escape_ascii(),
        reading.target.escape_ascii(),
        reading.minor,
        reading.status,
        reading.reason.escape_ascii(),
        list(&reading.fields),
        reading.body.escape_ascii(),
        list(&reading.trailers),
        reading.end,
        reading.keeps
    )
}

/// llhttp knows the registered methods alone and stops at any other, so it is shown one it knows.
fn with_known_method(llhttp: &mut Llhttp, kind: Kind, bytes: &[u8], ours: &Reading) -> Reading {
    if kind != Kind::Request || KNOWN_METHODS.contains(&ours.method.as_slice()) {
        return llhttp.read(kind, bytes);
    }
    let mut reading = llhttp.read(kind, &[b"POST", &bytes[ours.method.len()..]].concat());
    reading.method.clone_from(&ours.method);
    if let End::Complete(size) = &mut reading.end {
        *size = *size + ours.method.len() - b"POST".len();
    }
    reading
}

const KNOWN_METHODS: &[&[u8]] =
    &[b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PROPFIND", b"M-SEARCH", b"TRACE"];

fn report(counts: &Counts, began: Instant) {
    println!(
        "{} inputs in {:.0} s: cmg took {} ({} of them whole), llhttp and h11 were asked about each; {} differences without an explanation",
        counts.inputs,
        began.elapsed().as_secs_f64(),
        counts.taken,
        counts.whole,
        counts.unexplained
    );
    for (row, count) in EXPLAINED.iter().zip(&counts.explained) {
        println!("{count:>10}  {:?} {:?}: {}", row.reader, row.what, row.reason);
    }
}
