//! Waiting for a connection point: what is published waits and is answered when one comes back, in fair
//! turn, bounded, and at nobody else's cost.

use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use cmg::pki::Pki;

use crate::client::{Answer, Client, config};
use crate::harness::{
    MANAGEMENT_POINT, PATIENCE, SERVICE, SampleOrigin, Setup, Stack, ask_admin, eventually, limits_of,
    read_head,
};
use crate::shards::one_channel;

/// Requests of one client that may wait for one site on one shard: `limits::WAITING_OF_CLIENT_MAX`.
const OF_CLIENT: usize = 16;
/// The management point of a second site.
const ELSEWHERE: u64 = MANAGEMENT_POINT + 200;

/// Longer than anything here takes: whoever is refused was not refused for the time it waited.
const LONG: &str = "wait_secs = 300";

/// One shard, so that all clients stand in one line, and a line long enough for the story.
fn patient(origin: String, more: &str) -> Setup {
    let gateway_limits = format!("{LONG}\n{more}");
    Setup { gateway_limits, gateway_shards: 1, connector_shards: 1, ..Setup::new(origin) }
}

fn target(id: u64, rest: &str) -> String {
    format!("/CCM_Proxy_MutualAuth/{id}/SMS_MP/{rest}")
}

/// Makes a client's certificate.
fn pair(stack: &Stack, name: &str) -> (PathBuf, PathBuf) {
    let pair = Pki::open(&stack.path("pki")).unwrap().client(name).unwrap();
    (pair.certificate, pair.key)
}

/// A connection of a client that sends a GET and goes on.
fn ask(stack: &Stack, (certificate, key): &(PathBuf, PathBuf), id: u64, rest: &str) -> Client {
    let config = config(&stack.path("pki/ca.pem"), Some((certificate, key)));
    let mut client = Client::connect_with(stack.gateway_address(), config, PATIENCE).unwrap();
    client.send(format!("GET {} HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n", target(id, rest)).as_bytes());
    client
}

fn assert_refused(answer: &Answer, status: u16, reason: &str) {
    assert_eq!((answer.status, answer.reason.as_str()), (status, reason), "{answer:?}");
    assert_eq!(answer.field("X-CMG-Status"), Some(reason), "{answer:?}");
    let seconds: u32 = answer.field("Retry-After").expect("a time to come again").parse().unwrap();
    assert!((1..=60).contains(&seconds), "{seconds}");
}

fn kill_connector(stack: &mut Stack) {
    stack.connector.take().unwrap().kill();
    eventually("the channels are gone", || stack.count("links") == 0);
}

fn until_waiting(stack: &Stack, count: u64) {
    eventually(&format!("{count} wait"), || stack.count("waiting") == count);
}

fn nothing_is_left(stack: &Stack) {
    eventually("nothing is left", || stack.count("waiting") == 0 && stack.count("active") == 0);
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn what_is_published_waits_and_is_answered_when_the_connector_comes_back() {
    let origin = SampleOrigin::start();
    let mut stack = patient(origin.url(), "").start();
    let one = stack.client_pair();
    kill_connector(&mut stack);
    let mut asking: Vec<Client> =
        (0..3).map(|number| ask(&stack, &one, MANAGEMENT_POINT, &format!("x{number}"))).collect();
    // A body waits with its head, and what is pipelined behind it waits, too.
    let mut posting = stack.client().unwrap();
    let body = "b".repeat(100_000);
    let line = format!("CCM_POST {} HTTP/1.1\r\nHost: a\r\n", target(MANAGEMENT_POINT, "x3"));
    posting.send(format!("{line}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    posting.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", target(MANAGEMENT_POINT, "x4")).as_bytes());
    until_waiting(&stack, 4);
    stack.start_connector();
    for (number, client) in asking.iter_mut().enumerate() {
        let answer = client.read().unwrap();
        assert!(answer.text().contains(&format!("target: /SMS_MP/x{number}\n")), "{answer:?}");
    }
    assert!(posting.read().unwrap().text().contains("length: 100000\n"));
    assert!(posting.read().unwrap().text().contains("target: /SMS_MP/x4\n"));
    nothing_is_left(&stack);
}

#[test]
fn who_waited_in_vain_is_told_when_to_come_again() {
    let origin = SampleOrigin::start();
    let setup = Setup { gateway_limits: "wait_secs = 1".into(), ..Setup::new(origin.url()) };
    let mut stack = setup.start();
    kill_connector(&mut stack);
    let one = stack.client_pair();
    let mut waiting: Vec<Client> = (0..6).map(|_| ask(&stack, &one, MANAGEMENT_POINT, "x")).collect();
    for client in &mut waiting {
        assert_refused(&client.read().unwrap(), 503, "CMGService_No_Connector");
    }
    nothing_is_left(&stack);
    // The connections are as good as before.
    stack.start_connector();
    stack.wait_until_ready();
    for client in &mut waiting {
        assert_eq!(client.ask("GET", &target(MANAGEMENT_POINT, "x")).unwrap().status, 200);
    }
}

/// An origin that answers one request after the other and keeps the order in which they came.
fn in_order() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let kept = seen.clone();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let head = read_head(&mut stream);
            let path = head.split(' ').nth(1).unwrap_or_default();
            kept.lock().unwrap().push(path.trim_start_matches("/SMS_MP/").to_owned());
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        }
    });
    (url, seen)
}

