//! The command line as a user meets it: exit codes, messages, files, and the embedded management point.
//! `cmg up` with all its roles is told in the stories of the data path.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

fn cmg(arguments: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cmg")).args(arguments).current_dir(folder).output().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("bad.toml"), "[gateway\n").unwrap();
    let rows: [(&[&str], &str); 11] = [
        (&[], "Usage"),
        (&["fly"], "fly"),
        (&["gateway"], "--config"),
        (&["gateway", "--config", "missing.toml"], "missing.toml"),
        (&["connector", "--config", "missing.toml"], "missing.toml"),
        (&["gateway", "--config", "bad.toml"], "bad.toml"),
        (&["up", "--shards", "0"], "--shards"),
        (&["up", "--clients", "0"], "--clients"),
        (&["up", "--gateway-port", "65536"], "--gateway-port"),
        (&["pki", "client"], "NAME"),
        (&["pki", "client", "../x"], "../x"),
    ];
    for (arguments, text) in rows {
        let output = cmg(arguments, folder.path());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(errors(&output).contains(text), "{arguments:?}: {}", errors(&output));
    }
}

#[test]
fn help_and_version_are_no_failures() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["--help"][..], &["--version"], &["up", "--help"], &["pki", "help", "client"]] {
        let output = cmg(arguments, folder.path());
        assert!(output.status.success() && !output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn certificates_are_made_once_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let rows: [(&[&str], &[&str]); 5] = [
        (&["pki", "init"], &["ca.pem", "internal-ca.pem"]),
        (
            &["pki", "server", "a.example", "--address", "::1"],
            &["server/a.example.pem", "server/a.example.key"],
        ),
        (&["pki", "client", "x", "--count", "3", "--prefix", "pc"], &["clients"]),
        (&["pki", "gateway", "gw1"], &["internal/gateway-gw1.pem", "internal/gateway-gw1.key"]),
        (
            &["pki", "connector", "1", "--site", "PS1"],
            &["internal/connector-PS1-1.pem", "internal/connector-PS1-1.key"],
        ),
    ];
    for (arguments, files) in rows {
        let output = cmg(arguments, folder.path());
        let expected: String = files.iter().map(|file| format!("./cmg-pki/{file}\n")).collect();
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{arguments:?}: {}", errors(&output));
        assert!(files.iter().all(|file| folder.path().join("cmg-pki").join(file).exists()));
    }
    let clients = folder.path().join("cmg-pki/clients");
    assert!(["x", "pc-1", "pc-3"].iter().all(|name| clients.join(format!("{name}.pem")).exists()));
    let before = fs::read(clients.join("x.pem")).unwrap();
    assert!(cmg(&["pki", "client", "x"], folder.path()).status.success());
    assert_eq!(fs::read(clients.join("x.pem")).unwrap(), before);
}

#[test]
fn up_explains_a_port_that_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    for option in ["--gateway-port", "--channel-port"] {
        let output = cmg(&["up", option, &port], folder.path());
        assert_eq!(output.status.code(), Some(1));
        assert!(
            errors(&output).contains(&port) && errors(&output).contains("ss -ltnp"),
            "{}",
            errors(&output)
        );
    }
}

#[test]
fn up_writes_nothing_for_options_that_make_no_valid_settings() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["up", "--origin", "x://y"][..], &["up", "--origin", "no url"]] {
        let output = cmg(arguments, folder.path());
        assert_eq!(output.status.code(), Some(2), "{}", errors(&output));
        assert!(errors(&output).contains("site.toml"), "{}", errors(&output));
        assert!(!folder.path().join("cmg-up/site.toml").exists());
        assert!(!folder.path().join("cmg-up/choices.json").exists());
    }
}

/// A sample origin that ends with the test.
struct Origin {
    process: Child,
    address: SocketAddr,
}

impl Origin {
    fn start() -> Origin {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_cmg"))
            .args(["sample-origin", "--listen", &address.to_string()])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while TcpStream::connect(address).is_err() {
            thread::sleep(Duration::from_millis(10));
        }
        Origin { process, address }
    }

    fn ask(&self, head: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        write!(stream, "{head}\r\nHost: mp\r\nConnection: close\r\n\r\n").unwrap();
        stream.write_all(body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn the_sample_origin_says_what_reached_it() {
    let origin = Origin::start();
    for method in ["GET", "POST", "CCM_POST", "BITS_POST", "PROPFIND", "BREW"] {
        let answer = origin.ask(&format!("{method} /SMS_MP/.sms_pol?{{X}}.1 HTTP/1.1"), b"");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains(&format!("method: {method}\n")), "{answer}");
        assert!(answer.contains("target: /SMS_MP/.sms_pol?{X}.1\n"), "{answer}");
    }
    // RFC 6234: SHA-256 of "abc".
    let sum = "sha256: ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let by_length = origin.ask("CCM_POST /x HTTP/1.1\r\nContent-Length: 3", b"abc");
    let chunked =
        origin.ask("POST /x HTTP/1.1\r\nTransfer-Encoding: chunked", b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n");
    for answer in [by_length, chunked] {
        assert!(answer.contains("length: 3\n") && answer.contains(sum), "{answer}");
    }
}

#[test]
fn the_sample_origin_gives_as_many_bytes_as_asked() {
    let origin = Origin::start();
    for size in [0, 1, 26, 65_519, 65_520, 65_521, 1_000_000] {
        let answer = origin.ask(&format!("GET /x?a=b&bytes={size} HTTP/1.1"), b"");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {size}")), "{head}");
        assert_eq!(body.len(), size);
        assert!(body.bytes().zip((b'a'..=b'z').cycle()).all(|(found, expected)| found == expected));
    }
    let head = origin.ask("HEAD /x?bytes=7 HTTP/1.1", b"");
    assert!(head.contains("content-length: 7") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(origin.ask("GET /x?bytes=-1 HTTP/1.1", b"").starts_with("HTTP/1.1 400"));
}
