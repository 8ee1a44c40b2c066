//! Features and populations, end to end: the real binary against its own origin, and against a relay that does wrong.

#[allow(dead_code, reason = "the other stories use the rest")]
mod peer;

use peer::{Origin, Relay, clients};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

#[test]
fn every_feature_passes_against_the_origin() {
    let origin = Origin::start(&["--shards", "2"]);
    let outcome =
        clients(&format!("--plain --target {} -c 4 --feature all --notification-hold 50", origin.address));
    assert_eq!(outcome.code, 0, "{}", outcome.text);
    assert!(outcome.text.contains("24 of 24 feature(s) passed"), "{}", outcome.text);
    assert!(!outcome.text.contains("FAIL"), "{}", outcome.text);
    assert_eq!(outcome.report["failures"]["wrong_body"], 0, "{}", outcome.text);
}

#[test]
fn a_client_is_installed_with_tokens_that_are_signed() {
    let folder = tempfile::tempdir().expect("a folder");
    let tokens = folder.path().join("tokens");
    let made = Command::new(env!("CARGO_BIN_EXE_loadgen")).arg("tokens").arg(&tokens).output().expect("runs");
    assert!(made.status.success() && String::from_utf8_lossy(&made.stdout).contains("[[token_issuer]]"));
    let tokens = tokens.to_str().expect("text");
    let flags = format!("-c 3 --feature client-install,bulk-install,user-apps-token --tokens {tokens}");
    let origin = Origin::start(&["--tokens", tokens]);
    let outcome = clients(&format!("--plain --target {} {flags}", origin.address));
    assert_eq!(outcome.code, 0, "{}", outcome.text);
    // An origin that gives none is found, whatever else it answers.
    let origin = Origin::start(&[]);
    let outcome = clients(&format!("--plain --target {} {flags}", origin.address));
    assert_eq!(outcome.code, 1, "{}", outcome.text);
    assert!(outcome.text.contains("found 200, no X-Load-Token"), "{}", outcome.text);
    let nowhere = clients("--plain --target 127.0.0.1:1 -c 1 --feature client-install --tokens /nowhere");
    assert_eq!(nowhere.code, 2, "{}", nowhere.text);
    assert!(nowhere.text.contains("`loadgen tokens /nowhere` makes it"), "{}", nowhere.text);
}

#[test]
fn a_feature_that_no_timer_asks_for_is_refused_to_a_population() {
    let flags = "--plain --target 127.0.0.1:1 -c 2 --profile population -d 1 --features";
    for feature in ["client-install", "client-upgrade", "user-apps", "task-sequence", "update-content"] {
        let outcome = clients(&format!("{flags} policy,{feature}"));
        assert_eq!(outcome.code, 2, "{}", outcome.text);
        assert!(outcome.text.contains(&format!("`--feature {feature}` tries it")), "{}", outcome.text);
        assert!(outcome.text.contains("With timers: "), "{}", outcome.text);
    }
}

/// Changes what follows the first `mark`.
fn replace(bytes: &mut [u8], mark: &[u8], change: impl Fn(&mut [u8])) {
    if let Some(at) = bytes.windows(mark.len()).position(|window| window == mark) {
        change(&mut bytes[at + mark.len()..]);
    }
}

fn fails_with(origin: &Origin, relay: &Relay, feature: &str, found: &str) {
    let right = clients(&format!("--plain --target {} -c 1 --feature {feature}", origin.address));
    assert_eq!(right.code, 0, "without the relay: {}", right.text);
    let outcome = clients(&format!("--plain --target {} -c 2 --feature {feature}", relay.address));
    assert_eq!(outcome.code, 1, "{}", outcome.text);
    assert!(outcome.text.contains(&format!("FAILED {feature}")), "{}", outcome.text);
    assert!(outcome.text.contains(found), "{found}: {}", outcome.text);
    assert!(outcome.text.contains("0 of 1 feature(s) passed"), "{}", outcome.text);
}

#[test]
fn one_changed_byte_in_an_answer_fails_the_feature() {
    let origin = Origin::start(&[]);
    let change = |answer: &mut Vec<u8>| {
        if let Some(last) = answer.last_mut() {
            *last ^= 1;
        }
        true
    };
    let relay = Relay::start(&origin.address, |_| {}, change);
    fails_with(&origin, &relay, "policy", "found 200, other content from byte ");
}

#[test]
fn an_answer_to_another_request_fails_the_feature() {
    let origin = Origin::start(&[]);
    let change = |request: &mut Vec<u8>| replace(request, b"X-Load-Id: ", |id| id[15] ^= 1);
    let relay = Relay::start(&origin.address, change, |_| true);
    fails_with(&origin, &relay, "location", "found 200, X-Id: ");
}

