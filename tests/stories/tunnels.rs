//! Upgraded connections: what is said in a tunnel, what becomes one, and how it ends.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use socket2::SockRef;

use crate::client::Client;
use crate::harness::{
    HandOrigin, OWN, PATIENCE, Process, SERVICE, SampleOrigin, Setup, Stack, ask_admin, eventually,
    free_port, noise, read_head,
};
use crate::needs;
use crate::shards::behind_one_channel;

// ── the cast ────────────────────────────────────────────────────────────────────────────────────

/// A site with an endpoint for tunnels, `chat`, and one that is none, `plain`, on the same origin.
fn setup(origin: &str, more: &str) -> Setup {
    let endpoint = |path: &str, more: &str| {
        format!("[[endpoint]]\nid = {OWN}\npath = \"{path}\"\nurl = \"{origin}/{path}\"\n{more}\n")
    };
    let site = endpoint("chat", &format!("tunnel = true\n{more}")) + &endpoint("plain", more);
    Setup { site, ..Setup::new("http://127.0.0.1:9") }
}

fn target(rest: &str) -> String {
    format!("/CCM_Proxy_MutualAuth/{OWN}/{rest}")
}

fn upgrade(rest: &str, lines: &str) -> String {
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
    format!("GET {} HTTP/1.1\r\nHost: {SERVICE}\r\n{lines}{key}\r\n", target(rest))
}

const WEBSOCKET: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n";

fn begin(client: &mut Client) {
    client.send(upgrade("chat/x", WEBSOCKET).as_bytes());
    let answer = client.read_headless().unwrap();
    assert_eq!(answer.status, 101, "{answer:?}");
}

/// Connections to origins that held requests and tunnels have.
fn held(stack: &Stack) -> u64 {
    let (_, body) = ask_admin(stack.connector_admin(), "/status").unwrap();
    let status: serde_json::Value = serde_json::from_str(&body).unwrap();
    let origins = status["origins"].as_array().unwrap_or_else(|| panic!("{status:#}"));
    origins.iter().map(|origin| origin["connections_held"].as_u64().unwrap()).sum()
}

fn nothing_is_left(stack: &Stack) {
    eventually("no request is under way and no connection is held", || {
        stack.count("active") == 0 && held(stack) == 0
    });
    assert_eq!(stack.count("panics"), 0);
}

// ── with real WebSockets ────────────────────────────────────────────────────────────────────────

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stories").join(name)
}

/// Debian's own interpreter, to which its module belongs.
fn python(name: &str) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command.arg(script(name));
    command
}

fn serve(port: u16, stack: &Stack, pair: &[PathBuf]) -> Process {
    let mut command = python("websocket_server.py");
    command.arg(port.to_string()).args(pair);
    let process = Process::start(&mut command, &stack.path("websocket_server.log"));
    eventually("the WebSocket server listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    process
}

fn client(stack: &Stack, story: &str, count: usize) -> Command {
    let (certificate, key) = stack.client_pair();
    let mut command = python("websocket_client.py");
    command.args([story, &stack.ports.gateway.to_string(), &target("chat/x")]);
    command.arg(stack.path("pki/ca.pem")).arg(certificate).arg(key).arg(count.to_string());
    command
}

fn all_is_well(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && output.stdout.ends_with(b"all well\n"), "{told}");
}

#[test]
fn websocket_messages_come_back_as_they_were_said() {
    needs!("/usr/bin/python3", "/usr/lib/python3/dist-packages/websockets/__init__.py");
    let port = free_port();
    let stack = setup(&format!("http://127.0.0.1:{port}"), "").start();
    let _server = serve(port, &stack, &[]);
    all_is_well(&mut client(&stack, "echo", 3));
    all_is_well(client(&stack, "echo", 1).arg("tls1.2"));
    nothing_is_left(&stack);
}

#[test]
fn websocket_messages_reach_an_origin_over_tls() {
    needs!("/usr/bin/python3", "/usr/lib/python3/dist-packages/websockets/__init__.py");
    let port = free_port();
    let stack = setup(&format!("https://127.0.0.1:{port}"), "ca = \"pki/ca.pem\"").start();
    let pair = ["pem", "key"].map(|kind| stack.path(&format!("pki/server/{SERVICE}.{kind}")));
    let _server = serve(port, &stack, &pair);
    all_is_well(&mut client(&stack, "echo", 2));
    nothing_is_left(&stack);
}

