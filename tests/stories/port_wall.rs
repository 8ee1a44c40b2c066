//! The wall of source ports: a connection point that has a hundred of them says so before it stands at
//! the wall, refuses clearly there, and goes on with a second address; held requests leave some to others. In
//! a network namespace of its own.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use cmg::refusal::Refusal;
use socket2::{Domain, Socket, Type};

use crate::client::{Client, config};
use crate::harness::{
    MANAGEMENT_POINT, PATIENCE, SERVICE, Setup, Stack, ask_admin, eventually, free_port, limits_of, outcome,
    read_head, run, text,
};
use crate::needs;
use crate::refusals::{assert_told, assert_whole, log_line};

const NEAR: &str = "a limit comes near";
const SCARCE: &str = "a limit is about to be reached";

/// Moves this thread, and all that it starts, into a network where sockets have 100 ports. `false`: this
/// needs root, and the story is skipped.
fn enter_small_network() -> bool {
    // SAFETY: unshare takes no memory; it moves this thread alone.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        let error = std::io::Error::last_os_error();
        assert!(std::env::var_os("CMG_REQUIRE_PROGRAMS").is_none(), "a network namespace: {error}");
        let _ = writeln!(std::io::stderr(), "SKIPPED story of the port wall: a network namespace: {error}");
        return false;
    }
    run(Command::new("ip").args(["link", "set", "lo", "up"]));
    // The kernel shows each thread the settings of its own network.
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40099").unwrap();
    true
}

/// An origin that answers nobody before it is told to.
fn late_origin() -> (String, Arc<Mutex<Vec<TcpStream>>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let held = Arc::<Mutex<Vec<TcpStream>>>::default();
    let kept = held.clone();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            read_head(&mut stream);
            kept.lock().unwrap().push(stream);
        }
    });
    (url, held)
}

/// Clients come from ports outside the hundred: the kernel gives no port for dialling that somebody bound.
fn ask(stack: &Stack, number: usize, what: &str) -> Client {
    let (certificate, key) = stack.client_pair();
    let config = config(&stack.path("pki/ca.pem"), Some((&certificate, &key)));
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let own = (Ipv4Addr::LOCALHOST, 21_000 + u16::try_from(number).unwrap());
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from(own).into()).unwrap();
    socket.connect(&stack.gateway_address().into()).unwrap();
    let mut client = Client::over(socket.into(), config, PATIENCE).unwrap();
    let target = format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/{what}");
    client.send(format!("GET {target} HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n").as_bytes());
    client
}

fn start(origin: String, sources: &str) -> Stack {
    let setup = Setup { gateway_shards: 1, connector_shards: 1, ..Setup::new(origin) };
    let mut stack = setup.prepare();
    let file = stack.path("connector.toml");
    let settings = fs::read_to_string(&file).unwrap();
    let sources = format!("[connector]\nsource_addresses = [{sources}]\n");
    fs::write(&file, settings.replacen("[connector]\n", &sources, 1)).unwrap();
    stack.start_gateway();
    stack.start_connector();
    stack.wait_until_ready();
    stack
}

/// What an ordinary request asks for.
const ORDINARY: &str = "SMS_MP/late";
/// What a request asks for that is to be held.
const HELD: &str = "BGB/handler.ashx";

/// Requests one after the other until one is refused or `most` are held.
fn hold(stack: &Stack, held: &Mutex<Vec<TcpStream>>, most: usize, what: &str) -> Vec<Client> {
    let mut clients = Vec::new();
    while clients.len() < most && stack.count_refused() == 0 {
        clients.push(ask(stack, clients.len(), what));
        eventually("it is held or refused", || {
            held.lock().unwrap().len() == clients.len() || stack.count_refused() > 0
        });
    }
    clients
}

fn answer_one(held: &Mutex<Vec<TcpStream>>, which: usize) {
    let mut one = held.lock().unwrap().remove(which);
    one.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
}

/// How many ports were in use when the connection point warned so.
fn warned_at(stack: &Stack, what: &str) -> Option<usize> {
    let log = stack.connector().log();
    let line = log.lines().find(|line| line.contains(what) && line.contains("source_ports"))?;
    let (_, used) = line.split_once("used=")?;
    used.split_whitespace().next()?.parse().ok()
}

impl Stack {
    fn count_refused(&self) -> u64 {
        self.status()["refused"]["CMGConnector_No_Source_Port"].as_u64().unwrap()
    }
}

