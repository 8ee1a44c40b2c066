//! The comparison's arithmetic and its manners, from made-up runs: no proxy is started here.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/compare/run")
}

/// Says so and gives true where python3 is missing.
fn is_skipped(story: &str) -> bool {
    let is_there =
        Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success());
    if !is_there {
        let text = format!("SKIPPED {story}: no python3");
        assert!(std::env::var_os("CMG_REQUIRE_PROGRAMS").is_none(), "{text}");
        let _ = writeln!(io::stderr(), "{text}");
    }
    !is_there
}

fn run(flags: &[&str]) -> Output {
    Command::new("python3").arg(script()).args(flags).output().unwrap()
}

fn said(output: &Output) -> (i32, String) {
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text.into_owned())
}

/// One run of loadgen, with CPU per request of each process.
fn load(case: &str, peer: &str, round: u32, costs: &[f64], p99: f64) -> Value {
    let processes: Vec<Value> = costs
        .iter()
        .map(|cost| json!({"name": "x", "cpu_micros_per_request": cost, "syscalls_per_request": 0.25}))
        .collect();
    json!({"commit": "abc", "case": case, "peer": peer, "round": round, "load": {
        "passed": true, "rate": 1000.0, "processes": processes,
        "latency": {"p50_ms": 1.0, "p99_ms": p99, "p999_ms": 9.0},
        "failures": {"cut": 0, "status": {}},
    }})
}

fn kept(lines: &[Value]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(folder.path().join("runs.jsonl"), text).unwrap();
    let facts = json!({"date": "2026-11-22", "commits": ["abc"], "seed": 1, "profile": "a release build",
        "versions": {"nginx": "nginx 1.22"}, "machine": {"cpus": 2, "cpu": "made up", "kernel": "6.1", "memory_gib": 1,
        "congestion_control": "bbr", "huge_pages": "madvise"}});
    fs::write(folder.path().join("facts.json"), facts.to_string()).unwrap();
    folder
}

fn tables(lines: &[Value]) -> (i32, String) {
    let folder = kept(lines);
    said(&run(&["--from", folder.path().to_str().unwrap(), "--targets"]))
}

#[test]
fn ratios_are_taken_round_by_round_and_shown_with_their_spread() {
    if is_skipped("ratios_are_taken_round_by_round_and_shown_with_their_spread") {
        return;
    }
    // The machine slows down by the round: medians of the values would say 8 / 40, rounds say 0.4 at most.
    let lines = [
        load("small-64", "cmg", 1, &[4.0, 2.0], 1.0),
        load("small-64", "nginx", 1, &[10.0], 1.0),
        load("small-64", "cmg", 2, &[8.0, 4.0], 1.0),
        load("small-64", "nginx", 2, &[40.0], 1.0),
        load("small-64", "cmg", 3, &[30.0, 15.0], 1.0),
        load("small-64", "nginx", 3, &[100.0], 1.0),
    ];
    let (code, text) = tables(&lines);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("small-64: gateway ÷ nginx | ≤ 0.45 | 0.30 (0.20..0.40) | met"), "{text}");
    assert!(
        text.contains("small-64: gateway and connector ÷ nginx | ≤ 1 | 0.45 (0.30..0.60) | met"),
        "{text}"
    );
    assert!(
        text.contains("small-64: system calls per request in the gateway | ≤ 0.5 | 0.25 | met"),
        "{text}"
    );
    assert!(text.contains("small-1000: gateway ÷ nginx | ≤ 0.45 | – | not measured"), "{text}");
    assert!(text.contains("Nowhere in this run."), "{text}");
}

#[test]
fn what_is_lost_is_said_and_a_missed_target_shows_in_the_exit_code() {
    if is_skipped("what_is_lost_is_said_and_a_missed_target_shows_in_the_exit_code") {
        return;
    }
    let lines = [
        load("up-1m", "cmg", 1, &[1300.0, 900.0], 1.0),
        load("up-1m", "nginx", 1, &[1000.0], 1.0),
        load("up-1m", "haproxy", 1, &[1500.0], 1.0),
        load("open-6000", "cmg", 1, &[100.0, 50.0], 6.0),
        load("open-6000", "nginx-nginx", 1, &[200.0, 200.0], 4.0),
    ];
    let (code, text) = tables(&lines);
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("up-1m: gateway ÷ nginx, per MiB | ≤ 0.8 | 1.30 | MISSED"), "{text}");
    assert!(text.contains("p99 ÷ that of nginx → nginx | ≤ 1.2 | 1.50 | MISSED"), "{text}");
    let lost: Vec<&str> = text.lines().filter(|line| line.starts_with("- ")).collect();
    assert_eq!(lost.len(), 3, "{lost:?}");
    assert!(lost[0].ends_with("CPU per MiB of the gateway is 1.30 × nginx, plain"), "{}", lost[0]);
    assert!(lost[1].ends_with("two hops, is 2.20 × nginx, plain, 1.47 × HAProxy, plain"), "{}", lost[1]);
}

