//! What this machine cannot do for less: a floor under the numbers of the gateway.
//!
//! `cargo bench --bench floor -- tls …` serves small requests with nothing around them, `… -- crypto` measures the
//! arithmetic of a handshake and prints JSON; `cargo bench` alone does the latter for a moment. Nothing of `src/` is
//! used. `benches/compare/run` runs both.

mod crypto;
mod ring;
mod server;
mod session;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Floors: what small requests and handshakes cost at least.
#[derive(Debug, Parser)]
#[command(name = "floor")]
struct Arguments {
    /// Given by `cargo bench`; means nothing
    #[arg(long, hide = true, global = true)]
    bench: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer every GET over mutual TLS with 200 bytes, until the process ends
    Tls {
        /// Where to listen; port 0 picks a free one, which is printed
        #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS:PORT")]
        listen: SocketAddr,
        /// The server's chain, PEM
        #[arg(long, value_name = "FILE")]
        cert: PathBuf,
        /// Its key, PEM
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// CA that clients must come from, PEM
        #[arg(long, value_name = "FILE")]
        ca: PathBuf,
        /// Threads, each with its own ring and CPU [default: one per CPU]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
        threads: Option<u16>,
    },
    /// Measure signature, verification and key agreement, and print JSON
    Crypto {
        /// How long
        #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
        seconds: f64,
        /// Threads that work at once, each on its own CPU [default: one per CPU]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
        threads: Option<u16>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("floor: {text}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), String> {
    let cpus = server::cpus().map_err(|error| error.to_string())?.len();
    let threads = |given: Option<u16>| given.map_or(cpus, usize::from);
    match arguments.command.unwrap_or(Command::Crypto { seconds: 0.5, threads: None }) {
        Command::Tls { listen, cert, key, ca, threads: given } => {
            let count = threads(given);
            let ready = |address| println!("floor on https://{address} with {count} thread(s)");
            server::serve(listen, &server::Files { cert, key, ca }, count, ready)
                .map_err(|error| error.to_string())
        }
        Command::Crypto { seconds, threads: given } => {
            let time = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
            let costs = crypto::measure(threads(given), time)?;
            println!("{}", serde_json::to_string(&costs).map_err(|error| error.to_string())?);
            Ok(())
        }
    }
}
