//! The real binary against itself, and against peers that do wrong on purpose.

mod peer;
mod rates;
mod reports;

use peer::{Origin, Relay, TlsFiles, clients};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[test]
fn every_answer_of_the_origin_is_right() {
    let origin = Origin::start(&["--shards", "2"]);
    for (flags, requests) in [
        ("-c 200 -m 20", 4000),
        ("-c 3 -m 100 --pipeline 40", 300),
        ("-c 20 --total 500 -m 3", 500),
        ("-c 8 -m 3 --body 200000 --answer 200000", 24),
        ("-c 8 -m 3 --body 200000 --chunked --path /x?framing=chunked --answer 100000", 24),
        ("-c 4 -m 3 --path /x?framing=close --answer 70000", 12),
        ("-c 4 -m 3 --method HEAD", 12),
        ("-c 4 -m 3 --ids contains --threads 2 --source 127.0.0.2,127.0.0.3", 12),
        ("-c 2 -m 1 --read-rate 200000 --answer 60000", 2),
        ("-c 5 --hold 0.4 --every 0.2", 15),
        ("-c 4 -m 3 --path /x?delay_ms=20", 12),
    ] {
        let outcome = clients(&format!("--plain --target {} {flags}", origin.address));
        assert_eq!(outcome.code, 0, "{flags}: {}", outcome.text);
        assert_eq!(outcome.report["requests"], requests, "{flags}: {}", outcome.text);
        let count = |name: &str| outcome.report[name].as_u64();
        assert!(count("connects") >= count("connections"), "{flags}: {}", outcome.text);
    }
}

#[test]
fn an_answer_to_another_request_is_caught() {
    let origin = Origin::start(&[]);
    // Another id goes to the origin: its answer is whole and right, for somebody else.
    let relay = Relay::start(&origin.address, |request| replace(request, b"id=", |id| id[15] ^= 1), |_| true);
    let outcome = clients(&format!("--plain --target {} -c 4 -m 5 --allow-failures", relay.address));
    assert_eq!(outcome.code, 1, "{}", outcome.text);
    assert_eq!(outcome.report["failures"]["wrong_id"], 20, "{}", outcome.text);
    assert_eq!(outcome.report["requests"], 0);
}

#[test]
fn one_changed_byte_in_an_answer_is_caught() {
    let origin = Origin::start(&[]);
    let relay = Relay::start(
        &origin.address,
        |_| {},
        |answer| {
            if let Some(last) = answer.last_mut() {
                *last ^= 1;
            }
            true
        },
    );
    let outcome = clients(&format!("--plain --target {} -c 2 -m 3 --allow-failures", relay.address));
    assert_eq!((outcome.code, &outcome.report["failures"]["wrong_body"]), (1, &6.into()), "{}", outcome.text);
}

#[test]
fn a_body_that_changed_on_its_way_is_caught() {
    let origin = Origin::start(&[]);
    let change = |request: &mut Vec<u8>| {
        if let Some(last) = request.last_mut() {
            *last ^= 1;
        }
    };
    let relay = Relay::start(&origin.address, change, |_| true);
    let outcome =
        clients(&format!("--plain --target {} -c 2 -m 3 --body 500 --allow-failures", relay.address));
    assert_eq!((outcome.code, &outcome.report["failures"]["wrong_body"]), (1, &6.into()), "{}", outcome.text);
}

#[test]
fn cut_connections_are_made_anew_until_the_work_is_done() {
    let origin = Origin::start(&[]);
    let count = std::sync::atomic::AtomicU64::new(0);
    let cuts = move |_: &mut Vec<u8>| count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 7 != 3;
    let relay = Relay::start(&origin.address, |_| {}, cuts);
    for (more, code) in [("--allow-failures", 0), ("", 1)] {
        let outcome = clients(&format!("--plain --target {} -c 4 -m 20 {more}", relay.address));
        assert_eq!((outcome.code, &outcome.report["requests"]), (code, &80.into()), "{}", outcome.text);
        assert!(outcome.report["failures"]["cut"].as_u64() > Some(0), "{}", outcome.text);
    }
}

#[test]
fn work_that_cannot_be_done_ends_in_time() {
    let origin = Origin::start(&[]);
    for (target, flags, kind) in
        [("127.0.0.1:1".to_owned(), "", "connect"), (origin.address.clone(), "--path /x?stall", "timeout")]
    {
        let outcome =
            clients(&format!("--plain --target {target} -c 3 -m 2 --timeout 1 --allow-failures {flags}"));
        assert_eq!(
            (outcome.code, &outcome.report["failures"]["abandoned"]),
            (1, &3.into()),
            "{}",
            outcome.text
        );
        assert!(outcome.report["failures"][kind].as_u64() >= Some(3), "{}", outcome.text);
    }
}

#[test]
fn a_client_that_reads_nothing_ends_with_its_time() {
    let origin = Origin::start(&[]);
    let flags = format!("--plain --target {} -c 3 --no-read --answer 50000000 -d 0.5", origin.address);
    let outcome = clients(&flags);
    assert_eq!((outcome.code, &outcome.report["received"]), (0, &0.into()), "{}", outcome.text);
}

#[test]
fn statuses_are_counted_by_number() {
    let origin = Origin::start(&[]);
    let outcome = clients(&format!("--plain --target {} -c 2 -m 3 --path /x?status=404", origin.address));
    assert_eq!(
        (outcome.code, &outcome.report["failures"]["status"]["404"]),
        (1, &6.into()),
        "{}",
        outcome.text
    );
}

