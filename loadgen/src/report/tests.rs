//! What reports say, of made-up counts.

use super::*;
use crate::machine::Machine;
use crate::process::{Cpu, Switches, Usage, Watched};
use std::time::Duration;

fn report(tally: &Tally, moments: &Moments, watched: &[Watched], calls: Option<&CallWindow>) -> Report {
    Report::new(Sources {
        tally,
        timeline: &Timeline::default(),
        moments,
        watched,
        calls,
        steps: &[],
        connections: 10,
        threads: 1,
        allows_failures: false,
        run: Provenance::default(),
        machine: Machine::default(),
    })
}

#[test]
fn clean_failures_can_be_allowed_and_wrong_answers_never() {
    let passes = |failures: Failures, allows_failures| {
        let mut tally = Tally::default();
        tally.failures = failures;
        Report::new(Sources {
            tally: &tally,
            timeline: &Timeline::default(),
            moments: &Moments::default(),
            watched: &[],
            calls: None,
            steps: &[],
            connections: 1,
            threads: 1,
            allows_failures,
            run: Provenance::default(),
            machine: Machine::default(),
        })
        .passed
    };
    let cut = Failures { cut: 1, status: [(503, 2)].into(), ..Failures::default() };
    assert!(!passes(cut.clone(), false) && passes(cut, true));
    for wrong in [
        Failures { wrong_id: 1, ..Failures::default() },
        Failures { wrong_body: 1, ..Failures::default() },
        Failures { malformed: 1, ..Failures::default() },
        Failures { abandoned: 1, ..Failures::default() },
        Failures { status: [(404, 1)].into(), ..Failures::default() },
    ] {
        assert!(!passes(wrong, true));
    }
}

fn snapshot(seconds: u64, answers: u64, micros: u64) -> Snapshot {
    Snapshot {
        at: Duration::from_secs(seconds),
        answers,
        own_cpu: Duration::from_micros(micros),
        usages: vec![Usage {
            cpu: Some(Cpu { user: micros * 3 / 2, system: micros / 2 }),
            switches: Some(Switches { voluntary: micros, involuntary: micros / 10 }),
            resident: Some(micros * 10),
            resident_peak: Some(micros * 11),
        }],
    }
}

fn moments() -> Moments {
    Moments {
        before: snapshot(0, 0, 0),
        connected: snapshot(1, 0, 100),
        begin: snapshot(1, 50, 100),
        end: snapshot(3, 250, 2_100),
        idle: None,
    }
}

#[test]
fn what_processes_used_is_told_per_measured_request() {
    let watched = [Watched { name: "gateway".into(), pids: vec![1] }];
    let calls = CallWindow { answers: 40, calls: vec![Ok(20)] };
    let report = report(&Tally::default(), &moments(), &watched, Some(&calls));
    assert_eq!(
        (report.measured_requests, report.rate, report.own_cpu_micros_per_request),
        (200, 100.0, 10.0)
    );
    let gateway = &report.processes[0];
    assert_eq!(gateway.cpu_micros_per_request, Some(20.0));
    assert_eq!((gateway.user_micros_per_request, gateway.system_micros_per_request), (Some(15.0), Some(5.0)));
    assert_eq!(gateway.voluntary_switches_per_request, Some(10.0));
    assert_eq!(gateway.involuntary_switches_per_request, Some(1.0));
    assert_eq!(gateway.resident_per_connection, Some(100.0));
    assert_eq!(gateway.resident_peak, Some(23_100));
    assert_eq!(gateway.syscalls_per_request, Some(0.5));
    let table = report.table();
    assert!(table.contains("20.0 µs/request, 15.0 user, 5.0 system"), "{table}");
    assert!(table.contains("0.500 system calls/request"), "{table}");
}

#[test]
fn system_calls_that_cannot_be_counted_have_a_reason() {
    let watched = [Watched { name: "gateway".into(), pids: vec![1] }];
    for (calls, reason) in [
        (CallWindow { answers: 40, calls: vec![Err("no right".into())] }, "no right"),
        (CallWindow { answers: 0, calls: vec![Ok(20)] }, "no right answer"),
    ] {
        let report = report(&Tally::default(), &moments(), &watched, Some(&calls));
        assert_eq!(report.processes[0].syscalls_per_request, None);
        assert!(report.table().contains(reason), "{}", report.table());
    }
    let report = report(&Tally::default(), &moments(), &watched, None);
    assert!(report.table().contains("not counted"), "{}", report.table());
}

