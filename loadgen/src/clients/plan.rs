//! What a run does: the flags of `loadgen clients` and `up.json`, free of contradictions.

use super::options::{Amount, Check, Options, Reading};
use super::schedule::Arrivals;
use super::shared::Windows;
use super::work::{Expect, Population, Statuses};
use crate::process::Watched;
use serde::Deserialize;
use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What to do, free of contradictions.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to connect: connections take them in turn.
    pub targets: Vec<SocketAddr>,
    /// Whether failures are taken down one by one.
    pub is_logged: bool,
    /// SNI and Host.
    pub name: String,
    /// Everything of a request before the id.
    pub before_id: Vec<u8>,
    /// Everything of a request's head behind the id.
    pub after_id: Vec<u8>,
    /// What must come back to the plan's request.
    pub expect: Expect,
    /// Who the clients are, when they follow scripts.
    pub population: Option<Arc<dyn Population>>,
    /// Bytes of a request's body.
    pub body: Option<u64>,
    /// Whether bodies go in chunks.
    pub is_chunked: bool,
    /// How much is asked.
    pub amount: Amount,
    /// Requests of one connection before it is made anew; 0 for handshakes alone.
    pub churn: Option<u64>,
    /// Requests start when they are planned, not when answers come.
    pub open_loop: Option<OpenLoop>,
    /// Connections made anew per second.
    pub renew_rate: Option<f64>,
    /// What is random follows from it.
    pub seed: u64,
    /// Requests in flight on a connection.
    pub pipeline: usize,
    /// Time between two requests of a connection, when it holds.
    pub every: Option<Duration>,
    /// How answers are read.
    pub reading: Reading,
    /// Connections.
    pub connections: u32,
    /// Threads.
    pub threads: u16,
    /// Slots of each ring.
    pub slots: u32,
    /// Source addresses.
    pub sources: Vec<IpAddr>,
    /// Processes to watch.
    pub watched: Vec<Watched>,
    /// Certificates and trust; `None` for plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Source ports, where so many are needed that the kernel is not to look for free ones among all.
    pub ports: Option<Ports>,
    /// Connections made per second.
    pub connect_rate: Option<f64>,
    /// Connections being made at once, per thread.
    pub connecting_max: u32,
    /// Time that is not measured.
    pub warmup: Duration,
    /// When to give up.
    pub timeout: Duration,
    /// SO_RCVBUF.
    pub receive_buffer: Option<usize>,
    /// Times that tell answers to the plan's request apart, as steps of their own.
    pub windows: Option<Arc<Windows>>,
}

/// Requests start at a rate of their own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OpenLoop {
    /// Per second, all threads together.
    pub rate: f64,
    /// How they follow one another.
    pub arrivals: Arrivals,
    /// Planned requests that may wait for their connections, all together.
    pub backlog: u64,
}

impl Plan {
    /// Whether clients ask as they connect, rather than all together when all are there.
    pub fn begins_at_once(&self) -> bool {
        self.every.is_some() || self.population.is_some() || self.is_handshakes_only()
    }

    /// Named steps that are told apart.
    pub fn steps(&self) -> usize {
        match (&self.population, &self.windows) {
            (Some(population), _) => population.names().len(),
            (None, Some(_)) => Windows::KINDS,
            (None, None) => 1,
        }
    }

    /// Whether connections are made, shake hands and end, and nothing is asked.
    pub fn is_handshakes_only(&self) -> bool {
        self.churn == Some(0)
    }
}

/// Certificates and trust as files.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// Trust; `None` takes any server.
    pub ca: Option<PathBuf>,
    /// Client certificates with their keys.
    pub pairs: Vec<(PathBuf, PathBuf)>,
    /// `1.2`, `1.3` or both.
    pub version: Option<String>,
    /// Whether sessions are resumed.
    pub resumes: bool,
}

/// What `cmg up` wrote; fields that loadgen has no use for are ignored.
#[derive(Debug, Default, Deserialize)]
struct Up {
    gateway: Option<String>,
    service: Option<String>,
    url: Option<String>,
    ca: Option<PathBuf>,
    client_cert: Option<PathBuf>,
    client_key: Option<PathBuf>,
    clients_dir: Option<PathBuf>,
    software_update_point: Option<u64>,
    tokens: Option<PathBuf>,
    #[serde(default)]
    pids: BTreeMap<String, u32>,
}

