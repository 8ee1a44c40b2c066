//! Processes that take each other's place under load, and one that ends alone: what clients see of it.

use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use crate::client::{Client, config};
use crate::harness::{
    HandOrigin, MANAGEMENT_POINT, PATIENCE, Process, SERVICE, SampleOrigin, Setup, Stack, ask_admin, cmg,
    eventually, local, outcome, read_head, text,
};

// ── load ────────────────────────────────────────────────────────────────────────────────────────

#[derive(Default)]
struct Tally {
    good: AtomicU64,
    /// On a connection that had been used and ended before anything of the answer came.
    closed_unread: AtomicU64,
    stop: AtomicBool,
}

/// Clients that ask again and again: half of them on a new connection each time, half on one as long as it
/// lasts; GETs and POSTs in turn. Anything but the right answer is a panic of theirs.
pub struct Load {
    tally: Arc<Tally>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(stack: &Stack, clients: usize) -> Load {
        let tally = Arc::new(Tally::default());
        let (certificate, key) = stack.client_pair();
        let config = config(&stack.path("pki/ca.pem"), Some((&certificate, &key)));
        let address = stack.gateway_address();
        let clients = (0..clients)
            .map(|client| {
                let asks = Asks { client, address, config: config.clone(), tally: tally.clone() };
                thread::spawn(move || asks.live())
            })
            .collect();
        Load { tally, clients }
    }

    pub fn flows(&self, what: &str) {
        let before = self.tally.good.load(Ordering::Relaxed);
        let is_broken = || self.clients.iter().any(JoinHandle::is_finished);
        eventually(what, || {
            assert!(!is_broken(), "a client saw a failure");
            self.tally.good.load(Ordering::Relaxed) > before + 100
        });
    }

    /// Answers, and requests that were asked once more.
    pub fn stop(self) -> (u64, u64) {
        self.tally.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("no request failed");
        }
        let [good, unread] =
            [&self.tally.good, &self.tally.closed_unread].map(|count| count.load(Ordering::Relaxed));
        println!("{good} answers, {unread} asked once more on another connection");
        (good, unread)
    }
}

struct Asks {
    client: usize,
    address: SocketAddr,
    config: Arc<ClientConfig>,
    tally: Arc<Tally>,
}