#[test]
fn a_fragment_that_changed_on_its_way_fails_the_feature() {
    let origin = Origin::start(&[]);
    let change = |request: &mut Vec<u8>| {
        let is_fragment = request.windows(8).any(|window| window == b"FRAGMENT");
        if let Some(last) = request.last_mut().filter(|_| is_fragment) {
            *last ^= 1;
        }
    };
    let relay = Relay::start(&origin.address, change, |_| true);
    fails_with(&origin, &relay, "inventory", "found 200, X-Load-Account: len=81920 hash=");
}

#[test]
fn an_endpoint_that_is_not_there_fails_the_feature_and_the_rest_is_tried() {
    let origin = Origin::start(&[]);
    // The first path of a location is changed to one that no endpoint has.
    let other = |request: &mut Vec<u8>| replace(request, b".sms_aut?MPLIST", |rest| rest[0] = b'X');
    let missing = Relay::start(&origin.address, other, |_| true);
    fails_with(&origin, &missing, "location", "found 404 Not Found");
    let outcome = clients(&format!("--plain --target {} -c 1 --feature location", missing.address));
    assert!(outcome.text.contains("pass  certificate"), "{}", outcome.text);
}

#[test]
fn nobody_there_is_no_feature_that_passes() {
    let outcome = clients("--plain --target 127.0.0.1:1 -c 1 --feature location --timeout 1");
    assert_eq!(outcome.code, 1, "{}", outcome.text);
    assert!(outcome.text.contains("answered for 0 of 1 clients"), "{}", outcome.text);
}

#[test]
fn a_population_lives_and_its_shares_are_told() {
    let origin = Origin::start(&[]);
    for more in [
        "",
        "--burst after-outage",
        "--burst start-of-day --features policy,location",
        "--schedule benchmark",
    ] {
        let flags = format!(
            "--plain --target {} -c 40 --profile population --speed 1800 -d 2 {more}",
            origin.address
        );
        let outcome = clients(&flags);
        assert_eq!(outcome.code, 0, "{more}: {}", outcome.text);
        assert!(outcome.report["requests"].as_u64() > Some(40), "{more}: {}", outcome.text);
        assert!(outcome.text.contains("share by kind"), "{more}: {}", outcome.text);
        assert!(!outcome.text.contains("went wrong"), "{more}: {}", outcome.text);
    }
}

#[test]
fn features_are_listed_and_unknown_ones_refused() {
    let run = |flags: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
            .arg("clients")
            .args(flags.split_whitespace())
            .output()
            .expect("loadgen runs");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, text) = run("--list-features");
    assert_eq!(code, Some(0));
    assert!(text.contains("update-scan: ") && text.contains("BITS_POST"), "{text}");
    for flags in [
        "--plain --target 127.0.0.1:1 --feature nothing",
        "--plain --target 127.0.0.1:1 --profile population",
        "--plain --target 127.0.0.1:1 --profile population -d 1 --speed 0",
        "--plain --target 127.0.0.1:1 --features policy",
    ] {
        assert_eq!(run(flags).0, Some(2), "{flags}");
    }
}

/// What comes back for one request, as bytes, and how the connection ended.
fn ask(origin: &Origin, query: &str) -> (Vec<u8>, Result<usize, ErrorKind>) {
    let mut stream = TcpStream::connect(&origin.address).expect("the origin listens");
    stream.set_read_timeout(Some(Duration::from_millis(700))).expect("a timeout");
    stream
        .write_all(format!("GET /x?id=1&bytes=1000&{query} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes())
        .expect("sent");
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes).map_err(|error| error.kind());
    (bytes, end)
}

#[test]
fn faults_are_what_their_names_say() {
    let origin = Origin::start(&[]);
    let (bytes, end) = ask(&origin, "fault=reset");
    assert_eq!((bytes.len(), end), (0, Err(ErrorKind::ConnectionReset)));
    let (bytes, end) = ask(&origin, "fault=close");
    assert_eq!((bytes.len(), end), (0, Ok(0)));
    let (bytes, end) = ask(&origin, "fault=stall");
    assert_eq!((bytes.len(), end), (0, Err(ErrorKind::WouldBlock)));
    let (bytes, end) = ask(&origin, "fault=garbage");
    assert!(!bytes.is_empty() && !bytes.starts_with(b"HTTP") && end.is_ok());
    let (bytes, end) = ask(&origin, "fault=cut");
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
    assert!(bytes.len() - head == 500 && end.is_ok(), "{} {end:?}", bytes.len() - head);
}

#[test]
fn faults_by_chance_are_counted_as_failures_and_work_goes_on() {
    let origin =
        Origin::start(&["--fault", "reset=0.05,close=0.05,cut=0.05", "--seed", "3", "--delay", "1..3"]);
    let outcome = clients(&format!("--plain --target {} -c 8 -m 40 --allow-failures", origin.address));
    assert_eq!((outcome.code, &outcome.report["requests"]), (0, &320.into()), "{}", outcome.text);
    assert!(outcome.report["failures"]["cut"].as_u64() > Some(10), "{}", outcome.text);
    assert!(outcome.report["latency"]["p50_ms"].as_f64() >= Some(1.0), "{}", outcome.text);
}
