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
    let rows: [(&[&str], &str); 17] = [
        (&[], "Usage"),
        (&["fly"], "fly"),
        // The nearest right one is named.
        (&["gatway"], "similar subcommand exists: 'gateway'"),
        (&["pki", "revok"], "similar subcommand exists: 'revoke'"),
        (&["up", "--gateway-prot", "1"], "similar argument exists: '--gateway-port'"),
        (&["import", "x.csv", "--stie", "PS1"], "similar argument exists: '--site'"),
        (&["import", "x.csv", "--site", "ps1"], "capital letters"),
        (&["import", "missing.csv"], "missing.csv"),
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
    let options = [
        "--gateway-port",
        "--channel-port",
        "--gateway-admin-port",
        "--connector-admin-port",
        "--origin-port",
    ];
    for option in options {
        let output = cmg(&["up", option, &port], folder.path());
        assert_eq!(output.status.code(), Some(1));
        for part in [option, &port, "ss -ltnp"] {
            assert!(errors(&output).contains(part), "{part}: {}", errors(&output));
        }
        assert!(output.stdout.is_empty());
    }
    drop(listener);
    let output = cmg(&["up", "--gateway-port", &port, "--origin-port", &port], folder.path());
    assert_eq!(output.status.code(), Some(2));
    assert!(errors(&output).contains("are both"), "{}", errors(&output));
}

#[test]
fn up_explains_a_folder_it_may_not_write_to() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    // Not even root may make something there.
    for dir in ["/proc/cmg", "/proc", "file", "file/below"] {
        let output = cmg(&["up", "--dir", dir], folder.path());
        assert_eq!(output.status.code(), Some(2), "{dir}: {}", errors(&output));
        for part in [dir, "--dir"] {
            assert!(errors(&output).contains(part), "{dir}: {}", errors(&output));
        }
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn completions_are_scripts_that_know_the_commands() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = cmg(&["completions", shell], folder.path());
        assert!(output.status.success(), "{}", errors(&output));
        let script = String::from_utf8(output.stdout).unwrap();
        for word in ["connector", "completions", "revoke", "gateway-port"] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
        if shell == "bash" {
            fs::write(folder.path().join("script"), &script).unwrap();
            let read = Command::new("bash").arg("-n").arg(folder.path().join("script")).status().unwrap();
            assert!(read.success());
        }
    }
    assert_eq!(cmg(&["completions", "csh"], folder.path()).status.code(), Some(2));
}

#[test]
fn there_is_a_manual_page_for_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let page = String::from_utf8(cmg(&["man"], folder.path()).stdout).unwrap();
    assert!(page.starts_with(".ie") || page.starts_with(".TH"), "{page}");
    assert!(page.contains("cmg\\-up") || page.contains("cmg-up"), "{page}");
    let output = cmg(&["man", "--dir", "m"], folder.path());
    assert!(output.status.success() && output.stdout.is_empty(), "{}", errors(&output));
    for name in ["cmg", "cmg-up", "cmg-gateway", "cmg-pki", "cmg-pki-revoke", "cmg-import", "cmg-man"] {
        assert!(folder.path().join(format!("m/{name}.1")).exists(), "{name}");
    }
    assert!(!folder.path().join("m/cmg-sample-origin.1").exists());
    assert_eq!(cmg(&["man", "--dir", "/proc/cmg"], folder.path()).status.code(), Some(1));
}

#[test]
fn no_paragraph_of_help_is_broken_in_its_middle() {
    let folder = tempfile::tempdir().unwrap();
    let commands: [&[&str]; 8] = [
        &["--help"],
        &["up", "--help"],
        &["pki", "--help"],
        &["pki", "client", "--help"],
        &["pki", "revoke", "--help"],
        &["pki", "list", "--help"],
        &["import", "--help"],
        &["man", "--help"],
    ];
    for arguments in commands {
        let help = String::from_utf8(cmg(arguments, folder.path()).stdout).unwrap();
        // A line that a hard break cut short, in a paragraph that went on.
        let lines: Vec<&str> = help.lines().collect();
        for pair in lines.windows(2) {
            let [line, next] = pair else { unreachable!("windows of two") };
            let is_text =
                |line: &str| line.chars().next().is_some_and(char::is_alphabetic) && line.contains(' ');
            let first = next.split(' ').next().unwrap_or_default();
            let is_cut =
                is_text(line) && is_text(next) && line.len() + 1 + first.len() < 90 && !line.ends_with(':');
            assert!(!is_cut, "{arguments:?}: {line:?} then {next:?}");
        }
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
