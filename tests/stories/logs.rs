//! What both roles say of requests that ended: refusals with one id and a cause, and the access log.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::thread;

use cmg::limits::LOG_LINES_BURST;

use crate::client::Client;
use crate::harness::{
    HandOrigin, MANAGEMENT_POINT, OWN, PATIENCE, SampleOrigin, Setup, Stack, eventually, read_head,
};

/// In the query and a field of every request: no log may show it.
const SECRET: &str = "eyJhbGciOi.verysecret";

fn target(rest: &str) -> String {
    format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/{rest}")
}

fn own(rest: &str) -> String {
    format!("/CCM_Proxy_MutualAuth/{OWN}/{rest}")
}

fn head(method: &str, target: &str, more: &str) -> String {
    format!(
        "{method} {target}?token={SECRET} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {SECRET}\r\n\
         CCMToken: {SECRET}\r\nCookie: {SECRET}\r\n{more}\r\n"
    )
}

/// Sections of a role's settings that make it say everything, and write an access log.
fn loud(role: &str, more: &str) -> String {
    format!("[log]\nlevel = \"trace\"\naccess_log = \"{role}-access.log\"\n{more}")
}

fn loud_setup(origin: &str, more: &str) -> Setup {
    Setup {
        gateway: loud("gateway", more),
        connector_limits: format!("answer_secs = 2\n{}", loud("connector", more)),
        ..Setup::new(origin)
    }
}

fn access(stack: &Stack, role: &str) -> String {
    fs::read_to_string(stack.path(&format!("{role}-access.log"))).unwrap_or_default()
}

/// The line of `log` that holds all of these; waits for it.
fn line(what: &str, log: impl Fn() -> String, parts: &[&str]) -> String {
    let mut found = String::new();
    let fits = |line: &&str| parts.iter().all(|part| line.contains(part));
    eventually(&format!("{what} has a line with {parts:?}"), || {
        found = log().lines().find(fits).unwrap_or_default().to_owned();
        !found.is_empty()
    });
    found
}

/// Answers by the path: what a management point might do wrong.
fn wayward(mut stream: TcpStream) {
    loop {
        let head = read_head(&mut stream);
        let Some(target) = head.split(' ').nth(1) else { return };
        let path = target.split('?').next().unwrap();
        let answer = match path {
            "/SMS_MP/away" => {
                "HTTP/1.1 302 Found\r\nLocation: http://elsewhere.corp/x?token=eyJhbGciOi.verysecret\r\nContent-Length: 0\r\n\r\n"
            }
            "/SMS_MP/garbage" => "220 mail.corp ESMTP\r\n\r\n",
            "/SMS_MP/hangs-up" => return,
            "/SMS_MP/breaks" => "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this",
            "/SMS_MP/silent" => {
                thread::sleep(PATIENCE);
                return;
            }
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        };
        if stream.write_all(answer.as_bytes()).is_err() || path == "/SMS_MP/breaks" {
            return;
        }
    }
}