#[test]
fn the_wall_of_ports_is_told_before_it_is_hit_and_a_second_address_goes_past_it() {
    needs!("ip", "ss");
    if !enter_small_network() {
        return;
    }
    let (url, held) = late_origin();
    let stack = start(url.clone(), "\"127.0.0.2\"");
    let mut clients = hold(&stack, &held, 150, ORDINARY);
    let mut refused = clients.pop().unwrap();
    let answer = refused.read().unwrap();
    eventually("the warnings are written", || warned_at(&stack, SCARCE).is_some());
    let warnings = [NEAR, SCARCE].map(|what| warned_at(&stack, what));
    eprintln!("100 ports: warned at {warnings:?}, {} held, then refused", clients.len());
    assert_eq!(answer.status, 503);
    let id = assert_whole(&answer, Refusal::NoSourcePort, true);
    for (role, named) in [("gateway", "peer"), ("connector", "origin")] {
        assert_told(&log_line(&stack, role, &id), Refusal::NoSourcePort, &["cause"]);
        assert!(log_line(&stack, role, &id).contains(&format!(" {named}=")));
    }
    assert_eq!((clients.len(), warnings), (100, [Some(80), Some(95)]));
    for what in ["name more in connector.source_addresses", "widen net.ipv4.ip_local_port_range"] {
        eventually(what, || stack.connector().log().contains(what));
    }
    let status = stack.connector_status();
    let [full] = &limits_of(&status, "source_ports")[..] else { panic!("{status:#}") };
    assert_eq!((&full["used"], &full["max"], &full["level"]), (&100.into(), &100.into(), &"scarce".into()));
    assert_eq!(status["state"], "Degraded");
    let (_, metrics) = ask_admin(stack.connector_admin(), "/metrics").unwrap();
    assert!(metrics.contains("cmg_limit_level{limit=\"source_ports\""), "{metrics}");
    let config = stack.path("connector.toml");
    let told = text(&outcome(crate::harness::cmg().arg("status").arg("--config").arg(&config)).stdout);
    assert!(told.contains("source_ports"), "{told}");
    // Sockets that the roles accepted and dialled are kept alive.
    let timers = text(&run(Command::new("ss").args(["-Htno", "state", "established"])));
    let gateway = format!("127.0.0.1:{} ", stack.ports.gateway);
    let of = |what: &str| timers.lines().filter(|line| line.contains(what)).collect::<Vec<_>>();
    assert!(
        of("127.0.0.2:").iter().filter(|line| line.contains("timer:(keepalive")).count() >= 100,
        "{timers}"
    );
    assert!(of(&gateway).iter().any(|line| line.contains("timer:(keepalive")), "{timers}");
    // The first that is answered makes room for another, over the connection that it left.
    answer_one(&held, 0);
    assert_eq!(clients[0].read().unwrap().status, 200);
    drop((clients, refused, stack));
    held.lock().unwrap().clear();

    let (url, held) = late_origin();
    let stack = start(url, "\"127.0.0.2\", \"127.0.0.3\"");
    let clients = hold(&stack, &held, 150, ORDINARY);
    let warnings = [NEAR, SCARCE].map(|what| warned_at(&stack, what));
    eprintln!("100 ports on each of two addresses: warned at {warnings:?}, {} held", clients.len());
    assert_eq!((clients.len(), stack.count_refused(), warnings), (150, 0, [None, None]));
    let status = stack.connector_status();
    let used: Vec<u64> =
        limits_of(&status, "source_ports").iter().map(|limit| limit["used"].as_u64().unwrap()).collect();
    assert_eq!(used, [75, 75], "{status:#}");
}

#[test]
fn held_requests_leave_ports_to_ordinary_ones() {
    needs!("ip");
    if !enter_small_network() {
        return;
    }
    let (url, held) = late_origin();
    let stack = start(url, "\"127.0.0.2\"");
    let mut clients = hold(&stack, &held, 150, HELD);
    let refused = clients.pop().unwrap().read().unwrap();
    assert_eq!((clients.len(), refused.status), (90, 503));
    let id = assert_whole(&refused, Refusal::NoSourcePort, true);
    let line = log_line(&stack, "connector", &id);
    assert_told(&line, Refusal::NoSourcePort, &["cause"]);
    assert!(line.contains("held requests may use 90 % of the ports of a source address"), "{line}");
    assert!(line.contains("name more in connector.source_addresses"), "{line}");
    let status = stack.connector_status();
    let [share] = &limits_of(&status, "held_source_ports")[..] else { panic!("{status:#}") };
    assert_eq!((&share["used"], &share["max"], &share["level"]), (&90.into(), &90.into(), &"scarce".into()));
    // What is left is for others.
    for number in 0..5 {
        clients.push(ask(&stack, 200 + number, ORDINARY));
        eventually("it has a connection", || held.lock().unwrap().len() == clients.len());
    }
    answer_one(&held, 90);
    assert_eq!(clients[90].read().unwrap().status, 200);
    // And when one that is held has left, another may come.
    drop(clients.remove(0));
    eventually("its port is given back", || {
        limits_of(&stack.connector_status(), "held_source_ports").iter().all(|share| share["used"] == 89)
    });
    clients.push(ask(&stack, 300, HELD));
    eventually("another is held", || held.lock().unwrap().len() == 95);
    assert_eq!(stack.count_refused(), 1);
    assert!(!stack.connector().log().contains("the origin cannot be reached"));
}
