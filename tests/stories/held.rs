//! Requests that wait until the site has something to say (client notification): for longer than others
//! may, apart from them, and never twice.

use std::collections::{BTreeSet, HashSet};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::client::Client;
use crate::harness::{
    HandOrigin, MANAGEMENT_POINT, OWN, SERVICE, Setup, ask_admin, eventually, limits_of, read_head,
};
use cmg::headroom::Limit;
use cmg::limits;

/// An origin that answers requests below `BGB` and `held` when it is let, and others at once.
#[derive(Clone, Default)]
struct Site {
    may_answer: Arc<AtomicBool>,
    /// Requests that wait now.
    held: Arc<AtomicUsize>,
    /// Requests that ever came to be held.
    came: Arc<AtomicUsize>,
}

impl Site {
    fn serve(&self, mut stream: impl Read + Write) {
        loop {
            let head = read_head(&mut stream);
            let Some(path) = head.split(' ').nth(1) else { return };
            if path.starts_with("/BGB") || path.starts_with("/held") {
                self.held.fetch_add(1, Ordering::SeqCst);
                self.came.fetch_add(1, Ordering::SeqCst);
                while !self.may_answer.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(20));
                }
                self.held.fetch_sub(1, Ordering::SeqCst);
            }
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len());
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn start(&self) -> HandOrigin {
        let site = self.clone();
        HandOrigin::start(move |stream| site.serve(stream))
    }
}

fn target(rest: &str) -> String {
    format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/{rest}")
}

fn hold(client: &mut Client, target: &str) {
    client.send(format!("GET {target} HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n").as_bytes());
}

#[test]
fn held_requests_outlast_the_deadline_of_others_and_stand_in_nobodys_way() {
    let site = Site::default();
    let origin = site.start();
    let own = format!(
        "connections_max = 2\n[[endpoint]]\nid = {OWN}\npath = \"wait\"\nurl = \"{0}/held\"\nheld = true\nconnections_max = 2\n",
        origin.url()
    );
    let setup = Setup {
        site: own,
        gateway_limits: "answer_secs = 1".into(),
        connector_limits: "answer_secs = 1\nwait_secs = 1".into(),
        ..Setup::new(origin.url())
    };
    let stack = setup.start();
    // Many more than there may be ordinary connections.
    let paths: Vec<_> = (0..20).map(|number| target(&format!("BGB/handler.ashx?client={number}"))).collect();
    let own = format!("/CCM_Proxy_MutualAuth/{OWN}/wait/x");
    let mut clients: Vec<_> =
        paths.iter().chain([&own]).map(|path| (stack.client().unwrap(), path)).collect();
    for (client, path) in &mut clients {
        hold(client, path);
    }
    eventually("all are held", || site.held.load(Ordering::SeqCst) == clients.len());
    let began = Instant::now();
    let mut other = stack.client().unwrap();
    while began.elapsed() < Duration::from_secs(3) {
        let answer = other.ask("GET", &target("SMS_MP/policy")).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "/SMS_MP/policy"));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(
        site.held.load(Ordering::SeqCst),
        clients.len(),
        "three times the deadline of others has passed"
    );
    site.may_answer.store(true, Ordering::SeqCst);
    for (client, path) in &mut clients {
        let answer = client.read().unwrap();
        let said = path.replace(&target(""), "/").replace(&own, "/held/x");
        assert_eq!((answer.status, answer.text()), (200, said));
    }
    assert_eq!(site.came.load(Ordering::SeqCst), clients.len());
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn a_held_request_whose_channel_is_lost_is_not_sent_again() {
    let site = Site::default();
    let origin = site.start();
    let mut stack = Setup::new(origin.url()).start();
    let mut client = stack.client().unwrap();
    hold(&mut client, &target("BGB/handler.ashx"));
    eventually("it is held", || site.held.load(Ordering::SeqCst) == 1);
    stack.connector.take().unwrap().kill();
    stack.start_connector();
    let answer = client.read().unwrap();
    assert_eq!(answer.status, 502, "{answer:?}");
    stack.wait_until_ready();
    hold(&mut client, &target("BGB/handler.ashx"));
    eventually("the client's own second one is held", || site.came.load(Ordering::SeqCst) == 2);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(site.came.load(Ordering::SeqCst), 2);
    site.may_answer.store(true, Ordering::SeqCst);
    assert_eq!(client.read().unwrap().status, 200);
}