#[test]
fn held_requests_that_wait_stand_before_nobody_and_keep_nobody_from_waiting() {
    const PLACES: usize = 8;
    let (url, seen) = in_order();
    let mut stack = patient(url, &format!("waiting_max = {PLACES}")).start();
    let one = stack.client_pair();
    kill_connector(&mut stack);
    let held = format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/BGB/handler.ashx?RequestType=KeepAlive");
    let mut polling: Vec<Client> = (0..PLACES)
        .map(|number| {
            let mut client = stack.client().unwrap();
            let head = format!("GET {held}&number={number} HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n");
            client.send(head.as_bytes());
            until_waiting(&stack, number as u64 + 1);
            client
        })
        .collect();
    // All places are taken, by one client; and its ordinary request has one all the same.
    let mut asking = ask(&stack, &one, MANAGEMENT_POINT, "ordinary");
    assert_refused(&polling.pop().unwrap().read().unwrap(), 503, "CMGService_No_Connector");
    until_waiting(&stack, PLACES as u64);
    stack.start_connector();
    assert_eq!(asking.read().unwrap().status, 200);
    for client in &mut polling {
        assert_eq!(client.read().unwrap().status, 200);
    }
    let seen = seen.lock().unwrap();
    let turn = seen.iter().position(|path| path == "ordinary").unwrap();
    // In turn it would be first or second; connections to the origin may overtake each other a little.
    assert!(turn < PLACES / 2, "it stood behind held ones: {seen:?}");
    nothing_is_left(&stack);
}

#[test]
fn a_client_that_floods_is_told_so_and_another_has_its_turn() {
    let (url, seen) = in_order();
    let mut stack = patient(url, "").start();
    let (flood, other) = (pair(&stack, "flood"), pair(&stack, "other"));
    kill_connector(&mut stack);
    let mut flooding: Vec<Client> =
        (0..OF_CLIENT).map(|_| ask(&stack, &flood, MANAGEMENT_POINT, "flood")).collect();
    until_waiting(&stack, OF_CLIENT as u64);
    for _ in 0..4 {
        let mut refused = ask(&stack, &flood, MANAGEMENT_POINT, "flood");
        assert_refused(&refused.read().unwrap(), 429, "CMGService_Too_Many_Requests");
    }
    let mut waiting: Vec<Client> = (0..2).map(|_| ask(&stack, &other, MANAGEMENT_POINT, "other")).collect();
    until_waiting(&stack, OF_CLIENT as u64 + 2);
    stack.start_connector();
    for client in flooding.iter_mut().chain(&mut waiting) {
        let answer = client.read().unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), OF_CLIENT + 2);
    // In turn it would be second and fourth; connections to the origin may overtake each other a little.
    let last = seen.iter().rposition(|name| name == "other").unwrap();
    assert!(last < 8, "{seen:?}");
    nothing_is_left(&stack);
}

