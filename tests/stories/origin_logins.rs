//! Origins that want to know who asks after the connection stands: a certificate of the connection point asked
//! for late, and logins that stay with a connection. Neither may lend one client's name to another, and each says
//! what an operator can do.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use ring::aead;
use rustls::crypto::cipher::Nonce;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{CipherSuite, ConnectionTrafficSecrets, ServerConfig, ServerConnection};

use crate::client::{Answer, Client};
use crate::harness::{
    HandOrigin, MANAGEMENT_POINT, OWN, Process, SERVICE, Setup, Stack, eventually, free_port, read_head,
};
use crate::needs;

fn own(rest: &str) -> String {
    format!("/CCM_Proxy_MutualAuth/{OWN}/{rest}")
}

/// A gateway and a connection point, with an endpoint `late` that leads to an https origin on this port.
fn stack(port: u16) -> Setup {
    let site = format!(
        "[[endpoint]]\nid = {OWN}\npath = \"late\"\nurl = \"https://127.0.0.1:{port}\"\nca = \"pki/ca.pem\"\n"
    );
    let connector_limits = "answer_secs = 3".into();
    Setup { site, connector_limits, ..Setup::new("http://127.0.0.1:9") }
}

fn assert_told_of_certificate(stack: &Stack, answer: &Answer) {
    let reason = "CMGConnector_Clientcertificaterequired";
    assert_eq!((answer.status, answer.reason.as_str()), (403, reason), "{answer:?}");
    eventually("the log names the remedy", || {
        let log = stack.connector().log();
        log.contains("wants the connection point's certificate")
            && log.contains("clientcertnegotiation=enable")
    });
}

/// `openssl s_server` with the site's server certificate, its input held open.
fn openssl_server(stack: &Stack, port: u16, more: &[&str]) -> (Process, std::process::ChildStdin) {
    let file = |kind: &str| stack.path(&format!("pki/server/{SERVICE}.{kind}"));
    let log = stack.path("s_server.log");
    let output = std::fs::File::create(&log).unwrap();
    let (input, ours) = {
        let (reader, writer) = std::io::pipe().unwrap();
        (Stdio::from(reader), writer)
    };
    let mut command = Command::new("openssl");
    command.args(["s_server", "-accept", &format!("127.0.0.1:{port}"), "-cert"]).arg(file("pem"));
    command.arg("-key").arg(file("key")).args(more);
    command.stdin(input).stdout(output.try_clone().unwrap()).stderr(output);
    let server = Process::adopt(&mut command, &log);
    eventually("openssl listens", || server.log().contains("ACCEPT"));
    (server, std::os::fd::OwnedFd::from(ours).into())
}

#[test]
fn a_certificate_asked_for_by_renegotiation_is_told_with_its_remedy() {
    needs!("openssl");
    let port = free_port();
    let mut stack = stack(port).prepare();
    let (server, mut input) = openssl_server(&stack, port, &["-tls1_2"]);
    stack.start_gateway();
    stack.start_connector();
    stack.wait_until_ready();
    for round in 1..=2 {
        let mut client = stack.client().unwrap();
        let asking = thread::spawn(move || client.ask("GET", &own("late")).unwrap());
        eventually("the request is there", || server.log().matches("GET /").count() == round);
        // A new handshake on this connection, in which the client is to show a certificate.
        input.write_all(b"R\n").unwrap();
        assert_told_of_certificate(&stack, &asking.join().unwrap());
    }
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn openssl_asks_nobody_behind_the_handshake_who_did_not_offer_it() {
    needs!("openssl");
    let port = free_port();
    let mut stack = stack(port).prepare();
    let (server, mut input) = openssl_server(&stack, port, &["-tls1_3"]);
    stack.start_gateway();
    stack.start_connector();
    stack.wait_until_ready();
    let mut client = stack.client().unwrap();
    let asking = thread::spawn(move || client.ask("GET", &own("late")).unwrap());
    eventually("the request is there", || server.log().contains("GET /"));
    input.write_all(b"c\n").unwrap();
    eventually("openssl may not ask", || server.log().contains("extension not received"));
    // It was never answered, and that is what the client is told.
    let answer = asking.join().unwrap();
    assert_eq!((answer.status, answer.reason.as_str()), (504, "CMGConnector_GatewayTimeout"), "{answer:?}");
}

/// A server of TLS 1.3 that reads one request and asks for a certificate then, whoever is there.
fn asks_late(config: &Arc<ServerConfig>, mut stream: TcpStream) {
    let mut connection = ServerConnection::new(config.clone()).unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if connection.complete_io(&mut stream).is_err() {
            return;
        }
        let _ = connection.reader().read_to_end(&mut request);
    }
    assert_eq!(connection.negotiated_cipher_suite().unwrap().suite(), CipherSuite::TLS13_AES_128_GCM_SHA256);
    let secrets = connection.dangerous_extract_secrets().unwrap();
    let (sequence, ConnectionTrafficSecrets::Aes128Gcm { key, iv }) = secrets.tx else {
        panic!("another cipher");
    };
    // RFC 8446 4.3.2, with signature_algorithms alone; and the type of what the record carries.
    let mut content = b"\x0d\0\0\x0c\x01\x01\0\x08\0\x0d\0\x04\0\x02\x04\x03\x16".to_vec();
    let header = [23, 3, 3, 0, (content.len() + 16) as u8];
    let key = aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_128_GCM, key.as_ref()).unwrap());
    let nonce = aead::Nonce::assume_unique_for_key(Nonce::new(&iv, sequence).0);
    key.seal_in_place_append_tag(nonce, aead::Aad::from(header), &mut content).unwrap();
    stream.write_all(&[&header[..], &content].concat()).unwrap();
    let _ = stream.read_to_end(&mut Vec::new());
}