impl Options {
    /// The plan of these flags. Errors: a text for the user.
    pub fn plan(&self, slots: u32) -> Result<Plan, String> {
        let up = self.up.as_deref().map(read_up).transpose()?.unwrap_or_default();
        let mut targets = self.target.clone();
        targets.extend(up.gateway.clone().filter(|_| self.target.is_empty()));
        let target = targets.first().ok_or("no --target, and up.json names no gateway")?;
        let url = up.url.as_deref().map(split_url);
        let host_of = |target: &str| target.rsplit_once(':').map_or(target, |(host, _)| host).to_owned();
        let name = self.name.clone().or(up.service.clone()).unwrap_or_else(|| host_of(target));
        let path = self.path.clone().or(url.map(|url| url.to_owned())).unwrap_or_else(|| "/".into());
        check_path(&path)?;
        let method =
            self.method.clone().unwrap_or_else(|| if self.body.is_some() { "POST" } else { "GET" }.into());
        let (before_id, after_id) = self.request(&method, &path, &name)?;
        let addresses = targets.iter().map(|target| address(target)).collect::<Result<_, _>>()?;
        let least = self.connections.div_ceil(slots).max(1);
        let threads = self.threads.map_or(least, u32::from).min(self.connections);
        if threads < least {
            return Err(format!(
                "{} connections need at least {least} threads: the open-file limit leaves each {slots} connections",
                self.connections
            ));
        }
        check_ports(self.connections, self.source.len(), ephemeral_ports().count())?;
        let watched = watched(&up, &self.pids);
        let seed = self.seed.unwrap_or_else(any_seed);
        let population = self.population.is_asked_for().then(|| {
            let people = self.population.people(
                &name,
                up.url.as_deref(),
                (up.software_update_point, up.tokens.as_deref()),
                (self.connections, seed),
            );
            people.map(|people| Arc::new(people) as Arc<dyn Population>)
        });
        let population = population.transpose()?;
        Ok(Plan {
            targets: addresses,
            is_logged: self.output.log.is_some(),
            name,
            before_id,
            after_id,
            expect: self.expect(&method, &path),
            population,
            body: self.body,
            is_chunked: self.chunked,
            amount: self.amount()?,
            churn: self
                .requests_per_connection
                .filter(|each| self.total.is_some() || self.duration.is_some() || *each == 0),
            open_loop: self.open_loop()?,
            renew_rate: self.churn,
            seed,
            pipeline: self.pipeline as usize,
            every: self.hold.map(|hold| self.every.unwrap_or(hold)),
            reading: match (self.no_read, self.read_rate) {
                (true, _) => Reading::Never,
                (false, Some(rate)) => Reading::Rate(rate),
                (false, None) => Reading::Free,
            },
            connections: self.connections,
            threads: u16::try_from(threads).map_err(|_| "too many threads")?,
            slots: slots.min(self.connections.div_ceil(threads) + 64),
            sources: self.source.clone(),
            watched,
            tls: if self.plain { None } else { Some(self.tls_files(&up)?) },
            ports: Ports::of_many(self.connections, self.source.len(), ephemeral_ports()),
            connect_rate: self.connect_rate,
            connecting_max: self.connecting,
            warmup: self.warmup,
            timeout: self.timeout,
            receive_buffer: self.receive_buffer,
            windows: None,
        })
    }

    fn open_loop(&self) -> Result<Option<OpenLoop>, String> {
        let Some(rate) = self.rate else { return Ok(None) };
        if self.requests_per_connection == Some(0) {
            return Err("-m 0 asks nothing: --rate does not go with it, --connect-rate does".into());
        }
        if self.total.is_none() && self.duration.is_none() && self.requests_per_connection.is_none() {
            return Err("--rate needs --duration, --total or -m to know its end".into());
        }
        Ok(Some(OpenLoop { rate, arrivals: self.arrivals, backlog: self.backlog }))
    }

    fn amount(&self) -> Result<Amount, String> {
        if let Some(hold) = self.hold {
            let every = self.every.unwrap_or(hold);
            if every.is_zero() || every > hold {
                return Err("--every must be above 0 and not above --hold".into());
            }
            let rounds = (hold.as_secs_f64() / every.as_secs_f64()).floor() as u64;
            return Ok(Amount::Each(1 + rounds));
        }
        if self.population.ends() {
            return Ok(Amount::Lives);
        }
        Ok(match (self.total, self.duration, self.requests_per_connection) {
            (Some(total), _, _) => Amount::Total(total),
            (_, Some(duration), _) => Amount::Lasting(duration),
            (_, _, Some(each)) => Amount::Each(each.max(1)),
            _ => Amount::Each(1),
        })
    }

