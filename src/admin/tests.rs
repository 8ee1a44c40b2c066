use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::limits;
use crate::pki::Pki;
use crate::settings::{AdminProtection, KeyPair};

struct Sample(AtomicBool);

impl Report for Sample {
    fn is_ready(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
    fn status(&self) -> serde_json::Value {
        serde_json::json!({ "role": "sample" })
    }
    fn metrics(&self) -> String {
        "cmg_up 1\n".to_owned()
    }
}

/// A log that keeps what it is told.
struct Kept(Mutex<String>);

impl Log for Kept {
    fn filter(&self) -> String {
        self.0.lock().unwrap().clone()
    }
    fn set_filter(&self, filter: &str) -> Result<(), String> {
        filter.clone_into(&mut self.0.lock().unwrap());
        Ok(())
    }
    fn lines_dropped(&self) -> u64 {
        7
    }
}

fn settings() -> AdminSettings {
    let address = "127.0.0.1:0".parse().unwrap();
    AdminSettings { address, protection: None, health_address: None, socket: None, upgrade_socket: None }
}

fn open(settings: &AdminSettings, folder: &TempDir) -> Result<Doors, Wrong> {
    Doors::open(settings, folder.path(), &folder.path().join("sample.sock"), &mut Inheritance::default())
}

fn report() -> Arc<Sample> {
    Arc::new(Sample(AtomicBool::new(true)))
}

fn start() -> (TempDir, Serving, Arc<Sample>) {
    let (folder, report) = (tempfile::tempdir().unwrap(), report());
    let serving = open(&settings(), &folder).unwrap().serve(report.clone()).unwrap();
    (folder, serving, report)
}

fn ask_at(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{head}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn get(address: SocketAddr, path: &str) -> String {
    ask_at(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}"))
}

#[test]
fn a_role_is_asked_over_http() {
    let (_folder, serving, report) = start();
    let address = serving.address;
    assert!(get(address, "/healthz").starts_with("HTTP/1.1 200"));
    assert!(get(address, "/readyz").starts_with("HTTP/1.1 200"));
    report.0.store(false, Ordering::Relaxed);
    assert!(get(address, "/healthz").starts_with("HTTP/1.1 200"));
    assert!(get(address, "/readyz").starts_with("HTTP/1.1 503"));
    assert!(get(address, "/status").ends_with("{\"role\":\"sample\"}\n"));
    let metrics = get(address, "/metrics");
    assert!(metrics.contains("text/plain; version=0.0.4") && metrics.ends_with("cmg_up 1\n"), "{metrics}");
    assert!(get(address, "/other").starts_with("HTTP/1.1 404"));
    assert!(get(address, "/log-level").starts_with("HTTP/1.1 404"), "changes go through the socket");
}

#[test]
fn nothing_but_reading_is_offered() {
    let (_folder, serving, _) = start();
    let address = serving.address;
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CCM_POST"] {
        let answer = ask_at(address, &format!("{method} /status HTTP/1.1\r\nHost: {address}"));
        assert!(answer.starts_with("HTTP/1.1 405"), "{method}: {answer}");
    }
}

#[test]
fn a_foreign_host_is_refused() {
    let (_folder, serving, _) = start();
    let address = serving.address;
    let rows = [
        ("Host: localhost", true),
        ("Host: LOCALHOST:9", true),
        ("Host: 127.0.0.1", true),
        ("Host: 127.3.2.1:80", true),
        ("Host: [::1]:80", true),
        ("Host: evil.example", false),
        ("Host: localhost.evil.example", false),
        ("Host: 127.0.0.1.evil.example", false),
        ("Host: 10.0.0.1", false),
        ("Host: [::2]", false),
        ("Host: [::1", false),
        ("Host:", false),
        ("Host: localhost\r\nHost: evil.example", false),
    ];
    for (host, accepted) in rows {
        for path in ["/status", "/other"] {
            let answer = ask_at(address, &format!("GET {path} HTTP/1.1\r\n{host}"));
            assert_eq!(!answer.starts_with("HTTP/1.1 421"), accepted, "{path} {host}: {answer}");
        }
    }
    let absolute = ask_at(address, "GET http://evil.example/status HTTP/1.1\r\nHost: localhost");
    assert!(absolute.starts_with("HTTP/1.1 421"), "{absolute}");
    assert!(ask_at(address, "GET /status HTTP/1.0").starts_with("HTTP/1.0 200"));
}

#[test]
fn a_health_listener_tells_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let settings = AdminSettings { health_address: Some("0.0.0.0:0".parse().unwrap()), ..settings() };
    let serving = open(&settings, &folder).unwrap().serve(report()).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], serving.health_address.unwrap().port()));
    for (path, status) in
        [("/healthz", 200), ("/readyz", 200), ("/status", 404), ("/metrics", 404), ("/", 404)]
    {
        let answer = ask_at(address, &format!("GET {path} HTTP/1.1\r\nHost: pod.example"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
    }
    assert!(get(serving.address, "/status").starts_with("HTTP/1.1 200"));
}

#[test]
fn off_loopback_nothing_opens_without_protection() {
    let folder = tempfile::tempdir().unwrap();
    let settings = AdminSettings { address: "0.0.0.0:0".parse().unwrap(), ..settings() };
    assert_eq!(open(&settings, &folder).err().unwrap().key, "admin.address");
}

#[test]
fn a_taken_address_is_an_error_that_names_it() {
    let (folder, serving, _) = start();
    let taken = serving.address;
    for (settings, key) in [
        (AdminSettings { address: taken, ..settings() }, "admin.address"),
        (AdminSettings { health_address: Some(taken), ..settings() }, "admin.health_address"),
    ] {
        let wrong = open(&settings, &folder).err().unwrap();
        assert!(wrong.key == key && wrong.found.contains(&taken.to_string()), "{wrong}");
    }
}

#[test]
fn beyond_the_bound_who_was_there_longest_is_shown_out() {
    let (_folder, serving, _) = start();
    let connect = || TcpStream::connect(serving.address).unwrap();
    let ask = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(limits::ADMIN_HEAD_WITHIN / 2)).unwrap();
        write!(stream, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        stream.read(&mut [0; 1024]).unwrap()
    };
    let mut held: Vec<_> = (0..limits::ADMIN_CONNECTIONS_MAX).map(|_| connect()).collect();
    // Each held connection is known to be accepted once it was answered.
    assert!(held.iter_mut().all(|stream| ask(stream) > 0));
    assert!(ask(&mut connect()) > 0, "a probe does not wait for those that only hold a place");
    assert_eq!(held[0].read(&mut [0; 16]).unwrap(), 0, "the first had to go");
    assert!(ask(&mut held[1]) > 0, "and nobody else");
}

