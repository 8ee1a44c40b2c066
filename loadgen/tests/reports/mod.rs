//! Everything a run reports, written by the real binary and read back.

use crate::peer::{BINARY, Origin, clients};
use base64::Engine;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn compare(flags: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } =
        Command::new(BINARY).arg("compare").args(flags).output().expect("loadgen runs");
    (status.code(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
}

/// Answers in the untagged entries of a histogram log.
fn measured_in(log: &[u8]) -> u64 {
    let measured = IntervalLogIterator::new(log).filter_map(|entry| match entry.expect("a valid log") {
        LogEntry::Interval(interval) if interval.tag().is_none() => Some(interval),
        _ => None,
    });
    let count = |text: &str| {
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).expect("base64");
        let times: Histogram<u64> = Deserializer::new().deserialize(&mut &bytes[..]).expect("V2 deflate");
        times.len()
    };
    measured.map(|interval| count(interval.encoded_histogram())).sum()
}

#[test]
fn all_outputs_of_one_run_agree() {
    let origin = Origin::start(&[]);
    let folder = tempfile::tempdir().expect("folder");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let flags = format!(
        "--plain --target {} -c 8 --warmup 0.4 -d 1.5 --pids origin={} --count-syscalls 0.3 --hdr {} --html {} \
         --objective p99<20s --objective rate>=1 --objective errors<=0 --objective cpu:origin<=900ms",
        origin.address,
        origin.pid(),
        file("run.hlog"),
        file("run.html")
    );
    let outcome = clients(&flags);
    assert_eq!(outcome.code, 0, "{}", outcome.text);
    let report = &outcome.report;
    assert_eq!((&report["format"], &report["version"]), (&"loadgen-report".into(), &1.into()));
    assert_eq!(report["run"]["flags"]["connections"], serde_json::json!(["8"]));
    assert_eq!(report["run"]["flags"]["pipeline"], serde_json::json!(["1"]), "defaults are told too");
    assert!(report["machine"]["kernel"].is_string() && report["machine"]["cpus"].is_string());
    let latency_count = report["latency"]["count"].as_u64().expect("count");
    assert!(latency_count > 100, "{}", outcome.text);
    assert_eq!(measured_in(&std::fs::read(file("run.hlog")).expect("written")), latency_count);
    let seconds = report["timeline"].as_array().expect("timeline");
    let sum = |is_measured: bool| -> u64 {
        let points = seconds.iter().filter(|point| point["measured"] == is_measured);
        points.map(|point| point["latency"]["count"].as_u64().expect("count")).sum()
    };
    assert_eq!(
        (sum(true), sum(true) + sum(false)),
        (latency_count, report["requests"].as_u64().expect("count"))
    );
    let process = &report["processes"][0];
    assert!(
        process["user_micros_per_request"].is_number() && process["system_micros_per_request"].is_number()
    );
    assert!(process["voluntary_switches_per_request"].is_number() && process["resident_peak"].is_number());
    // Whoever may not trace is told so.
    let is_counted = process["syscalls_per_request"].as_f64().is_some_and(|calls| calls > 0.0);
    assert!(is_counted != process["syscalls_unreadable"].is_string(), "{process}");
    assert!(report["objectives"].as_array().is_some_and(|verdicts| verdicts.len() == 4));
    let page = std::fs::read_to_string(file("run.html")).expect("written");
    assert!(
        page.starts_with("<!DOCTYPE html>") && page.contains("role=\"img\"") && page.ends_with("</html>")
    );
    assert!(outcome.text.contains("objective met"), "{}", outcome.text);
}

#[test]
fn a_missed_objective_has_a_code_of_its_own_and_a_wrong_answer_keeps_its() {
    let origin = Origin::start(&[]);
    let plain = format!("--plain --target {} -c 2 -m 3", origin.address);
    let outcome = clients(&format!("{plain} --objective p99<1us"));
    assert_eq!((outcome.code, outcome.text.contains("objective MISSED")), (3, true), "{}", outcome.text);
    assert_eq!(outcome.report["objectives"][0]["met"], false);
    let outcome = clients(&format!("{plain} --path /x?status=404 --objective p99<1us"));
    assert_eq!(outcome.code, 1, "{}", outcome.text);
    for wrong in ["p98<5ms", "p99<5", "cpu:nobody<5us", "syscalls:nobody<5"] {
        let outcome = clients(&format!("{plain} --objective {wrong}"));
        assert_eq!(outcome.code, 2, "{wrong}: {}", outcome.text);
    }
}

#[test]
fn two_runs_are_compared_and_files_that_are_none_are_named() {
    let origin = Origin::start(&[]);
    let folder = tempfile::tempdir().expect("folder");
    let path = |name: &str| folder.path().join(name);
    let text = |path: &Path| path.display().to_string();
    for (name, connections) in [("a.json", 2), ("b.json", 4)] {
        let outcome = clients(&format!("--plain --target {} -c {connections} -m 50", origin.address));
        std::fs::write(path(name), outcome.report.to_string()).expect("written");
    }
    let (a, b) = (text(&path("a.json")), text(&path("b.json")));
    let (json, html) = (path("compared.json"), path("compared.html"));
    let (code, said) = compare(&[&a, &b, "--json", &text(&json), "--html", &text(&html)]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("flag --connections") && said.contains("latency p99, ms"), "{said}");
    let compared: Value =
        serde_json::from_slice(&std::fs::read(json).expect("written")).expect("a comparison in JSON");
    assert_eq!(compared["format"], "loadgen-compare");
    assert!(std::fs::read_to_string(html).expect("written").contains("role=\"img\""));
    let (code, said) = compare(&["--a", &a, &a, &a, "--b", &b, &b, &b]);
    assert_eq!(code, Some(0), "{said}");

    std::fs::write(path("no.json"), "{\"format\":\"loadgen-report\",\"version\":1,\"run\":7}")
        .expect("written");
    let no = text(&path("no.json"));
    let (code, said) = compare(&[&a, &no]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("no.json") && said.contains("field run"), "{said}");
    assert_eq!(compare(&[&a]).0, Some(2));
    assert_eq!(compare(&[&a, "missing.json"]).0, Some(2));
    assert_eq!(compare(&["--a", &a]).0, Some(2));
}
