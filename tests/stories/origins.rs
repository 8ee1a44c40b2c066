//! Several servers for one management point: requests are spread, one that dies or hangs costs no GET, an upload
//! stays where it was begun, and operators see all of it.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Answer, Client, config};
use crate::harness::{
    HandOrigin, MANAGEMENT_POINT, PATIENCE, SERVICE, SampleOrigin, Setup, Stack, ask_admin, eventually,
    free_port, local, read_head,
};

/// `url` for all of these.
fn list<'u>(urls: impl IntoIterator<Item = &'u str>) -> String {
    let urls: Vec<String> = urls.into_iter().map(|url| format!("\"{url}\"")).collect();
    format!("[{}]", urls.join(", "))
}

/// A stack whose management point is these servers, probed so often that a story need not wait.
fn stack_of(urls: &[String], health: &str) -> Stack {
    let site = format!("[management_point.health]\nevery_secs = 1\nwithin_secs = 1\n{health}\n");
    Setup { site, ..Setup::new(list(urls.iter().map(String::as_str))) }.start()
}

fn target(rest: &str) -> String {
    format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/{rest}")
}

/// What `/status` says of the origin at `address`.
fn of_origin(stack: &Stack, address: impl std::fmt::Display) -> serde_json::Value {
    let status = stack.connector_status();
    let origins = status["origins"].as_array().unwrap();
    let name = address.to_string();
    origins
        .iter()
        .find(|origin| origin["origin"] == name.as_str())
        .unwrap_or_else(|| panic!("{status:#}"))
        .clone()
}

fn requests(stack: &Stack, address: impl std::fmt::Display) -> u64 {
    of_origin(stack, address)["requests"].as_u64().unwrap()
}

fn metric(stack: &Stack, name: &str, address: impl std::fmt::Display) -> f64 {
    let (_, text) = ask_admin(stack.connector_admin(), "/metrics").unwrap();
    let row = format!("{name}{{origin=\"{address}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&row));
    value.unwrap_or_else(|| panic!("{row} in {text}")).parse().unwrap()
}

/// Clients that send GETs until they are stopped, each of which must be answered well.
struct Load {
    good: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    clients: Vec<thread::JoinHandle<()>>,
}

impl Load {
    fn start(stack: &Stack, clients: usize) -> Load {
        let (good, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (certificate, key) = stack.client_pair();
        let config = config(&stack.path("pki/ca.pem"), Some((&certificate, &key)));
        let address = stack.gateway_address();
        let clients = (0..clients)
            .map(|client| {
                let (good, stop, config) = (good.clone(), stop.clone(), config.clone());
                thread::spawn(move || {
                    let mut connection = Client::connect_with(address, config, PATIENCE).unwrap();
                    let mut number = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let rest = format!("SMS_MP/client-{client}-{number}");
                        let answer = connection.ask("GET", &target(&rest)).unwrap();
                        assert_eq!(answer.status, 200, "{rest}: {answer:?}");
                        assert!(answer.text().contains(&format!("target: /{rest}\n")), "{answer:?}");
                        good.fetch_add(1, Ordering::Relaxed);
                        number += 1;
                    }
                })
            })
            .collect();
        Load { good, stop, clients }
    }

    fn good(&self) -> u64 {
        self.good.load(Ordering::Relaxed)
    }

    fn flows(&self, what: &str) {
        let before = self.good();
        eventually(what, || self.good() > before + 200);
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().unwrap();
        }
        self.good.load(Ordering::Relaxed)
    }
}

#[test]
fn ten_thousand_requests_are_spread_over_all_servers_within_one_percent() {
    let origins = [(); 3].map(|()| SampleOrigin::start());
    let stack = stack_of(&origins.each_ref().map(SampleOrigin::url), "");
    let load = Load::start(&stack, 8);
    eventually("ten thousand answers", || load.good() >= 10_000);
    let good = load.stop();
    let counts = || origins.each_ref().map(|origin| requests(&stack, origin.address));
    eventually("all are counted", || counts().iter().sum::<u64>() >= good);
    let even = good as f64 / 3.0;
    for count in counts() {
        assert!((count as f64 - even).abs() <= even / 100.0, "{:?} of {good}", counts());
    }
    for origin in &origins {
        let told = of_origin(&stack, origin.address);
        assert_eq!((&told["state"], &told["failures"]), (&"up".into(), &0.into()), "{told:#}");
        let counted = metric(&stack, "cmg_connector_origin_requests_total", origin.address);
        assert_eq!(counted as u64, requests(&stack, origin.address));
    }
    assert_eq!(stack.connector_status()["state"], "Healthy");
}

