//! The flags of `loadgen notify`.

use crate::clients::options::{Options as ClientOptions, rate, seconds};
use crate::notification;
use crate::process::Watched;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// A time that no run reaches: the conductor ends it.
const FOREVER: &str = "31536000";

/// The flags of `loadgen notify`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Take gateway, service, url, ca, certificates and processes from a running `cmg up`; flags given beside it win
    #[arg(long, value_name = "FILE")]
    pub up: Option<PathBuf>,
    /// Where to connect
    #[arg(long, value_name = "HOST:PORT", required_unless_present = "up")]
    pub target: Option<String>,
    /// Name for SNI, for the check of the certificate, and for Host
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Plain HTTP without TLS
    #[arg(long, conflicts_with_all = ["ca", "insecure", "clients_dir", "resume"])]
    pub plain: bool,
    /// CA that the server's certificate must come from, PEM
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Take any server certificate
    #[arg(long, conflicts_with = "ca")]
    pub insecure: bool,
    /// Client certificates, pairs NAME.pem and NAME.key; clients use them in turn
    #[arg(long, value_name = "DIR")]
    pub clients_dir: Option<PathBuf>,
    /// Resume TLS sessions when reconnecting
    #[arg(long)]
    pub resume: bool,
    /// The notification endpoint [default: BGB/handler.ashx of the management point in up.json's url]
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,

    /// Clients, each with one connection and one held request
    #[arg(long, short = 'c', default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub clients: u32,
    /// Source addresses, used in turn: 127.0.0.2,127.0.0.3
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub source: Vec<IpAddr>,
    /// Threads, each with its own ring [default: as few as hold the clients]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub threads: Option<u16>,
    /// Connections made per second
    #[arg(long, default_value = "500", value_name = "N/s", value_parser = rate)]
    pub connect_rate: f64,
    /// Connections being made at once, per thread
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub connecting: u32,
    /// A held request is answered with nothing after three quarters of so long to all of it, and asked again: that keeps a
    /// silent client's way open
    #[arg(long, default_value = "900", value_name = "SECONDS", value_parser = keep_alive)]
    pub keep_alive: Duration,

    /// Control listener of `loadgen origin`; several of several processes
    #[arg(long, value_name = "ADDRESS:PORT", value_delimiter = ',')]
    pub origin_control: Vec<SocketAddr>,
    /// Be silent for so long when all are held: what is used then is what silence costs
    #[arg(long, default_value = "10", value_name = "SECONDS", value_parser = seconds)]
    pub hold: Duration,
    /// Pushes to all clients, each when all are held again
    #[arg(long, default_value_t = 0, value_name = "K", requires = "origin_control", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub pushes: u32,
    /// At least so long between two pushes
    #[arg(long, default_value = "1", value_name = "SECONDS", value_parser = seconds)]
    pub push_every: Duration,
    /// Push to so large a part of the clients, another one each time
    #[arg(long, value_name = "PART", value_parser = share)]
    pub push_share: Option<String>,
    /// Notifications per second of each origin [default: as fast as it can]
    #[arg(long, value_name = "N/s", value_parser = rate)]
    pub push_rate: Option<f64>,
    /// Behind the pushes, watch for so long, while you stop and start what is between: for each time connections are lost, how
    /// long until all are held again and what each returning client costs. Lost connections are then no failure
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub storm: Option<Duration>,
    /// Who lost the connection comes back at random within so long; what then fails is tried again after 10 ms to 1 s
    #[arg(long, default_value = "2", value_name = "SECONDS", value_parser = seconds)]
    pub spread: Duration,
    /// Ordinary requests per second meanwhile (open loop), on connections of their own
    #[arg(long, value_name = "N/s", value_parser = rate)]
    pub ordinary: Option<f64>,
    /// Connections for them
    #[arg(long, default_value_t = 16, value_name = "N", requires = "ordinary", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub ordinary_connections: u32,
    /// Path of ordinary requests [default: that of up.json's url]
    #[arg(long, value_name = "PATH", requires = "ordinary")]
    pub ordinary_path: Option<String>,

    /// Processes to watch: gateway=123,connector=45; several under one name: origin=12+13
    #[arg(long, value_name = "NAME=PID", value_delimiter = ',', value_parser = Watched::parse)]
    pub pids: Vec<Watched>,
    /// What makes no progress for so long has failed: a handshake, a request besides its hold, a push, all being held
    #[arg(long, default_value = "30", value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Duration,
    /// What is random comes again with the same number [default: another one for every run; it is in the report]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl Options {
    /// The flags of `loadgen clients` that connect as these do. Errors: a text for the user.
    pub fn held(&self) -> Result<ClientOptions, String> {
        let mut flags = self.common();
        flags.add("--connections", self.clients);
        flags.add("--connect-rate", self.connect_rate);
        flags.add("--connecting", self.connecting);
        if let Some(threads) = self.threads {
            flags.add("--threads", threads);
        }
        ClientOptions::of(&flags.0)
    }

    /// The flags of the ordinary requests. Errors: a text for the user.
    pub fn ordinary(&self) -> Result<Option<ClientOptions>, String> {
        let Some(rate) = self.ordinary else { return Ok(None) };
        let mut flags = self.common();
        flags.add("--connections", self.ordinary_connections);
        flags.add("--rate", rate);
        if let Some(path) = &self.ordinary_path {
            flags.add("--path", path);
        }
        ClientOptions::of(&flags.0).map(Some)
    }

    fn common(&self) -> Flags {
        let mut flags = Flags::default();
        flags.add("--duration", FOREVER);
        flags.add("--timeout", self.timeout.as_secs_f64());
        for (name, file) in [("--up", &self.up), ("--ca", &self.ca), ("--clients-dir", &self.clients_dir)] {
            if let Some(file) = file {
                flags.0.extend([name.into(), file.into()]);
            }
        }
        for (name, text) in [("--target", &self.target), ("--name", &self.name)] {
            if let Some(text) = text {
                flags.add(name, text);
            }
        }
        for (name, is_given) in
            [("--plain", self.plain), ("--insecure", self.insecure), ("--resume", self.resume)]
        {
            if is_given {
                flags.0.push(name.into());
            }
        }
        for source in &self.source {
            flags.add("--source", source);
        }
        if let Some(seed) = self.seed {
            flags.add("--seed", seed);
        }
        flags
    }
}

