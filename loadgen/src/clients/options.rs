//! The flags of `loadgen clients`; what they come to is `plan.rs`'s.

use super::schedule::Arrivals;
use crate::process::Watched;
use crate::report::Output;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Planned requests that wait for their connections, when no other number is given: ten seconds of 10,000/s.
const BACKLOG: u64 = 100_000;
/// The same, at most: 16 bytes each.
const BACKLOG_MAX: u64 = 10_000_000;

/// The flags of `loadgen clients`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Take gateway, service, url, ca, certificates and processes from a running `cmg up`; flags given beside it win
    #[arg(long, value_name = "FILE")]
    pub up: Option<PathBuf>,
    /// Where to connect; several are taken in turn by connections, and each keeps its own
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', required_unless_present_any = ["up", "list_features"])]
    pub target: Vec<String>,
    /// Name for SNI, for the check of the certificate, and for Host
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Path and query to ask for; id= and bytes= are added to the query
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// Method [default: GET, or POST with a body]
    #[arg(long, value_name = "TOKEN")]
    pub method: Option<String>,
    /// Another field of every request; may be given several times
    #[arg(long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,

    /// Plain HTTP without TLS
    #[arg(long, conflicts_with_all = ["ca", "insecure", "clients_dir", "cert", "tls", "resume"])]
    pub plain: bool,
    /// CA that the server's certificate must come from, PEM
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Take any server certificate
    #[arg(long, conflicts_with = "ca")]
    pub insecure: bool,
    /// Client certificates, pairs NAME.pem and NAME.key; connections use them in turn
    #[arg(long, value_name = "DIR", conflicts_with_all = ["cert", "key"])]
    pub clients_dir: Option<PathBuf>,
    /// One client certificate for all, PEM
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// No client certificate, whatever up.json names
    #[arg(long, conflicts_with_all = ["cert", "clients_dir"])]
    pub no_cert: bool,
    /// TLS version: 1.2 or 1.3 [default: the better one the server has]
    #[arg(long, value_name = "VERSION", value_parser = ["1.2", "1.3"])]
    pub tls: Option<String>,
    /// Resume TLS sessions when reconnecting
    #[arg(long)]
    pub resume: bool,

    /// Connections held at once
    #[arg(long, short = 'c', default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub connections: u32,
    /// Requests of each connection; with --total or --duration the connection is then made anew (churn). 0: connect, shake
    /// hands, close; handshakes are then what is counted
    #[arg(long, short = 'm', value_name = "M", conflicts_with_all = ["hold"])]
    pub requests_per_connection: Option<u64>,
    /// Requests of all connections together
    #[arg(long, value_name = "N", conflicts_with_all = ["duration", "hold"], value_parser = clap::value_parser!(u64).range(1..))]
    pub total: Option<u64>,
    /// Seconds to ask, counted from when all are connected
    #[arg(long, short = 'd', value_name = "SECONDS", conflicts_with = "hold", value_parser = seconds)]
    pub duration: Option<Duration>,
    /// Requests started per second by all connections together, whether or not answers come (open loop); latency counts from
    /// the planned start [default: each connection asks when it has its answer]
    #[arg(long, value_name = "N/s", value_parser = rate, conflicts_with_all = ["hold", "no_read"])]
    pub rate: Option<f64>,
    /// How planned starts follow one another
    #[arg(long, value_name = "KIND", default_value = "constant", requires = "rate")]
    pub arrivals: Arrivals,
    /// Planned requests that may wait for their connection, all together; more are not sent, and fail the run
    #[arg(long, value_name = "N", default_value_t = BACKLOG, requires = "rate", value_parser = clap::value_parser!(u64).range(1..=BACKLOG_MAX))]
    pub backlog: u64,
    /// Connections made anew per second, each when it has its answers
    #[arg(long, value_name = "N/s", value_parser = rate, conflicts_with_all = ["hold", "no_read"])]
    pub churn: Option<f64>,
    /// What is random (starts of --arrivals poisson, timers of a population) comes again with the same number [default: another one for every run; it is in the report]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Seconds at the start that are not measured
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    pub warmup: Duration,
    /// Requests in flight on each connection
    #[arg(long, default_value_t = 1, value_name = "K", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub pipeline: u32,
    /// Bytes of every request's body
    #[arg(long, value_name = "BYTES")]
    pub body: Option<u64>,
    /// Send the body in chunks
    #[arg(long, requires = "body")]
    pub chunked: bool,
    /// Bytes to ask the origin for, as bytes= in the query [default: the origin's 200]
    #[arg(long, value_name = "BYTES")]
    pub answer: Option<u64>,
    /// What is checked of an answer: full (status, X-Id, all that `loadgen origin` says, every byte), contains (status, and the id
    /// somewhere in the first 16 KiB), off (status)
    #[arg(long, default_value = "full", value_name = "CHECK", num_args = 0..=1, default_missing_value = "full")]
    pub ids: Check,

    /// Connect all, ask once, hold for so long, and ask again
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub hold: Option<Duration>,
    /// Each connection asks again after so long [default: once, after --hold]
    #[arg(long, value_name = "SECONDS", requires = "hold", value_parser = seconds)]
    pub every: Option<Duration>,
    /// Connections made per second [default: as fast as --connecting allows]
    #[arg(long, value_name = "N/s", value_parser = rate)]
    pub connect_rate: Option<f64>,
    /// Connections being made at once, per thread
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub connecting: u32,
    /// Read answers at no more than so many bytes per second and connection
    #[arg(long, value_name = "BYTES/s", value_parser = clap::value_parser!(u64).range(1..))]
    pub read_rate: Option<u64>,
    /// Ask, and read nothing of the answer
    #[arg(long, conflicts_with_all = ["read_rate", "total", "hold"], requires = "duration")]
    pub no_read: bool,
    /// SO_RCVBUF of every connection
    #[arg(long, value_name = "BYTES")]
    pub receive_buffer: Option<usize>,

    /// Source addresses, used in turn: 127.0.0.2,127.0.0.3
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    pub source: Vec<IpAddr>,
    /// Threads, each with its own ring [default: as few as hold the connections]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub threads: Option<u16>,
    /// Processes to watch: gateway=123,connector=45; several under one name: nginx=12+13
    #[arg(long, value_name = "NAME=PID", value_delimiter = ',', value_parser = Watched::parse)]
    pub pids: Vec<Watched>,
    /// A request, a handshake or a reconnecting client without any progress for so long has failed
    #[arg(long, default_value = "30", value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Duration,
    /// Clean failures (not connected, cut, timed out, 5xx) are counted, and do not fail the run when all work was done
    #[arg(long)]
    pub allow_failures: bool,
    /// What is reported, and where to
    #[command(flatten)]
    pub population: crate::population::Options,
    #[command(flatten)]
    pub output: Output,
}

