//! Instructions of each case of `fixtures`, counted by valgrind's callgrind.
//!
//! `cargo bench --bench instructions [-- [FILTER] [--json FILE]]`. This program starts itself under
//! valgrind; there it runs every case once, and callgrind writes one file for each call of `measured`. Only
//! the core's own instructions count: the making of a case and its warm-up do not.
//!
//! Counts do not depend on what else the machine does. They say nothing of memory or of the kernel, and
//! valgrind knows no AVX-512 and no VAES: `ring` chooses other code there than on a newer CPU.

mod fixtures;

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use fixtures::{Case, Work};

fn main() -> ExitCode {
    let wanted = match Wanted::from_args() {
        Ok(wanted) => wanted,
        Err(error) => {
            eprintln!("instructions: {error}");
            return ExitCode::from(2);
        }
    };
    if wanted.is_inside {
        wanted.cases().for_each(run);
        return ExitCode::SUCCESS;
    }
    match count(&wanted) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What the command line asks for.
#[derive(Default)]
struct Wanted {
    filter: String,
    json: Option<String>,
    /// This is the process under valgrind.
    is_inside: bool,
}

impl Wanted {
    fn from_args() -> Result<Wanted, String> {
        let mut wanted = Wanted::default();
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--bench" => {} // Cargo says so.
                "--inside" => wanted.is_inside = true,
                "--json" => wanted.json = Some(args.next().ok_or("--json wants a file")?),
                _ if arg.starts_with('-') => return Err(format!("unknown: {arg}")),
                _ => wanted.filter = arg,
            }
        }
        Ok(wanted)
    }

    fn cases(&self) -> impl Iterator<Item = &'static Case> {
        fixtures::cases().filter(|case| case.name.contains(&self.filter))
    }
}

fn run(case: &Case) {
    let mut work = case.warm();
    work.prepare(case.batch);
    measured(work.as_mut(), case.batch);
}

/// Callgrind counts from here to its end, by name.
#[inline(never)]
#[unsafe(no_mangle)]
fn measured(work: &mut dyn Work, runs: usize) {
    for _ in 0..runs {
        work.run();
    }
}

/// Runs all cases under valgrind and says what it counted.
fn count(wanted: &Wanted) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let log = folder.path().join("log");
    let status = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=measured"])
        .args(["--dump-after=measured", "--combine-dumps=no", "--compress-strings=no"])
        .arg(format!("--log-file={}", log.display()))
        .arg(format!("--callgrind-out-file={}", folder.path().join("out").display()))
        .arg(program)
        .args([wanted.filter.as_str(), "--inside"])
        .stdout(Stdio::null())
        .status()
        .map_err(|error| format!("valgrind cannot be started (Debian: apt install valgrind): {error}"))?;
    if !status.success() {
        return Err(format!("{status}\n{}", fs::read_to_string(&log).unwrap_or_default()));
    }
    let mut counted = serde_json::Map::new();
    for (number, case) in wanted.cases().enumerate() {
        let total = total(&folder.path().join(format!("out.{}", number + 1)))?;
        let each = total as f64 / case.batch as f64;
        println!("{:<28} {each:>12.1} instructions", case.name);
        counted.insert(case.name.to_owned(), each.into());
    }
    if let Some(file) = &wanted.json {
        let text = serde_json::to_string_pretty(&counted).map_err(|error| error.to_string())?;
        fs::write(file, text).map_err(|error| format!("{file}: {error}"))?;
    }
    Ok(())
}

/// What one dump of callgrind adds up to.
fn total(file: &Path) -> Result<u64, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")?.parse().ok());
    total.filter(|total| *total > 0).ok_or_else(|| format!("{}: nothing was counted", file.display()))
}