#[test]
fn a_held_answer_may_pause_for_longer_than_a_client_may_in_taking_it() {
    const BEGIN: usize = 3_000_000;
    let origin = HandOrigin::start(|mut stream| {
        read_head(&mut stream);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", BEGIN + 4);
        let _ = stream.write_all(&[head.as_bytes(), &vec![b'x'; BEGIN]].concat());
        std::thread::sleep(Duration::from_secs(4));
        let _ = stream.write_all(b"rest");
    });
    let limits = "body_secs = 1".to_owned();
    let setup =
        Setup { gateway_limits: limits.clone(), connector_limits: limits, ..Setup::new(origin.url()) };
    let stack = setup.start();
    let mut client = stack.client().unwrap();
    hold(&mut client, &target("BGB/handler.ashx"));
    let answer = client.read().unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, BEGIN + 4));
    assert!(answer.body.ends_with(b"xrest"));
}

#[test]
fn requests_are_held_by_an_https_origin_and_others_reach_it_meanwhile() {
    const COUNT: usize = 40;
    let site = Site::default();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let endpoint = |path: &str, more: &str| {
        format!(
            "[[endpoint]]\nid = {OWN}\npath = \"{path}\"\nurl = \"{url}/{path}\"\nca = \"pki/ca.pem\"\n{more}\n"
        )
    };
    let own = endpoint("held", "held = true") + &endpoint("other", "");
    let setup = Setup { site: own, connector_shards: 1, ..Setup::new("http://127.0.0.1:9") };
    let mut stack = setup.prepare();
    let file = |kind: &str| stack.path(&format!("pki/server/{SERVICE}.{kind}"));
    let chain = CertificateDer::pem_file_iter(file("pem")).unwrap().map(Result::unwrap).collect();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(file("key")).unwrap());
    let config = Arc::new(config.unwrap());
    let origin = site.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (site, tls) = (origin.clone(), ServerConnection::new(config.clone()).unwrap());
            std::thread::spawn(move || site.serve(StreamOwned::new(tls, stream)));
        }
    });
    stack.start_gateway();
    stack.start_connector();
    stack.wait_until_ready();
    let own = |path: &str| format!("/CCM_Proxy_MutualAuth/{OWN}/{path}");
    let mut clients: Vec<_> = (0..COUNT).map(|_| stack.client().unwrap()).collect();
    for client in &mut clients {
        hold(client, &own("held/x"));
    }
    let mut other = stack.client().unwrap();
    for _ in 0..20 {
        let answer = other.ask("GET", &own("other/x")).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "/other/x"));
    }
    eventually("all are held", || site.held.load(Ordering::SeqCst) == COUNT);
    site.may_answer.store(true, Ordering::SeqCst);
    for client in &mut clients {
        let answer = client.read().unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "/held/x"));
    }
    // And over the connections that they left.
    for client in &mut clients {
        assert_eq!(client.ask("GET", &own("held/x")).unwrap().status, 200);
    }
    assert_eq!(stack.count("panics"), 0);
}

/// Names of the limits that a role tells.
fn limits_told(status: &serde_json::Value) -> BTreeSet<&str> {
    status["limits"].as_array().unwrap().iter().map(|limit| limit["limit"].as_str().unwrap()).collect()
}

