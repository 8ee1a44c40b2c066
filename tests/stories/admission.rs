//! How much a client may ask, and an endpoint is asked: counted over all connections and shards, told by 429, and
//! never at another's cost.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use cmg::pki::Pki;

use crate::client::{Answer, Client, config};
use crate::harness::{
    HandOrigin, MANAGEMENT_POINT, OWN, PATIENCE, SERVICE, SampleOrigin, Setup, Stack, eventually, read_head,
};

type Pair = (PathBuf, PathBuf);

fn pair(stack: &Stack, name: &str) -> Pair {
    let pair = Pki::open(&stack.path("pki")).unwrap().client(name).unwrap();
    (pair.certificate, pair.key)
}

/// A new connection, which any shard may get.
fn connect(stack: &Stack, pair: Option<&Pair>) -> Client {
    let files = pair.map(|(certificate, key)| (certificate.as_path(), key.as_path()));
    let config = config(&stack.path("pki/ca.pem"), files);
    Client::connect_with(stack.gateway_address(), config, PATIENCE).unwrap()
}

fn ask(stack: &Stack, pair: &Pair, path: &str) -> Answer {
    connect(stack, Some(pair)).ask("GET", path).unwrap()
}

fn management_point(rest: &str) -> String {
    format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/SMS_MP/{rest}")
}

fn own(rest: &str) -> String {
    format!("/CCM_Proxy_MutualAuth/{OWN}/{rest}")
}

fn assert_too_many(answer: &Answer) {
    let reason = "CMGService_Too_Many_Requests";
    assert_eq!((answer.status, answer.reason.as_str()), (429, reason), "{answer:?}");
    assert!(answer.field("Retry-After").is_some(), "{answer:?}");
}

fn excess(stack: &Stack, bound: &str) -> u64 {
    stack.status()["excess"][bound].as_u64().unwrap()
}

