//! Comparisons of made-up runs.

use super::*;
use crate::report::sample;
use figure::Clear;

fn side(rates: &[f64], change: impl Fn(&mut Report)) -> Side {
    let report = |rate: &f64| {
        let mut report = Report { rate: *rate, ..sample().0 };
        report.latency.p99_ms = 1000.0 / rate;
        change(&mut report);
        report
    };
    Side { files: vec!["x.json".into(); rates.len()], reports: rates.iter().map(report).collect() }
}

fn find<'a>(comparison: &'a Comparison, name: &str) -> &'a Compared {
    comparison.figures.iter().find(|figure| figure.name == name).expect(name)
}

#[test]
fn two_runs_stand_side_by_side_with_ratios() {
    let comparison = Comparison::new(side(&[200.0], |_| {}), side(&[250.0], |_| {}));
    let rate = find(&comparison, "rate");
    assert_eq!((rate.a, rate.b, rate.ratio, rate.clear), (Some(200.0), Some(250.0), Some(1.25), None));
    assert_eq!(find(&comparison, "latency p99").ratio, Some(0.8));
    assert_eq!(find(&comparison, "gateway CPU").ratio, Some(1.0));
    assert!(comparison.differences.is_empty());
    let table = comparison.table();
    assert!(table.contains("machine are the same") && table.contains("1.250"), "{table}");
}

#[test]
fn several_runs_have_medians_and_are_clear_only_when_they_stand_apart() {
    let comparison =
        Comparison::new(side(&[100.0, 300.0, 110.0], |_| {}), side(&[310.0, 400.0, 1000.0, 320.0], |_| {}));
    let rate = find(&comparison, "rate");
    assert_eq!((rate.a, rate.b, rate.clear), (Some(110.0), Some(360.0), Some(Clear::Better)));
    assert_eq!((rate.a_range, rate.b_range), (Some((100.0, 300.0)), Some((310.0, 1000.0))));
    assert_eq!(find(&comparison, "latency p99").clear, Some(Clear::Better));
    assert_eq!(find(&comparison, "failures").clear, None);
    let comparison =
        Comparison::new(side(&[310.0, 320.0, 330.0], |_| {}), side(&[100.0, 200.0, 309.0], |_| {}));
    assert_eq!(find(&comparison, "rate").clear, Some(Clear::Worse));
    assert!(comparison.table().contains("B worse"));
    let comparison = Comparison::new(side(&[310.0, 320.0], |_| {}), side(&[100.0, 200.0], |_| {}));
    assert_eq!(find(&comparison, "rate").clear, None);
}

#[test]
fn what_differs_besides_figures_is_told_first() {
    let other = |report: &mut Report| {
        report.run.flags.insert("connections".into(), vec!["65".into()]);
        report.run.flags.insert("json".into(), vec!["elsewhere".into()]);
        report.machine.0.insert("congestion_control".into(), "reno".into());
        report.machine.0.insert("load_average".into(), "9 9 9".into());
        report.run.commit = Some("fedcba987654".into());
    };
    let comparison = Comparison::new(side(&[1.0, 2.0], |_| {}), side(&[1.0], other));
    let names: Vec<_> = comparison.differences.iter().map(|one| (one.kind, one.name.as_str())).collect();
    assert_eq!(names, [("flag", "--connections"), ("machine", "congestion_control"), ("program", "commit")]);
    let table = comparison.table();
    assert!(table.find("DIFFERENT") < table.find("latency p99"), "{table}");
    assert!(table.contains("A 64\n    B 65"), "{table}");
}

#[test]
fn runs_of_one_side_that_differ_are_told_too() {
    let mut a = side(&[1.0, 2.0], |_| {});
    a.reports[1].run.flags.insert("connections".into(), vec!["65".into()]);
    let comparison = Comparison::new(a, side(&[1.0], |_| {}));
    assert_eq!(comparison.differences.len(), 1);
    assert_eq!(comparison.differences[0].a, "64 | 65");
}

#[test]
fn a_process_of_one_side_alone_has_no_ratio() {
    let comparison = Comparison::new(side(&[1.0], |report| report.processes.clear()), side(&[1.0], |_| {}));
    let cpu = find(&comparison, "gateway CPU");
    assert!(cpu.a.is_none() && cpu.b.is_some() && cpu.ratio.is_none());
}

#[test]
fn the_page_shows_both_runs_in_one_picture() {
    let comparison = Comparison::new(side(&[1.0], |_| {}), side(&[2.0], |report| report.run.flags.clear()));
    let page = page::page(&comparison);
    assert_eq!(page.matches("role=\"img\"").count(), 2);
    assert!(page.contains("#0B0001") && page.contains("#0B0002") && page.contains("flag --connections"));
}
