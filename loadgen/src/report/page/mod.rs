//! A report as one HTML page: nothing is fetched, nothing runs, and every picture is also words and a table.

pub mod charts;

use super::summary::{Percentiles, ProcessReport, Report};
use super::timeline::Timeline;
use charts::{Axis, Chart, Line, heat, nines};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::ops::Range;

const STYLE: &str = include_str!("style.css");

/// The page of one run.
pub fn page(report: &Report, timeline: &Timeline) -> String {
    let commit = report.run.commit.as_deref().map(|commit| format!(" ({commit})")).unwrap_or_default();
    let body = html! {
        header {
            h1 { "loadgen report" }
            p.soft { (report.run.started) " · loadgen " (report.run.version) (commit) " · seed " (report.run.seed) }
            p { (verdict(report)) }
        }
        (tiles(report))
        main {
            h2 { "Latency" }
            (curve(&[("all measured requests", report)]))
            (heat_map(report, timeline))
            @if !report.steps.is_empty() { (steps(report)) }
            h2 { "Over time" }
            (rate(&[("right answers", report)]))
            (trouble(report))
            @if !report.processes.is_empty() {
                h2 { "Watched processes" }
                (processes(report))
                (used(report, "CPU", "% of one core", |point, index| *point.cpu_percent.get(index)?))
                (used(report, "Resident memory", "MB", |point, index| Some((*point.resident.get(index)?)? as f64 / 1e6)))
            }
            @if !report.objectives.is_empty() { (objectives(report)) }
            h2 { "Errors" }
            (errors(report))
            h2 { "Machine" }
            (table(&["fact", "as found"], report.machine.0.iter().map(|(name, value)| vec![name.clone(), value.clone()])))
            h2 { "Flags" }
            (table(&["flag", "value"], report.run.flags.iter().map(|(name, values)| vec![format!("--{name}"), values.join(", ")])))
        }
    };
    document("loadgen report", &body)
}

/// A whole page around `body`.
pub fn document(title: &str, body: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    }
    .into_string()
}

/// A table; columns but the first are numbers when they look like one.
pub fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Markup {
    let is_number = |text: &str| text.starts_with(|first: char| first.is_ascii_digit()) && text.len() < 16;
    html! {
        div.box { table {
            thead { tr { @for (index, name) in head.iter().enumerate() { th scope="col" .n[index > 0 && head.len() > 2] { (name) } } } }
            tbody {
                @for row in rows {
                    tr {
                        @for (index, cell) in row.iter().enumerate() {
                            @if index == 0 { th scope="row" { (cell) } }
                            @else { td .n[head.len() > 2 && is_number(cell)] { (cell) } }
                        }
                    }
                }
            }
        } }
    }
}

fn verdict(report: &Report) -> Markup {
    let class = if report.passed && report.met() { "good" } else { "bad" };
    html! {
        span class=(class) { (report.result()) } ": "
        (report.requests) " right answers, " (report.measured_requests) " of them measured in "
        (format!("{:.1}", report.seconds)) " s over " (report.connections) " connections"
    }
}

fn tiles(report: &Report) -> Markup {
    let Percentiles { p50_ms, p99_ms, p999_ms, max_ms, .. } = report.latency;
    let tile = |name: &str, value: String| html! { li { b { (value) } span { (name) } } };
    html! {
        ul.tiles {
            (tile("requests per second", number(report.rate)))
            (tile("p50", time(p50_ms)))
            (tile("p99", time(p99_ms)))
            (tile("p99.9", time(p999_ms)))
            (tile("slowest", time(max_ms)))
            (tile("errors", number(report.failures.all() as f64)))
            @for process in &report.processes {
                @if let Some(micros) = process.cpu_micros_per_request {
                    (tile(&format!("CPU {} per request", process.name), format!("{micros:.1} µs")))
                }
            }
        }
    }
}

