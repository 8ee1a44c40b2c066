//! Clients that come back: by the tickets of another instance or of an earlier start, and all at once.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cmg::limits;
use cmg::pki::Pki;
use rustls::{ClientConfig, ClientConnection};

use crate::client::{Client, config};
use crate::harness::{
    MANAGEMENT_POINT, PATIENCE, Process, SERVICE, SampleOrigin, Setup, Stack, cmg, eventually, free_port,
};

fn target() -> String {
    format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/SMS_MP/x")
}

/// What connections of one client have in common, the sessions it may take up included.
fn one_client(stack: &Stack) -> Arc<ClientConfig> {
    let (certificate, key) = stack.client_pair();
    config(&stack.path("pki/ca.pem"), Some((&certificate, &key)))
}

fn connect(stack: &Stack, config: &Arc<ClientConfig>) -> Client {
    Client::connect_with(stack.gateway_address(), config.clone(), PATIENCE).unwrap()
}

// ── tickets ─────────────────────────────────────────────────────────────────────────────────────

/// Whether a visit to whoever listens there resumed; the client leaves with a ticket of it.
fn resumes(config: &Arc<ClientConfig>, port: u16) -> bool {
    let address = ([127, 0, 0, 1], port).into();
    let mut client = None;
    eventually("it takes clients", || {
        client = Client::connect_with(address, config.clone(), PATIENCE).ok();
        client.is_some()
    });
    let mut client = client.unwrap();
    // The ticket comes with the answer, whatever that is.
    assert_eq!(client.ask("GET", "/nowhere").unwrap().status, 404);
    client.is_resumed()
}

/// Another instance on this machine, with its own listeners and this file of ticket keys.
fn start_beside(stack: &Stack, name: &str, ticket_keys: &str) -> (Process, u16) {
    let text = std::fs::read_to_string(stack.path("gateway.toml")).unwrap();
    let port = free_port();
    let text = text
        .replace(&format!(":{}\"", stack.ports.gateway), &format!(":{port}\""))
        .replace(&format!(":{}\"", stack.ports.channel), &format!(":{}\"", free_port()))
        .replace(&format!(":{}\"", stack.ports.gateway_admin), &format!(":{}\"", free_port()))
        .replace("state_dir = \"state\"", &format!("state_dir = \"state-{name}\""))
        .replace("[admin]", &format!("[admin]\nsocket = \"{name}.sock\""))
        .replace("first.keys", ticket_keys);
    let file = stack.path(&format!("{name}.toml"));
    std::fs::write(&file, text).unwrap();
    let log = stack.path(&format!("{name}.log"));
    (Process::start(cmg().arg("gateway").arg("--config").arg(file), &log), port)
}

#[test]
fn instances_with_one_file_of_ticket_keys_resume_each_others_sessions_also_after_a_restart() {
    let setup = Setup { gateway: "ticket_keys = \"first.keys\"".into(), ..Setup::new("http://127.0.0.1:1") };
    let mut stack = setup.prepare();
    // Octets or digits, it is the same secret; the third is another.
    std::fs::write(stack.path("first.keys"), "5a".repeat(32)).unwrap();
    std::fs::write(stack.path("second.keys"), [0x5a; 32]).unwrap();
    std::fs::write(stack.path("third.keys"), [0xa5; 32]).unwrap();
    stack.start_gateway();
    let (_second, second) = start_beside(&stack, "second", "second.keys");
    let (_third, third) = start_beside(&stack, "third", "third.keys");
    let first = stack.ports.gateway;

    let client = one_client(&stack);
    assert!(!resumes(&client, first), "nobody knows the client");
    assert!(resumes(&client, first));
    assert!(resumes(&client, second), "it has a ticket of the first");
    assert!(resumes(&client, first), "it has a ticket of the second");
    assert!(!resumes(&client, third));
    assert!(!resumes(&client, first), "it has a ticket of the third");

    stack.gateway.take().unwrap().kill();
    stack.start_gateway();
    assert!(resumes(&client, first), "the ticket is of the start before");
    assert_eq!(stack.count("handshakes_resumed"), 1);
}

#[test]
fn without_a_file_tickets_end_with_the_process() {
    let mut stack = Setup::new("http://127.0.0.1:1").prepare();
    stack.start_gateway();
    let client = one_client(&stack);
    assert!(!resumes(&client, stack.ports.gateway));
    assert!(resumes(&client, stack.ports.gateway));
    stack.gateway.take().unwrap().kill();
    stack.start_gateway();
    assert!(!resumes(&client, stack.ports.gateway));
}