#[test]
fn who_says_nothing_or_half_of_it_is_let_go() {
    let (folder, settings) = protected();
    let settings = AdminSettings { health_address: Some("127.0.0.1:0".parse().unwrap()), ..settings };
    let serving = open(&settings, &folder).unwrap().serve(report()).unwrap();
    let socket = socket::connect(&folder.path().join("sample.sock")).unwrap();
    socket.set_nonblocking(false).unwrap();
    let patience = Some(limits::ADMIN_CONNECTION_WITHIN / 2);
    socket.set_read_timeout(patience).unwrap();
    let mut silent: Vec<Box<dyn Read>> = vec![Box::new(&socket)];
    for (address, said) in
        [(serving.address, ""), (serving.health_address.unwrap(), "GET /healthz HTTP/1.1\r\nHo")]
    {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(patience).unwrap();
        stream.write_all(said.as_bytes()).unwrap();
        silent.push(Box::new(stream));
    }
    for mut stream in silent {
        stream.read_to_end(&mut Vec::new()).expect("closed before the read times out");
    }
}

#[test]
fn listeners_that_are_closed_wait_and_those_that_are_given_back_are_free() {
    let (folder, serving, _) = start();
    let (shutter, address) = (serving.shutter(), serving.address);
    shutter.close();
    let mut waits = TcpStream::connect(address).unwrap();
    write!(waits, "GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    shutter.open();
    let mut answer = String::new();
    waits.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    shutter.give_back();
    let is_free = || std::net::TcpListener::bind(address).is_ok();
    assert!(crate::upgrade::eventually(limits::ADMIN_CONNECTION_WITHIN, is_free));
    let socket = folder.path().join("sample.sock");
    assert!(socket.exists(), "its file stays until the process ends, or another's takes its place");
    let is_dead = || socket::connect(&socket).is_err();
    assert!(crate::upgrade::eventually(limits::ADMIN_CONNECTION_WITHIN, is_dead));
}

// ── TLS and token ───────────────────────────────────────────────────────────────────────────────

const TOKEN: &str = "0123456789abcdefghijklmnopqrstuvwxyz-._~+/=";

/// A folder with certificate, key and token, and settings that name them.
fn protected() -> (TempDir, AdminSettings) {
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::open(&folder.path().join("pki")).unwrap();
    pki.server(&["gw1.test".into()], &[[127, 0, 0, 1].into()]).unwrap();
    write_token(&folder, &format!("{TOKEN}\n"), 0o600);
    let identity = KeyPair { chain: "pki/server/gw1.test.pem".into(), key: "pki/server/gw1.test.key".into() };
    let protection = Some(AdminProtection { identity, token_file: "token".into() });
    (folder, AdminSettings { protection, ..settings() })
}

fn write_token(folder: &TempDir, text: &str, mode: u32) {
    let path = folder.path().join("token");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn only_the_token_opens_a_protected_listener() {
    let (folder, settings) = protected();
    let serving = open(&settings, &folder).unwrap().serve(report()).unwrap();
    let settings = AdminSettings { address: serving.address, ..settings };
    let right = Target::of(&settings, folder.path());
    for path in ["/status", "/metrics", "/healthz", "/readyz"] {
        assert_eq!(ask(&right, "GET", path, "").unwrap().status, 200, "{path}");
    }
    let with = |file: Option<&str>| {
        let Target::Listener { host, port, trust, .. } = right.clone() else { panic!("a listener") };
        Target::Listener { host, port, trust, token_file: file.map(|file| folder.path().join(file)) }
    };
    let other = folder.path().join("other");
    fs::write(&other, format!("{TOKEN}x")).unwrap();
    fs::set_permissions(&other, Permissions::from_mode(0o600)).unwrap();
    for target in [with(None), with(Some("other"))] {
        for path in ["/status", "/metrics", "/healthz", "/nothing"] {
            assert_eq!(ask(&target, "GET", path, "").unwrap().status, 401, "{path}");
        }
    }
    // Neither somebody else's certificate nor a talk in plain will do.
    let Target::Listener { host, port, token_file, .. } = right else { panic!("a listener") };
    let plain = Target::Listener { host: host.clone(), port, trust: None, token_file: None };
    assert!(matches!(ask(&plain, "GET", "/status", ""), Err(AskError::Broken(_))));
    let foreign = Some(Trust::Authority(folder.path().join("pki/internal-ca.pem")));
    let foreign =
        Target::Listener { host: host.clone(), port, trust: foreign, token_file: token_file.clone() };
    assert!(ask(&foreign, "GET", "/status", "").unwrap_err().to_string().starts_with("TLS: "));
    let authority = Some(Trust::Authority(folder.path().join("pki/ca.pem")));
    let by_authority = Target::Listener { host, port, trust: authority, token_file };
    assert_eq!(ask(&by_authority, "GET", "/status", "").unwrap().status, 200);
}

#[test]
fn what_a_header_offers_is_a_token_only_as_it_must_be() {
    let (folder, settings) = protected();
    let report = report();
    let router = |fields: &[&str]| {
        let (_, token) = read(&settings, folder.path()).unwrap().protection.unwrap();
        let mut request = axum::http::Request::builder().uri("/status");
        for field in fields {
            request = request.header("authorization", *field);
        }
        let request = request.body(axum::body::Body::empty()).unwrap();
        let router = pages::all(report.clone(), Some(token));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let answer = runtime.block_on(hyper::service::Service::call(
            &hyper_util::service::TowerToHyperService::new(router),
            request,
        ));
        let answer = answer.unwrap();
        (answer.status().as_u16(), answer.headers().get("www-authenticate").cloned())
    };
    let bearer = format!("Bearer {TOKEN}");
    assert_eq!(router(&[&bearer]), (200, None));
    assert_eq!(router(&[&format!("bearer  {TOKEN} ")]).0, 200);
    let long = "x".repeat(8_000);
    let rows: [&[&str]; 8] = [
        &[],
        &[""],
        &["Bearer"],
        &["Bearer "],
        &[TOKEN],
        &["Basic MDEyMzQ1Njc4OWFi"],
        &[&bearer, &bearer],
        &[&long],
    ];
    for fields in rows {
        let (status, challenge) = router(fields);
        assert_eq!(status, 401, "{fields:?}");
        assert!(challenge.unwrap().to_str().unwrap().starts_with("Bearer realm="), "{fields:?}");
    }
}

#[test]
fn each_file_that_is_wrong_is_named_with_what_was_found() {
    let (folder, right) = protected();
    read(&right, folder.path()).unwrap();
    let identity = |chain: &str, key: &str| {
        let mut settings = right.clone();
        settings.protection.as_mut().unwrap().identity = KeyPair { chain: chain.into(), key: key.into() };
        settings
    };
    let (chain, key) = ("pki/server/gw1.test.pem", "pki/server/gw1.test.key");
    fs::write(folder.path().join("junk"), "junk\n").unwrap();
    let rows = [
        (identity("missing.pem", key), "admin.certificate", "missing.pem: "),
        (identity("/dev/zero", key), "admin.certificate", "/dev/zero: no certificate"),
        (identity(chain, "/dev/zero"), "admin.key", "/dev/zero: no private key"),
        (identity("junk", key), "admin.certificate", "junk: no certificate"),
        (identity(key, key), "admin.certificate", "no certificate"),
        (identity(chain, "missing.key"), "admin.key", "missing.key: "),
        (identity(chain, "junk"), "admin.key", "junk: no private key"),
        (identity(chain, "pki/ca.key"), "admin.key", "ca.key"),
    ];
    for (settings, key, found) in rows {
        let wrong = read(&settings, folder.path()).err().unwrap();
        assert!(wrong.key == key && wrong.found.contains(found), "{wrong}");
        assert!(open(&settings, &folder).is_err());
    }
}

#[test]
fn a_token_file_that_is_wrong_is_refused_and_not_shown() {
    let (folder, settings) = protected();
    let rows = [
        (TOKEN.to_owned(), 0o640, "mode 640"),
        (TOKEN.to_owned(), 0o604, "mode 604"),
        (TOKEN.to_owned(), 0o620, "mode 620"),
        (TOKEN[..31].to_owned(), 0o600, "31 characters"),
        (String::new(), 0o600, "0 characters"),
        (format!("{TOKEN}\n{TOKEN}\n"), 0o600, "other characters"),
        (format!("{TOKEN} "), 0o600, "other characters"),
        ("x".repeat(limits::ADMIN_TOKEN_SIZE_MAX + 1), 0o600, "4097 characters"),
        (format!("{TOKEN}ä"), 0o600, "other characters"),
    ];
    for (text, mode, found) in rows {
        write_token(&folder, &text, mode);
        let wrong = read(&settings, folder.path()).err().unwrap();
        assert!(wrong.key == "admin.token_file" && wrong.found.contains(found), "{wrong}");
        assert!(!wrong.to_string().contains(&TOKEN[..31]), "{wrong}");
    }
    fs::remove_file(folder.path().join("token")).unwrap();
    assert!(read(&settings, folder.path()).err().unwrap().found.contains("token: No such file"));
    for text in [TOKEN.to_owned(), format!("{TOKEN}\r\n"), "x".repeat(limits::ADMIN_TOKEN_SIZE_MAX)] {
        write_token(&folder, &text, 0o400);
        assert!(read(&settings, folder.path()).is_ok());
    }
}

// ── control socket ──────────────────────────────────────────────────────────────────────────────

fn control(log: Option<Arc<dyn Log>>) -> (TempDir, Target, SocketFile) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("role.sock");
    let (listener, file) = socket::bind(&path).unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (_open, is_open) = watch::channel(super::Doorway::Open);
        runtime.block_on(async { Door::local(listener).unwrap().serve(control::router(log), is_open).await });
    });
    (folder, Target::Socket(path), file)
}