impl Asks {
    fn live(&self) {
        let keeps = self.client.is_multiple_of(2);
        let mut kept = None;
        let mut number = 0_u64;
        while !self.tally.stop.load(Ordering::Relaxed) {
            let is_used = kept.is_some();
            let mut connection = kept.take().unwrap_or_else(|| self.connect());
            match self.ask(&mut connection, number) {
                Ok(goes_on) => {
                    self.tally.good.fetch_add(1, Ordering::Relaxed);
                    number += 1;
                    kept = Some(connection).filter(|_| keeps && goes_on);
                }
                Err(error) if is_used && error.kind() == io::ErrorKind::UnexpectedEof => {
                    assert!(!connection.has_heard(), "an answer that broke off");
                    self.tally.closed_unread.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => panic!("client {} request {number} (used: {is_used}): {error}", self.client),
            }
            thread::sleep(Duration::from_millis(if keeps { 3 } else { 10 }));
        }
    }

    fn connect(&self) -> Client {
        let patience = Duration::from_secs(30);
        Client::connect_with(self.address, self.config.clone(), patience)
            .unwrap_or_else(|error| panic!("client {} cannot connect: {error}", self.client))
    }

    /// Whether the connection goes on.
    fn ask(&self, connection: &mut Client, number: u64) -> io::Result<bool> {
        let id = format!("client-{}-{number}", self.client);
        let body = if number % 2 == 1 { format!("{id}-{}", "z".repeat(3_000)) } else { String::new() };
        let method = if body.is_empty() { "GET" } else { "CCM_POST" };
        let target = format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/SMS_MP/{id}");
        let length = body.len();
        let head =
            format!("{method} {target} HTTP/1.1\r\nHost: {SERVICE}\r\nContent-Length: {length}\r\n\r\n");
        connection.try_send((head + &body).as_bytes())?;
        let answer = connection.read()?;
        let said = answer.text();
        let is_right = answer.status == 200
            && said.contains(&format!("target: /SMS_MP/{id}\n"))
            && said.contains(&format!("length: {length}\n"));
        assert!(is_right, "for {id}: {answer:?}");
        Ok(answer.field("Connection") != Some("close"))
    }
}

/// Waits until the process before has served what it had, and is gone.
fn gone(mut process: Process) {
    let status = process.wait_for_exit(PATIENCE).expect("it leaves");
    assert!(status.success(), "{status}\n{}", process.log());
}

fn change(stack: &Stack, file: &str, from: &str, to: &str) {
    let before = fs::read_to_string(stack.path(file)).unwrap();
    assert!(before.contains(from), "{from} is not in {before}");
    fs::write(stack.path(file), before.replacen(from, to, 1)).unwrap();
}

// ── gateways ────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_gateway_is_upgraded_again_and_again_and_no_client_notices() {
    let origin = SampleOrigin::start();
    let mut stack = Setup { gateway_limits: "drain_secs = 5".into(), ..Setup::new(origin.url()) }.start();
    let load = Load::start(&stack, 8);
    let mut shards = 2;
    for next in [3, 1, 2] {
        load.flows("it flows");
        // Whoever takes over may have more shards or fewer: the sockets are the same.
        change(&stack, "gateway.toml", &format!("shards = {shards}"), &format!("shards = {next}"));
        shards = next;
        let successor = stack.start_successor("gateway");
        gone(stack.gateway.replace(successor).unwrap());
        load.flows("it flows by the next one");
        let status = stack.status();
        assert_eq!(
            status["shards"].as_array().unwrap().len(),
            shards,
            "the admin port is that of the new one"
        );
        eventually("the connection point is whole", || {
            matches!(ask_admin(stack.connector_admin(), "/readyz"), Some((200, _)))
        });
    }
    let (good, unread) = load.stop();
    assert!(good > 600, "{good}");
    assert!(unread <= 3 * 8, "{unread} connections were closed under a request");
    assert_eq!(stack.count("panics"), 0);
    assert!(!stack.connector().log().contains("no channel"), "{}", stack.connector().log());
}

#[test]
fn a_successor_that_cannot_do_the_work_leaves_it_to_the_one_before() {
    let origin = SampleOrigin::start();
    let stack = Setup::new(origin.url()).start();
    let load = Load::start(&stack, 4);
    load.flows("it flows");
    // Wrong settings: it never asks.
    change(&stack, "gateway.toml", "shards = 2", "shards = 0");
    let output = outcome(stack.role("gateway").arg("--upgrade"));
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("gateway.shards"), "{}", text(&output.stderr));
    let output = outcome(cmg().arg("upgrade").arg("--config").arg(stack.path("gateway.toml")));
    assert_ne!(output.status.code(), Some(0));
    change(&stack, "gateway.toml", "shards = 0", "shards = 2");
    load.flows("it flows by the one that is there");
    // It is lost when channels have come to it.
    for round in 1..=2 {
        let successor = stack.start_successor("gateway");
        let log = || fs::read_to_string(stack.path("gateway.log")).unwrap();
        let of_last =
            |log: &str| log.rsplit("gateway started").next().is_some_and(|own| own.contains("channel up"));
        eventually("channels come to it", || {
            log().matches("gateway started").count() > round && of_last(&log())
        });
        successor.kill();
        eventually("it is noticed", || log().matches("this one goes on").count() == round);
        load.flows("it flows by the one that is there");
    }
    // A port that nobody has, and that it cannot have.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let more = format!("[[listener]]\naddress = \"{}\"\n[[server", taken.local_addr().unwrap());
    change(&stack, "gateway.toml", "[[server", &more);
    let output = outcome(stack.role("gateway").arg("--upgrade"));
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("in use"), "{}", text(&output.stderr));
    load.flows("it flows by the one that is there");
    assert_eq!(load.stop().1, 0, "no connection was ended");
    assert_eq!(stack.count("panics"), 0);
    assert!(matches!(ask_admin(stack.connector_admin(), "/readyz"), Some((200, _))));
}