#[test]
fn a_thousand_sessions_stand_at_once_and_none_is_left() {
    needs!("/usr/bin/python3", "/usr/lib/python3/dist-packages/websockets/__init__.py");
    const SESSIONS: usize = 1_000;
    let port = free_port();
    let stack = setup(&format!("http://127.0.0.1:{port}"), "").start();
    let _server = serve(port, &stack, &[]);
    let mut command = client(&stack, "many", SESSIONS);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let before = [stack.gateway().resident(), stack.connector().resident()];
    let mut sessions = command.spawn().unwrap();
    let mut told = BufReader::new(sessions.stdout.take().unwrap()).lines();
    let stand = told.next().map(Result::unwrap);
    if stand.as_deref() != Some("all stand") {
        let output = sessions.wait_with_output().unwrap();
        panic!("{stand:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // What is shown of connections is a moment old.
    eventually("all are held", || held(&stack) == SESSIONS as u64);
    assert_eq!(stack.count("active"), SESSIONS as u64);
    // At rest a tunnel has no buffer: one of a transfer alone would be 129 KiB.
    for (process, before) in [stack.gateway(), stack.connector()].into_iter().zip(before) {
        let each = process.resident().saturating_sub(before) / SESSIONS as u64;
        println!("{each} bytes for each tunnel at rest");
        assert!(each < 48 * 1024, "{each} bytes for each tunnel at rest");
    }
    sessions.stdin.take().unwrap().write_all(b"\n").unwrap();
    let well = told.next().map(Result::unwrap);
    let output = sessions.wait_with_output().unwrap();
    assert_eq!(well.as_deref(), Some("all well"), "{}", String::from_utf8_lossy(&output.stderr));
    nothing_is_left(&stack);
    assert_eq!(stack.count("cut"), 0);
}

#[test]
fn the_clients_see_a_websocket_server_die() {
    needs!("/usr/bin/python3", "/usr/lib/python3/dist-packages/websockets/__init__.py");
    let port = free_port();
    let stack = setup(&format!("http://127.0.0.1:{port}"), "").start();
    let server = serve(port, &stack, &[]);
    let mut client = stack.client().unwrap();
    begin(&mut client);
    server.kill();
    // Not even a closing message: that is how WebSocket tells a cut.
    assert!(client.is_ended());
    drop(client);
    nothing_is_left(&stack);
}

// ── bytes ───────────────────────────────────────────────────────────────────────────────────────

/// Plays an origin that answers the one request it gets, and then goes on as `then` says.
fn origin(then: impl Fn(TcpStream, String) + Clone + Send + 'static) -> HandOrigin {
    HandOrigin::start(move |mut stream| {
        let head = read_head(&mut stream);
        if !head.is_empty() {
            then(stream, head);
        }
    })
}

#[test]
fn bytes_pass_both_ways_at_once_and_each_way_ends_by_itself() {
    const SIZE: usize = 8 << 20;
    let heads = origin(|mut stream, head| {
        for line in [
            "\r\nConnection: Upgrade\r\n",
            "\r\nUpgrade: websocket\r\n",
            "\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            "GET /chat/x HTTP/1.1\r\n",
        ] {
            assert!(head.contains(line), "{line:?} in {head}");
        }
        // In one write: bytes behind the head are bytes of the tunnel.
        stream.write_all(&[SWITCHING.as_bytes(), b"first"].concat()).unwrap();
        let mut writer = stream.try_clone().unwrap();
        let writing = thread::spawn(move || writer.write_all(&noise(SIZE)).unwrap());
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        assert!(heard == noise(SIZE), "{} bytes came", heard.len());
        writing.join().unwrap();
        // Its client has ended its way, and hears on.
        stream.write_all(b"last words").unwrap();
    });
    let log = |role: &str| format!("[log]\naccess_log = \"{role}-access.log\"\n");
    let loud =
        Setup { gateway: log("gateway"), connector_limits: log("connector"), ..setup(&heads.url(), "") };
    let stack = loud.start();
    for _ in 0..2 {
        let mut client = stack.client().unwrap();
        client.send(upgrade("chat/x", WEBSOCKET).as_bytes());
        let answer = client.read_headless().unwrap();
        assert_eq!((answer.status, answer.field("upgrade")), (101, Some("WebSocket")), "{answer:?}");
        assert_eq!(answer.field("connection"), Some("Upgrade"));
        assert_eq!(answer.field("sec-websocket-accept"), Some("x"));
        assert!(answer.field("x-cmg-request-id").is_some());
        client.send(&noise(SIZE));
        assert_eq!(client.bytes(5).unwrap(), b"first");
        assert!(client.bytes(SIZE).unwrap() == noise(SIZE));
        client.half_close();
        assert_eq!(client.bytes(10).unwrap(), b"last words");
        assert!(client.ends_with_goodbye());
    }
    nothing_is_left(&stack);
    assert_eq!((stack.count("answered"), stack.count("cut")), (2, 0));
    let told = format!("status=101 bytes_in={SIZE} bytes_out={} ", SIZE + b"firstlast words".len());
    for role in ["gateway", "connector"] {
        eventually("each tunnel has its line in the access log", || {
            let log = std::fs::read_to_string(stack.path(&format!("{role}-access.log"))).unwrap();
            let is_told = |line: &&str| line.contains(&told) && line.ends_with("outcome=answered");
            log.lines().filter(is_told).count() == 2
        });
    }
}

#[test]
fn tunnels_go_by_way_of_a_shard_that_has_a_channel() {
    let echo = origin(|mut stream, _| {
        stream.write_all(SWITCHING.as_bytes()).unwrap();
        let mut piece = [0; 20_000];
        while let Ok(size @ 1..) = stream.read(&mut piece) {
            stream.write_all(&piece[..size]).unwrap();
        }
    });
    let sample = SampleOrigin::start();
    let stack = behind_one_channel(Setup { origin: sample.url(), ..setup(&echo.url(), "") });
    let before = stack.count("crossed");
    let mut clients: Vec<_> = (0..12).map(|_| stack.client().unwrap()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        begin(client);
        // Below what may be under way without being read.
        for size in [1, 30_000 + number, 60_000] {
            client.send(&noise(size));
            assert!(client.bytes(size).unwrap() == noise(size));
        }
        client.half_close();
        assert!(client.ends_with_goodbye());
    }
    assert!(stack.count("crossed") > before, "every client was on the shard with the channel");
    drop(clients);
    nothing_is_left(&stack);
}

#[test]
fn what_a_client_says_too_early_waits_until_there_is_a_tunnel() {
    let patient = origin(|mut stream, _| {
        stream.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
        let mut early = [0; 64];
        let nothing = stream.read(&mut early).map_err(|error| error.kind());
        assert_eq!(nothing, Err(io::ErrorKind::WouldBlock), "{early:?}");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(SWITCHING.as_bytes()).unwrap();
        let mut smuggled = vec![0; SMUGGLED.len()];
        stream.read_exact(&mut smuggled).unwrap();
        stream.write_all(&smuggled).unwrap();
    });
    const SMUGGLED: &[u8] = b"GET /secret HTTP/1.1\r\nHost: inside\r\n\r\n";
    let stack = setup(&patient.url(), "").start();
    let mut client = stack.client().unwrap();
    client.send(&[upgrade("chat/x", WEBSOCKET).as_bytes(), SMUGGLED].concat());
    assert_eq!(client.read_headless().unwrap().status, 101);
    assert_eq!(client.bytes(SMUGGLED.len()).unwrap(), SMUGGLED);
    assert!(client.ends_with_goodbye());
    drop(client);
    nothing_is_left(&stack);
}

#[test]
fn another_answer_is_an_ordinary_one_and_both_connections_go_on() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    let unwilling = HandOrigin::start(move |mut stream| {
        counted.fetch_add(1, Ordering::SeqCst);
        loop {
            let head = read_head(&mut stream);
            let answer = match head.split(' ').nth(1) {
                Some("/chat/no") => {
                    "426 Upgrade Required\r\nUpgrade: other\r\nConnection: Upgrade\r\nContent-Length: 3\r\n\r\nno\n"
                }
                Some("/chat/page") => "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npage\r\n0\r\n\r\n",
                Some("/chat/none") => "204 No Content\r\n\r\n",
                Some(_) => "200 OK\r\nContent-Length: 5\r\n\r\nplain",
                None => return,
            };
            if stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).is_err() {
                return;
            }
        }
    });
    let stack = setup(&unwilling.url(), "").start();
    let mut client = stack.client().unwrap();
    for round in 0..3 {
        for (path, status, body) in [("no", 426, "no\n"), ("page", 200, "page"), ("none", 204, "")] {
            // What comes behind is the next request, not bytes of a tunnel that there is not.
            let next = format!("GET {} HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n", target("chat/next"));
            client.send((upgrade(&format!("chat/{path}"), WEBSOCKET) + &next).as_bytes());
            let answer = client.read().unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (status, body), "{round} {path}");
            assert!(answer.field("upgrade").is_none() && answer.field("connection").is_none(), "{answer:?}");
            let answer = client.read().unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (200, "plain"), "{round} {path}");
        }
    }
    // A tunnel is asked for on a connection of its own; what else comes goes on any that was left.
    assert_eq!(connections.load(Ordering::SeqCst), 9);
    eventually("no request is under way", || stack.count("active") == 0);
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn an_upgrade_that_is_none_does_not_reach_an_origin() {
    let plain = HandOrigin::start(|mut stream| {
        loop {
            let head = read_head(&mut stream).to_ascii_lowercase();
            if head.is_empty() {
                return;
            }
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
            stream.read_exact(&mut body).unwrap();
            let has_upgrade = head.contains("\r\nupgrade:") || head.contains("\r\nconnection:");
            let said = if has_upgrade { "it came" } else { "nothing" };
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{said}", said.len());
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    let stack = setup(&plain.url(), "").start();
    let mut client = stack.client().unwrap();
    for (path, lines) in [
        ("plain/x", WEBSOCKET),
        (
            "chat/x",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        ),
        ("chat/x", "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n"),
        ("chat/x", "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: other\r\n"),
        ("chat/x", "Connection: Upgrade\r\nUpgrade: websocket/13\r\n"),
        ("chat/x", "Upgrade: websocket\r\n"),
        ("chat/x", "Connection: Upgrade\r\n"),
        ("chat/x", "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n"),
    ] {
        client.send(upgrade(path, lines).as_bytes());
        let answer = client.read().unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "nothing"), "{path} {lines}");
    }
    let body = upgrade("chat/x", &format!("{WEBSOCKET}Content-Length: 4\r\n")) + "body";
    let post = upgrade("chat/x", WEBSOCKET).replacen("GET", "POST", 1);
    let old = upgrade("chat/x", WEBSOCKET).replacen("HTTP/1.1", "HTTP/1.0", 1);
    for request in [body, post, old] {
        client.send(request.as_bytes());
        let answer = client.read().unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "nothing"), "{request}");
    }
}