/// A command line in the making.
#[derive(Default)]
struct Flags(Vec<OsString>);

impl Flags {
    fn add(&mut self, name: &str, value: impl ToString) {
        self.0.extend([name.into(), value.to_string().into()]);
    }
}

fn keep_alive(text: &str) -> Result<Duration, String> {
    let range = Duration::from_millis(100)..=Duration::from_secs(24 * 3600);
    seconds(text).and_then(|time| match range.contains(&time) {
        true => Ok(time),
        false => Err("expected 0.1 to 86400 seconds".into()),
    })
}

fn share(text: &str) -> Result<String, String> {
    let share = notification::share(text.as_bytes());
    share.map(|_| text.to_owned()).ok_or_else(|| "expected a number above 0, at most 1".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args, FromArgMatches};

    fn options(flags: &str) -> Options {
        let command = Options::augment_args(clap::Command::new("notify").no_binary_name(true));
        let matches = command.try_get_matches_from(flags.split_whitespace()).expect("valid flags");
        Options::from_arg_matches(&matches).expect("valid flags")
    }

    #[test]
    fn flags_reach_both_kinds_of_clients() {
        let given = options(
            "--plain --target 127.0.0.1:1 -c 40 --source 127.0.0.2,127.0.0.3 --seed 7 --ordinary 50 --timeout 5",
        );
        let held = given.held().and_then(|held| held.plan(19_500)).expect("a plan");
        assert_eq!((held.connections, held.sources.len(), held.seed), (40, 2, 7));
        assert_eq!((held.connect_rate, held.timeout), (Some(500.0), Duration::from_secs(5)));
        let ordinary = given.ordinary().expect("valid").expect("asked for").plan(19_500).expect("a plan");
        assert_eq!((ordinary.connections, ordinary.open_loop.map(|open| open.rate)), (16, Some(50.0)));
        assert!(options("--plain --target 127.0.0.1:1").ordinary().expect("valid").is_none());
    }

    #[test]
    fn times_and_shares_that_mean_nothing_are_refused() {
        assert!(keep_alive("0").is_err() && keep_alive("x").is_err() && keep_alive("60").is_ok());
        assert!(share("0").is_err() && share("1.5").is_err() && share("0.5").is_ok());
    }
}
