//! Stories of `loadgen clients` at rates of its own: planned starts, renewed connections, handshakes, an early end.

use crate::peer::{Origin, Relay, TlsFiles, clients, clients_until};
use std::process::Command;
use std::time::Duration;

#[test]
fn a_stall_is_seen_by_all_who_were_to_ask_in_it() {
    let origin = Origin::start(&[]);
    let p90 = |flags: &str| {
        let relay = Relay::start_stalling(&origin.address, 100, Duration::from_secs(1));
        let outcome = clients(&format!("--plain --target {} -c 1 -d 3 {flags}", relay.address));
        assert_eq!(outcome.code, 0, "{}", outcome.text);
        (outcome.report["latency"]["p90_ms"].as_f64().expect("a number"), outcome)
    };
    // The closed loop asked nothing while it waited: one slow answer among thousands.
    let (closed, _) = p90("");
    assert!(closed < 100.0, "{closed}");
    // A third of the planned starts fall into the second that stood still; a tenth of all waited longer than 0.7 s. Counted from
    // their sending, all but one were quick.
    let (open, outcome) = p90("--rate 100");
    assert!((500.0..1000.0).contains(&open), "{}", outcome.text);
    let open_loop = &outcome.report["drive"]["open_loop"];
    assert_eq!((&open_loop["unsent"], &open_loop["planned"]), (&0.into(), &outcome.report["requests"]));
    let waited = open_loop["waited"]["p90_ms"].as_f64().expect("a number");
    assert!(waited > 400.0, "the wait for the connection is told apart: {}", outcome.text);
    let late = open_loop["late"]["p90_ms"].as_f64().expect("a number");
    assert!(late < 200.0, "loadgen itself did not wait: {}", outcome.text);
}

#[test]
fn a_rate_is_kept_over_threads_and_connections() {
    let origin = Origin::start(&[]);
    for more in ["", "--arrivals poisson", "--churn 50", "-m 3"] {
        let flags = format!("--plain --target {} -c 31 --threads 2 --rate 1000 -d 2 {more}", origin.address);
        let outcome = clients(&flags);
        assert_eq!(outcome.code, 0, "{more}: {}", outcome.text);
        let requests = outcome.report["requests"].as_u64().expect("a number");
        assert!((1_700..2_300).contains(&requests), "{more}: {}", outcome.text);
        assert_eq!(outcome.report["drive"]["open_loop"]["planned"], requests, "{more}: {}", outcome.text);
    }
}

#[test]
fn a_total_is_planned_and_no_more() {
    let origin = Origin::start(&[]);
    for (flags, requests) in [("--total 200", 200), ("-m 20", 140), ("-m 3 --total 100", 100)] {
        let flags = format!("--plain --target {} -c 7 --threads 2 --rate 500 {flags}", origin.address);
        let outcome = clients(&flags);
        assert_eq!((outcome.code, &outcome.report["requests"]), (0, &requests.into()), "{}", outcome.text);
    }
}

#[test]
fn planned_requests_that_were_never_sent_miss_the_plan() {
    let origin = Origin::start(&["--delay-ms", "200"]);
    let flags = format!("--plain --target {} -c 1 --rate 100 -d 1 --backlog 5", origin.address);
    let outcome = clients(&flags);
    assert_eq!(outcome.code, 3, "{}", outcome.text);
    let open_loop = &outcome.report["drive"]["open_loop"];
    let count = |value: &serde_json::Value| value.as_u64().expect("a number");
    // About five of a second are answered in it, and the five that waited behind it.
    assert!(count(&open_loop["unsent"]) > 70, "{}", outcome.text);
    assert_eq!(
        count(&open_loop["unsent"]) + count(&outcome.report["requests"]),
        count(&open_loop["planned"]),
        "{}",
        outcome.text
    );
    assert!(outcome.text.contains("BEHIND"), "{}", outcome.text);
}

#[test]
fn a_planned_request_closed_unread_is_asked_again() {
    let origin = Origin::start(&[]);
    let count = std::sync::atomic::AtomicU64::new(0);
    let second_is_cut = move |_: &mut Vec<u8>| count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) != 1;
    let relay = Relay::start(&origin.address, |_| {}, second_is_cut);
    let outcome = clients(&format!("--plain --target {} -c 1 --rate 0.8 --total 2", relay.address));
    assert_eq!((outcome.code, &outcome.report["requests"]), (0, &2.into()), "{}", outcome.text);
    assert_eq!(outcome.report["closed_unread"], 1, "{}", outcome.text);
}

