//! Fuzz entries under `cargo test`: seeds as they lie in `fuzz/seeds`, and mutations of them by number.
//!
//! A failure names the one line that replays it. `CMG_SEED=n` runs one number, `CMG_SEEDS=n` as many
//! instead of the usual, `CMG_INPUT=FILE` one input as a fuzzer left it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Octets that mean something to one reader or another.
const TELLING: &[u8] = b"\r\n\t :;,0159aAfF-_.\"{}[]#=/%?\\~\0\x01\x7f\x80\xff";

/// SplitMix64: small, and the same for ever.
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// So many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }

    fn octet(&mut self) -> u8 {
        match self.below(4) {
            0 => self.next() as u8,
            _ => TELLING[self.below(TELLING.len())],
        }
    }

    /// Changes something; `others` may lend a piece.
    pub fn mutate(&mut self, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
        let at = self.below(bytes.len() + 1);
        match self.below(6) {
            0 => bytes.insert(at, self.octet()),
            1 if at < bytes.len() => drop(bytes.remove(at)),
            2 if at < bytes.len() => bytes[at] = self.octet(),
            3 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            4 => {
                let end = at + self.below(bytes.len() - at + 1);
                let copied = bytes[at..end].to_vec();
                let to = self.below(bytes.len() + 1);
                bytes.splice(to..to, copied);
            }
            _ => {
                let other = &others[self.below(others.len())];
                bytes.splice(at.., other[self.below(other.len() + 1)..].iter().copied());
            }
        }
    }
}

/// Runs numbers one after the other, or the one that is asked for.
pub fn for_each_seed(usual: u64, run: impl Fn(u64)) {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("CMG_SEED") {
        return run(seed);
    }
    for seed in 0..number("CMG_SEEDS").unwrap_or(usual) {
        if let Err(cause) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
            eprintln!("replay with CMG_SEED={seed}");
            resume_unwind(cause);
        }
    }
}

/// Runs an entry on the seeds of its target, on mutations of them, and on noise.
pub fn run(target: &str, usual: u64, entry: fn(&[u8])) {
    if let Ok(file) = env::var("CMG_INPUT") {
        return entry(&fs::read(&file).unwrap_or_else(|error| panic!("{file}: {error}")));
    }
    let seeds: Vec<Vec<u8>> = seeds_of(target).iter().map(|path| fs::read(path).unwrap()).collect();
    seeds.iter().for_each(|seed| entry(seed));
    for_each_seed(usual, |number| {
        let mut random = Random(number);
        let mut bytes = if random.below(16) == 0 {
            let size = random.below(400);
            random.bytes(size)
        } else {
            seeds[random.below(seeds.len())].clone()
        };
        for _ in 0..random.below(6) {
            random.mutate(&mut bytes, &seeds);
        }
        if let Err(cause) = catch_unwind(|| entry(&bytes)) {
            eprintln!("{target}: {}", bytes.escape_ascii());
            resume_unwind(cause);
        }
    });
}

/// That the seeds of a target which our code writes are what it writes today; with `CMG_WRITE_SEEDS`
/// they are written.
pub fn keep(target: &str, seeds: &[(&str, Vec<u8>)]) {
    let folder = folder(target);
    for (name, bytes) in seeds {
        let path = folder.join(name);
        if env::var_os("CMG_WRITE_SEEDS").is_some() {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&path, bytes).unwrap();
        }
        assert!(fs::read(&path).ok().as_ref() == Some(bytes), "{path:?} is old: run with CMG_WRITE_SEEDS=1");
    }
}

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target)
}

fn seeds_of(target: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder(target)).unwrap_or_else(|error| panic!("seeds of {target}: {error}"));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn every_fuzz_target_is_built_and_has_seeds() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    let targets: Vec<String> = fs::read_dir(fuzz.join("fuzz_targets"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert!(targets.len() >= 10, "{targets:?}");
    for target in &targets {
        assert!(manifest.contains(&format!("name = \"{target}\"")), "{target} is not built");
        assert!(!seeds_of(target).is_empty(), "{target} has no seeds");
    }
}