fn level(target: &Target) -> serde_json::Value {
    serde_json::from_str(&ask(target, "GET", "/log-level", "").unwrap().body).unwrap()
}

#[test]
fn the_log_level_is_told_and_changed_through_the_socket() {
    let log = Arc::new(Kept(Mutex::new("info,glommio=warn".into())));
    let (_folder, target, _file) = control(Some(log.clone()));
    assert_eq!(level(&target), serde_json::json!({ "level": "info,glommio=warn" }));
    for asked in ["debug", "error\n"] {
        assert_eq!(ask(&target, "PUT", "/log-level", asked).unwrap().status, 200);
        assert_eq!(log.filter(), asked.trim());
        assert_eq!(level(&target), serde_json::json!({ "level": asked.trim() }));
    }
    let long = "x".repeat(limits::CONTROL_BODY_SIZE_MAX + 1);
    let rows = [
        ("/log-level", "loud", 400),
        ("/log-level", "", 400),
        ("/log-level", "DEBUG", 400),
        ("/log-level", long.as_str(), 413),
        ("/log-level?for=0", "debug", 400),
        ("/log-level?for=86401", "debug", 400),
        ("/log-level?for=-1", "debug", 400),
        ("/log-level?for=", "debug", 400),
        ("/log-level?when=1", "debug", 400),
        ("/status", "debug", 404),
    ];
    for (path, body, status) in rows {
        let answer = ask(&target, "PUT", path, body).unwrap();
        assert_eq!(answer.status, status, "{path} {body}: {}", answer.body);
        assert_eq!(log.filter(), "error", "{path} {body}");
    }
    assert_eq!(ask(&target, "DELETE", "/log-level", "").unwrap().status, 405);
}

