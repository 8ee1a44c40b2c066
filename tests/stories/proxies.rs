//! A TCP proxy in front of the gateway that says for whom it connects: a real HAProxy, and peers that say
//! it wrongly or may not say it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::client::{Client, config};
use crate::harness::{
    HandOrigin, MANAGEMENT_POINT, PATIENCE, Process, SERVICE, Setup, Stack, eventually, free_port, program,
    read_head, run, text,
};
use crate::needs;

/// Where the proxy connects from; stories' own clients come from 127.0.0.1.
const PROXY: [u8; 4] = [127, 0, 0, 2];
const CLIENT: &str = "127.0.0.9";

/// Behind it an origin that answers with the head it was sent.
fn start() -> Stack {
    let origin = HandOrigin::start(|mut stream| {
        loop {
            let head = read_head(&mut stream);
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len());
            if head.is_empty() || stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    let gateway = "proxy_protocol_from = [\"127.0.0.2\", \"127.0.1.0/24\"]".into();
    let gateway_limits = "handshake_secs = 2\n[log]\naccess_log = \"access.log\"\n".into();
    let site = "forward_identity = true\n".into();
    Setup { gateway, gateway_limits, site, ..Setup::new(origin.url()) }.start()
}

fn target() -> String {
    format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/SMS_MP/x")
}

fn access_log(stack: &Stack) -> String {
    std::fs::read_to_string(stack.path("access.log")).unwrap_or_default()
}

/// A connection to the gateway from that address of loopback.
fn connect_from(ip: [u8; 4], stack: &Stack) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
    socket.connect(&stack.gateway_address().into()).unwrap();
    socket.into()
}

/// A client that sends this before its hello, in one write with it.
fn behind(first: &[u8], socket: TcpStream, stack: &Stack) -> std::io::Result<Client> {
    let (certificate, key) = stack.client_pair();
    let config = config(&stack.path("pki/ca.pem"), Some((&certificate, &key)));
    Client::behind(first, socket, config, PATIENCE)
}

/// Whom the origin and the access log take the client for.
fn is_known_as(node: &str, client: &mut Client, stack: &Stack) {
    let answer = client.ask("GET", &target()).unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains(&format!("Forwarded: for={node}")), "{}", answer.text());
    eventually("the log says so, too", || access_log(stack).contains(&format!("{node}:")));
}

/// The header that names 198.51.100.7, port 4711.
fn header() -> Vec<u8> {
    let block = [198, 51, 100, 7, 127, 0, 0, 1, 0x12, 0x67, 1, 0xbb];
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", &block[..]].concat()
}

/// The header of a proxy that connects for itself.
const CHECK: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// A HAProxy that passes bytes on and says for whom; it also looks whether the gateway is there.
fn start_haproxy(stack: &Stack) -> (Process, u16) {
    let port = free_port();
    let settings = format!(
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n\
         listen gateway\n bind 127.0.0.1:{port}\n\
         server gateway {} source 127.0.0.2 send-proxy-v2 proxy-v2-options crc32c check check-send-proxy inter 100\n",
        stack.gateway_address()
    );
    std::fs::write(stack.path("haproxy.cfg"), settings).unwrap();
    let mut command = Command::new(program("haproxy").unwrap());
    command.arg("-db").arg("-f").arg(stack.path("haproxy.cfg"));
    let process = Process::start(&mut command, &stack.path("haproxy.log"));
    eventually("haproxy listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    (process, port)
}

#[test]
fn a_real_haproxy_names_its_clients() {
    needs!("curl", "haproxy");
    let stack = start();
    let (mut haproxy, port) = start_haproxy(&stack);
    let url = format!("https://{SERVICE}:{port}{}", target());
    for _ in 0..3 {
        let resolve = format!("{SERVICE}:{port}:127.0.0.1");
        let (certificate, key) = stack.client_pair();
        let answer = run(Command::new("curl")
            .args(["--silent", "--show-error", "--include", "--resolve", &resolve, "--interface", CLIENT])
            .arg("--cacert")
            .arg(stack.path("pki/ca.pem"))
            .arg("--cert")
            .arg(certificate)
            .arg("--key")
            .arg(key)
            .arg(&url));
        let answer = text(&answer);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains(&format!("Forwarded: for={CLIENT}")), "{answer}");
    }
    eventually("the log names the client", || access_log(&stack).matches(&format!("{CLIENT}:")).count() == 3);
    assert!(!access_log(&stack).contains("127.0.0.2"), "{}", access_log(&stack));
    // Who looked whether it listens left without a hello, and nobody else: its checks, ten a second, are none's.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!((stack.count("preface_failures"), stack.count("handshake_failures")), (0, 1));
    assert!(haproxy.is_running() && !haproxy.log().contains("DOWN"), "{}", haproxy.log());
}

