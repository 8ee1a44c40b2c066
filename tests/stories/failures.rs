//! Processes that die under load and come back: no wrong answer, clean errors, all well by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::client::{Client, config};
use crate::harness::{MANAGEMENT_POINT, PATIENCE, SERVICE, SampleOrigin, Setup, Stack, eventually};

#[derive(Default)]
struct Tally {
    good: AtomicU64,
    refused: AtomicU64,
    broken: AtomicU64,
    stop: AtomicBool,
}

/// Clients that ask for what only they ask for, until they are stopped. Every answer must be the right
/// one or a refusal that says it is no answer; connections may end.
fn load(stack: &Stack, clients: usize) -> (Arc<Tally>, Vec<JoinHandle<()>>) {
    let tally = Arc::new(Tally::default());
    let (certificate, key) = stack.client_pair();
    let config = config(&stack.path("pki/ca.pem"), Some((&certificate, &key)));
    let address = stack.gateway_address();
    let clients = (0..clients)
        .map(|client| {
            let (tally, config) = (tally.clone(), config.clone());
            thread::spawn(move || {
                let mut number = 0_u64;
                while !tally.stop.load(Ordering::Relaxed) {
                    let connection = Client::connect_with(address, config.clone(), Duration::from_secs(30));
                    let Ok(mut connection) = connection else {
                        tally.broken.fetch_add(1, Ordering::Relaxed);
                        thread::sleep(Duration::from_millis(50));
                        continue;
                    };
                    while !tally.stop.load(Ordering::Relaxed) && ask(&mut connection, client, number, &tally)
                    {
                        number += 1;
                    }
                    number += 1;
                }
            })
        })
        .collect();
    (tally, clients)
}

fn ask(connection: &mut Client, client: usize, number: u64, tally: &Tally) -> bool {
    let id = format!("client-{client}-{number}");
    let body = format!("{id}-{}", "z".repeat(client * 100));
    // Half may be sent twice, half must not.
    let is_post = number % 2 == 1;
    let (method, length) = if is_post { ("CCM_POST", body.len()) } else { ("GET", 0) };
    let head = format!(
        "{method} /CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/SMS_MP/{id} HTTP/1.1\r\nHost: {SERVICE}\r\nContent-Length: {length}\r\n\r\n"
    );
    let request = if is_post { format!("{head}{body}") } else { head };
    let answer = connection.try_send(request.as_bytes()).and_then(|()| connection.read());
    let Ok(answer) = answer else {
        tally.broken.fetch_add(1, Ordering::Relaxed);
        return false;
    };
    match answer.status {
        200 => {
            let text = answer.text();
            let is_right = text.contains(&format!("target: /SMS_MP/{id}\n"))
                && text.contains(&format!("method: {method}\n"))
                && text.contains(&format!("length: {length}\n"));
            assert!(is_right, "a wrong answer for {id}: {text}");
            tally.good.fetch_add(1, Ordering::Relaxed);
        }
        502..=504 => {
            assert!(answer.field("X-CMG-Status").is_some(), "{answer:?}");
            tally.refused.fetch_add(1, Ordering::Relaxed);
        }
        _ => panic!("neither an answer nor a clean refusal: {answer:?}"),
    }
    answer.field("Connection") != Some("close")
}

fn flows(tally: &Tally, what: &str) {
    let before = tally.good.load(Ordering::Relaxed);
    eventually(what, || tally.good.load(Ordering::Relaxed) > before + 100);
}

fn stop(tally: &Tally, clients: Vec<JoinHandle<()>>) {
    tally.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
}