#[test]
fn connections_are_made_anew_at_a_rate() {
    let origin = Origin::start(&[]);
    let flags = format!("--plain --target {} -c 5 --rate 200 --churn 40 -d 2", origin.address);
    let outcome = clients(&flags);
    assert_eq!(outcome.code, 0, "{}", outcome.text);
    let made = outcome.report["connects"].as_u64().expect("a number");
    assert!((50..100).contains(&made), "{}", outcome.text);
}

#[test]
fn handshakes_alone_are_counted_full_and_resumed_by_client() {
    let origin = Origin::start(&[]);
    let files = TlsFiles::make();
    let relay = Relay::start_tls(&origin.address, &files);
    let base = format!(
        "--target {} --name proxy.test --ca {} --clients-dir {} -c 3 --total 30",
        relay.address,
        files.ca().display(),
        files.clients_dir().display()
    );
    for version in ["1.2", "1.3"] {
        for requests in [0, 1] {
            for (more, full) in [("", 30), ("--resume", 3)] {
                let flags = format!("{base} --tls {version} -m {requests} {more}");
                let outcome = clients(&flags);
                assert_eq!(
                    (outcome.code, &outcome.report["requests"]),
                    (0, &30.into()),
                    "{flags}: {}",
                    outcome.text
                );
                let drive = &outcome.report["drive"];
                assert_eq!(
                    (&drive["full"], &drive["resumed"]),
                    (&full.into(), &(30 - full).into()),
                    "{flags}: {}",
                    outcome.text
                );
            }
        }
    }
}

#[test]
fn a_server_that_refuses_a_certificate_is_noticed_though_the_client_is_done_first() {
    let origin = Origin::start(&[]);
    let files = TlsFiles::make();
    let relay = Relay::start_tls(&origin.address, &files);
    let flags = format!("--target {} --name proxy.test --ca {}", relay.address, files.ca().display());
    let outcome = clients(&format!("{flags} -c 2 -m 0 --tls 1.3 --total 4 --timeout 1"));
    assert_eq!((outcome.code, &outcome.report["requests"]), (1, &0.into()), "{}", outcome.text);
    assert!(outcome.report["failures"]["tls"].as_u64() >= Some(2), "{}", outcome.text);
}

#[test]
fn certificates_are_read_when_a_client_shows_them() {
    let origin = Origin::start(&[]);
    let files = TlsFiles::make();
    std::fs::write(files.clients_dir().join("zero.pem"), "no certificate").expect("written");
    std::fs::write(files.clients_dir().join("zero.key"), "no key").expect("written");
    let relay = Relay::start_tls(&origin.address, &files);
    let flags = format!(
        "--target {} --name proxy.test --ca {} --clients-dir {} -m 2 --timeout 1",
        relay.address,
        files.ca().display(),
        files.clients_dir().display()
    );
    assert_eq!(clients(&format!("{flags} -c 2")).code, 0);
    let outcome = clients(&format!("{flags} -c 3"));
    assert_eq!((outcome.code, &outcome.report["requests"]), (1, &4.into()), "{}", outcome.text);
    assert!(outcome.text.contains("zero.pem"), "{}", outcome.text);
}

#[test]
fn an_interrupted_run_tells_what_it_found() {
    let origin = Origin::start(&[]);
    let flags = format!("--plain --target {} -c 4 --rate 100 -d 600 --seed 77", origin.address);
    let outcome = clients_until(&flags, |process| {
        std::thread::sleep(Duration::from_secs(2));
        let status = Command::new("kill").args(["-INT", &process.to_string()]).status();
        assert!(status.expect("kill runs").success());
    });
    assert_eq!(outcome.code, 130, "{}", outcome.text);
    let (drive, requests) = (&outcome.report["drive"], outcome.report["requests"].as_u64());
    assert_eq!(
        (&drive["is_interrupted"], &outcome.report["run"]["seed"]),
        (&true.into(), &77.into()),
        "{}",
        outcome.text
    );
    assert!(requests > Some(20) && requests < Some(1000), "{}", outcome.text);
    assert!(outcome.text.contains("interrupted"), "{}", outcome.text);
}
