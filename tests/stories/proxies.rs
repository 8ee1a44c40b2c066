//! A TCP proxy in front of the gateway that says for whom it connects: a real HAProxy, and peers that say
//! it wrongly or may not say it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use socket2::{Domain, Socket, Type};

use crate::client::{Client, config};
use crate::harness::{
    MANAGEMENT_POINT, PATIENCE, Process, SERVICE, SampleOrigin, Setup, Stack, eventually, free_port, program,
    run, text,
};
use crate::needs;

/// Where the proxy connects from; stories' own clients come from 127.0.0.1.
const PROXY: [u8; 4] = [127, 0, 0, 2];
const CLIENT: &str = "127.0.0.9";

fn start(origin: &str) -> Stack {
    let gateway = "proxy_protocol_from = [\"127.0.0.2\", \"192.0.2.0/24\"]".into();
    let gateway_limits = "handshake_secs = 2\n[log]\naccess_log = \"access.log\"\n".into();
    Setup { gateway, gateway_limits, ..Setup::new(origin) }.start()
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

fn over(stack: &Stack, socket: TcpStream) -> std::io::Result<Client> {
    let (certificate, key) = stack.client_pair();
    Client::over(socket, config(&stack.path("pki/ca.pem"), Some((&certificate, &key))), PATIENCE)
}

/// The header that names 198.51.100.7, port 4711.
fn header() -> Vec<u8> {
    let block = [198, 51, 100, 7, 127, 0, 0, 1, 0x12, 0x67, 1, 0xbb];
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", &block[..]].concat()
}

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
    let origin = SampleOrigin::start();
    let stack = start(&origin.url());
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
        assert!(text(&answer).starts_with("HTTP/1.1 200"), "{}", text(&answer));
    }
    eventually("the log names the client", || access_log(&stack).matches(&format!("{CLIENT}:")).count() == 3);
    assert!(!access_log(&stack).contains("127.0.0.2"), "{}", access_log(&stack));
    assert_eq!(stack.count("preface_failures"), 0, "its own checks say that they are none's");
    assert!(haproxy.is_running());
}

#[test]
fn a_header_may_come_octet_by_octet_and_the_hello_with_it() {
    let origin = SampleOrigin::start();
    let stack = start(&origin.url());
    let mut slow = connect_from(PROXY, &stack);
    slow.set_nodelay(true).unwrap();
    for octet in header() {
        slow.write_all(&[octet]).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(over(&stack, slow).unwrap().ask("GET", &target()).unwrap().status, 200);
    // The kernel keeps it back for what comes next: both arrive at once.
    let at_once = connect_from(PROXY, &stack);
    let socket = Socket::from(at_once);
    socket.set_tcp_cork(true).unwrap();
    socket.send(&header()).unwrap();
    let corked = socket.try_clone().unwrap();
    let uncork = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(50));
        corked.set_tcp_cork(false).unwrap();
    });
    assert_eq!(over(&stack, socket.into()).unwrap().ask("GET", &target()).unwrap().status, 200);
    uncork.join().unwrap();
    eventually("both are the header's client", || {
        access_log(&stack).matches("198.51.100.7:4711").count() == 2
    });
}

#[test]
fn who_is_listed_must_say_it_and_nobody_else_may() {
    let origin = SampleOrigin::start();
    let stack = start(&origin.url());
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
    let log = stack.gateway().log();
    for line in ["no header of the PROXY protocol", "no whole PROXY header came in time", "is not listed in"]
    {
        assert!(log.contains(line), "{line}: {log}");
    }
    // Clients that come without a proxy are served as ever.
    assert_eq!(stack.client().unwrap().ask("GET", &target()).unwrap().status, 200);
    eventually("it is the peer", || access_log(&stack).contains("127.0.0.1:"));
    assert_eq!((stack.count("preface_failures"), stack.count("panics")), (failures, 0));
}