/// A picture with its name, its legend and its figures.
fn figure(name: &str, about: &str, chart: &Chart<'_>, figures: Markup) -> Markup {
    html! {
        figure {
            figcaption { (name) small { (about) } }
            @if chart.lines.len() > 1 {
                ul.legend { @for line in chart.lines { li { i class=(format!("s{}", line.colour)) {} (line.name) } } }
            }
            (PreEscaped(chart.svg()))
            details { summary { "Figures" } (figures) }
        }
    }
}

/// Percentiles of one or several runs, on a scale of nines.
pub fn curve(runs: &[(&str, &Report)]) -> Markup {
    let count = runs.iter().map(|(_, report)| report.latency.count).max().unwrap_or(0);
    if count == 0 {
        return html! { p { "No right answer was measured." } };
    }
    let points = |report: &Report| {
        let own = report.latency.count;
        let points = report.latency_curve.iter();
        points.map(move |(part, ms)| (nines(*part, own), Some(ms.max(0.001).log10()))).collect::<Vec<_>>()
    };
    let lines: Vec<_> =
        (0..).zip(runs).map(|(index, (name, report))| Line::new(*name, index, points(report))).collect();
    let all = || runs.iter().flat_map(|(_, report)| &report.latency_curve).map(|(_, ms)| *ms);
    let (least, most) = (all().fold(f64::MAX, f64::min), all().fold(0.0, f64::max));
    let words = runs.iter().map(|(name, report)| {
        let Percentiles { p50_ms, p99_ms, p999_ms, max_ms, .. } = report.latency;
        format!(
            "{name}: half took at most {}, 99 % {}, 99.9 % {}, the slowest {}",
            time(p50_ms),
            time(p99_ms),
            time(p999_ms),
            time(max_ms)
        )
    });
    let chart = Chart {
        label: format!("Latency by percentile. {}", words.collect::<Vec<_>>().join(". ")),
        x: Axis::nines("part of the requests", count),
        y: Axis::logarithmic("latency at most", least, most, time),
        lines: &lines,
        shaded: Vec::new(),
        cells: Vec::new(),
    };
    let parts = [0.0, 0.5, 0.75, 0.9, 0.99, 0.999, 0.9999, 0.99999, 1.0];
    let at = |report: &Report, part: f64| {
        let point = report.latency_curve.iter().find(|(reached, _)| *reached >= part);
        point.map_or("–".to_owned(), |(_, ms)| time(*ms))
    };
    let rows = parts.into_iter().map(|part| {
        let mut row = vec![format!("{} %", part * 100.0)];
        row.extend(runs.iter().map(|(_, report)| at(report, part)));
        row
    });
    let head: Vec<_> = std::iter::once("part").chain(runs.iter().map(|(name, _)| *name)).collect();
    figure("Percentiles", "scale of nines", &chart, table(&head, rows))
}

fn heat_map(report: &Report, timeline: &Timeline) -> Markup {
    let columns: Vec<_> = timeline
        .columns()
        .iter()
        .zip(&report.timeline)
        .filter(|(column, _)| column.answers > 0)
        .map(|(column, point)| {
            let latency = column.latency();
            let samples = latency
                .iter_recorded()
                .map(|value| (value.value_iterated_to() as f64 / 1000.0, u64::from(value.count_at_value())));
            (point.at..point.at + point.seconds, samples.collect::<Vec<_>>())
        })
        .collect();
    let all = || columns.iter().flat_map(|(_, samples)| samples).map(|(ms, _)| *ms);
    let (least, most) = (all().fold(f64::MAX, f64::min), all().fold(0.0, f64::max));
    if columns.is_empty() {
        return html! {};
    }
    let y = Axis::logarithmic("latency", least, most, time);
    let at = |of: fn(&Percentiles) -> f64| {
        let points = report.timeline.iter().filter(|point| point.latency.count > 0);
        points
            .map(move |point| (middle(point), Some(of(&point.latency).max(0.001).log10())))
            .collect::<Vec<_>>()
    };
    let lines = [
        Line::new("p50", 2, at(|latency| latency.p50_ms)),
        Line::new("p99", 1, at(|latency| latency.p99_ms)),
    ];
    let slowest = report.timeline.iter().max_by(|a, b| a.latency.p99_ms.total_cmp(&b.latency.p99_ms));
    let words = slowest
        .map(|point| format!("; p99 was highest at {:.0} s with {}", point.at, time(point.latency.p99_ms)));
    let chart = Chart {
        label: format!(
            "Latency over time, as a heat map: answers took from {} to {}{}",
            time(least),
            time(most),
            words.unwrap_or_default()
        ),
        x: seconds(report),
        cells: heat(&columns, &y),
        y,
        lines: &lines,
        shaded: unmeasured(report),
    };
    let rows = report.timeline.iter().map(|point| {
        let Percentiles { p50_ms, p99_ms, p999_ms, max_ms, .. } = point.latency;
        let mut row = vec![format!("{:.0} s", point.at), point.latency.count.to_string()];
        row.extend([p50_ms, p99_ms, p999_ms, max_ms].map(time));
        row
    });
    let head = ["second", "answers", "p50", "p99", "p99.9", "max"];
    figure("Heat map", "darker or brighter: more answers (logarithmic)", &chart, table(&head, rows))
}