#[test]
fn who_switches_unasked_or_to_something_else_is_a_bad_gateway() {
    let wilful = HandOrigin::start(|mut stream| {
        let head = read_head(&mut stream);
        let lines = match head.split(' ').nth(1).and_then(|path| path.rsplit('/').next()) {
            Some("other") => "Connection: Upgrade\r\nUpgrade: other\r\n",
            Some("both") => "Connection: Upgrade\r\nUpgrade: websocket, other\r\n",
            Some("unnamed") => "Connection: Upgrade\r\n",
            Some("quiet") => "Upgrade: websocket\r\n",
            Some("length") => "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 4\r\n",
            Some("closing") => "Connection: close, Upgrade\r\nUpgrade: websocket\r\n",
            _ => "Connection: Upgrade\r\nUpgrade: websocket\r\n",
        };
        let _ = stream.write_all(format!("HTTP/1.1 101 Go\r\n{lines}\r\nbytes").as_bytes());
        let _ = stream.read(&mut [0; 16]);
    });
    let stack = setup(&wilful.url(), "").start();
    let mut client = stack.client().unwrap();
    let unasked = format!("GET {} HTTP/1.1\r\nHost: {SERVICE}\r\n\r\n", target("chat/unasked"));
    let others = ["other", "both", "unnamed", "quiet", "length", "closing"];
    let asked = others.map(|path| upgrade(&format!("chat/{path}"), WEBSOCKET));
    for request in asked.into_iter().chain([unasked, upgrade("plain/x", WEBSOCKET)]) {
        client.send(request.as_bytes());
        let answer = client.read().unwrap();
        assert_eq!((answer.status, answer.reason.as_str()), (502, "CMGConnector_BadGateway"), "{request}");
    }
    nothing_is_left(&stack);
}