#[test]
fn a_level_asked_for_a_time_goes_back_to_what_was_there_before() {
    let log = Arc::new(Kept(Mutex::new("warn".into())));
    let (_folder, target, _file) = control(Some(log.clone()));
    // Asked for twice: the first return is void.
    assert_eq!(ask(&target, "PUT", "/log-level?for=1", "debug").unwrap().status, 200);
    assert_eq!(ask(&target, "PUT", "/log-level?for=3600", "trace").unwrap().status, 200);
    let told = level(&target);
    assert_eq!((&told["level"], &told["then"]), (&"trace".into(), &"warn".into()), "{told}");
    assert!(told["then_in_secs"].as_u64().is_some_and(|secs| secs <= 3600), "{told}");
    thread::sleep(Duration::from_millis(1_500));
    assert_eq!(log.filter(), "trace", "the first return came through");
    // A later one goes to where the first would have gone.
    assert_eq!(ask(&target, "PUT", "/log-level?for=1", "debug").unwrap().status, 200);
    while log.filter() == "debug" {
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(level(&target), serde_json::json!({ "level": "warn" }));
    // What is asked for without a time stays.
    assert_eq!(ask(&target, "PUT", "/log-level?for=1", "debug").unwrap().status, 200);
    assert_eq!(ask(&target, "PUT", "/log-level", "error").unwrap().status, 200);
    thread::sleep(Duration::from_millis(1_500));
    assert_eq!(level(&target), serde_json::json!({ "level": "error" }));
}

#[test]
fn a_process_without_a_log_says_so() {
    let (_folder, target, _file) = control(None);
    for method in ["GET", "PUT"] {
        assert_eq!(ask(&target, method, "/log-level", "info").unwrap().status, 503);
    }
}

#[test]
fn the_socket_lives_as_long_as_the_role() {
    let (folder, serving, _) = start();
    let path = folder.path().join("sample.sock");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let second = open(&settings(), &folder).err().unwrap();
    assert!(second.key == "admin.socket" && second.found.contains("running process"), "{second}");
    drop(serving);
    assert!(!path.exists());
}

#[test]
fn a_place_that_cannot_be_had_stops_only_who_asked_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("missing/sample.sock");
    let opened = Doors::open(&settings(), folder.path(), &nowhere, &mut Inheritance::default());
    assert!(opened.unwrap().control.is_none());
    let asked = AdminSettings { socket: Some("missing/role.sock".into()), ..settings() };
    let wrong = open(&asked, &folder).err().unwrap();
    assert!(wrong.key == "admin.socket" && wrong.found.contains("missing/role.sock"), "{wrong}");
    let asked = AdminSettings { socket: Some("role.sock".into()), ..settings() };
    assert!(open(&asked, &folder).unwrap().control.is_some());
    assert!(!folder.path().join("role.sock").exists(), "doors that never served leave nothing");
}