#[test]
fn what_waits_is_counted_in_its_limits() {
    let site = Site::default();
    let origin = site.start();
    // Held by the origin and not marked so: an ordinary request that takes long.
    let own = format!(
        "[[endpoint]]\nid = {OWN}\npath = \"slow\"\nurl = \"{}/held\"\nconnections_max = 1\n",
        origin.url()
    );
    let connector_limits = "wait_secs = 60".into();
    let setup = Setup {
        site: own,
        gateway_shards: 1,
        connector_shards: 1,
        connector_limits,
        ..Setup::new(origin.url())
    };
    let stack = setup.start();
    let slow = format!("/CCM_Proxy_MutualAuth/{OWN}/slow/x");
    let targets = [target("BGB/handler.ashx"), slow.clone(), slow.clone(), slow];
    let clients: Vec<_> = targets
        .iter()
        .map(|target| {
            let mut client = stack.client().unwrap();
            hold(&mut client, target);
            client
        })
        .collect();
    let counted = |status: &serde_json::Value, name: &str, used: u64, max: usize| {
        limits_of(status, name).iter().any(|limit| limit["used"] == used && limit["max"] == max)
    };
    // Management points are not told who the client of a held request is.
    eventually("the connection point counts what waits", || {
        let status = stack.connector_status();
        counted(&status, "held_requests", 1, limits::ORIGIN_HELD_MAX)
            && counted(&status, "origin_connections", 1, 1)
            && counted(&status, "origin_requests_waiting", 2, limits::ORIGIN_WAITING_MAX)
            && counted(&status, "channel_identities", 3, limits::IDENTITY_COUNT_MAX)
    });
    eventually("so does the gateway", || {
        let status = stack.status();
        counted(&status, "channel_identities", 3, limits::IDENTITY_COUNT_MAX)
            && counted(&status, "channel_streams", 4, limits::STREAM_COUNT_MAX)
            && counted(&status, "handshakes_waiting", 0, limits::HANDSHAKES_WAITING_MAX)
            && counted(&status, "requests_waiting", 0, limits::WAITING_COUNT_MAX)
    });
    let (gateway, connector) = (stack.status(), stack.connector_status());
    let told = limits_told(&gateway).union(&limits_told(&connector)).copied().collect::<BTreeSet<_>>();
    assert_eq!(told, Limit::ALL.iter().map(|limit| limit.name()).collect());
    for (name, used) in [("source_ports", 2), ("held_source_ports", 1)] {
        let [limit] = &limits_of(&connector, name)[..] else { panic!("{connector:#}") };
        assert_eq!(limit["used"], used, "{connector:#}");
    }
    // The origin is in the settings twice, with other bounds.
    let rows: Vec<_> = connector["limits"].as_array().unwrap().iter().collect();
    let names: HashSet<_> =
        rows.iter().map(|limit| (limit["limit"].as_str(), limit["of"].as_str())).collect();
    assert_eq!(names.len(), rows.len(), "{connector:#}");
    site.may_answer.store(true, Ordering::SeqCst);
    for mut client in clients {
        assert_eq!(client.read().unwrap().status, 200);
    }
}

#[test]
fn what_waits_by_thousands_is_small() {
    let site = Site::default();
    let origin = site.start();
    let stack = Setup::new(origin.url()).start();
    let mut client = stack.client().unwrap();
    hold(&mut client, &target("BGB/handler.ashx"));
    eventually("it is held", || site.held.load(Ordering::SeqCst) == 1);
    let size = |address, task: &str| {
        let (_, text) = ask_admin(address, "/metrics").unwrap();
        let row = format!("cmg_task_bytes{{task=\"{task}\"}} ");
        let size = text.lines().find_map(|line| line.strip_prefix(&row)).unwrap_or_else(|| panic!("{text}"));
        size.parse::<usize>().unwrap()
    };
    let (client, exchange) =
        (size(stack.gateway_admin(), "client"), size(stack.connector_admin(), "exchange"));
    assert!(client <= limits::CLIENT_TASK_SIZE_MAX, "a client's task has {client} bytes");
    assert!(exchange <= limits::EXCHANGE_TASK_SIZE_MAX, "an exchange's task has {exchange} bytes");
}