#[test]
fn a_server_that_dies_costs_no_get_and_has_its_turns_again_when_it_is_back() {
    let [one, other] = [(); 2].map(|()| SampleOrigin::start());
    let stack = stack_of(&[one.url(), other.url()], "slow_start_secs = 3");
    let address = other.address;
    let load = Load::start(&stack, 6);
    load.flows("both answer");
    eventually("both are counted", || requests(&stack, address) > 0);

    let dead = other.kill();
    load.flows("the other one goes on");
    eventually("it is down", || of_origin(&stack, address)["state"] == "down");
    eventually("what failed is counted", || {
        let told = of_origin(&stack, address);
        told["failures"].as_u64().unwrap() + told["probes_failed"].as_u64().unwrap() >= 3
    });
    let told = of_origin(&stack, address);
    let cause = told["cause"].as_str().unwrap();
    assert!(
        cause.contains("refused the connection") || cause.contains("closed before an answer"),
        "{told:#}"
    );
    let status = stack.connector_status();
    assert_eq!(status["state"], "Degraded", "{status:#}");
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains(&format!("origin {address} is down: ")), "{reason}");
    assert!(metric(&stack, "cmg_connector_origin_share_ratio", address) == 0.0);
    // Each shard hears of it; then nobody asks it any more.
    eventually("nobody asks it", || {
        let before = requests(&stack, address);
        load.flows("the other one goes on");
        requests(&stack, address) == before
    });

    let alive = dead.start();
    eventually("it rises", || of_origin(&stack, address)["state"] == "rising");
    eventually("it is up", || of_origin(&stack, address)["state"] == "up");
    let before = [one.address, address].map(|address| requests(&stack, address));
    eventually("it has its turns", || requests(&stack, address) > before[1] + 200);
    let after = [one.address, address].map(|address| requests(&stack, address));
    let [first, second] = [after[0] - before[0], after[1] - before[1]];
    assert!(first.abs_diff(second) <= (first + second) / 10 + 50, "{first} and {second}");
    let good = load.stop();
    let log = stack.connector().log();
    for line in ["an origin is down", "an origin is back", "an origin is up"] {
        let said = log.lines().filter(|held| held.contains(line)).count();
        assert_eq!(said, 1, "of {good} answers, {line}: {log}");
    }
    assert_eq!(stack.connector_status()["state"], "Healthy");
    drop(alive);
}

#[test]
fn a_request_that_could_not_be_sent_goes_to_another_server_whatever_its_method() {
    let good = SampleOrigin::start();
    let nobody = local(free_port());
    // Within a story nobody finds out that it is down.
    let stack = stack_of(&[format!("http://{nobody}"), good.url()], "failures = 100");
    let mut client = stack.client().unwrap();
    for number in 0..20 {
        let rest = format!("CCM_System/{number}");
        let body = "z".repeat(number * 1_000);
        let request = format!(
            "CCM_POST {} HTTP/1.1\r\nHost: {SERVICE}\r\nContent-Length: {}\r\n\r\n{body}",
            target(&rest),
            body.len()
        );
        client.send(request.as_bytes());
        let answer = client.read().unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        let text = answer.text();
        assert!(text.contains(&format!("target: /{rest}\n")), "{text}");
        assert!(text.contains(&format!("length: {}\n", body.len())), "{text}");
    }
    let moved = || -> u64 {
        let status = stack.connector_status();
        let shards = status["shards"].as_array().unwrap().iter();
        shards.map(|shard| shard["requests_moved"].as_u64().unwrap()).sum()
    };
    assert!(moved() >= 8, "half of them went elsewhere");
    eventually("all failures are shown", || of_origin(&stack, nobody)["failures"].as_u64() == Some(moved()));
}