fn middle(point: &super::summary::Point) -> f64 {
    point.at + point.seconds / 2.0
}

fn end_of(report: &Report) -> f64 {
    report.timeline.iter().map(|point| point.at + point.seconds).fold(1.0, f64::max)
}

fn seconds(report: &Report) -> Axis {
    Axis::until("seconds since the start", end_of(report), 8, |at| format!("{at}"))
}

fn unmeasured(report: &Report) -> Vec<Range<f64>> {
    let (from, to) = (report.measured_from, report.measured_from + report.seconds);
    let parts = [0.0..from, to..end_of(report)];
    parts.into_iter().filter(|part| part.end - part.start > 0.01).collect()
}

/// Right answers per second of one or several runs.
pub fn rate(runs: &[(&str, &Report)]) -> Markup {
    let longest = runs.iter().max_by(|a, b| end_of(a.1).total_cmp(&end_of(b.1)));
    let Some((_, longest)) = longest.filter(|(_, report)| !report.timeline.is_empty()) else {
        return html! {};
    };
    let points = |report: &Report| {
        // A part of a second says little of a rate.
        let whole = report.timeline.iter().map(|point| point.seconds).fold(0.0, f64::max);
        let points = report.timeline.iter().filter(|point| point.seconds >= whole * 0.4);
        points.map(|point| (middle(point), Some(point.rate))).collect::<Vec<_>>()
    };
    let lines: Vec<_> =
        (0..).zip(runs).map(|(index, (name, report))| Line::new(*name, index, points(report))).collect();
    let words: Vec<_> = runs
        .iter()
        .map(|(name, report)| format!("{name}: {} per second on average", number(report.rate)))
        .collect();
    let chart = Chart {
        label: format!("Rate over time. {}", words.join("; ")),
        x: seconds(longest),
        y: Axis::linear("answers/s", lines.iter().map(Line::most).fold(0.0, f64::max), 4, number),
        lines: &lines,
        shaded: if runs.len() == 1 { unmeasured(longest) } else { Vec::new() },
        cells: Vec::new(),
    };
    let rows = runs.iter().flat_map(|(name, report)| {
        report.timeline.iter().map(move |point| {
            vec![format!("{name}, {:.0} s", point.at), number(point.rate), point.open.to_string()]
        })
    });
    let about = if runs.len() == 1 { "grey: not measured" } else { "" };
    figure("Rate", about, &chart, table(&["second", "answers/s", "connections open"], rows))
}