#[test]
fn a_run_without_a_report_is_an_error_and_no_figure() {
    if is_skipped("a_run_without_a_report_is_an_error_and_no_figure") {
        return;
    }
    let mut failed = load("open-6000", "cmg", 2, &[], 0.0);
    failed["load"] = json!({"passed": false, "first_failure": "no end within 90 s"});
    let lines = [
        load("open-6000", "cmg", 1, &[100.0, 50.0], 4.0),
        load("open-6000", "nginx-nginx", 1, &[200.0, 200.0], 4.0),
        failed,
        load("open-6000", "nginx-nginx", 2, &[200.0, 200.0], 4.0),
    ];
    let (code, text) = tables(&lines);
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("p99 ÷ that of nginx → nginx | ≤ 1.2 | 1.00 | met"), "{text}");
    assert!(text.contains("errors of cmg, the worst round | ≤ 0 | 1.00 | MISSED"), "{text}");
}

#[test]
fn the_crypto_floor_is_divided_by_what_a_connection_costs() {
    if is_skipped("the_crypto_floor_is_divided_by_what_a_connection_costs") {
        return;
    }
    let crypto = |round, full, resumed| {
        json!({"commit": "abc", "case": "handshake-full", "peer": "crypto", "round": round,
               "crypto": {"full_us": full, "resumed_us": resumed}})
    };
    let lines = [
        load("handshake-full", "cmg", 1, &[300.0, 10.0], 1.0),
        crypto(1, 216.0, 60.0),
        load("handshake-full", "cmg", 2, &[400.0, 10.0], 1.0),
        crypto(2, 240.0, 60.0),
    ];
    let (code, text) = tables(&lines);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("(with one request) | ≥ 0.65 | 0.66 (0.60..0.72) | met"), "{text}");
}

#[test]
fn memory_of_one_round_says_so_and_who_held_nobody_is_named_with_the_reason() {
    if is_skipped("memory_of_one_round_says_so_and_who_held_nobody_is_named_with_the_reason") {
        return;
    }
    let held = |peer: &str, round: u32, grown: Option<f64>| {
        json!({"commit": "abc", "case": "idle-memory", "peer": peer, "round": round, "load": {
            "passed": grown.is_some(), "processes": [{"name": "x", "resident_per_connection": grown}],
            "first_failure": grown.is_none().then_some("connect: Connection refused"),
            "failures": {"connect": u32::from(grown.is_none()), "status": {}},
        }})
    };
    let lines = [held("cmg", 1, Some(7000.0)), held("nginx", 1, Some(28_000.0)), held("floor", 1, None)];
    let (code, text) = tables(&lines);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("| nginx, plain | 28,000 | 28,000 | 0.25 | 0 |"), "{text}");
    let note = "One round, so without a spread. floor: bare ring, answers itself: not measured, connect: Connection refused.";
    assert!(text.contains(note), "{text}");
    let (_, text) = tables(&[&lines[..2], &[held("cmg", 2, Some(7100.0))]].concat());
    assert!(!text.contains("One round") && !text.contains("not measured, "), "{text}");
}

/// What Python says of `lines`, which know the modules of the comparison.
fn python(lines: &str) -> (i32, String) {
    let folder = script().parent().unwrap().display().to_string();
    let text = format!("import sys\nsys.dont_write_bytecode = True\nsys.path.insert(0, {folder:?})\n{lines}");
    said(&Command::new("python3").arg("-c").arg(text).output().unwrap())
}

#[test]
fn who_ended_is_not_taken_for_ready_because_another_answers_there() {
    if is_skipped("who_ended_is_not_taken_for_ready_because_another_answers_there") {
        return;
    }
    let (code, text) = python(
        r#"
import socket, stage, subprocess, threading
held = stage.Stage()
old = socket.socket()
old.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
old.bind(("127.0.0.1", 0))
old.listen()
port = old.getsockname()[1]
try:
    new = held.start("new", ["false"])
    subprocess.Popen.wait(new)
    held.wait_for_port(new, port)
except stage.Failure as failure:
    print(failure)
print("free" if stage.can_listen(port) else "taken")
# Taken down by somebody else while it is waited for.
threading.Timer(0.1, old.close).start()
held.wait_for_free(port)
print("free" if stage.can_listen(port) else "taken")
held.close()
"#,
    );
    assert_eq!(code, 0, "{text}");
    let said: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(said, ["new ended with code 1:", "taken", "free"], "{text}");
}

#[test]
fn what_is_missing_is_said_before_anything_is_started() {
    if is_skipped("what_is_missing_is_said_before_anything_is_started") {
        return;
    }
    for (flags, word) in [
        (vec!["--bin", "/nowhere", "--floor", "/nowhere"], "/nowhere/cmg: no such program"),
        (vec!["--cases", "small"], "small: none of"),
        (vec!["--peers", "cmg,iis"], "iis: none of"),
    ] {
        let (code, text) = said(&run(&flags));
        assert!(code == 2 && text.contains(word), "{flags:?}: {code} {text}");
    }
}