impl Options {
    /// The flags of a run that another mode makes, given as on a command line. Errors: a text for the user.
    pub fn of(flags: &[OsString]) -> Result<Self, String> {
        let command = <Self as clap::Args>::augment_args(clap::Command::new("clients").no_binary_name(true));
        let matches = command.try_get_matches_from(flags).map_err(|error| error.to_string())?;
        <Self as clap::FromArgMatches>::from_arg_matches(&matches).map_err(|error| error.to_string())
    }
}

/// What is checked of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Check {
    /// Everything the origin of loadgen says.
    Full,
    /// The id is somewhere in the answer.
    Contains,
    /// The status alone.
    Off,
}

/// How answers are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// As they come.
    Free,
    /// At so many bytes per second.
    Rate(u64),
    /// Not at all.
    Never,
}

/// How much is to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many requests by each connection.
    Each(u64),
    /// So many together.
    Total(u64),
    /// Until the time is over.
    Lasting(Duration),
    /// Until every script has ended.
    Lives,
}

/// Reads a time in seconds.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let value: f64 = text.parse().map_err(|_| "expected seconds")?;
    Duration::try_from_secs_f64(value).map_err(|error| error.to_string())
}

/// Reads a number per second.
pub fn rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate: &f64| rate.is_finite() && *rate > 0.0)
        .ok_or_else(|| "expected a number above 0".into())
}