fn trouble(report: &Report) -> Markup {
    let line = |name, index, of: fn(&super::summary::Point) -> u64| {
        Line::new(name, index, report.timeline.iter().map(|point| (middle(point), Some(of(point) as f64))))
    };
    let lines = [
        line("failures", 5, |point| point.failures),
        line("closed unread", 4, |point| point.closed_unread),
        line("connections made", 0, |point| point.connects),
    ];
    let sum = |of: fn(&super::summary::Point) -> u64| report.timeline.iter().map(of).sum::<u64>();
    let chart = Chart {
        label: format!(
            "Failures and connections over time: {} failures, {} requests closed unread, {} connections made",
            sum(|point| point.failures),
            sum(|point| point.closed_unread),
            sum(|point| point.connects)
        ),
        x: seconds(report),
        y: Axis::linear("in each interval", lines.iter().map(Line::most).fold(0.0, f64::max), 4, number),
        lines: &lines,
        shaded: unmeasured(report),
        cells: Vec::new(),
    };
    let rows = report.timeline.iter().map(|point| {
        let counts = [point.failures, point.closed_unread, point.connects, point.open];
        let mut row = vec![format!("{:.0} s", point.at)];
        row.extend(counts.map(|count| count.to_string()));
        row
    });
    let head = ["second", "failures", "closed unread", "connections made", "open"];
    figure("Failures and connections", "", &chart, table(&head, rows))
}

fn used(
    report: &Report,
    name: &str,
    unit: &'static str,
    of: impl Fn(&super::summary::ProcessPoint, usize) -> Option<f64>,
) -> Markup {
    if report.process_timeline.is_empty() {
        return html! {};
    }
    let lines: Vec<_> = report
        .processes
        .iter()
        .enumerate()
        .map(|(index, process)| {
            let points = report.process_timeline.iter().map(|point| (point.at, of(point, index)));
            Line::new(process.name.clone(), index, points)
        })
        .collect();
    let words: Vec<_> =
        lines.iter().map(|line| format!("{} at most {} {unit}", line.name, number(line.most()))).collect();
    let chart = Chart {
        label: format!("{name} over time: {}", words.join(", ")),
        x: seconds(report),
        y: Axis::linear(unit, lines.iter().map(Line::most).fold(0.0, f64::max), 4, number),
        lines: &lines,
        shaded: unmeasured(report),
        cells: Vec::new(),
    };
    let rows = report.process_timeline.iter().map(|point| {
        let mut row = vec![format!("{:.0} s", point.at)];
        row.extend(
            (0..lines.len())
                .map(|index| of(point, index).map_or("–".into(), |value| format!("{value:.1}"))),
        );
        row
    });
    let head: Vec<_> = std::iter::once("second").chain(lines.iter().map(|line| line.name.as_str())).collect();
    let about = if lines.len() == 1 { format!("{}, {unit}", lines[0].name) } else { unit.into() };
    figure(name, &about, &chart, table(&head, rows))
}

fn processes(report: &Report) -> Markup {
    let shown =
        |value: Option<f64>, digits: usize| value.map_or("–".into(), |value| format!("{value:.digits$}"));
    let bytes = |value: Option<u64>| shown(value.map(|bytes| bytes as f64 / 1e6), 1);
    let calls = |process: &ProcessReport| match &process.syscalls_unreadable {
        Some(reason) => format!("not readable: {reason}"),
        None => shown(process.syscalls_per_request, 3),
    };
    let row = |process: &ProcessReport| {
        vec![
            process.name.clone(),
            shown(process.cpu_micros_per_request, 1),
            shown(process.user_micros_per_request, 1),
            shown(process.system_micros_per_request, 1),
            calls(process),
            shown(process.voluntary_switches_per_request, 3),
            shown(process.involuntary_switches_per_request, 3),
            bytes(process.resident_connected),
            bytes(process.resident_peak),
            shown(process.resident_per_connection, 0),
        ]
    };
    let head = [
        "per request",
        "CPU µs",
        "user µs",
        "system µs",
        "system calls",
        "vol. switches",
        "invol. switches",
        "MB connected",
        "MB peak",
        "bytes/connection",
    ];
    html! { (table(&head, report.processes.iter().map(row))) p {} }
}

