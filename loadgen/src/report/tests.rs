//! What reports say, of made-up counts.

use super::*;
use crate::process::{Usage, Watched};
use std::time::Duration;

fn report(failures: Failures, allows: bool) -> Report {
    let mut tally = Tally::default();
    tally.failures = failures;
    Report::new(&tally, &Moments::default(), &[], 1, 1, allows)
}

#[test]
fn clean_failures_can_be_allowed_and_wrong_answers_never() {
    let cut = Failures { cut: 1, status: [(503, 2)].into(), ..Failures::default() };
    assert!(!report(cut.clone(), false).passed && report(cut, true).passed);
    for wrong in [
        Failures { wrong_id: 1, ..Failures::default() },
        Failures { wrong_body: 1, ..Failures::default() },
        Failures { malformed: 1, ..Failures::default() },
        Failures { abandoned: 1, ..Failures::default() },
        Failures { status: [(404, 1)].into(), ..Failures::default() },
    ] {
        assert!(!report(wrong, true).passed);
    }
}

#[test]
fn cpu_is_told_per_measured_request() {
    let snapshot = |seconds, answers, micros| Snapshot {
        at: Duration::from_secs(seconds),
        answers,
        own_cpu: Duration::from_micros(micros),
        usages: vec![Usage { cpu_micros: Some(micros * 2), resident: Some(micros * 10) }],
    };
    let moments = Moments {
        before: snapshot(0, 0, 0),
        connected: snapshot(1, 0, 100),
        begin: snapshot(1, 50, 100),
        end: snapshot(3, 250, 2_100),
        idle: None,
    };
    let watched = [Watched { name: "gateway".into(), pids: vec![1] }];
    let report = Report::new(&Tally::default(), &moments, &watched, 10, 1, false);
    assert_eq!(
        (report.measured_requests, report.rate, report.own_cpu_micros_per_request),
        (200, 100.0, 10.0)
    );
    assert_eq!(report.processes[0].cpu_micros_per_request, Some(20.0));
    assert_eq!(report.processes[0].resident_per_connection, Some(100.0));
    assert!(report.table().contains("20.0 µs/request"));
}
