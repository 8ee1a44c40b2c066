//! Notifications held and pushed by the real binary, directly, through TLS, and through peers that do wrong on purpose.

#[allow(dead_code, reason = "the other stories use the rest")]
mod peer;

use peer::{Origin, Outcome, Relay, TlsFiles, loadgen_until};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

fn notify(flags: &str) -> Outcome {
    loadgen_until("notify", flags, |_| {})
}

/// An origin with its control listener.
fn origin(flags: &[&str]) -> (Origin, String) {
    let all: Vec<_> = ["--control", "127.0.0.1:0"].iter().chain(flags).copied().collect();
    let mut origin = Origin::start(&all);
    let control = origin.next_address();
    (origin, control)
}

const FLAGS: &str = "--connect-rate 2000 --origin-control";

#[test]
fn every_push_reaches_every_client_once() {
    let (origin, control) = origin(&["--shards", "2"]);
    let pid = origin.pid();
    let target = format!("--plain --target {} -c 300 --hold 0.2 {FLAGS} {control}", origin.address);
    let outcome = notify(&format!("{target} --pushes 3 --keep-alive 0.5 --pids origin={pid}"));
    assert_eq!(outcome.code, 0, "{}", outcome.text);
    let report = &outcome.report;
    assert_eq!((&report["result"], &report["counts"]["lost"]), (&"right".into(), &0.into()));
    assert_eq!(report["pushes"].as_array().map(Vec::len), Some(3), "{}", outcome.text);
    for push in report["pushes"].as_array().into_iter().flatten() {
        assert_eq!((&push["delivered"], &push["latency"]["count"]), (&300.into(), &300.into()));
        assert!(push["first_ms"].as_f64() <= push["last_ms"].as_f64(), "{push}");
        assert!(push["processes"][0]["cpu_micros"].as_u64() > Some(0), "{push}");
    }
    assert!(report["memory"][0]["held"].as_u64() > Some(100_000), "{}", outcome.text);
    assert!(report["counts"]["keep_alives"].as_u64() > Some(0), "{}", outcome.text);
    // Numbers go on where the run before ended, and a share is a share.
    let outcome = notify(&format!("{target} --pushes 2 --push-share 0.5 --push-rate 2000 --ordinary 50"));
    assert_eq!(outcome.code, 0, "{}", outcome.text);
    let push = &outcome.report["pushes"][0];
    assert_eq!(push["number"], 4, "{}", outcome.text);
    assert!((100..200).contains(&push["expected"].as_u64().expect("a number")), "{}", outcome.text);
    assert!(outcome.report["ordinary"]["quiet"]["count"].as_u64() > Some(0), "{}", outcome.text);
}

#[test]
fn clients_with_certificates_hold_through_tls() {
    let (origin, control) = origin(&[]);
    let files = TlsFiles::make();
    let relay = Relay::start_tls(&origin.address, &files);
    let outcome = notify(&format!(
        "--target {} --name proxy.test --ca {} --clients-dir {} -c 20 --pushes 2 --hold 0.2 {FLAGS} {control}",
        relay.address,
        files.ca().display(),
        files.clients_dir().display()
    ));
    assert_eq!(outcome.code, 0, "{}", outcome.text);
    assert_eq!(outcome.report["pushes"][1]["delivered"], 20, "{}", outcome.text);
}

/// Runs ten clients through a relay that changes answers which are pushes.
fn through(change: impl Fn(&mut Vec<u8>) -> bool + Send + Sync + 'static, more: &str) -> Outcome {
    let (origin, control) = origin(&[]);
    let relay = Relay::start(&origin.address, |_| {}, change);
    notify(&format!("--plain --target {} {FLAGS} {control} --timeout 1 --pushes 1 {more}", relay.address))
}

fn is_push(answer: &[u8]) -> bool {
    find(answer, b"X-Load-Push: ").is_some()
}

fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    bytes.windows(mark.len()).position(|window| window == mark).map(|at| at + mark.len())
}