#[test]
fn a_refusal_is_one_line_in_each_log_that_knows_of_it_with_one_id_and_the_cause() {
    let origin = HandOrigin::start(wayward);
    let site = format!(
        "[[endpoint]]\nid = {OWN}\npath = \"small\"\nurl = \"{}/small\"\nmethods = [\"GET\", \"POST\"]\nrequest_length_max = 1000\n\
         [[endpoint]]\nid = {OWN}\npath = \"nobody\"\nurl = \"http://127.0.0.1:9/\"\n",
        origin.url()
    );
    let stack = Setup { site, ..loud_setup(&origin.url(), "") }.start();
    let says = "the connection point says: ";
    // The request; what the gateway's line must hold; what the connector's, where it knows of it.
    let rows: Vec<(String, &str, Option<&str>)> = vec![
        (head("GET", "/CCM_Proxy_MutualAuth/1/SMS_MP/x", ""), "no site publishes role 1", None),
        (
            head("GET", &target("AdminService/x"), ""),
            "takes /AdminService/x in the family CCM_Proxy_MutualAuth; published: ",
            None,
        ),
        (
            head("GET", &target("SMS_MP/../x"), ""),
            "the path is not canonical: a segment that ends in a dot",
            None,
        ),
        (
            head("GET", &target("CCM_Client/x").replace("MutualAuth", "ServerAuth"), ""),
            "token refused: it is no token: not three parts with a dot between",
            None,
        ),
        (head("PUT", &own("small/x"), ""), "method PUT is not among GET, POST", None),
        (
            head("POST", &own("small/x"), "Content-Length: 70000\r\n"),
            "length 70000 is over the endpoint's 1000",
            None,
        ),
        ("GET /x HTTP/1.1\r\n\r\n".into(), "the head cannot be read: Host missing", None),
        (
            head("GET", &target("SMS_MP/away"), ""),
            says,
            Some("redirects to a path on host elsewhere.corp that is not mapped"),
        ),
        (head("GET", &target("SMS_MP/garbage"), ""), says, Some("answered what is not HTTP: ")),
        (head("GET", &target("SMS_MP/hangs-up"), ""), says, Some("closed before an answer")),
        (head("GET", &target("SMS_MP/silent"), ""), says, Some("did not answer within 2 s")),
        (head("GET", &own("nobody/x"), ""), says, Some("origin 127.0.0.1:9 refused the connection")),
    ];
    for (request, at_gateway, at_connector) in &rows {
        let mut client = stack.client().unwrap();
        client.send(request.as_bytes());
        let answer = client.read().unwrap();
        let id = format!("request=\"{}\"", answer.field("X-CMG-Request-Id").unwrap());
        let reason = format!("reason=\"{}\"", answer.reason);
        let status = format!("status={}", answer.status);
        let parts = ["request refused", &id, "peer=127.0.0.1:", &status, &reason, at_gateway];
        line("the gateway's log", || stack.gateway().log(), &parts);
        if let Some(cause) = at_connector {
            let parts = ["request refused", &id, &status, &reason, cause, "origin=\"127.0.0.1:"];
            let line = line("the connector's log", || stack.connector().log(), &parts);
            assert!(line.contains("method=\"GET\""), "{line}");
        }
        for log in [stack.gateway().log(), stack.connector().log()] {
            let count = log.lines().filter(|line| line.contains(&id) && line.contains("refused")).count();
            assert!(count <= 1, "{count} lines of {id} in\n{log}");
        }
    }
    // Who it was: judged, and refused or not.
    let mut stranger = Client::connect(stack.gateway_address(), &stack.path("pki/ca.pem"), None).unwrap();
    stranger.send(head("GET", &target("SMS_MP/x"), "").as_bytes());
    assert_eq!(stranger.read().unwrap().status, 403);
    let gateway_log = || stack.gateway().log();
    let found = line("the gateway's log", gateway_log, &["request refused", "no certificate was shown"]);
    assert!(!found.contains("client="), "{found}");
    line(
        "the gateway's log",
        gateway_log,
        &["request refused", "client=\"CN=client\"", "CMGConnector_Redirect"],
    );

    // An answer that broke is no refusal, and a line on both.
    let mut client = stack.client().unwrap();
    client.send(head("GET", &target("SMS_MP/breaks"), "").as_bytes());
    let id = client.read_headless().unwrap().field("X-CMG-Request-Id").unwrap().to_owned();
    assert!(client.bytes(1000).is_err());
    let said = "the connection point says: the origin broke off";
    line("the gateway's log", gateway_log, &["request cut", &id, "status=200", "bytes_out=9", said]);
    line(
        "the connector's log",
        || stack.connector().log(),
        &["request cut", &id, "status=200", "in the middle"],
    );
    no_log_shows_the_secret(&stack);
    assert_eq!(stack.count("panics"), 0);
}