    /// What must come back to the one request of the flags.
    fn expect(&self, method: &str, path: &str) -> Expect {
        let is_head = method == "HEAD";
        let size = self.answer.unwrap_or(crate::content::ANSWER_SIZE);
        Expect {
            statuses: Statuses::of(&[200, 206]),
            check: self.ids,
            size: Some(size).filter(|_| self.ids == Check::Full && !is_head),
            offset: 0,
            is_head,
            segment: last_segment(path).into(),
            keeps: false,
            shape: None,
            held: Duration::ZERO,
        }
    }

    /// The bytes of a request before and behind its id.
    fn request(&self, method: &str, path: &str, name: &str) -> Result<(Vec<u8>, Vec<u8>), String> {
        let is_token = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(&byte))
        };
        if !is_token(method) {
            return Err(format!("--method {method:?} is no token"));
        }
        let joint = if path.contains('?') { '&' } else { '?' };
        let before = format!("{method} {path}{joint}id=");
        let mut after = self.answer.map(|size| format!("&bytes={size}")).unwrap_or_default();
        after += &format!(" HTTP/1.1\r\nHost: {name}\r\n");
        for header in &self.headers {
            let (field, value) =
                header.split_once(':').ok_or_else(|| format!("--header {header:?}: expected NAME: VALUE"))?;
            if !is_token(field) || value.contains(['\r', '\n', '\0']) {
                return Err(format!("--header {header:?} is no field"));
            }
            after += &format!("{field}: {}\r\n", value.trim());
        }
        match self.body {
            Some(_) if self.chunked => after += "Transfer-Encoding: chunked\r\n",
            Some(size) => after += &format!("Content-Length: {size}\r\n"),
            None => {}
        }
        Ok((before.into_bytes(), (after + "\r\n").into_bytes()))
    }

    fn tls_files(&self, up: &Up) -> Result<TlsFiles, String> {
        let ca = self.ca.clone().or(up.ca.clone().filter(|_| !self.insecure));
        if ca.is_none() && !self.insecure {
            return Err("give --ca, or --insecure to take any server, or --plain for no TLS".into());
        }
        let pairs = match (
            &self.cert,
            &self.key,
            &self.clients_dir,
            &up.clients_dir,
            &up.client_cert,
            &up.client_key,
        ) {
            _ if self.no_cert => Vec::new(),
            (Some(cert), Some(key), ..) => vec![(cert.clone(), key.clone())],
            (_, _, Some(folder), ..) | (_, _, None, Some(folder), ..) => pairs_in(folder)?,
            (_, _, None, None, Some(cert), Some(key)) => vec![(cert.clone(), key.clone())],
            _ => Vec::new(),
        };
        Ok(TlsFiles { ca, pairs, version: self.tls.clone(), resumes: self.resume })
    }
}

fn address(target: &str) -> Result<SocketAddr, String> {
    let mut found = target.to_socket_addrs().map_err(|error| format!("--target {target}: {error}"))?;
    found.next().ok_or_else(|| format!("--target {target}: no address"))
}

/// Source ports that the kernel gives one address, towards one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// Ports of one slice. The kernel looks through all even ports before it tries an odd one, a look at each: with half of 28,000 in
    /// use every connect would cost milliseconds.
    const SLICE: u32 = 512;

    fn count(self) -> u32 {
        u32::from(self.last - self.first) + 1
    }

    /// `all`, when connections need more than a quarter of what their sources have.
    fn of_many(connections: u32, sources: usize, all: Self) -> Option<Self> {
        let each = connections / u32::try_from(sources.max(1)).unwrap_or(u32::MAX);
        (each > all.count() / 4 && all.count() > 2 * Self::SLICE).then_some(all)
    }

    /// First and last port for a source's connection of this number. Slices have ports alike, but for a rest in the last.
    pub fn slice(self, number: usize) -> (u16, u16) {
        let slices = (self.count() / Self::SLICE) as usize;
        let at = |slice: usize| self.first + (u64::from(self.count()) * slice as u64 / slices as u64) as u16;
        let slice = number % slices;
        (at(slice), if slice + 1 == slices { self.last } else { at(slice + 1) - 1 })
    }
}

fn ephemeral_ports() -> Ports {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ends = text.split_ascii_whitespace().filter_map(|end| end.parse::<u16>().ok());
    match (ends.next(), ends.next()) {
        (Some(first), Some(last)) if last >= first => Ports { first, last },
        _ => Ports { first: 32_768, last: 60_999 },
    }
}