// ── ends ────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn an_origin_that_breaks_off_is_a_cut() {
    let rude = origin(|mut stream, _| {
        stream.write_all(SWITCHING.as_bytes()).unwrap();
        stream.write_all(b"so far").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        // No FIN: a reset.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let stack = setup(&rude.url(), "").start();
    let mut client = stack.client().unwrap();
    begin(&mut client);
    assert_eq!(client.bytes(6).unwrap(), b"so far");
    client.send(b"x");
    assert!(!client.ends_with_goodbye());
    nothing_is_left(&stack);
    assert_eq!(stack.count("cut"), 1);
}

/// Plays an origin over TLS, with the service's own certificate.
fn origin_over_tls(
    listener: TcpListener,
    stack: &Stack,
    then: impl Fn(StreamOwned<ServerConnection, TcpStream>, String) + Send + 'static,
) {
    let [chain, key] = ["pem", "key"].map(|kind| stack.path(&format!("pki/server/{SERVICE}.{kind}")));
    let chain = CertificateDer::pem_file_iter(chain).unwrap().map(Result::unwrap).collect();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap())
        .unwrap();
    let config = Arc::new(config);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
            let head = read_head(&mut stream);
            then(stream, head);
        }
    });
}

#[test]
fn an_origin_over_tls_is_told_of_an_end_and_must_tell_of_its_own() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let stack = setup(&url, "ca = \"pki/ca.pem\"").start();
    origin_over_tls(listener, &stack, |mut stream, head| {
        stream.write_all(SWITCHING.as_bytes()).unwrap();
        let mut heard = Vec::new();
        // An error unless TLS says that this is the end.
        stream.read_to_end(&mut heard).unwrap();
        stream.write_all(format!("{} bytes", heard.len()).as_bytes()).unwrap();
        if head.starts_with("GET /chat/polite ") {
            stream.conn.send_close_notify();
        }
        stream.flush().unwrap();
    });
    for (path, size, is_polite) in
        [("polite", 9, true), ("rude", 9, false), ("polite", 50_000, true), ("rude", 50_000, false)]
    {
        let mut client = stack.client().unwrap();
        client.send(upgrade(&format!("chat/{path}"), WEBSOCKET).as_bytes());
        assert_eq!(client.read_headless().unwrap().status, 101);
        client.send(&noise(size));
        client.half_close();
        let said = format!("{size} bytes");
        assert_eq!(client.bytes(said.len()).unwrap(), said.as_bytes());
        assert_eq!(client.ends_with_goodbye(), is_polite, "{path} {size}");
        nothing_is_left(&stack);
    }
    assert_eq!((stack.count("answered"), stack.count("cut")), (2, 2));
}