#[test]
fn when_all_places_are_taken_those_below_their_share_get_one() {
    let origin = SampleOrigin::start();
    let mut stack = patient(origin.url(), "waiting_max = 6").start();
    let (flood, other) = (pair(&stack, "flood"), pair(&stack, "other"));
    kill_connector(&mut stack);
    let mut flooding = Vec::new();
    for count in 1..=6 {
        flooding.push(ask(&stack, &flood, MANAGEMENT_POINT, "flood"));
        until_waiting(&stack, count);
    }
    let told = "a limit is about to be reached limit=\"requests_waiting\" of=\"shard 0\" used=6 max=6";
    eventually("it is told", || stack.gateway().log().contains(told));
    assert!(stack.gateway().log().contains("attach a connection point, or another"));
    let status = stack.status();
    let [limit] = &limits_of(&status, "requests_waiting")[..] else { panic!("{status:#}") };
    assert_eq!((&limit["used"], &limit["max"], &limit["level"]), (&6.into(), &6.into(), &"scarce".into()));
    let (_, metrics) = ask_admin(stack.gateway_admin(), "/metrics").unwrap();
    let level = "cmg_limit_level{limit=\"requests_waiting\",of=\"shard 0\"} 2";
    assert!(metrics.contains(level), "{metrics}");
    // One more of those who have all: refused at once.
    let mut late = ask(&stack, &flood, MANAGEMENT_POINT, "flood");
    assert_refused(&late.read().unwrap(), 503, "CMGService_No_Connector");
    // Another client takes the place of the youngest.
    let mut waiting = ask(&stack, &other, MANAGEMENT_POINT, "other");
    assert_refused(&flooding.pop().unwrap().read().unwrap(), 503, "CMGService_No_Connector");
    until_waiting(&stack, 6);
    stack.start_connector();
    for client in flooding.iter_mut().chain([&mut waiting]) {
        assert_eq!(client.read().unwrap().status, 200);
    }
    nothing_is_left(&stack);
}

#[test]
fn a_client_that_leaves_frees_its_place_at_once() {
    let origin = SampleOrigin::start();
    let mut stack = patient(origin.url(), "").start();
    let one = stack.client_pair();
    kill_connector(&mut stack);
    let mut waiting: Vec<Client> = (0..4).map(|_| ask(&stack, &one, MANAGEMENT_POINT, "x")).collect();
    until_waiting(&stack, 4);
    drop(waiting.pop());
    until_waiting(&stack, 3);
    // So does one with a body under way.
    let mut posting = stack.client().unwrap();
    let line = format!("CCM_POST {} HTTP/1.1\r\nHost: a\r\n", target(MANAGEMENT_POINT, "x"));
    posting.send(format!("{line}Content-Length: 100000\r\n\r\nthe beginning").as_bytes());
    until_waiting(&stack, 4);
    drop(posting);
    until_waiting(&stack, 3);
    // One that ended its own direction alone and said so still waits for its answer.
    waiting[0].half_close();
    stack.start_connector();
    for client in &mut waiting {
        assert_eq!(client.read().unwrap().status, 200);
    }
    nothing_is_left(&stack);
}

#[test]
fn a_site_without_a_connector_costs_another_nothing() {
    let origin = SampleOrigin::start();
    let mut stack = patient(origin.url(), "waiting_max = 6").prepare();
    stack.add_site(ELSEWHERE, &origin.url(), "pki/ca.pem", "");
    stack.start_gateway();
    stack.start_connector();
    let second = stack.start_second_connector();
    stack.wait_until_ready();
    let one = stack.client_pair();
    eventually("the second site is served", || {
        ask(&stack, &one, ELSEWHERE, "x").read().unwrap().status == 200
    });
    second.kill();
    eventually("its channels are gone", || stack.count("links") == 1);
    let flood = pair(&stack, "flood");
    let mut waiting: Vec<Client> = (0..6).map(|_| ask(&stack, &flood, ELSEWHERE, "dead")).collect();
    until_waiting(&stack, 6);
    for _ in 0..50 {
        assert_eq!(ask(&stack, &one, MANAGEMENT_POINT, "x").read().unwrap().status, 200);
    }
    assert_eq!(stack.count("waiting"), 6);
    // And when both are without one, the first gets its share of the places: three of six.
    kill_connector(&mut stack);
    let mut newcomers: Vec<Client> = (0..3).map(|_| ask(&stack, &flood, MANAGEMENT_POINT, "dead")).collect();
    for client in waiting.drain(3..) {
        let mut client = client;
        assert_refused(&client.read().unwrap(), 503, "CMGService_No_Connector");
    }
    let mut late = ask(&stack, &flood, MANAGEMENT_POINT, "dead");
    assert_refused(&late.read().unwrap(), 503, "CMGService_No_Connector");
    stack.start_connector();
    for client in &mut newcomers {
        assert_eq!(client.read().unwrap().status, 200);
    }
    until_waiting(&stack, 3);
    let _second = stack.start_second_connector();
    for client in &mut waiting {
        assert_eq!(client.read().unwrap().status, 200);
    }
    nothing_is_left(&stack);
}