/// Refuses what would end in connections that cannot be made.
fn check_ports(connections: u32, sources: usize, ports: u32) -> Result<(), String> {
    let addresses = u32::try_from(sources.max(1)).unwrap_or(u32::MAX);
    if connections <= ports.saturating_mul(addresses) {
        return Ok(());
    }
    let needed = connections.div_ceil(ports.max(1));
    Err(format!(
        "{connections} connections to one target need {needed} source addresses of {ports} ports each: give them with \
         --source (on loopback 127.0.0.2,127.0.0.3 and so on), or widen net.ipv4.ip_local_port_range"
    ))
}

/// The processes that `up.json` names, behind those given, which win.
fn watched(up: &Up, given: &[Watched]) -> Vec<Watched> {
    let mut watched = given.to_vec();
    for (name, pid) in &up.pids {
        if watched.iter().all(|given| given.name != *name) {
            watched.push(Watched { name: name.clone(), pids: vec![*pid] });
        }
    }
    watched
}

/// The processes to watch as `up.json` has them now: they may have been started anew.
pub fn watched_now(up: Option<&Path>, given: &[Watched]) -> Vec<Watched> {
    let up = up.and_then(|file| read_up(file).ok()).unwrap_or_default();
    watched(&up, given)
}

/// A seed that no other run has.
fn any_seed() -> u64 {
    RandomState::new().hash_one(std::process::id()) >> 32
}

fn read_up(file: &Path) -> Result<Up, String> {
    let explain = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let text = std::fs::read_to_string(file).map_err(|error| explain(&error))?;
    let mut up: Up = serde_json::from_str(&text)
        .map_err(|error| format!("{}: is no up.json of `cmg up`: {error}", file.display()))?;
    let folder = file.parent().unwrap_or(Path::new("."));
    let paths = [&mut up.ca, &mut up.client_cert, &mut up.client_key, &mut up.clients_dir, &mut up.tokens];
    for path in paths.into_iter().flatten() {
        *path = folder.join(&*path);
    }
    Ok(up)
}

/// Path and query of a URL, or the text itself when it is a path.
fn split_url(url: &str) -> &str {
    match url.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => url,
    }
}

fn check_path(path: &str) -> Result<(), String> {
    let is_clean = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if is_clean { Ok(()) } else { Err(format!("--path {path:?} must start with / and have no blanks")) }
}

fn last_segment(path: &str) -> Vec<u8> {
    let path = path.split('?').next().unwrap_or_default();
    let segment = path.rsplit('/').next().unwrap_or_default();
    segment.replace(';', "%3B").into_bytes()
}