#[test]
fn a_resumed_session_is_judged_like_a_new_one() {
    let origin = SampleOrigin::start();
    let mut stack = Setup::new(origin.url()).start();
    let known = one_client(&stack);
    for is_resumed in [false, true] {
        let mut client = connect(&stack, &known);
        assert_eq!(client.ask("GET", &target()).unwrap().status, 200);
        assert_eq!(client.is_resumed(), is_resumed);
    }
    // The site trusts others from now on.
    Pki::open(&stack.path("elsewhere")).unwrap().client("client").unwrap();
    let site = std::fs::read_to_string(stack.path("site.toml")).unwrap();
    let site = site.replace("pki/ca.pem", "elsewhere/ca.pem").replace("serial = 1", "serial = 2");
    stack.connector.take().unwrap().kill();
    std::fs::write(stack.path("site.toml"), site).unwrap();
    stack.start_connector();
    eventually("a new session is refused", || {
        connect(&stack, &one_client(&stack)).ask("GET", &target()).unwrap().status == 401
    });
    let mut client = connect(&stack, &known);
    let answer = client.ask("GET", &target()).unwrap();
    assert!(client.is_resumed());
    assert_eq!((answer.status, answer.reason.as_str()), (401, "CMGService_Untrusted_Certificate"));
}

// ── storms ──────────────────────────────────────────────────────────────────────────────────────

#[test]
fn who_comes_alone_waits_for_nobody() {
    let origin = SampleOrigin::start();
    let stack = Setup { gateway_shards: 1, ..Setup::new(origin.url()) }.start();
    for _ in 0..20 {
        assert_eq!(stack.client().unwrap().ask("GET", &target()).unwrap().status, 200);
    }
    assert_eq!(stack.count("handshakes_delayed"), 0);
}

#[test]
fn a_storm_of_handshakes_goes_by_turns_and_nobody_is_turned_away() {
    let origin = SampleOrigin::start();
    let stack = Setup { gateway_shards: 1, connector_shards: 1, ..Setup::new(origin.url()) }.start();
    let mut connected = stack.client().unwrap();
    assert_eq!(connected.ask("GET", &target()).unwrap().status, 200);
    let before = stack.count("handshakes");
    let is_over = AtomicBool::new(false);
    let slowest = thread::scope(|scope| {
        let storm: Vec<_> = (0..100)
            .map(|_| {
                let stack = &stack;
                // A client each time, so that none resumes.
                scope.spawn(move || {
                    for _ in 0..4 {
                        let mut client = connect(stack, &one_client(stack));
                        assert_eq!(client.ask("GET", &target()).unwrap().status, 200);
                        assert!(!client.is_resumed());
                    }
                })
            })
            .collect();
        let is_over = &is_over;
        let asking = scope.spawn(move || {
            let mut slowest = Duration::ZERO;
            while !is_over.load(Ordering::Relaxed) {
                let begin = Instant::now();
                assert_eq!(connected.ask("GET", &target()).unwrap().status, 200);
                slowest = slowest.max(begin.elapsed());
            }
            slowest
        });
        for thread in storm {
            thread.join().unwrap();
        }
        is_over.store(true, Ordering::Relaxed);
        asking.join().unwrap()
    });
    // A hundred handshakes in a row would be tens of milliseconds on any machine; a busy one takes long
    // for everything, so this only sees that nobody is forgotten.
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    assert_eq!(stack.count("handshakes") - before, 400);
    assert_eq!((stack.count("handshake_failures"), stack.count("panics")), (0, 0));
    assert!(stack.count("handshakes_delayed") > 0, "a hundred at once, and none waited");
    let most = stack.count("handshakes_begun_most");
    assert!((1..=100).contains(&most), "{most}");
    eventually("nothing is left", || {
        stack.count("handshakes_waiting") == 0 && stack.count("handshakes_begun") == 0
    });
}

/// Says hello like a client, and nothing more.
fn say_hello(stack: &Stack, hello: &[u8]) -> TcpStream {
    let mut mute = TcpStream::connect(stack.gateway_address()).unwrap();
    mute.set_read_timeout(Some(PATIENCE)).unwrap();
    mute.write_all(hello).unwrap();
    mute
}

#[test]
fn peers_that_fall_silent_in_their_handshake_take_no_more_than_their_share_and_keep_nobody_out() {
    cmg::shard::raise_open_files().unwrap();
    let origin = SampleOrigin::start();
    let stack = Setup { gateway_shards: 1, ..Setup::new(origin.url()) }.start();
    let mut hello = Vec::new();
    let name = rustls::pki_types::ServerName::try_from(SERVICE).unwrap();
    ClientConnection::new(one_client(&stack), name).unwrap().write_tls(&mut hello).unwrap();
    let mut silent: Vec<TcpStream> = Vec::new();
    for _ in 0..limits::HANDSHAKES_BEGUN_MAX + 200 {
        silent.push(say_hello(&stack, &hello));
    }
    let mut client = stack.client().unwrap();
    assert_eq!(client.ask("GET", &target()).unwrap().status, 200);
    // The last of them is answered, too.
    assert!(silent.last_mut().unwrap().read(&mut [0; 100]).unwrap() > 0);
    let most = stack.count("handshakes_begun_most") as usize;
    assert!((1..=limits::HANDSHAKES_BEGUN_MAX).contains(&most), "{most}");
    eventually("their leases end", || stack.count("handshakes_begun") == 0);
}