#[test]
fn tls_clients_show_their_certificates() {
    let origin = Origin::start(&[]);
    let files = TlsFiles::make();
    let relay = Relay::start_tls(&origin.address, &files);
    let flags =
        format!("--target {} --name proxy.test --ca {} -c 6 -m 20", relay.address, files.ca().display());
    for version in ["1.2", "1.3"] {
        let folder = files.clients_dir().display().to_string();
        for more in ["", "--body 5000 --answer 50000"] {
            let outcome = clients(&format!("{flags} --tls {version} --clients-dir {folder} {more}"));
            assert_eq!(
                (outcome.code, &outcome.report["requests"]),
                (0, &120.into()),
                "{version}: {}",
                outcome.text
            );
        }
        let outcome = clients(&format!("{flags} --tls {version} --timeout 1"));
        assert_eq!(outcome.code, 1, "no certificate, {version}: {}", outcome.text);
        assert!(outcome.report["failures"]["tls"].as_u64() >= Some(6), "{}", outcome.text);
        assert_eq!(outcome.report["requests"], 0, "{}", outcome.text);
    }
}

#[test]
fn a_server_of_another_ca_is_refused() {
    let origin = Origin::start(&[]);
    let (files, other) = (TlsFiles::make(), TlsFiles::make());
    let relay = Relay::start_tls(&origin.address, &files);
    let folder = files.clients_dir().display().to_string();
    let flags =
        format!("--target {} --name proxy.test --clients-dir {folder} -c 1 --timeout 1", relay.address);
    let outcome = clients(&format!("{flags} --ca {}", other.ca().display()));
    assert_eq!(outcome.code, 1, "{}", outcome.text);
    let outcome = clients(&format!("{flags} --insecure"));
    assert_eq!(outcome.code, 0, "{}", outcome.text);
}

#[test]
fn wrong_usage_has_a_code_of_its_own() {
    for flags in ["--target 127.0.0.1:1", "--plain", "--plain --target 127.0.0.1:1 --path x"] {
        assert_eq!(clients(flags).code, 2, "{flags}");
    }
}

/// Changes what follows the first `mark`.
fn replace(bytes: &mut [u8], mark: &[u8], change: impl Fn(&mut [u8])) {
    if let Some(at) = bytes.windows(mark.len()).position(|window| window == mark) {
        change(&mut bytes[at + mark.len()..]);
    }
}

#[test]
fn a_request_closed_unread_is_asked_again_and_no_failure() {
    let origin = Origin::start(&[]);
    let count = std::sync::atomic::AtomicU64::new(0);
    let second_is_cut = move |_: &mut Vec<u8>| count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) != 1;
    let relay = Relay::start(&origin.address, |_| {}, second_is_cut);
    let outcome = clients(&format!("--plain --target {} -c 1 --hold 1.2", relay.address));
    assert_eq!((outcome.code, &outcome.report["requests"]), (0, &2.into()), "{}", outcome.text);
    assert_eq!(
        (&outcome.report["closed_unread"], &outcome.report["connects"]),
        (&1.into(), &2.into()),
        "{}",
        outcome.text
    );
}

#[test]
fn connections_take_several_targets_in_turn() {
    let origin = Origin::start(&[]);
    let counts: [Arc<AtomicU64>; 2] = Default::default();
    let relays = counts.clone().map(|count| {
        let note = move |_: &mut Vec<u8>| {
            count.fetch_add(1, Ordering::Relaxed);
        };
        Relay::start(&origin.address, note, |_| true)
    });
    let targets = format!("{},{}", relays[0].address, relays[1].address);
    let outcome = clients(&format!("--plain --target {targets} -c 4 -m 5"));
    assert_eq!((outcome.code, &outcome.report["requests"]), (0, &20.into()), "{}", outcome.text);
    assert_eq!(counts.map(|count| count.load(Ordering::Relaxed)), [10, 10]);
}

#[test]
fn what_fails_is_told_one_by_one() {
    let origin = Origin::start(&[]);
    let count = AtomicU64::new(0);
    let third_is_cut = move |_: &mut Vec<u8>| count.fetch_add(1, Ordering::Relaxed) != 2;
    let relay = Relay::start(&origin.address, |_| {}, third_is_cut);
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("log");
    let targets = format!("{},127.0.0.1:1", relay.address);
    let flags = format!("--plain --target {targets} -c 2 --rate 50 -d 1 --log {}", file.display());
    let outcome = clients(&format!("{flags} --allow-failures"));
    assert_eq!(outcome.code, 3, "half of the starts cannot be sent: {}", outcome.text);
    let text = std::fs::read_to_string(&file).expect("a log");
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of = |kind: &str| -> Vec<_> { lines.iter().filter(|line| line["kind"] == kind).collect() };
    let [cut] = of("goodbye")[..] else { panic!("one request was cut: {text}") };
    assert_eq!((&cut["target"], cut["id"].as_str().map(str::len)), (&relay.address.clone().into(), Some(16)));
    assert!(cut["asked_ms"].as_f64() < Some(500.0) && cut["begun"].is_null(), "{cut}");
    let refused = of("connect");
    assert_eq!(outcome.report["failures"]["connect"], refused.len(), "{text}");
    assert!(refused.iter().all(|line| line["text"].as_str().is_some_and(|text| text.contains("refused"))));
    let gaps = of("gap").into_iter().filter(|gap| gap["target"] == "127.0.0.1:1");
    let gaps: Vec<_> = gaps.filter_map(|gap| gap["lasted_ms"].as_f64()).collect();
    assert!(matches!(gaps[..], [millis] if (900.0..2_000.0).contains(&millis)), "{gaps:?}");
}