#[test]
fn a_socket_that_others_may_use_is_not_asked_for_a_place() {
    let mut stack = Setup::new("http://127.0.0.1:9").prepare();
    stack.start_gateway();
    let socket = stack.path("gateway.upgrade.sock");
    eventually("it waits to be asked", || socket.exists());
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&socket, Permissions::from_mode(0o666)).unwrap();
    let output = outcome(stack.role("gateway").arg("--upgrade"));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("mode 0666"), "{}", text(&output.stderr));
    assert!(stack.gateway.as_mut().unwrap().is_running());
}

#[test]
fn where_nobody_runs_an_upgrade_is_a_start() {
    let origin = SampleOrigin::start();
    let mut stack = Setup::new(origin.url()).prepare();
    let output = outcome(cmg().arg("upgrade").arg("--config").arg(stack.path("gateway.toml")));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no gateway runs"), "{}", text(&output.stderr));
    stack.gateway = Some(stack.start_successor("gateway"));
    stack.connector = Some(stack.start_successor("connector"));
    stack.wait_until_ready();
}

// ── connection points ───────────────────────────────────────────────────────────────────────────

#[test]
fn a_connection_point_is_upgraded_again_and_again_and_no_client_notices() {
    let origin = SampleOrigin::start();
    let mut stack = Setup { connector_limits: "drain_secs = 5".into(), ..Setup::new(origin.url()) }.start();
    let load = Load::start(&stack, 8);
    for serial in [2, 3, 3] {
        load.flows("it flows");
        // The same settings, or later ones.
        let site = fs::read_to_string(stack.path("site.toml")).unwrap();
        let lines = site.lines().map(|line| {
            if line.starts_with("serial = ") { format!("serial = {serial}\n") } else { format!("{line}\n") }
        });
        fs::write(stack.path("site.toml"), lines.collect::<String>()).unwrap();
        let successor = stack.start_successor("connector");
        gone(stack.connector.replace(successor).unwrap());
        load.flows("it flows by the next one");
        assert_eq!(stack.status()["sites"][0]["serial"], serial);
        assert!(matches!(ask_admin(stack.connector_admin(), "/readyz"), Some((200, _))));
    }
    assert_eq!(load.stop().1, 0, "no connection of a client was ended");
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn a_connection_point_whose_settings_are_refused_takes_nobodys_place() {
    let origin = SampleOrigin::start();
    let mut stack = Setup::new(origin.url()).start();
    // Other settings under the same serial.
    change(&stack, "site.toml", "[[management_point]]", "[[management_point]]\nexclude = [\"BGB\"]");
    let mut successor = stack.start_successor("connector");
    let status = successor.wait_for_exit(PATIENCE).expect("it gives up");
    assert_eq!(status.code(), Some(1), "{}", successor.log());
    assert!(successor.log().contains("not ready within"), "{}", successor.log());
    assert!(stack.connector.as_mut().unwrap().is_running());
    stack.wait_until_ready();
}

#[test]
fn a_connection_point_that_is_told_to_end_takes_nobodys_place() {
    let origin = SampleOrigin::start();
    let mut stack = Setup::new(origin.url()).start();
    // Refused settings keep it from being ready for a while.
    change(&stack, "site.toml", "[[management_point]]", "[[management_point]]\nexclude = [\"BGB\"]");
    let mut successor = stack.start_successor("connector");
    let log = || fs::read_to_string(stack.path("connector.log")).unwrap();
    eventually("it is refused", || log().contains("settings are not in force"));
    let began = Instant::now();
    successor.signal(libc::SIGTERM);
    let status = successor.wait_for_exit(PATIENCE).expect("it ends");
    assert!(status.success() && began.elapsed() < Duration::from_secs(3), "{status}: at once");
    eventually("it is noticed", || log().contains("this one goes on"));
    assert!(stack.connector.as_mut().unwrap().is_running());
    stack.wait_until_ready();
}

// ── the end of one alone ────────────────────────────────────────────────────────────────────────

/// Holds every request below `BGB` for ever, and answers others.
fn holding() -> HandOrigin {
    HandOrigin::start(|mut stream| {
        loop {
            let head = read_head(&mut stream);
            if head.is_empty() {
                return;
            }
            if head.contains("/BGB") {
                let _ = stream.read_to_end(&mut Vec::new());
                return;
            }
            let _ = io::Write::write_all(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    })
}

/// So many held requests, each with its client in a thread that gives how it ended, and when.
fn hold(stack: &Stack, count: usize) -> Vec<JoinHandle<(u16, Option<String>, Instant)>> {
    let target = format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/BGB/handler.ashx");
    let request = format!("GET {target} HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n");
    let held = (0..count).map(|_| {
        let mut client = stack.client().unwrap();
        client.send(request.as_bytes());
        thread::spawn(move || {
            let answer = client.read().expect("an answer, not a cut");
            assert_eq!(answer.field("X-CMG-Status"), Some("CMGService_No_Connector"), "{answer:?}");
            assert!(answer.field("Retry-After").is_some(), "{answer:?}");
            (answer.status, answer.field("Connection").map(str::to_owned), Instant::now())
        })
    });
    let held = held.collect();
    eventually("all are held", || stack.count("active") == count as u64);
    held
}

/// Seconds from `began` to each end, in order.
fn ends(held: Vec<JoinHandle<(u16, Option<String>, Instant)>>, began: Instant, goes_on: bool) -> Vec<f32> {
    let ended = held.into_iter().map(|one| one.join().unwrap());
    let mut ends: Vec<f32> = ended
        .map(|(status, connection, at)| {
            assert_eq!((status, connection.as_deref() != Some("close")), (503, goes_on));
            (at - began).as_secs_f32()
        })
        .collect();
    ends.sort_by(f32::total_cmp);
    println!("held requests ended after {ends:.1?} s");
    ends
}

fn is_spread(ends: &[f32], grace: f32) -> bool {
    let third = |from: f32, to: f32| ends.iter().filter(|end| (from..to).contains(*end)).count();
    let least = ends.len() / 6;
    third(0.0, grace / 3.0) >= least
        && third(grace / 3.0, grace * 2.0 / 3.0) >= least
        && third(grace * 2.0 / 3.0, grace + 1.0) >= least
}

#[test]
fn a_gateway_that_stops_ends_held_requests_over_its_grace_time() {
    let origin = holding();
    let limits = "drain_secs = 6".to_owned();
    let mut stack = Setup { gateway_limits: limits, ..Setup::new(origin.url()) }.start();
    let held = hold(&stack, 24);
    let mut kept = stack.client().unwrap();
    let target = format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/SMS_MP/x");
    assert_eq!(kept.ask("GET", &target).unwrap().status, 200);
    let address = stack.gateway_address();
    let mut gateway = stack.gateway.take().unwrap();
    let began = Instant::now();
    gateway.signal(libc::SIGTERM);
    eventually("nobody is accepted", || {
        TcpStream::connect(address).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    });
    assert!(began.elapsed() < Duration::from_secs(3), "and at once");
    assert_eq!(ask_admin(local(stack.ports.gateway_admin), "/readyz").unwrap().0, 503);
    assert!(kept.ends_with_goodbye(), "a client at rest is said goodbye to");
    assert!(began.elapsed() < Duration::from_secs(3));
    let ends = ends(held, began, false);
    assert!(is_spread(&ends, 6.0), "{ends:?}");
    let status = gateway.wait_for_exit(PATIENCE).expect("it ends");
    assert!(status.success() && began.elapsed() < Duration::from_secs(12), "{status}");
}

#[test]
fn a_connection_point_that_stops_ends_held_requests_over_its_grace_time() {
    let origin = holding();
    let limits = "drain_secs = 6".to_owned();
    let mut stack = Setup { connector_limits: limits, ..Setup::new(origin.url()) }.start();
    let held = hold(&stack, 24);
    let mut connector = stack.connector.take().unwrap();
    let began = Instant::now();
    connector.signal(libc::SIGTERM);
    let ends = ends(held, began, true);
    assert!(is_spread(&ends, 6.0), "{ends:?}");
    assert!(connector.wait_for_exit(PATIENCE).expect("it ends").success());
}

#[test]
fn a_fresh_start_has_the_addresses_of_one_that_drains_for_a_successor_that_died() {
    let origin = holding();
    let limits = "drain_secs = 20".to_owned();
    let mut stack = Setup { gateway_limits: limits, ..Setup::new(origin.url()) }.start();
    let held = hold(&stack, 6);
    let successor = stack.start_successor("gateway");
    let log = || fs::read_to_string(stack.path("gateway.log")).unwrap();
    eventually("it has taken over", || log().contains("has taken the place of the one before"));
    let began = Instant::now();
    eventually("the one before leaves", || log().contains("another process has taken this one's place"));
    successor.kill();
    let mut drains = stack.gateway.take().unwrap();
    stack.start_gateway();
    stack.wait_until_ready();
    assert!(drains.is_running(), "it serves what it had");
    let mut client = stack.client().unwrap();
    let target = format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/SMS_MP/x");
    assert_eq!(client.ask("GET", &target).unwrap().status, 200);
    ends(held, began, false);
    gone(drains);
}

// ── systemd ─────────────────────────────────────────────────────────────────────────────────────

/// What a process says to the one that started it.
struct Manager {
    socket: UnixDatagram,
}

impl Manager {
    fn hear(&self) -> String {
        let mut heard = [0; 256];
        self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let size = self.socket.recv(&mut heard).expect("it says something");
        text(&heard[..size])
    }
}

/// A process that is ended by its id, for nobody here is its parent.
struct Orphan(i32);

impl Orphan {
    fn signal(&self, signal: i32) {
        // SAFETY: no memory is involved; the process is one that this story had started.
        unsafe { libc::kill(self.0, signal) };
    }

    /// Whoever is to take note of its end may be in no hurry.
    fn is_alive(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        self.signal(libc::SIGKILL);
    }
}

#[test]
fn cmg_upgrade_waits_until_the_next_process_has_taken_over_and_says_so() {
    let origin = SampleOrigin::start();
    let mut stack = Setup::new(origin.url()).prepare();
    let place = stack.path("notify");
    let manager = Manager { socket: UnixDatagram::bind(&place).unwrap() };
    let log = stack.path("gateway.log");
    let mut command = stack.role("gateway");
    stack.gateway = Some(Process::start(command.env("NOTIFY_SOCKET", &place), &log));
    assert_eq!(manager.hear(), "READY=1");
    stack.start_connector();
    stack.wait_until_ready();
    let mut command = cmg();
    command.arg("upgrade").arg("--config").arg(stack.path("gateway.toml")).env("NOTIFY_SOCKET", &place);
    // Files, for the process that it starts goes on to hold them.
    let file = |name: &str| fs::File::create(stack.path(name)).unwrap();
    let status = command.stdout(file("said")).stderr(file("next.log")).status().unwrap();
    assert!(status.success(), "{}", fs::read_to_string(stack.path("next.log")).unwrap());
    let said = fs::read_to_string(stack.path("said")).unwrap();
    let pid = said.strip_prefix("gateway ").and_then(|rest| rest.split(' ').next()).expect(&said);
    let next = Orphan(pid.parse().unwrap());
    assert_eq!(manager.hear(), format!("MAINPID={pid}"), "by the one before, which may end from then on");
    assert_eq!(manager.hear(), format!("MAINPID={pid}\nREADY=1"));
    gone(stack.gateway.take().unwrap());
    stack.wait_until_ready();
    next.signal(libc::SIGTERM);
    assert_eq!(manager.hear(), "STOPPING=1");
    eventually("it ends", || !next.is_alive());
}

#[test]
fn two_upgrades_at_once_leave_one_process_and_cost_no_request() {
    let origin = SampleOrigin::start();
    let mut stack = Setup { gateway_limits: "drain_secs = 3".into(), ..Setup::new(origin.url()) }.start();
    let load = Load::start(&stack, 6);
    load.flows("it flows");
    let names = ["first", "second"];
    let read = |name: &str, end: &str| fs::read_to_string(stack.path(&format!("{name}.{end}"))).unwrap();
    let upgrades = names.map(|name| {
        let file = |end: &str| fs::File::create(stack.path(&format!("{name}.{end}"))).unwrap();
        let mut command = cmg();
        command.arg("upgrade").arg("--config").arg(stack.path("gateway.toml"));
        command.stdout(file("said")).stderr(file("log")).spawn().unwrap()
    });
    let done = upgrades.map(|mut upgrade| upgrade.wait().unwrap().success());
    let pid = |name: &str| {
        let said = read(name, "said");
        said.strip_prefix("gateway ").and_then(|rest| rest.split(' ').next()).expect(&said).parse().unwrap()
    };
    // One that is refused, or finds the place taken over, says so and has left nothing.
    let next: Vec<_> =
        names.iter().zip(done).filter(|(_, done)| *done).map(|(name, _)| Orphan(pid(name))).collect();
    let logs = names.map(|name| read(name, "log")).join("\n");
    assert!(!next.is_empty(), "{logs}");
    for (name, _) in names.iter().zip(done).filter(|(_, done)| !done) {
        assert!(read(name, "log").contains("has not taken over"), "{logs}");
    }
    load.flows("it flows by the one that has the place");
    gone(stack.gateway.take().unwrap());
    eventually("one is left", || next.iter().filter(|one| one.is_alive()).count() == 1);
    let holder = cmg::upgrade::holder(&stack.path("gateway.upgrade.sock")).unwrap();
    assert!(next.iter().any(|one| one.0 == holder && one.is_alive()), "{logs}");
    load.flows("it flows on");
    let (good, _) = load.stop();
    assert!(good > 300, "{good}");
}

/// A gateway that finds these listeners where systemd leaves them.
fn with_sockets(stack: &Stack, listeners: &[TcpListener; 2]) -> Command {
    let mut command = Command::new("sh");
    let script = "export LISTEN_PID=$$; exec \"$0\" gateway --config \"$1\"";
    command.args(["-c", script, env!("CARGO_BIN_EXE_cmg")]).arg(stack.path("gateway.toml"));
    command.env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", "clients:channels");
    let [one, two] = listeners.each_ref().map(AsRawFd::as_raw_fd);
    // SAFETY: fcntl and dup2 are async-signal-safe and touch no memory of ours.
    unsafe {
        command.pre_exec(move || {
            // Out of the way first, so that neither is overwritten.
            let (high, higher) =
                (libc::fcntl(one, libc::F_DUPFD_CLOEXEC, 200), libc::fcntl(two, libc::F_DUPFD_CLOEXEC, 200));
            match libc::dup2(high, 3) == 3 && libc::dup2(higher, 4) == 4 {
                true => Ok(()),
                false => Err(io::Error::last_os_error()),
            }
        });
    }
    command
}

#[test]
fn sockets_of_systemd_keep_clients_waiting_while_a_gateway_restarts() {
    let origin = SampleOrigin::start();
    let mut stack = Setup::new(origin.url()).prepare();
    let listeners =
        [stack.ports.gateway, stack.ports.channel].map(|port| TcpListener::bind(local(port)).unwrap());
    let log = stack.path("gateway.log");
    stack.gateway = Some(Process::start(&mut with_sockets(&stack, &listeners), &log));
    stack.start_connector();
    stack.wait_until_ready();
    let gateway = stack.gateway.take().unwrap();
    gateway.signal(libc::SIGTERM);
    gone(gateway);
    let target = format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/SMS_MP/x");
    let (certificate, key) = stack.client_pair();
    let config = config(&stack.path("pki/ca.pem"), Some((&certificate, &key)));
    let address = stack.gateway_address();
    let waits = thread::spawn(move || {
        let mut client = Client::connect_with(address, config, PATIENCE).expect("it waits in the queue");
        client.ask("GET", &target).unwrap().status
    });
    thread::sleep(Duration::from_millis(500));
    stack.gateway = Some(Process::start(&mut with_sockets(&stack, &listeners), &log));
    assert_eq!(waits.join().unwrap(), 200);
}