fn no_log_shows_the_secret(stack: &Stack) {
    let files: Vec<_> =
        fs::read_dir(stack.folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let is_log = |path: &&std::path::PathBuf| path.extension().is_some_and(|held| held == "log");
    let logs: Vec<_> = files.iter().filter(is_log).collect();
    assert_eq!(logs.len(), 4, "{logs:?}");
    for path in logs {
        let log = fs::read_to_string(path).unwrap();
        assert!(!log.is_empty(), "{path:?}");
        let shown = log.lines().find(|line| line.contains("secret") || line.contains("token="));
        assert_eq!(shown, None, "{path:?}");
    }
}

#[test]
fn the_access_log_has_a_line_for_each_request() {
    let origin = HandOrigin::start(wayward);
    let stack = loud_setup(&origin.url(), "").start();
    let mut client = stack.client().unwrap();
    client.send(head("GET", &target("SMS_MP/one"), "").as_bytes());
    let get = client.read().unwrap();
    client.send((head("POST", &target("CCM_System/two"), "Content-Length: 5\r\n") + "hello").as_bytes());
    let post = client.read().unwrap();
    client.send(head("DELETE", "/CCM_Proxy_MutualAuth/1/three", "").as_bytes());
    let refused = client.read().unwrap();
    client.send(head("GET", "/CCM_Proxy_MutualAuth/ServiceMetadata", "").as_bytes());
    let metadata = client.read().unwrap();
    client.send(head("GET", &target("SMS_MP/breaks"), "").as_bytes());
    let cut = client.read_headless().unwrap();
    assert!(client.is_ended() || client.bytes(1000).is_err());

    let one = format!(
        "client=\"CN=client\" method=GET path={} status=200 bytes_in=0 bytes_out=2 seconds=",
        target("SMS_MP/one")
    );
    let place = format!("site=PS1 role={MANAGEMENT_POINT} endpoint=SMS_MP");
    let two = format!("method=POST path={} status=200 bytes_in=5 bytes_out=2 ", target("CCM_System/two"));
    let three = "method=DELETE path=/CCM_Proxy_MutualAuth/1/three status=404 reason=CMGService_Unknown_Url ";
    let own = "method=GET path=/CCM_Proxy_MutualAuth/ServiceMetadata status=200 ";
    let breaks = format!("path={} status=200 bytes_in=0 bytes_out=9 ", target("SMS_MP/breaks"));
    for (answer, part, rest, end) in [
        (&get, one.as_str(), place.as_str(), "outcome=answered"),
        (&post, &two, "endpoint=CCM_System", "outcome=answered"),
        (&refused, three, "", "outcome=refused"),
        (&metadata, own, "", "outcome=own"),
        (&cut, &breaks, &place, "outcome=cut"),
    ] {
        let id = format!("request={}", answer.field("X-CMG-Request-Id").unwrap());
        let found = line("the gateway's access log", || access(&stack, "gateway"), &[&id]);
        assert!(found.starts_with("time=20") && found.contains(" peer=127.0.0.1:"), "{found}");
        assert!(found.contains(part) && found.contains(rest) && found.ends_with(end), "{part} in {found}");
        let count = access(&stack, "gateway").lines().filter(|line| line.contains(&id)).count();
        assert_eq!(count, 1, "{id}");
    }
    for (answer, parts) in [
        (&get, ["method=GET", "path=/SMS_MP/one", "status=200 bytes_in=0 bytes_out=2", "outcome=answered"]),
        (
            &post,
            ["method=POST", "path=/CCM_System/two", "status=200 bytes_in=5 bytes_out=2", "outcome=answered"],
        ),
        (&cut, ["method=GET", "path=/SMS_MP/breaks", "status=200 bytes_in=0 bytes_out=9", "outcome=cut"]),
    ] {
        let id = format!("request={}", answer.field("X-CMG-Request-Id").unwrap());
        let found = line("the connector's access log", || access(&stack, "connector"), &[&id]);
        for part in parts.into_iter().chain([&*format!("origin={}", origin.address)]) {
            assert!(found.contains(part), "{part} in {found}");
        }
    }
    no_log_shows_the_secret(&stack);
}

#[test]
fn a_client_that_leaves_in_the_middle_is_told_of() {
    let origin = HandOrigin::start(wayward);
    let stack = loud_setup(&origin.url(), "").start();
    let mut client = stack.client().unwrap();
    // An answer that nobody reads makes the kernel reset the connection when it is closed.
    let unread = head("GET", "/CCM_Proxy_MutualAuth/ServiceMetadata", "");
    client.send((unread + &head("GET", &target("SMS_MP/silent"), "")).as_bytes());
    eventually("the request is under way", || stack.count("active") > 0);
    drop(client);
    let parts = ["path=/CCM_Proxy_MutualAuth", "SMS_MP/silent", "outcome="];
    let found = line("the gateway's access log", || access(&stack, "gateway"), &parts);
    assert!(found.ends_with("outcome=left"), "{found}");
    line("the gateway's log", || stack.gateway().log(), &["client left", "SMS_MP/silent"]);
    line("the connector's log", || stack.connector().log(), &["client left", "/SMS_MP/silent"]);
}

#[test]
fn a_client_that_breaks_off_in_its_body_has_left_and_was_not_refused() {
    let origin = HandOrigin::start(wayward);
    let stack = loud_setup(&origin.url(), "").start();
    let mut client = stack.client().unwrap();
    let half = head("POST", &target("SMS_MP/silent"), "Content-Length: 100\r\n") + "half";
    client.send(half.as_bytes());
    eventually("the request is under way", || stack.count("active") > 0);
    client.cut();
    let found =
        line("the gateway's access log", || access(&stack, "gateway"), &["SMS_MP/silent", "outcome="]);
    assert!(found.ends_with("outcome=left") && !found.contains("reason="), "{found}");
}

#[test]
fn the_access_log_is_renamed_when_it_is_full_and_loses_no_line() {
    let origin = SampleOrigin::start();
    let more = "format = \"json\"\naccess_log_size_mib = 1\n";
    let mut stack = loud_setup(&origin.url(), more).start();
    let mut client = stack.client().unwrap();
    let count = 6_000;
    let one = head("GET", "/CCM_Proxy_MutualAuth/ServiceMetadata", "");
    for _ in 0..count / 50 {
        client.send(one.repeat(50).as_bytes());
        for _ in 0..50 {
            assert_eq!(client.read().unwrap().status, 200);
        }
    }
    drop(client);
    let gateway = stack.gateway.take().unwrap();
    gateway.signal(libc::SIGTERM);
    let mut gateway = gateway;
    assert!(gateway.wait_for_exit(PATIENCE).expect("it drains").success());
    let read = |name: &str| fs::read_to_string(stack.path(name)).unwrap();
    let (old, new) = (read("gateway-access.lo_"), read("gateway-access.log"));
    assert!(old.len() <= 1 << 20 && new.len() <= 1 << 20, "{} and {}", old.len(), new.len());
    let mut own = 0;
    for line in old.lines().chain(new.lines()) {
        let value: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        own += usize::from(value["outcome"] == "own" && value["status"] == 200);
    }
    assert_eq!(own, count);
}

#[test]
fn refusals_without_end_do_not_fill_the_log_and_are_counted() {
    let origin = SampleOrigin::start();
    let setup = Setup { gateway_shards: 1, ..Setup::new(origin.url()) };
    let stack = setup.start();
    let mut client = stack.client().unwrap();
    let one = head("GET", "/CCM_Proxy_MutualAuth/1/x", "");
    for _ in 0..40 {
        client.send(one.repeat(50).as_bytes());
        for _ in 0..50 {
            assert_eq!(client.read().unwrap().status, 404);
        }
    }
    let refused = || -> u64 {
        let status = stack.status();
        status["refused"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum()
    };
    assert!(refused() >= 2_000);
    let lines = || stack.gateway().log().matches("request refused").count() as u64;
    let left_out = || -> u64 {
        let log = stack.gateway().log();
        let sums = log.lines().filter(|line| line.contains("requests refused, not logged"));
        sums.filter_map(|line| line.split("count=").nth(1)?.split(' ').next()?.parse::<u64>().ok()).sum()
    };
    eventually("every refusal is a line or counted", || lines() + left_out() == refused());
    assert!(lines() >= u64::from(LOG_LINES_BURST) && lines() < 1_000, "{} lines", lines());
}

#[test]
fn an_access_log_on_a_full_disk_holds_nobody_up() {
    if !Path::new("/dev/full").exists() {
        return;
    }
    let origin = SampleOrigin::start();
    let gateway = "[log]\naccess_log = \"/dev/full\"\n".into();
    let stack = Setup { gateway, ..Setup::new(origin.url()) }.start();
    let mut client = stack.client().unwrap();
    for _ in 0..100 {
        assert_eq!(client.ask("GET", &target("SMS_MP/x")).unwrap().status, 200);
    }
    let log = || stack.gateway().log();
    line("the gateway's log", log, &["the access log cannot be written", "No space left"]);
    line("the gateway's log", log, &["lines of the access log were lost"]);
    let count = log().matches("the access log cannot be written").count();
    assert_eq!(count, 1, "it is said once");
}