#[test]
fn a_certificate_asked_for_behind_the_handshake_is_told_with_its_remedy() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stack = stack(listener.local_addr().unwrap().port()).prepare();
    let file = |kind: &str| stack.path(&format!("pki/server/{SERVICE}.{kind}"));
    let chain = CertificateDer::pem_file_iter(file("pem")).unwrap().map(Result::unwrap).collect();
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
    let config = ServerConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(file("key")).unwrap());
    let mut config = config.unwrap();
    config.enable_secret_extraction = true;
    config.send_tls13_tickets = 0;
    let config = Arc::new(config);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let config = config.clone();
            thread::spawn(move || asks_late(&config, stream));
        }
    });
    stack.start_gateway();
    stack.start_connector();
    stack.wait_until_ready();
    let mut client = stack.client().unwrap();
    for _ in 0..2 {
        assert_told_of_certificate(&stack, &client.ask("GET", &own("late")).unwrap());
    }
    assert_eq!(stack.count("panics"), 0);
}

/// What an origin with logins saw.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    logins: AtomicUsize,
    /// Connections on which a second request came after a challenge.
    kept: AtomicUsize,
    users: Mutex<HashSet<String>>,
}

/// An origin that logs in connections, as NTLM does: whoever said his name on one is who asks there from then on.
fn logs_in_connections(seen: &Seen, mut stream: TcpStream) {
    let mut user: Option<String> = None;
    let mut challenged = false;
    seen.connections.fetch_add(1, Ordering::SeqCst);
    loop {
        let head = read_head(&mut stream);
        if head.is_empty() {
            return;
        }
        if challenged {
            seen.kept.fetch_add(1, Ordering::SeqCst);
        }
        let login = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            let credentials = value.strip_prefix("NTLM ").or_else(|| value.strip_prefix("Negotiate "))?;
            name.eq_ignore_ascii_case("authorization").then(|| credentials.to_owned())
        });
        if let Some(name) = login {
            seen.logins.fetch_add(1, Ordering::SeqCst);
            user = Some(name);
        }
        let answer = match &user {
            Some(user) => {
                seen.users.lock().unwrap().insert(user.clone());
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{user}", user.len())
            }
            None if head.contains(" /app/open") => {
                "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nnobody".to_owned()
            }
            None => {
                challenged = true;
                "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Negotiate\r\nWWW-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n"
                    .to_owned()
            }
        };
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn no_client_is_logged_in_by_another() {
    let seen = Arc::<Seen>::default();
    let shared = seen.clone();
    let origin = HandOrigin::start(move |stream| logs_in_connections(&shared, stream));
    let site = format!("[[endpoint]]\nid = {OWN}\npath = \"app\"\nurl = \"{}/app\"\n", origin.url());
    // One shard each, so that both clients share the connections to the origin.
    let setup = Setup { site, gateway_shards: 1, connector_shards: 1, ..Setup::new(origin.url()) };
    let stack = setup.start();
    let mut clients = [("alice", stack.client().unwrap()), ("bob", stack.client().unwrap())];
    let ask = |client: &mut Client, path: &str, fields: &str| {
        let path = own(path);
        client.send(format!("GET {path} HTTP/1.1\r\nHost: {SERVICE}\r\n{fields}\r\n").as_bytes());
        client.read().unwrap()
    };
    for round in 0..50 {
        for (name, client) in &mut clients {
            // He logs in unasked, in every spelling, and asks on.
            for scheme in ["NTLM", "Negotiate", "ntlm", "NEGOTIATE", "Bearer x, NTLM"] {
                let answer = ask(client, "app/x", &format!("Authorization: {scheme} {name}\r\n"));
                assert_eq!(answer.status, 401, "{answer:?}");
                assert!(answer.field("WWW-Authenticate").is_none(), "{answer:?}");
            }
            let answer = ask(client, "app/open", "");
            assert_eq!((answer.status, answer.text().as_str()), (200, "nobody"), "round {round}: {answer:?}");
        }
    }
    assert_eq!(seen.logins.load(Ordering::SeqCst), 0, "{:?}", seen.users.lock().unwrap());
    assert_eq!(seen.kept.load(Ordering::SeqCst), 0, "a connection with a challenge serves nobody else");
    assert!(seen.connections.load(Ordering::SeqCst) > 1);
    assert_eq!(stack.count("panics"), 0);
}

#[test]
fn a_login_that_an_answer_confirms_stays_with_nobody() {
    // An origin that says with a good answer that the connection is logged in now (RFC 4559 5).
    let connections = Arc::<AtomicUsize>::default();
    let shared = connections.clone();
    let origin = HandOrigin::start(move |mut stream| {
        let number = shared.fetch_add(1, Ordering::SeqCst);
        let mut count = 0;
        while !read_head(&mut stream).is_empty() {
            count += 1;
            let body = format!("{number}/{count}");
            let head = "HTTP/1.1 200 OK\r\nWWW-Authenticate: Negotiate oYG2MIGz\r\n";
            let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    let stack = Setup { gateway_shards: 1, connector_shards: 1, ..Setup::new(origin.url()) }.start();
    let mut client = stack.client().unwrap();
    let path = format!("/CCM_Proxy_MutualAuth/{MANAGEMENT_POINT}/SMS_MP/x");
    for _ in 0..5 {
        let answer = client.ask("GET", &path).unwrap();
        assert!(answer.text().ends_with("/1"), "{answer:?}");
        assert!(answer.field("WWW-Authenticate").is_none(), "{answer:?}");
    }
    eventually("every answer had a connection of its own", || connections.load(Ordering::SeqCst) >= 5);
}