#[test]
fn requests_wait_on_every_shard_for_the_one_channel_there_is() {
    let origin = SampleOrigin::start();
    let mut stack = one_channel(&origin);
    kill_connector(&mut stack);
    let pairs = ["a", "b", "c", "d"].map(|name| pair(&stack, name));
    let mut waiting: Vec<(String, Client)> = (0..40)
        .map(|number| {
            let rest = format!("n{number}");
            let client = ask(&stack, &pairs[number % 4], MANAGEMENT_POINT, &rest);
            (rest, client)
        })
        .collect();
    until_waiting(&stack, 40);
    assert!(stack.by_shard("waiting").iter().all(|count| *count > 0), "{:?}", stack.by_shard("waiting"));
    stack.start_connector();
    for (rest, client) in &mut waiting {
        let answer = client.read().unwrap();
        assert!(answer.text().contains(&format!("target: /SMS_MP/{rest}\n")), "{answer:?}");
    }
    assert!(stack.count("crossed") > 0);
    nothing_is_left(&stack);
}

/// A connection point that stands still takes no more: its channel fills up, and requests of the shard
/// that has it wait beside those that came from the other. All go on when it does.
#[test]
fn requests_wait_for_room_on_a_full_channel_and_none_is_forgotten() {
    let origin = SampleOrigin::start();
    let stack = one_channel(&origin);
    let configs: Vec<_> = (0..60)
        .map(|number| {
            let (certificate, key) = pair(&stack, &format!("client-{number}"));
            config(&stack.path("pki/ca.pem"), Some((&certificate, &key)))
        })
        .collect();
    let mut clients: Vec<Client> = (0..800)
        .map(|number| {
            let config = configs[number % configs.len()].clone();
            Client::connect_with(stack.gateway_address(), config, PATIENCE).unwrap()
        })
        .collect();
    stack.connector().signal(libc::SIGSTOP);
    let pad = "x".repeat(15_000);
    for (number, client) in clients.iter_mut().enumerate() {
        let target = target(MANAGEMENT_POINT, &format!("n{number}"));
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\nX-Pad: {pad}\r\n\r\n").as_bytes());
    }
    eventually("requests wait on both shards", || stack.by_shard("waiting").iter().all(|count| *count > 0));
    println!("waiting, by shard: {:?}", stack.by_shard("waiting"));
    stack.connector().signal(libc::SIGCONT);
    for (number, client) in clients.iter_mut().enumerate() {
        let answer = client.read().unwrap();
        assert!(answer.text().contains(&format!("target: /SMS_MP/n{number}\n")), "{answer:?}");
    }
    assert!(stack.count("links") == 1 && stack.count("crossed") > 0);
    nothing_is_left(&stack);
}

#[test]
fn a_gateway_that_drains_lets_nobody_wait() {
    let origin = SampleOrigin::start();
    let mut stack = patient(origin.url(), "").start();
    let one = stack.client_pair();
    kill_connector(&mut stack);
    let mut waiting: Vec<Client> = (0..3).map(|_| ask(&stack, &one, MANAGEMENT_POINT, "x")).collect();
    until_waiting(&stack, 3);
    let mut gateway = stack.gateway.take().unwrap();
    gateway.signal(libc::SIGTERM);
    for client in &mut waiting {
        let answer = client.read().unwrap();
        assert_refused(&answer, 503, "CMGService_No_Connector");
        assert_eq!(answer.field("Connection"), Some("close"));
    }
    let status = gateway.wait_for_exit(Duration::from_secs(30)).expect("it stops");
    assert!(status.success(), "{status}");
}