/// Pairs NAME.pem and NAME.key in `folder`, by name.
fn pairs_in(folder: &Path) -> Result<Vec<(PathBuf, PathBuf)>, String> {
    let explain = |error: std::io::Error| format!("{}: {error}", folder.display());
    let (mut certs, mut keys) = (Vec::new(), HashSet::new());
    for entry in std::fs::read_dir(folder).map_err(explain)? {
        let file = entry.map_err(explain)?.path();
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("pem") => certs.push(file),
            Some("key") => drop(keys.insert(file)),
            Some(_) | None => {}
        }
    }
    let pair = |cert: PathBuf| {
        Some(cert.with_extension("key")).filter(|key| keys.contains(key)).map(|key| (cert, key))
    };
    let mut pairs: Vec<_> = certs.into_iter().filter_map(pair).collect();
    pairs.sort();
    if pairs.is_empty() {
        Err(format!("{}: no pair NAME.pem, NAME.key", folder.display()))
    } else {
        Ok(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn plan(flags: &str) -> Result<Plan, String> {
        let line = ["x", "--target", "127.0.0.1:9"].into_iter().chain(flags.split_whitespace());
        Line::try_parse_from(line).map_err(|error| error.to_string())?.options.plan(19_000)
    }

    #[test]
    fn flags_become_one_request_around_its_id() {
        let plan = plan("--plain --name h --path /a/b;c?MP --body 40 --chunked --answer 9 --header x-a:1")
            .expect("valid");
        assert_eq!(plan.before_id, b"POST /a/b;c?MP&id=");
        assert_eq!(
            plan.after_id,
            b"&bytes=9 HTTP/1.1\r\nHost: h\r\nx-a: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        assert_eq!(&plan.expect.segment[..], b"b%3Bc");
    }

    #[test]
    fn amounts_follow_the_flags() {
        for (flags, amount) in [
            ("", Amount::Each(1)),
            ("-m 7", Amount::Each(7)),
            ("-m 7 --total 100", Amount::Total(100)),
            ("-d 1.5", Amount::Lasting(Duration::from_millis(1500))),
            ("--hold 60", Amount::Each(2)),
            ("--hold 60 --every 15", Amount::Each(5)),
        ] {
            assert_eq!(plan(&format!("--plain {flags}")).expect(flags).amount, amount, "{flags}");
        }
    }

    #[test]
    fn threads_are_as_few_as_hold_the_connections() {
        assert_eq!(plan("--plain -c 19000").expect("valid").threads, 1);
        assert_eq!(plan("--plain -c 19500").expect("valid").threads, 2);
        assert!(plan("--plain -c 19500 --threads 1").is_err());
    }

    #[test]
    fn slices_of_ports_are_alike_and_leave_none_out() {
        let all = Ports { first: 32_768, last: 60_999 };
        assert_eq!((Ports::of_many(7_000, 1, all), Ports::of_many(14_000, 2, all)), (None, None));
        assert_eq!(Ports::of_many(18_000, 2, all), Some(all));
        let mut next = all.first;
        for number in 0..55 {
            let (first, last) = all.slice(number);
            assert_eq!(first, next);
            assert!((513..=514).contains(&(last - first + 1)), "{first} to {last}");
            next = last + 1;
        }
        assert_eq!(next, all.last + 1);
        assert_eq!(all.slice(55), all.slice(0));
    }

    #[test]
    fn connections_beyond_the_ports_of_their_sources_are_refused() {
        for (connections, sources, is_fit) in
            [(28_000, 0, true), (28_001, 0, false), (28_001, 1, false), (56_000, 2, true), (56_001, 2, false)]
        {
            assert_eq!(check_ports(connections, sources, 28_000).is_ok(), is_fit, "{connections} {sources}");
        }
        let text = check_ports(60_000, 0, 28_000).expect_err("too many");
        assert!(text.contains("need 3 source addresses"), "{text}");
    }

    #[test]
    fn an_open_loop_knows_its_rate_and_its_end() {
        let found = plan("--plain --rate 2000 -d 5 --arrivals poisson --backlog 7 --seed 3").expect("valid");
        let open = OpenLoop { rate: 2000.0, arrivals: Arrivals::Poisson, backlog: 7 };
        assert_eq!((found.open_loop, found.seed), (Some(open), 3));
        for flags in [
            "--rate 5",
            "--rate 0 -d 1",
            "--backlog 5 -d 1",
            "--rate 5 -m 0 -d 1",
            "--rate 5 --hold 2",
            "--rate 5 -d 1 --profile population",
        ] {
            assert!(plan(&format!("--plain {flags}")).is_err(), "{flags}");
        }
    }

    #[test]
    fn a_folder_gives_its_whole_pairs_in_order() {
        let folder = tempfile::tempdir().expect("folder");
        for name in ["b.pem", "b.key", "a.pem", "a.key", "lone.pem", "lonely.key", "c.txt"] {
            std::fs::write(folder.path().join(name), "").expect("written");
        }
        let names: Vec<_> = pairs_in(folder.path()).expect("pairs").into_iter().map(|pair| pair.0).collect();
        assert_eq!(names, ["a.pem", "b.pem"].map(|name| folder.path().join(name)));
    }

    #[test]
    fn contradictions_are_refused() {
        for flags in [
            "",
            "--plain --path a",
            "--plain --header x",
            "--plain --hold 5 --every 6",
            "--plain --no-read",
            "--plain --method A/B",
        ] {
            assert!(plan(flags).is_err(), "{flags}");
        }
    }

    #[test]
    fn up_json_gives_what_flags_do_not() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("up.json");
        let text = r#"{"gateway":"127.0.0.1:8443","service":"cmg.example","url":"https://cmg.example:8443/A/1/x?y",
            "ca":"ca.pem","client_cert":"c.pem","client_key":"/k","pids":{"gateway":7,"connector":8},"admin":{"gateway":"z"}}"#;
        std::fs::write(&file, text).expect("written");
        let line = ["x", "--up", file.to_str().expect("utf-8")];
        let plan = Line::try_parse_from(line)
            .map_err(|error| error.to_string())
            .expect("flags")
            .options
            .plan(100)
            .expect("valid");
        assert_eq!(plan.targets, ["127.0.0.1:8443".parse().expect("address")]);
        assert_eq!(plan.before_id, b"GET /A/1/x?y&id=");
        let tls = plan.tls.expect("tls");
        assert_eq!(
            (tls.ca, tls.pairs),
            (Some(folder.path().join("ca.pem")), vec![(folder.path().join("c.pem"), "/k".into())])
        );
        assert_eq!(plan.watched.len(), 2);
    }
}