/// Takes requests whole and notes their methods; `answer` is what it says, and without one it hangs up.
fn take(mut stream: TcpStream, answer: Option<&str>, methods: &Mutex<Vec<String>>) {
    loop {
        let head = read_head(&mut stream);
        let Some((method, _)) = head.split_once(' ') else { return };
        let mut body = [0; 4];
        if head.contains("Content-Length: 4\r\n") && stream.read_exact(&mut body).is_err() {
            return;
        }
        methods.lock().unwrap().push(method.to_owned());
        let Some(answer) = answer else { return };
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn what_was_sent_goes_to_another_server_only_if_it_may_be_done_twice() {
    let taken = [(); 2].map(|()| Arc::new(Mutex::new(Vec::new())));
    let answers = [Some("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), None];
    let [good, bad] = [0, 1].map(|place| {
        let (methods, answer) = (taken[place].clone(), answers[place]);
        HandOrigin::start(move |stream| take(stream, answer, &methods))
    });
    // Within a story nobody finds out that the other one never answers.
    let stack = stack_of(&[good.url(), bad.url()], "failures = 100");
    let seen = |method: &str| {
        let count = |methods: &Arc<Mutex<Vec<String>>>| {
            methods.lock().unwrap().iter().filter(|one| *one == method).count()
        };
        [&taken[0], &taken[1]].map(count)
    };
    let rows = [("GET", "SMS_MP/x", "", ""), ("CCM_POST", "CCM_System/x", "Content-Length: 4\r\n", "data")];
    for (method, path, length, body) in rows {
        let target = target(path);
        let head = format!("{method} {target} HTTP/1.1\r\nHost: {SERVICE}\r\n{length}\r\n{body}");
        let mut failed = 0;
        for _ in 0..20 {
            let mut client = stack.client().unwrap();
            client.send(head.as_bytes());
            let answer = client.read().unwrap();
            match (answer.status, method) {
                (200, _) => {}
                (502, "CCM_POST") => {
                    // Of the body nobody knows how much was read.
                    assert_eq!(answer.field("Connection"), Some("close"), "{answer:?}");
                    failed += 1;
                }
                _ => panic!("{method}: {answer:?}"),
            }
        }
        let [good, bad] = seen(method);
        assert!(bad >= 8, "{method}: each has its turns: {good} and {bad}");
        match method {
            "GET" => assert_eq!((good, failed), (20, 0), "each that was lost was answered by the other"),
            _ => assert_eq!((good + bad, bad), (20, failed), "each was sent once"),
        }
    }
}

/// Hangs up on what asks for poison, and answers everything else.
fn choke(mut stream: TcpStream) {
    loop {
        let head = read_head(&mut stream);
        let mut body = [0; 4];
        let has_body = head.contains("Content-Length: 4\r\n");
        if head.is_empty() || has_body && stream.read_exact(&mut body).is_err() || head.contains("poison") {
            return;
        }
        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
            return;
        }
    }
}

#[test]
fn who_asks_for_what_servers_abort_takes_them_from_nobody() {
    let servers = [(); 2].map(|()| HandOrigin::start(choke));
    let stack = stack_of(&servers.each_ref().map(HandOrigin::url), "");
    for _ in 0..10 {
        for _ in 0..8 {
            assert_eq!(stack.client().unwrap().ask("GET", &target("SMS_MP/x")).unwrap().status, 200);
        }
        for (method, path, length, body) in [
            ("GET", "SMS_MP/poison", "", ""),
            ("CCM_POST", "CCM_System/poison", "Content-Length: 4\r\n", "data"),
        ] {
            let target = target(path);
            let mut client = stack.client().unwrap();
            client.send(
                format!("{method} {target} HTTP/1.1\r\nHost: {SERVICE}\r\n{length}\r\n{body}").as_bytes(),
            );
            let answer = client.read().unwrap();
            assert_eq!(answer.status, 502, "{answer:?}");
        }
        for server in &servers {
            let told = of_origin(&stack, server.address);
            assert_eq!(told["state"], "up", "{told:#}");
        }
    }
}

/// Accepts and never says anything.
fn mute(mut stream: TcpStream) {
    let _ = stream.read_to_end(&mut Vec::new());
}

#[test]
fn a_server_that_hangs_is_found_by_what_is_asked_of_it_and_costs_the_other_nothing() {
    let good = SampleOrigin::start();
    let hung = HandOrigin::start(mute);
    let stack = stack_of(&[good.url(), hung.url()], "path = \"/SMS_MP/.sms_aut?MPLIST\"\nfailures = 2");
    // Some hang until it is found: what was sent may have been done.
    let stuck: Vec<_> = (0..8)
        .map(|_| {
            let mut client = stack.client().unwrap();
            let request = format!("GET {} HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n", target("SMS_MP/x"));
            client.send(request.as_bytes());
            client
        })
        .collect();
    eventually("it is down", || of_origin(&stack, hung.address)["state"] == "down");
    let told = of_origin(&stack, hung.address);
    assert_eq!(told["cause"], "probed, it did not answer within 1 s", "{told:#}");
    let mut client = stack.client().unwrap();
    eventually("each shard has heard of it", || {
        let before = requests(&stack, hung.address);
        (0..20).for_each(|_| drop(stack.client().unwrap().ask("GET", &target("SMS_MP/x"))));
        requests(&stack, hung.address) == before
    });
    for _ in 0..200 {
        let begin = Instant::now();
        assert_eq!(client.ask("GET", &target("SMS_MP/y")).unwrap().status, 200);
        assert!(begin.elapsed() < Duration::from_secs(5));
    }
    drop(stuck);
}

// ── uploads ─────────────────────────────────────────────────────────────────────────────────────

/// Takes uploads as BITS does: knows the sessions that it began and no other.
#[derive(Clone)]
struct Uploads {
    name: usize,
    sessions: Arc<Mutex<HashSet<String>>>,
}

impl Uploads {
    fn start(name: usize) -> (Uploads, HandOrigin) {
        let uploads = Uploads { name, sessions: Arc::default() };
        let serving = uploads.clone();
        (uploads, HandOrigin::start(move |stream| serving.serve(stream)))
    }

    fn serve(&self, mut stream: TcpStream) {
        loop {
            let head = read_head(&mut stream);
            let Some(line) = head.lines().next() else { return };
            let field = |name: &str| {
                let of_name = |line: &&str| {
                    line.split_once(':').is_some_and(|(held, _)| held.eq_ignore_ascii_case(name))
                };
                head.lines().find(of_name).map(|line| line.split_once(':').unwrap().1.trim().to_owned())
            };
            let length = field("content-length").map_or(0, |length| length.parse().unwrap());
            stream.read_exact(&mut vec![0; length]).unwrap();
            assert!(line.starts_with("BITS_POST "), "{line}");
            let session = match field("bits-packet-type").as_deref() {
                Some("CREATE-SESSION") => self.begin(),
                _ => field("bits-session-id").unwrap(),
            };
            let is_known = self.sessions.lock().unwrap().contains(&session);
            let status = if is_known { "200 OK" } else { "500 Unknown session" };
            let answer = format!(
                "HTTP/1.1 {status}\r\nBITS-Packet-Type: Ack\r\nBITS-Session-Id: {session}\r\nX-Origin: {}\r\nContent-Length: 0\r\n\r\n",
                self.name
            );
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn begin(&self) -> String {
        let mut sessions = self.sessions.lock().unwrap();
        let session = format!("{{{:08x}-0000-4000-8000-{:012x}}}", sessions.len(), self.name);
        sessions.insert(session.clone());
        session
    }
}

/// Sends one packet on a connection of its own, so that any shard may get it.
fn packet(stack: &Stack, path: &str, kind: &str, session: Option<&str>) -> Answer {
    let mut client = stack.client().unwrap();
    let session = session.map_or(String::new(), |session| format!("BITS-Session-Id: {session}\r\n"));
    let head = format!(
        "BITS_POST {} HTTP/1.1\r\nHost: {SERVICE}\r\nBITS-Packet-Type: {kind}\r\n{session}Content-Length: 4\r\n\r\ndata",
        target(path)
    );
    client.send(head.as_bytes());
    client.read().unwrap()
}

#[test]
fn the_packets_of_an_upload_go_to_the_server_that_began_it() {
    let servers = [0, 1, 2].map(Uploads::start);
    let stack = stack_of(&servers.each_ref().map(|(_, origin)| origin.url()), "");
    let mut holders = HashSet::new();
    // So many that none of three is left out by chance.
    for number in 0..30 {
        let path = format!("CCM_Incoming/{{{number:08x}}}.pkg");
        let begun = packet(&stack, &path, "CREATE-SESSION", None);
        assert_eq!(begun.status, 200, "{begun:?}");
        let (session, holder) = (begun.field("BITS-Session-Id").unwrap(), begun.field("X-Origin").unwrap());
        holders.insert(holder.to_owned());
        for kind in ["FRAGMENT", "FRAGMENT", "CLOSE-SESSION"] {
            let answer = packet(&stack, &path, kind, Some(session));
            assert_eq!((answer.status, answer.field("X-Origin")), (200, Some(holder)), "{answer:?}");
        }
        // A session is known by its name alone, whatever its path, on every shard.
        for other in 0..6 {
            let answer = packet(&stack, &format!("CCM_Incoming/{other}"), "FRAGMENT", Some(session));
            assert_eq!((answer.status, answer.field("X-Origin")), (200, Some(holder)), "{answer:?}");
        }
        // And one that nobody here has heard of goes where the path was sent first.
        let strange = "{7df0354d-249b-430f-820d-3d2a9bef4931}";
        let answer = packet(&stack, &path, "FRAGMENT", Some(strange));
        assert_eq!((answer.status, answer.field("X-Origin")), (500, Some(holder)), "{answer:?}");
    }
    assert_eq!(holders.len(), 3, "they are spread");
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn an_upload_stays_where_it_was_begun_when_another_server_comes_back() {
    let (_, lasting) = Uploads::start(0);
    let mortal = SampleOrigin::start();
    let stack = stack_of(&[lasting.url(), mortal.url()], "");
    let dead = mortal.kill();
    eventually("it is down", || of_origin(&stack, dead.address)["state"] == "down");
    // Those that begin now all go to the one that is there.
    let sessions: Vec<(String, String)> = (0..6)
        .map(|number| {
            let path = format!("CCM_Incoming/{number}");
            let begun = packet(&stack, &path, "CREATE-SESSION", None);
            assert_eq!((begun.status, begun.field("X-Origin")), (200, Some("0")), "{begun:?}");
            (path, begun.field("BITS-Session-Id").unwrap().to_owned())
        })
        .collect();
    let alive = dead.start();
    eventually("it is back", || of_origin(&stack, alive.address)["state"] != "down");
    // They stay there when the other is back, which some of their paths would lead to.
    for (path, session) in &sessions {
        let answer = packet(&stack, path, "FRAGMENT", Some(session));
        assert_eq!((answer.status, answer.field("X-Origin")), (200, Some("0")), "{answer:?}");
    }
}

#[test]
fn a_packet_of_an_upload_that_cannot_be_sent_goes_nowhere_else_and_one_that_begins_an_upload_does() {
    let (_, there) = Uploads::start(0);
    let nobody = local(free_port());
    // Within a story nobody finds out that it is down.
    let stack = stack_of(&[format!("http://{nobody}"), there.url()], "failures = 100");
    let strange = "{7df0354d-249b-430f-820d-3d2a9bef4931}";
    let mut refused = 0;
    // So many that their paths lead to both.
    for number in 0..20 {
        let path = format!("CCM_Incoming/{{{number:08x}}}.pkg");
        let answer = packet(&stack, &path, "FRAGMENT", Some(strange));
        match answer.status {
            502 => refused += 1,
            _ => assert_eq!((answer.status, answer.field("X-Origin")), (500, Some("0")), "{answer:?}"),
        }
        let begun = packet(&stack, &path, "CREATE-SESSION", None);
        assert_eq!((begun.status, begun.field("X-Origin")), (200, Some("0")), "{begun:?}");
    }
    assert!((1..20).contains(&refused), "{refused}");
}