#[test]
fn a_push_for_another_client_is_caught() {
    let outcome = through(
        |answer| {
            if let (true, Some(at)) = (is_push(answer), find(answer, b"X-Load-Client: ")) {
                answer[at] = if answer[at] == b'9' { b'8' } else { answer[at] + 1 };
            }
            true
        },
        "-c 10 --hold 0.2",
    );
    assert_eq!(outcome.code, 4, "{}", outcome.text);
    let counts = &outcome.report["counts"];
    assert!(counts["misdelivered"].as_u64() >= Some(10), "{}", outcome.text);
    assert_eq!(counts["lost"], 10, "{}", outcome.text);
}

#[test]
fn a_push_that_comes_twice_is_caught() {
    let first = Mutex::new(None);
    let outcome = through(
        move |answer| {
            let mut first = first.lock().expect("not poisoned");
            match &*first {
                None if is_push(answer) => *first = Some(answer.clone()),
                Some(again) if !is_push(answer) => answer.clone_from(again),
                None | Some(_) => {}
            }
            true
        },
        "-c 1 --keep-alive 0.2 --hold 1",
    );
    assert_eq!(outcome.code, 4, "{}", outcome.text);
}

#[test]
fn a_push_whose_answer_is_dropped_is_lost_or_comes_with_the_next_request() {
    let outcome = through(|answer| !is_push(answer), "-c 10 --hold 0.2");
    // The relay closes instead; the client comes back, is owed the push, and the relay closes again.
    assert_eq!(outcome.code, 4, "{}", outcome.text);
    assert_eq!(outcome.report["counts"]["lost"], 10, "{}", outcome.text);
}

#[test]
fn clients_that_lost_their_connections_come_back() {
    let (origin, control) = origin(&[]);
    let flags = format!(
        "--plain --target {} -c 50 {FLAGS} {control} --hold 0.2 --storm 4 --spread 0.3",
        origin.address
    );
    let (address, control) = (origin.address.clone(), control);
    let mut origin = Some(origin);
    let mut again = None;
    let outcome = loadgen_until("notify", &flags, |_| {
        std::thread::sleep(Duration::from_millis(3500));
        drop(origin.take());
        again = Some(Origin::start_at(&address, &["--control", &control]));
    });
    assert_eq!(outcome.code, 0, "{}", outcome.text);
    let storm = &outcome.report["storms"][0];
    assert_eq!((&storm["clients"], &storm["connections_lost"]), (&50.into(), &50.into()), "{}", outcome.text);
    assert!(storm["seconds_until_held"].as_f64() > Some(0.0), "{}", outcome.text);
    // Without --storm the same is a failure.
    let flags = flags.replace("--hold 0.2 --storm 4", "--hold 2 --timeout 1");
    let mut origin = again;
    let outcome = loadgen_until("notify", &flags, |_| {
        std::thread::sleep(Duration::from_millis(3000));
        drop(origin.take());
    });
    assert_eq!(outcome.code, 1, "{}", outcome.text);
}

#[test]
fn a_run_that_is_interrupted_tells_what_it_found() {
    let (origin, control) = origin(&[]);
    let flags = format!("--plain --target {} -c 20 {FLAGS} {control} --hold 60", origin.address);
    let outcome = loadgen_until("notify", &flags, |pid| {
        std::thread::sleep(Duration::from_millis(2500));
        let status = Command::new("kill").args(["-INT", &pid.to_string()]).status();
        assert!(status.expect("kill runs").success());
    });
    assert_eq!((outcome.code, &outcome.report["result"]), (130, &"interrupted".into()), "{}", outcome.text);
    assert_eq!(outcome.report["counts"]["held"], 20, "{}", outcome.text);
}

#[test]
fn wrong_usage_has_a_code_of_its_own() {
    for flags in [
        "--plain",
        "--plain --target 127.0.0.1:1 --pushes 1",
        "--plain --target 127.0.0.1:1 --origin-control 127.0.0.1:1",
        "--plain --target 127.0.0.1:1 --path /x?y",
    ] {
        assert_eq!(notify(flags).code, 2, "{flags}");
    }
}
