//! Two ends on a made-up network, and hostile bytes, by seed. A failure names its seed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use crate::channel::simulation;

/// SplitMix64: small, and the same for ever.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// `CMG_SEED=n` replays one seed; `CMG_SEEDS=n` runs as many instead of the usual.
fn for_each_seed(usual: u64, run: impl Fn(u64)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("CMG_SEED") {
        return run(seed);
    }
    for seed in 0..number("CMG_SEEDS").unwrap_or(usual) {
        if let Err(cause) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
            eprintln!("replay with CMG_SEED={seed}");
            std::panic::resume_unwind(cause);
        }
    }
}

#[test]
fn nothing_is_lost_doubled_misrouted_or_left_over() {
    for_each_seed(150, |seed| {
        let mut random = Random(seed);
        let size = 100 + random.below(3_000);
        let script = random.bytes(size);
        simulation::run(&script, Instant::now(), 0);
    });
}

#[test]
fn stream_numbers_wrap_unnoticed() {
    for_each_seed(50, |seed| {
        let mut random = Random(seed ^ 0xabcd);
        let script = random.bytes(1_500);
        simulation::run(&script, Instant::now(), u32::MAX - random.below(40) as u32);
    });
}

#[test]
fn arbitrary_bytes_never_break_a_reader() {
    for_each_seed(4_000, |seed| {
        let mut random = Random(seed ^ 0x5eed);
        let size = random.below(300);
        crate::channel::fuzz(&random.bytes(size));
    });
}

/// Bytes that mean something, with a few of them changed.
#[test]
fn mutated_frames_never_break_a_channel() {
    for_each_seed(4_000, |seed| {
        let mut random = Random(seed ^ 0xf00d);
        let side = random.below(2) as u8;
        let mut bytes = vec![side];
        for _ in 0..1 + random.below(12) {
            frame(&mut random, &mut bytes);
        }
        for _ in 0..random.below(4) {
            let at = 1 + random.below(bytes.len() - 1);
            bytes[at] = random.next() as u8;
        }
        crate::channel::fuzz(&bytes);
    });
}

/// A frame whose header is right, whose payload may be.
fn frame(random: &mut Random, out: &mut Vec<u8>) {
    let kind = 3 + random.below(15) as u8;
    let size = [0, 1, 2, 4, 8, 16, 40, 48, 56, 200][random.below(10)];
    out.extend_from_slice(&[kind, 0, 0, size, 0, 0, 0, random.below(7) as u8]);
    let mut payload = random.bytes(usize::from(size));
    if kind == 7 && payload.len() >= 40 {
        payload[16..24].copy_from_slice(&[0, 0, 0, 0, 0, 0, 4, 0]);
    }
    out.extend_from_slice(&payload);
}

#[test]
fn mutated_messages_read_back_or_are_refused() {
    for_each_seed(6_000, |seed| {
        let mut random = Random(seed ^ 0xbeef);
        let mut bytes = vec![2];
        bytes.extend_from_slice(&super::claims::request_message(random.below(2) == 1));
        for _ in 0..random.below(3) {
            let at = 1 + random.below(bytes.len() - 1);
            bytes[at] ^= 1 << random.below(8);
        }
        crate::channel::fuzz(&bytes);
    });
}