#[test]
fn a_client_that_is_gone_ends_its_origins_connection() {
    let heard = Arc::new(AtomicUsize::new(0));
    let ended = Arc::new(AtomicBool::new(false));
    let (counted, told) = (heard.clone(), ended.clone());
    let listener = origin(move |mut stream, _| {
        stream.write_all(SWITCHING.as_bytes()).unwrap();
        let mut piece = [0; 1000];
        while let Ok(size @ 1..) = stream.read(&mut piece) {
            counted.fetch_add(size, Ordering::SeqCst);
        }
        told.store(true, Ordering::SeqCst);
    });
    let stack = setup(&listener.url(), "").start();
    for is_said in [false, true] {
        heard.store(0, Ordering::SeqCst);
        ended.store(false, Ordering::SeqCst);
        let mut client = stack.client().unwrap();
        begin(&mut client);
        client.send(&noise(300_000));
        if is_said {
            client.half_close();
        }
        drop(client);
        eventually("the origin sees the end", || ended.load(Ordering::SeqCst));
        assert_eq!(heard.load(Ordering::SeqCst), 300_000, "all that was said before came");
        nothing_is_left(&stack);
    }
}

#[test]
fn a_tunnel_whose_channel_is_lost_is_cut_and_never_begun_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let counting = origin(move |mut stream, head| {
        counted.fetch_add(1, Ordering::SeqCst);
        if head.starts_with("GET /chat/x ") {
            stream.write_all(SWITCHING.as_bytes()).unwrap();
        }
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let mut stack = setup(&counting.url(), "").start();
    let (mut standing, mut waiting) = (stack.client().unwrap(), stack.client().unwrap());
    begin(&mut standing);
    waiting.send(upgrade("chat/late", WEBSOCKET).as_bytes());
    eventually("both are with the origin", || asked.load(Ordering::SeqCst) == 2);
    stack.connector.take().unwrap().kill();
    stack.start_connector();
    assert!(!standing.ends_with_goodbye());
    assert_eq!(waiting.read().unwrap().status, 502);
    eventually("the connector is back", || stack.count("links") > 0);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    nothing_is_left(&stack);
}

#[test]
fn a_tunnel_that_is_half_open_does_not_stay() {
    let has_heard = Arc::new(AtomicBool::new(false));
    let told = has_heard.clone();
    let half = origin(move |mut stream, _| {
        stream.write_all(SWITCHING.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream.read_exact(&mut [0; 10]).unwrap();
        told.store(true, Ordering::SeqCst);
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let stack = setup(&half.url(), "").start();
    let mut client = stack.client().unwrap();
    begin(&mut client);
    assert!(client.ends_with_goodbye(), "its origin's way has ended");
    let began = Instant::now();
    thread::sleep(Duration::from_secs(2));
    // What it still says comes through, and so it stays.
    client.send(b"still here");
    eventually("the origin hears it", || has_heard.load(Ordering::SeqCst));
    assert_eq!(stack.count("active"), 1);
    nothing_is_left(&stack);
    let stayed = began.elapsed();
    assert!((30..45).contains(&stayed.as_secs()), "{stayed:?}");
}

#[test]
fn who_reads_nothing_holds_up_nobody_else() {
    const SIZE: usize = 48 << 20;
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let flood = origin(move |mut stream, head| {
        stream.write_all(SWITCHING.as_bytes()).unwrap();
        if head.starts_with("GET /chat/echo ") {
            let mut piece = [0; 4096];
            while let Ok(size @ 1..) = stream.read(&mut piece) {
                stream.write_all(&piece[..size]).unwrap();
            }
            return;
        }
        for piece in noise(SIZE).chunks(64 * 1024) {
            stream.write_all(piece).unwrap();
            counted.fetch_add(piece.len(), Ordering::SeqCst);
        }
    });
    // One shard and one channel: they share all there is.
    let setup = Setup { gateway_shards: 1, connector_shards: 1, ..setup(&flood.url(), "") };
    let stack = setup.start();
    let mut slow = stack.client().unwrap();
    begin(&mut slow);
    let mut other = stack.client().unwrap();
    other.send(upgrade("chat/echo", WEBSOCKET).as_bytes());
    assert_eq!(other.read_headless().unwrap().status, 101);
    let mut before = 0;
    eventually("the flood stands", || {
        thread::sleep(Duration::from_millis(500));
        std::mem::replace(&mut before, sent.load(Ordering::SeqCst)) == sent.load(Ordering::SeqCst)
            && before > 0
    });
    assert!(before < SIZE / 2, "{before} bytes went into a tunnel that nobody reads");
    for round in 0..20 {
        let message = noise(1000 * round + 1);
        other.send(&message);
        assert!(other.bytes(message.len()).unwrap() == message);
    }
    assert!(slow.bytes(SIZE).unwrap() == noise(SIZE));
    assert!(slow.ends_with_goodbye());
    drop((slow, other));
    nothing_is_left(&stack);
}

#[test]
fn a_gateway_that_stops_cuts_tunnels_after_its_grace() {
    let quiet = origin(|mut stream, _| {
        stream.write_all(SWITCHING.as_bytes()).unwrap();
        let mut piece = [0; 100];
        while let Ok(size @ 1..) = stream.read(&mut piece) {
            let _ = stream.write_all(&piece[..size]);
        }
    });
    let mut stack = setup(&quiet.url(), "").start();
    let mut client = stack.client().unwrap();
    begin(&mut client);
    let mut gateway = stack.gateway.take().unwrap();
    gateway.signal(libc::SIGTERM);
    thread::sleep(Duration::from_millis(500));
    client.send(b"still");
    assert_eq!(client.bytes(5).unwrap(), b"still");
    let status = gateway.wait_for_exit(Duration::from_secs(30)).expect("it does not wait for ever");
    assert!(status.success(), "{status}");
    assert!(client.is_ended());
    eventually("the origin's connection is gone", || held(&stack) == 0);
}