#[test]
fn a_header_may_come_octet_by_octet_or_with_the_hello() {
    let stack = start();
    let mut slow = connect_from(PROXY, &stack);
    slow.set_nodelay(true).unwrap();
    for octet in header() {
        slow.write_all(&[octet]).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    is_known_as("198.51.100.7", &mut behind(b"", slow, &stack).unwrap(), &stack);
    let at_once = connect_from([127, 0, 1, 9], &stack);
    is_known_as("198.51.100.7", &mut behind(&header(), at_once, &stack).unwrap(), &stack);
    eventually("both have their lines", || access_log(&stack).matches("198.51.100.7:4711").count() == 2);
}

#[test]
fn a_proxy_that_connects_for_itself_is_itself_and_may_leave() {
    let stack = start();
    is_known_as("127.0.0.2", &mut behind(CHECK, connect_from(PROXY, &stack), &stack).unwrap(), &stack);
    // To look whether somebody listens, with the header and without.
    for first in [CHECK, b""] {
        let mut socket = connect_from(PROXY, &stack);
        socket.write_all(first).unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(socket.read(&mut [0]).unwrap(), 0, "it heard us out");
    }
    assert_eq!((stack.count("preface_failures"), stack.count("handshake_failures")), (0, 0));
}

#[test]
fn who_is_listed_must_say_it_and_nobody_else_may() {
    let stack = start();
    let mut failures = 0;
    let mut ends = |what: &str, socket: TcpStream, bytes: &[u8]| {
        let mut socket = socket;
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(bytes).unwrap();
        let mut said = Vec::new();
        let _ = socket.read_to_end(&mut said);
        failures += 1;
        eventually(what, || stack.count("preface_failures") == failures);
    };
    ends("TLS at once", connect_from(PROXY, &stack), b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03");
    ends("version 1", connect_from(PROXY, &stack), b"PROXY TCP4 198.51.100.7 127.0.0.1 4711 443\r\n");
    ends("half a header", connect_from(PROXY, &stack), &header()[..20]);
    ends("too long", connect_from(PROXY, &stack), b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff");
    ends("a datagram's", connect_from(PROXY, &stack), b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c");
    // From one who is not listed it is no header.
    ends("a client's", connect_from([127, 0, 0, 1], &stack), &header());
    let twice = behind(&[header(), header()].concat(), connect_from(PROXY, &stack), &stack);
    assert!(twice.is_err(), "one header is the proxy's, the other the client's");
    failures += 1;
    eventually("a second one", || stack.count("preface_failures") == failures);
    for line in [
        "a second PROXY header",
        "no header of the PROXY protocol",
        "no whole PROXY header came in time",
        "is not listed in",
    ] {
        // The log is written beside the shards.
        eventually(line, || stack.gateway().log().contains(line));
    }
    // Clients that come without a proxy are served as ever.
    is_known_as("127.0.0.1", &mut stack.client().unwrap(), &stack);
    assert_eq!((stack.count("preface_failures"), stack.count("panics")), (failures, 0));
}
