//! Progress while a run goes on: one line that is redrawn at a terminal, or a line every few seconds elsewhere.

use super::interval::Interval;
use super::timeline::Timeline;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Lines of a log come this far apart, and not before: a short run has none.
const LINE: Duration = Duration::from_secs(10);

/// What is known at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// What the run is doing: a word or two.
    pub doing: &'static str,
    /// Connections open.
    pub open: u64,
    /// Connections wanted.
    pub connections: u64,
    /// Right answers.
    pub answers: u64,
    /// Clean failures.
    pub failures: u64,
    /// Wrong answers.
    pub wrong: u64,
}

/// Shows progress on stderr.
#[derive(Debug)]
pub struct Live {
    bar: ProgressBar,
    /// The next line, where stderr is no terminal.
    next_line: Option<Instant>,
    start: Instant,
    shown: (Instant, u64),
}

impl Live {
    /// Progress of a run that begins now.
    pub fn new() -> Self {
        Self::at(Instant::now(), std::io::stderr().is_terminal())
    }

    fn at(start: Instant, is_terminal: bool) -> Self {
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{spinner} [{elapsed_precise}] {wide_msg}") {
            bar.set_style(style);
        }
        Self { bar, next_line: (!is_terminal).then_some(start + LINE), start, shown: (start, 0) }
    }

    /// Shows what is known.
    pub fn show(&mut self, now: Now, timeline: &Timeline) {
        if let Some(line) = self.step(Instant::now(), now, timeline) {
            eprintln!("{line}");
        }
    }

    /// The line to write where stderr is no terminal.
    fn step(&mut self, at: Instant, now: Now, timeline: &Timeline) -> Option<String> {
        let next_line = match self.next_line {
            Some(next) if at < next => return None,
            next => next,
        };
        let (since, answers) = std::mem::replace(&mut self.shown, (at, now.answers));
        let span = at.saturating_duration_since(since).as_secs_f64();
        let rate = if span > 0.0 { now.answers.saturating_sub(answers) as f64 / span } else { 0.0 };
        let text = text(now, rate, timeline);
        self.bar.set_message(text.clone());
        self.bar.tick();
        next_line.map(|_| {
            self.next_line = Some(at + LINE);
            format!("loadgen: {:>4} s  {text}", (at - self.start).as_secs())
        })
    }

    /// Takes the line away; the report follows.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl Default for Live {
    fn default() -> Self {
        Self::new()
    }
}

fn text(now: Now, rate: f64, timeline: &Timeline) -> String {
    let Now { doing, open, connections, answers, failures, wrong } = now;
    let times = match timeline.latest() {
        Some((latency, _)) if !latency.is_empty() => {
            let at = |quantile| latency.value_at_quantile(quantile) as f64 / 1000.0;
            format!(
                "p50 {:.3} p99 {:.3} ms in the last {} s, ",
                at(0.5),
                at(0.99),
                Interval::LENGTH.as_secs()
            )
        }
        _ => String::new(),
    };
    let wrong = if wrong > 0 { format!(", {wrong} WRONG") } else { String::new() };
    format!(
        "{doing}: {open} of {connections} open, {rate:.0}/s, {times}{answers} right, {failures} failed{wrong}"
    )
}

#[cfg(test)]
mod tests {
    use super::super::tally::Tally;
    use super::*;

    const NOW: Now =
        Now { doing: "measuring", open: 3, connections: 4, answers: 3000, failures: 1, wrong: 0 };

    #[test]
    fn a_log_has_a_line_every_few_seconds_and_a_short_run_none() {
        let start = Instant::now();
        let mut live = Live::at(start, false);
        let timeline = Timeline::default();
        assert_eq!(live.step(start + Duration::from_secs(9), NOW, &timeline), None);
        let line = live.step(start + Duration::from_secs(10), NOW, &timeline);
        assert_eq!(
            line.as_deref(),
            Some("loadgen:   10 s  measuring: 3 of 4 open, 300/s, 3000 right, 1 failed")
        );
        assert_eq!(live.step(start + Duration::from_secs(11), NOW, &timeline), None);
        let more = Now { answers: 4000, wrong: 2, ..NOW };
        let line = live.step(start + Duration::from_secs(20), more, &timeline).expect("a line");
        assert!(line.contains("100/s") && line.ends_with("2 WRONG"), "{line}");
    }

    #[test]
    fn a_terminal_has_no_lines() {
        let start = Instant::now();
        let mut live = Live::at(start, true);
        assert_eq!(live.step(start + Duration::from_secs(60), NOW, &Timeline::default()), None);
        live.end();
    }

    #[test]
    fn times_are_of_the_last_whole_second() {
        let (mut tally, mut timeline) = (Tally::default(), Timeline::default());
        for (second, micros) in [(0, 100), (1, 2000), (2, 70)] {
            let at = Duration::from_secs(second);
            tally.answered(at, Duration::from_micros(micros), 0, 200);
            timeline.add(tally.tell(at, 1));
        }
        timeline.add(tally.take_last());
        // The third second is not over.
        assert!(text(NOW, 1.0, &timeline).contains("p50 2.000 p99 2.000 ms in the last 1 s"));
    }
}