fn steps(report: &Report) -> Markup {
    let rows = report.steps.iter().map(|(name, latency)| {
        let Percentiles { count, p50_ms, p90_ms, p99_ms, p999_ms, max_ms, .. } = *latency;
        let mut row = vec![name.clone(), count.to_string()];
        row.extend([p50_ms, p90_ms, p99_ms, p999_ms, max_ms].map(time));
        row
    });
    table(&["step", "answers", "p50", "p90", "p99", "p99.9", "max"], rows)
}

fn objectives(report: &Report) -> Markup {
    let row = |verdict: &super::objective::Verdict| {
        let met = if verdict.met { "met" } else { "missed" };
        vec![verdict.objective.clone(), verdict.shown(), met.to_owned()]
    };
    html! { h2 { "Objectives" } (table(&["objective", "found", "result"], report.objectives.iter().map(row))) }
}

fn errors(report: &Report) -> Markup {
    let mut rows = vec![
        vec!["failures".to_owned(), report.errors()],
        vec![
            "closed by the server".to_owned(),
            format!("{} at rest, {} unread (neither is a failure)", report.closed_idle, report.closed_unread),
        ],
    ];
    if let Some(text) = &report.first_failure {
        rows.push(vec!["first failure".to_owned(), text.clone()]);
    }
    table(&["kind", "count"], rows.into_iter())
}

/// A time in the unit that suits it.
pub fn time(ms: f64) -> String {
    let digits = |value: f64| {
        if value < 9.995 {
            2
        } else if value < 99.95 {
            1
        } else {
            0
        }
    };
    let shown = |value: f64, unit: &str| {
        let text = format!("{value:.*}", digits(value));
        let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        format!("{text} {unit}")
    };
    match ms {
        ms if ms < 0.9995 => format!("{:.0} µs", ms * 1000.0),
        ms if ms < 999.5 => shown(ms, "ms"),
        ms => shown(ms / 1000.0, "s"),
    }
}

/// A number in few digits.
pub fn number(value: f64) -> String {
    match value {
        value if value >= 9_999_500.0 => format!("{:.1} M", value / 1e6),
        value if value >= 99_950.0 => format!("{:.0} k", value / 1e3),
        value if value >= 9_995.0 => format!("{:.1} k", value / 1e3),
        value if value >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        value if value >= 1.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    #[test]
    fn the_page_stands_alone_and_escapes_what_it_shows() {
        let (report, timeline) = sample();
        let page = page(&report, &timeline);
        assert!(!page.contains("<script") && page.contains("&lt;script&gt;"));
        // The name of SVG is no address that is fetched.
        let outside = page.replace("http://www.w3.org/2000/svg", "");
        for mark in ["http:", "https:", "src=", "@import", "url(", "href="] {
            assert!(!outside.contains(mark), "{mark}");
        }
        assert_eq!(page.matches("role=\"img\"").count(), 6);
        assert_eq!(page.matches("aria-label=\"").count(), 6);
        assert_eq!(page.matches("<details>").count(), 6);
        assert!(page.contains("Half") || page.contains("half took at most"));
        assert!(page.contains("policy &lt;1&gt;") && page.contains("an objective was MISSED"));
    }

    #[test]
    fn a_run_without_an_answer_has_a_page() {
        let page = page(&Report::default(), &Timeline::default());
        assert!(page.contains("No right answer was measured"));
    }

    #[test]
    fn times_and_numbers_are_short() {
        for (ms, text) in [
            (0.0523, "52 µs"),
            (1.0, "1 ms"),
            (1.234, "1.23 ms"),
            (20.0, "20 ms"),
            (123.4, "123 ms"),
            (1500.0, "1.5 s"),
        ] {
            assert_eq!(time(ms), text);
        }
        for (value, text) in
            [(0.5, "0.50"), (2.0, "2"), (12.34, "12.3"), (1234.0, "1234"), (20_100.0, "20.1 k")]
        {
            assert_eq!(number(value), text);
        }
    }
}
