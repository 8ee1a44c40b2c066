//! What each core costs by the clock: every case of `fixtures`, and what needs a second thread.
//!
//! `cargo bench --bench cores [-- FILTER]`. What the figures mean stands in `benches/README.md`.

mod fixtures;

use std::hint::black_box;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{io, thread};

use cmg::shard::{Mesh, Port};
use criterion::{Criterion, criterion_group, criterion_main};
use fixtures::{BATCH, Work};

fn cores(criterion: &mut Criterion) {
    for case in fixtures::cases() {
        let mut work = None;
        criterion.bench_function(case.name, |bencher| {
            // Made when it is its turn, which a filter may deny it.
            let work = work.get_or_insert_with(|| case.warm());
            bencher.iter_custom(|count| time(work.as_mut(), count));
        });
    }
}

/// So many runs, in batches whose making is not counted.
fn time(work: &mut dyn Work, count: u64) -> Duration {
    let mut spent = Duration::ZERO;
    let mut left = count;
    while left > 0 {
        let batch = left.min(BATCH as u64);
        work.prepare(batch as usize);
        let start = Instant::now();
        for _ in 0..batch {
            work.run();
        }
        spent += start.elapsed();
        left -= batch;
    }
    spent
}

/// Messages from one thread to another that sleeps on its eventfd whenever its inbox is empty, as a shard
/// does on its ring.
fn inbox(criterion: &mut Criterion) {
    criterion.bench_function("inbox/two-threads", |bencher| bencher.iter_custom(cross));
}

fn cross(count: u64) -> Duration {
    let mesh: Arc<Mesh<[u64; 8]>> = Mesh::new(2);
    let wake = eventfd().expect("an eventfd");
    let received = Arc::new(AtomicU64::new(0));
    let shard = thread::spawn({
        let (mesh, received) = (mesh.clone(), received.clone());
        move || {
            let port = Port::new(mesh, 1, wake.as_raw_fd());
            let mut seen = 0;
            while seen < count {
                while let Some(message) = port.receive() {
                    black_box(message);
                    seen += 1;
                }
                received.store(seen, Ordering::Release);
                if seen < count {
                    sleep(&wake);
                }
            }
        }
    });
    let port = Port::new(mesh, 0, -1);
    let start = Instant::now();
    for number in 0..count {
        port.send(1, [number; 8]);
    }
    while !port.flush() {
        thread::yield_now();
    }
    while received.load(Ordering::Acquire) < count {
        thread::yield_now();
    }
    let spent = start.elapsed();
    shard.join().expect("it only counts");
    spent
}

fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits until somebody rang.
fn sleep(wake: &OwnedFd) {
    let mut count = 0u64;
    // SAFETY: eight bytes to write to, for the length of the call.
    let read = unsafe { libc::read(wake.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) };
    assert_eq!(read, 8, "an eventfd gives its count");
}

criterion_group!(benches, cores, inbox);
criterion_main!(benches);