/// A report with something in each of its parts, for whoever writes or reads it.
pub fn sample() -> (Report, Timeline) {
    let (mut tally, mut timeline) = (Tally::new(2), Timeline::default());
    for second in 0..20u64 {
        tally.set_measuring((5..15).contains(&second));
        for part in 0..200u64 {
            let at = Duration::from_secs(second) + Duration::from_millis(part * 4);
            let latency =
                Duration::from_micros(800 + part * part % 977 + second * 40 + (part % 50 / 49) * 9000);
            tally.answered(at, latency, (part % 2) as u16, 200);
        }
        tally.connected(Duration::from_millis(3));
        tally.failures.cut += u64::from(second == 7);
        tally.failures.status.insert(503, second / 10);
        timeline.add(tally.tell(Duration::from_millis(second * 1000 + 900), 64));
        timeline.look(Look {
            at: Duration::from_secs(second),
            glances: vec![crate::process::Glance {
                cpu: Some(Cpu { user: second * 200_000 + second % 3 * 9000, system: second * 100_000 }),
                resident: Some(20_000_000 + second * 300_000),
            }],
        });
    }
    tally.closed_unread = 1;
    timeline.add(tally.take_last());
    timeline.finish();
    let moments = Moments {
        before: snapshot(0, 0, 0),
        connected: snapshot(1, 0, 100),
        begin: snapshot(5, 1000, 100),
        end: snapshot(15, 3000, 40_100),
        idle: None,
    };
    let watched = [Watched { name: "gateway".into(), pids: vec![17, 18] }];
    let calls = CallWindow { answers: 40, calls: vec![Ok(20)] };
    let mut report = Report::new(Sources {
        tally: &tally,
        timeline: &timeline,
        moments: &moments,
        watched: &watched,
        calls: Some(&calls),
        steps: &["policy <1>".into(), "location".into()],
        connections: 64,
        threads: 1,
        allows_failures: true,
        run: Provenance {
            version: "0.1.0".into(),
            commit: Some("0123456789ab".into()),
            started: "2026-01-02T03:04:05Z".into(),
            seed: 7,
            flags: [
                ("connections".to_owned(), vec!["64".to_owned()]),
                ("header".to_owned(), vec!["x: <script>alert(1)</script>".to_owned()]),
            ]
            .into(),
        },
        machine: Machine::look(),
    });
    let objectives = ["p99<50ms", "p99<1us"].map(|text| text.parse().expect("valid"));
    Output { objectives: objectives.into(), ..Output::default() }.judge(&mut report);
    (report, timeline)
}

#[test]
fn seconds_at_the_edges_of_the_measured_time_have_their_true_length() {
    let (report, _) = sample();
    assert_eq!(report.timeline.len(), 20);
    let measured: Vec<_> = report.timeline.iter().filter(|point| point.measured).collect();
    assert_eq!((measured.len(), measured[0].at, measured[0].seconds), (10, 5.0, 1.0));
    assert!(measured.iter().all(|point| point.rate == 200.0 && point.latency.count == 200));
    assert_eq!(report.timeline[7].failures, 1);
    assert_eq!(report.process_timeline.len(), 19);
    assert_eq!(report.process_timeline[0].cpu_percent.len(), 1);
}

#[test]
fn a_report_comes_back_from_its_json() {
    let (report, _) = sample();
    let text = serde_json::to_string(&report).expect("written");
    let back: Report = serde_json::from_str(&text).expect("read");
    // A number may come back another in its last digit.
    assert_eq!(format!("{back:.6?}"), format!("{report:.6?}"));
    assert_eq!((back.format.as_str(), back.version), ("loadgen-report", 1));
    assert!(back.latency_curve.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 <= pair[1].1));
    assert_eq!(back.latency_curve.last().map(|point| point.0), Some(1.0));
}

#[test]
fn the_table_tells_steps_objectives_and_the_result() {
    let (report, _) = sample();
    let table = report.table();
    for text in
        ["  policy <1>", "objective met", "objective MISSED", "but an objective was MISSED", "1 unread"]
    {
        assert!(table.contains(text), "{text}: {table}");
    }
    assert!(!report.met() && report.passed);
}

#[test]
fn a_histogram_log_is_read_back_as_it_was_written() {
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
    use hdrhistogram::{Histogram, serialization::Deserializer};
    let (report, timeline) = sample();
    let started = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let log = hdr::log(&report, &timeline, started).expect("written");
    let mut sum = Histogram::<u64>::new_with_bounds(1, 3_600_000_000, 3).expect("bounds");
    let (mut measured, mut others) = (0, 0);
    for entry in IntervalLogIterator::new(&log) {
        match entry.expect("a valid log") {
            LogEntry::StartTime(time) | LogEntry::BaseTime(time) => assert_eq!(time.as_secs(), 1_700_000_000),
            LogEntry::Interval(interval) if interval.tag().is_some() => others += 1,
            LogEntry::Interval(interval) => {
                assert_eq!(interval.start_timestamp(), Duration::from_secs(5 + measured));
                assert_eq!(interval.duration(), Duration::from_secs(1));
                let bytes = base64::Engine::decode(
                    &base64::engine::general_purpose::STANDARD,
                    interval.encoded_histogram(),
                )
                .expect("base64");
                let one: Histogram<u64> =
                    Deserializer::new().deserialize(&mut &bytes[..]).expect("V2 deflate");
                sum += one;
                measured += 1;
            }
        }
    }
    assert_eq!((measured, others, sum.len()), (10, 10, 2000));
    assert_eq!(sum.value_at_quantile(0.99) as f64 / 1000.0, report.latency.p99_ms);
}
