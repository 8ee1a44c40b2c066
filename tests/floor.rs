//! The floor server answers right: a floor that answered wrong would be lower than it is.
#![allow(clippy::unwrap_used, missing_docs)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::thread;

use cmg::pki::{Pair, Pki};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

#[path = "../benches/floor/ring.rs"]
#[allow(dead_code)]
mod ring;
#[path = "../benches/floor/server.rs"]
mod server;
#[path = "../benches/floor/session.rs"]
mod session;

const NAME: &str = "floor.test";

struct Floor {
    address: SocketAddr,
    pki: Pki,
    client: Pair,
    _folder: tempfile::TempDir,
}

/// A floor server in threads of this process, which end with it.
fn floor() -> Floor {
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::open(&folder.path().join("pki")).unwrap();
    let own = pki.server(&[NAME.into()], &[]).unwrap();
    let client = pki.client("client-1").unwrap();
    let files = server::Files { cert: own.certificate, key: own.key, ca: pki.site_ca() };
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        server::serve("127.0.0.1:0".parse().unwrap(), &files, 2, |address| tell.send(address).unwrap())
    });
    Floor { address: told.recv().unwrap(), pki, client, _folder: folder }
}

fn certificates(file: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(file).unwrap().map(Result::unwrap).collect()
}

fn config(floor: &Floor, shows_certificate: bool) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificates(&floor.pki.site_ca()).remove(0)).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(if shows_certificate {
        let key = PrivateKeyDer::from_pem_file(&floor.client.key).unwrap();
        builder.with_client_auth_cert(certificates(&floor.client.certificate), key).unwrap()
    } else {
        builder.with_no_client_auth()
    })
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

fn connect(floor: &Floor, config: &Arc<ClientConfig>) -> Stream {
    let name = ServerName::try_from(NAME).unwrap();
    StreamOwned::new(
        ClientConnection::new(config.clone(), name).unwrap(),
        TcpStream::connect(floor.address).unwrap(),
    )
}

/// The next answer's body.
fn body(stream: &mut Stream) -> Vec<u8> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("Content-Length: 200\r\n"), "{head}");
    let mut body = vec![0; 200];
    stream.read_exact(&mut body).unwrap();
    body
}

#[test]
fn every_get_is_answered_with_its_id_whole_in_pieces_and_in_one_go() {
    let floor = floor();
    let mut stream = connect(&floor, &config(&floor, true));
    let ask = |id: &str| format!("GET /a/b?x&id={id}&bytes=200 HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
    for piece in [1000, 7, 1] {
        for part in ask("0123456789abcdef").as_bytes().chunks(piece) {
            stream.write_all(part).unwrap();
            stream.flush().unwrap();
        }
        assert!(body(&mut stream).starts_with(b"id=0123456789abcdef."), "pieces of {piece}");
    }
    let many: String = (0..20).map(|index| ask(&format!("request-{index:02}"))).collect();
    stream.write_all(many.as_bytes()).unwrap();
    for index in 0..20 {
        assert!(body(&mut stream).starts_with(format!("id=request-{index:02}.").as_bytes()));
    }
}

#[test]
fn a_client_comes_back_with_its_ticket() {
    let floor = floor();
    let config = config(&floor, true);
    for kind in [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed] {
        let mut stream = connect(&floor, &config);
        stream.write_all(format!("GET /?id=1 HTTP/1.1\r\nHost: {NAME}\r\n\r\n").as_bytes()).unwrap();
        body(&mut stream);
        assert_eq!(stream.conn.handshake_kind(), Some(kind));
    }
}

#[test]
fn nobody_is_served_without_a_certificate_or_by_another_method() {
    let floor = floor();
    for (shows_certificate, method) in [(false, "GET"), (true, "POST")] {
        let mut stream = connect(&floor, &config(&floor, shows_certificate));
        let request = format!("{method} /?id=1 HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
        let mut answer = Vec::new();
        let end = stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_end(&mut answer));
        assert!(answer.is_empty(), "{method}, certificate {shows_certificate}: {end:?}, {answer:?}");
    }
}

/// The built load tool, when it lies beside the program under test.
fn loadgen() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_BIN_EXE_cmg")).with_file_name("loadgen");
    path.is_file().then_some(path)
}

#[test]
fn loadgen_finds_every_answer_right() {
    let Some(loadgen) = loadgen() else {
        eprintln!("SKIPPED loadgen_finds_every_answer_right: no loadgen built beside cmg");
        return;
    };
    let floor = floor();
    for (number, flags) in
        [("400", vec!["--pipeline", "4"]), ("400", vec!["-m", "1"]), ("400", vec!["-m", "1", "--resume"])]
    {
        let output = Command::new(&loadgen)
            .args(["clients", "--name", NAME, "--ids", "contains", "-c", "8", "--total", number])
            .args(["--target", &floor.address.to_string()])
            .arg("--ca")
            .arg(floor.pki.site_ca())
            .arg("--clients-dir")
            .arg(floor.pki.clients_folder())
            .args(flags)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(
            text.contains(&format!("{number} right")) && text.contains("errors                none"),
            "{text}"
        );
    }
}