#[test]
fn a_client_that_asks_too_fast_is_told_so_on_every_connection_and_no_other_is() {
    let origin = SampleOrigin::start();
    let gateway_limits = "client_rate = \"1/h\"\nclient_burst = 6".into();
    let stack = Setup { gateway_limits, ..Setup::new(origin.url()) }.start();
    let (fast, other) = (pair(&stack, "fast"), pair(&stack, "other"));
    for number in 0..6 {
        let answer = ask(&stack, &fast, &management_point(&number.to_string()));
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let mut late = connect(&stack, Some(&fast));
    for _ in 0..3 {
        let answer = late.ask("GET", &management_point("late")).unwrap();
        assert_too_many(&answer);
        let secs: u32 = answer.field("Retry-After").unwrap().parse().unwrap();
        assert!((3_000..=3_600).contains(&secs), "when there is room again: {secs}");
    }
    // What the gateway says itself costs nothing, and the connection is as good as before.
    assert_eq!(late.ask("GET", "/CCM_Proxy_MutualAuth/ServiceMetadata").unwrap().status, 200);
    assert_eq!(ask(&stack, &other, &management_point("other")).status, 200);
    assert_eq!(excess(&stack, "client_rate"), 3);
    eventually("the log says it", || {
        let log = stack.gateway().log();
        log.contains(
            "requests come faster than 1/h with a burst of 6: of this client, by the limits of the gateway",
        )
    });
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn a_client_has_so_many_requests_under_way_over_all_its_connections() {
    let origin = SampleOrigin::start();
    let gateway_limits = "client_requests_max = 3\nwait_secs = 300".into();
    let mut stack = Setup { gateway_limits, ..Setup::new(origin.url()) }.start();
    let (busy, other) = (pair(&stack, "busy"), pair(&stack, "other"));
    stack.connector.take().unwrap().kill();
    eventually("the channels are gone", || stack.count("links") == 0);
    let waiting = |pair: &Pair| {
        let mut client = connect(&stack, Some(pair));
        let path = management_point("x");
        client.send(format!("GET {path} HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n").as_bytes());
        client
    };
    let mut clients: Vec<Client> = (0..3).map(|_| waiting(&busy)).collect();
    eventually("three wait", || stack.count("waiting") == 3);
    assert_too_many(&ask(&stack, &busy, &management_point("x")));
    clients.push(waiting(&other));
    eventually("the other's waits, too", || stack.count("waiting") == 4);
    // One that leaves makes room.
    drop(clients.remove(0));
    eventually("it has left", || stack.count("waiting") == 3);
    clients.push(waiting(&busy));
    eventually("another one waits", || stack.count("waiting") == 4);
    assert_too_many(&ask(&stack, &busy, &management_point("x")));
    stack.start_connector();
    for client in &mut clients {
        assert_eq!(client.read().unwrap().status, 200);
    }
    eventually("all have ended", || stack.count("active") == 0);
    assert_eq!(ask(&stack, &busy, &management_point("x")).status, 200);
    assert_eq!(excess(&stack, "client_requests"), 2);
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn an_endpoint_takes_what_its_limits_say_of_all_and_of_each() {
    let origin = SampleOrigin::start();
    let url = origin.url();
    let site = format!(
        r#"[[endpoint]]
id = {OWN}
path = "each"
url = "{url}/each"
limits = {{ client_rate = "1/h", client_burst = 2 }}
[[endpoint]]
id = {OWN}
path = "all"
url = "{url}/all"
[endpoint.limits]
rate = "1/h"
burst = 3
"#
    );
    let stack = Setup { site, ..Setup::new(url) }.start();
    let (one, two) = (pair(&stack, "one"), pair(&stack, "two"));
    let statuses = |pair: &Pair, path: &str| [0; 3].map(|_| ask(&stack, pair, &own(path)).status);
    assert_eq!(statuses(&one, "each/x"), [200, 200, 429]);
    assert_eq!(statuses(&two, "each/y"), [200, 200, 429], "each has its own");
    assert_eq!(statuses(&one, "all"), [200, 200, 200], "what it used elsewhere does not count here");
    assert_too_many(&ask(&stack, &two, &own("all")));
    assert_eq!(ask(&stack, &two, &management_point("x")).status, 200);
    assert_eq!((excess(&stack, "endpoint_client_rate"), excess(&stack, "endpoint_rate")), (2, 1));
    // Whom the site does not trust uses up nothing, and is told what he lacks.
    let stranger = connect(&stack, None).ask("GET", &own("all")).unwrap();
    assert_eq!(stranger.status, 403, "{stranger:?}");
}

#[test]
fn what_an_endpoint_refuses_costs_its_client_nothing_elsewhere() {
    let origin = SampleOrigin::start();
    let url = origin.url();
    let site = format!(
        "[[endpoint]]\nid = {OWN}\npath = \"all\"\nurl = \"{url}/all\"\nlimits = {{ rate = \"1/h\", burst = 1 }}\n"
    );
    let gateway_limits = "client_rate = \"1/h\"\nclient_burst = 2".into();
    let stack = Setup { site, gateway_limits, ..Setup::new(url) }.start();
    let (first, other) = (pair(&stack, "first"), pair(&stack, "other"));
    assert_eq!(ask(&stack, &first, &own("all")).status, 200);
    for _ in 0..5 {
        assert_too_many(&ask(&stack, &other, &own("all")));
    }
    let statuses = [0; 3].map(|_| ask(&stack, &other, &management_point("x")).status);
    assert_eq!(statuses, [200, 200, 429]);
    assert_eq!((excess(&stack, "endpoint_rate"), excess(&stack, "client_rate")), (5, 1));
}

#[test]
fn a_request_counts_until_its_end_however_it_ends() {
    // An origin that holds what it is asked until it is told; what it switches to is an echo.
    let (is_open, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (open, seen) = (is_open.clone(), count.clone());
    let origin = HandOrigin::start(move |mut stream| {
        loop {
            let head = read_head(&mut stream);
            let Some(path) = head.split(' ').nth(1) else { return };
            seen.fetch_add(1, Ordering::SeqCst);
            if head.to_ascii_lowercase().contains("upgrade: echo") {
                let switch =
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
                stream.write_all(switch.as_bytes()).unwrap();
                let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
                return;
            }
            while path.contains("wait") && !open.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(5));
            }
            let length = if path.contains("cut") { 1_000 } else { 2 };
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nok");
            if stream.write_all(answer.as_bytes()).is_err() || length > 2 {
                return;
            }
        }
    });
    let url = origin.url();
    let site = format!(
        r#"[[endpoint]]
id = {OWN}
path = "one"
url = "{url}/one"
tunnel = true
limits = {{ requests_max = 1 }}
[[endpoint]]
id = {OWN}
path = "each"
url = "{url}/each"
limits = {{ client_requests_max = 1 }}
"#
    );
    let stack = Setup { site, ..Setup::new(url) }.start();
    let (one, other) = (pair(&stack, "one"), pair(&stack, "other"));
    let send = |pair: &Pair, path: &str, fields: &str| {
        let mut client = connect(&stack, Some(pair));
        let path = own(path);
        client.send(format!("GET {path} HTTP/1.1\r\nHost: {SERVICE}\r\n{fields}\r\n").as_bytes());
        client
    };
    let idle = || eventually("all have ended", || stack.count("active") == 0);
    let begun = |number| eventually("it is at the origin", || count.load(Ordering::SeqCst) == number);
    // A tunnel counts as long as it stands.
    let mut tunnel = send(&one, "one/t", "Connection: Upgrade\r\nUpgrade: echo\r\n");
    begun(1);
    assert_too_many(&ask(&stack, &other, &own("one/x")));
    assert_eq!(excess(&stack, "endpoint_requests"), 1);
    assert_eq!(tunnel.read_headless().unwrap().status, 101);
    drop(tunnel);
    idle();
    // One that leaves amid its request, and one whose answer is cut.
    let leaving = send(&one, "one/wait", "");
    begun(2);
    drop(leaving);
    idle();
    assert!(send(&one, "one/cut", "").read().is_err());
    idle();
    assert_eq!(ask(&stack, &other, &own("one/x")).status, 200);
    idle();
    // Each client by itself.
    let mut waiting = send(&one, "each/wait", "");
    begun(5);
    assert_too_many(&ask(&stack, &one, &own("each/x")));
    assert_eq!(ask(&stack, &other, &own("each/x")).status, 200);
    assert_eq!(excess(&stack, "endpoint_client_requests"), 1);
    is_open.store(true, Ordering::SeqCst);
    assert_eq!(waiting.read().unwrap().status, 200);
    idle();
    assert_eq!(ask(&stack, &one, &own("each/x")).status, 200);
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn where_nobody_shows_who_he_is_each_address_has_a_rate() {
    let origin = SampleOrigin::start();
    let (url, update_point) = (origin.url(), OWN + 1);
    let site = format!(
        r#"[[software_update_point]]
id = {update_point}
url = "{url}"
[[endpoint]]
id = {update_point}
path = "SelfUpdate"
url = "{url}/SelfUpdate"
auth = ["none"]
methods = ["GET"]
limits = {{ client_rate = "1/h", client_burst = 2 }}
"#
    );
    let stack = Setup { site, ..Setup::new(url) }.start();
    let path = format!("/CCM_Proxy_ServerAuth/{update_point}/SelfUpdate/wsus.cab");
    let from = |pair| connect(&stack, pair).ask("GET", &path).unwrap().status;
    // A certificate that nobody judged makes nobody another.
    let pair = pair(&stack, "any");
    assert_eq!([from(None), from(Some(&pair)), from(None), from(Some(&pair))], [200, 200, 429, 429]);
    assert_eq!(ask(&stack, &pair, &management_point("x")).status, 200);
    assert_eq!(excess(&stack, "endpoint_client_rate"), 2);
}