#[test]
fn a_connector_that_dies_under_load_comes_back_by_itself() {
    let origin = SampleOrigin::start();
    let mut stack = Setup::new(origin.url()).start();
    let (tally, clients) = load(&stack, 12);
    for _ in 0..3 {
        flows(&tally, "answers before the connector dies");
        stack.connector.take().unwrap().kill();
        thread::sleep(Duration::from_millis(300));
        stack.start_connector();
        flows(&tally, "answers after the connector came back");
    }
    stop(&tally, clients);
    assert_eq!(tally.broken.load(Ordering::Relaxed), 0, "the gateway lives: no connection may break");
    let good = tally.good.load(Ordering::Relaxed);
    // Only what was with the connector when it died, and must not be sent twice, may be lost.
    let refused = tally.refused.load(Ordering::Relaxed);
    assert!(refused <= 3 * 12, "{refused} of {good} were refused");
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn a_connector_that_ends_beside_another_turns_no_request_away() {
    let origin = SampleOrigin::start();
    let mut stack = Setup::new(origin.url()).start();
    stack.add_connection_point();
    let other = stack.start_second_connector();
    eventually("both are attached", || stack.count("links") == 4);
    let (tally, clients) = load(&stack, 8);
    for _ in 0..5 {
        flows(&tally, "it flows");
        let mut connector = stack.connector.take().unwrap();
        connector.signal(libc::SIGTERM);
        assert!(connector.wait_for_exit(PATIENCE).expect("it ends").success());
        flows(&tally, "the other one goes on");
        stack.start_connector();
        eventually("it is back", || stack.count("links") == 4);
    }
    stop(&tally, clients);
    let [refused, broken] = [&tally.refused, &tally.broken].map(|count| count.load(Ordering::Relaxed));
    assert_eq!((refused, broken), (0, 0), "{}", stack.gateway().log());
    drop(other);
}

#[test]
fn a_connection_point_that_stalls_is_passed_over_until_it_goes_on() {
    let origin = SampleOrigin::start();
    let stack = Setup::new(origin.url()).start();
    stack.add_connection_point();
    let other = stack.start_second_connector();
    eventually("both are attached", || stack.count("links") == 4);
    let target = format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/SMS_MP/x");
    let ask = |client: &mut Client| client.ask("GET", &target).unwrap().status;
    let stalled = |stack: &Stack| {
        let status = stack.status();
        status["links"].as_array().unwrap().iter().filter(|link| link["stalled"] == true).count()
    };
    stack.connector().signal(libc::SIGSTOP);
    // Strict turns give half of them to the one that is stopped; they wait, for nobody knows whether it has them.
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let (mut client, target) = (stack.client().unwrap(), target.clone());
            thread::spawn(move || client.ask("GET", &target).unwrap().status)
        })
        .collect();
    eventually("it is taken for stalled", || stalled(&stack) > 0);
    assert!(stack.gateway().log().contains("a channel stalls"));
    let mut client = stack.client().unwrap();
    for _ in 0..20 {
        // On a channel of the same connection point on which nothing was asked yet one may still wait.
        assert_eq!(ask(&mut client), 200);
    }
    stack.connector().signal(libc::SIGCONT);
    for thread in waiting {
        assert_eq!(thread.join().unwrap(), 200);
    }
    eventually("it goes on", || stalled(&stack) == 0);
    let requests = || -> u64 {
        let status = stack.connector_status();
        status["shards"].as_array().unwrap().iter().map(|shard| shard["requests"].as_u64().unwrap()).sum()
    };
    let before = requests();
    eventually("it has its turn again", || {
        ask(&mut client);
        requests() > before
    });
    assert_eq!(stack.count("panics"), 0);
    drop(other);
}

#[test]
fn a_gateway_that_dies_under_load_comes_back_by_itself() {
    let origin = SampleOrigin::start();
    let mut stack = Setup::new(origin.url()).start();
    let (tally, clients) = load(&stack, 12);
    for _ in 0..3 {
        flows(&tally, "answers before the gateway dies");
        stack.gateway.take().unwrap().kill();
        thread::sleep(Duration::from_millis(300));
        stack.start_gateway();
        flows(&tally, "answers after the gateway came back");
    }
    stop(&tally, clients);
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn an_origin_that_restarts_is_used_again() {
    let origin = SampleOrigin::start();
    let stack = Setup::new(origin.url()).start();
    let (tally, clients) = load(&stack, 4);
    flows(&tally, "answers before the origin dies");
    let origin = origin.restart();
    flows(&tally, "answers after the origin came back");
    stop(&tally, clients);
    drop(origin);
    assert_eq!(tally.broken.load(Ordering::Relaxed), 0, "no connection of a client may break");
}

#[test]
fn a_signal_drains_both_roles() {
    let origin = SampleOrigin::start();
    let mut stack = Setup::new(origin.url()).start();
    let mut idle = stack.client().unwrap();
    for role in ["gateway", "connector"] {
        let held = if role == "gateway" { &mut stack.gateway } else { &mut stack.connector };
        let mut process = held.take().unwrap();
        process.signal(libc::SIGTERM);
        let status =
            process.wait_for_exit(Duration::from_secs(30)).unwrap_or_else(|| panic!("{role} drains"));
        assert!(status.success(), "{role}: {status}\n{}", process.log());
    }
    assert!(idle.is_ended());
}

#[test]
fn an_answer_under_way_is_finished_before_a_gateway_stops() {
    let origin = SampleOrigin::start();
    let mut stack = Setup::new(origin.url()).start();
    let mut client = stack.client().unwrap();
    let size = 30_000_000;
    let target = format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/SMS_MP/x?bytes={size}");
    client.send(format!("GET {target} HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n").as_bytes());
    assert_eq!(client.read_headless().unwrap().status, 200);
    let mut gateway = stack.gateway.take().unwrap();
    gateway.signal(libc::SIGTERM);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(client.bytes(size).unwrap().len(), size);
    let status = gateway.wait_for_exit(Duration::from_secs(30)).expect("it stops when all is answered");
    assert!(status.success(), "{status}");
}
