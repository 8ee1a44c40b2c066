//! A run over time: what its seconds add up to, and what watched processes used meanwhile.
//!
//! The main thread puts in what threads hand over. Memory is bounded however long a run is: when there are too many
//! intervals, each two become one of twice the length; nothing is lost but resolution.

use super::interval::{Events, Interval};
use crate::process::Glance;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2Serializer};
use std::collections::BTreeMap;
use std::time::Duration;

/// Intervals kept: half an hour of seconds, as many as a picture can show. Each takes a few kilobytes.
const COLUMNS_MAX: usize = 1800;
/// Looks at processes kept, by the same measure.
const LOOKS_MAX: usize = 1800;
/// Threads hand seconds over at different moments; after so many more, a second is taken as complete.
const LATE_SECONDS_MAX: u64 = 2;

/// One interval of the whole run.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Whole seconds from the start of the run.
    pub second: u64,
    /// Whether it is of the measured time.
    pub is_measured: bool,
    /// Right answers.
    pub answers: u64,
    /// What else happened.
    pub events: Events,
    /// Latency in microseconds, as the histogram's own compact form.
    latency: Vec<u8>,
}

impl Column {
    fn new(second: u64, is_measured: bool, events: Events, latency: &Histogram<u32>) -> Self {
        let mut bytes = Vec::new();
        V2Serializer::new().serialize(latency, &mut bytes).expect("writing to memory cannot fail");
        bytes.shrink_to_fit();
        Self { second, is_measured, answers: latency.len(), events, latency: bytes }
    }

    /// Its latency, in microseconds.
    pub fn latency(&self) -> Histogram<u32> {
        Deserializer::new().deserialize(&mut &self.latency[..]).expect("it was written by the same crate")
    }

    /// With `other`, which is later, as one.
    fn join(&self, other: &Self) -> Self {
        let mut sum = self.latency();
        sum += other.latency();
        Self::new(self.second, self.is_measured, self.events.then(other.events), &sum)
    }
}

/// What processes had used at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// Since the start.
    pub at: Duration,
    /// Each process, in the order in which they are watched.
    pub glances: Vec<Glance>,
}

/// A run over time.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// Seconds that one column stands for.
    pub width: u64,
    columns: Vec<Column>,
    pending: BTreeMap<(u64, bool), (Histogram<u32>, Events)>,
    looks: Vec<Look>,
    /// One of so many looks is kept.
    look_every: usize,
    looks_seen: usize,
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            width: 1,
            columns: Vec::new(),
            pending: BTreeMap::new(),
            looks: Vec::new(),
            look_every: 1,
            looks_seen: 0,
        }
    }
}

impl Timeline {
    /// Puts in what threads handed over.
    pub fn add(&mut self, intervals: impl IntoIterator<Item = Interval>) {
        for Interval { second, is_measured, latency, events } in intervals {
            match self.pending.entry((second, is_measured)) {
                std::collections::btree_map::Entry::Vacant(vacant) => {
                    vacant.insert((latency, events));
                }
                std::collections::btree_map::Entry::Occupied(mut occupied) => {
                    let (sum, all) = occupied.get_mut();
                    *sum += latency;
                    *all = all.beside(events);
                }
            }
        }
        let newest = self.pending.last_key_value().map_or(0, |((second, _), _)| *second);
        while let Some(entry) = self.pending.first_entry()
            && entry.key().0 + LATE_SECONDS_MAX < newest
        {
            let ((second, is_measured), (latency, events)) = entry.remove_entry();
            self.push(Column::new(second, is_measured, events, &latency));
        }
    }

    /// The run is over: nothing more is pending.
    pub fn finish(&mut self) {
        for ((second, is_measured), (latency, events)) in std::mem::take(&mut self.pending) {
            self.push(Column::new(second, is_measured, events, &latency));
        }
    }

    /// Remembers what processes had used.
    pub fn look(&mut self, look: Look) {
        if self.looks_seen.is_multiple_of(self.look_every) {
            self.looks.push(look);
        }
        self.looks_seen += 1;
        if self.looks.len() > LOOKS_MAX {
            let mut index = 0;
            // What was used is counted from the start: a look left out loses no use.
            self.looks.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.look_every *= 2;
        }
    }

    /// Intervals in order.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Looks at processes, in order.
    pub fn looks(&self) -> &[Look] {
        &self.looks
    }

    /// The last second that is whole in all threads, for showing while the run goes on.
    pub fn latest(&self) -> Option<(&Histogram<u32>, Events)> {
        let (_, (latency, events)) = self.pending.iter().rev().nth(1).or(self.pending.iter().next_back())?;
        Some((latency, *events))
    }

    fn push(&mut self, column: Column) {
        self.place(column);
        while self.columns.len() > COLUMNS_MAX {
            self.width *= 2;
            for column in std::mem::take(&mut self.columns) {
                self.place(column);
            }
        }
    }

    /// Puts a column where it belongs, joined with what is there. One that comes too late joins the last.
    fn place(&mut self, column: Column) {
        let second = column.second / self.width * self.width;
        match self.columns.last_mut() {
            Some(last) if last.is_measured == column.is_measured && last.second >= second => {
                *last = last.join(&column);
            }
            _ => self.columns.push(Column { second, ..column }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tally::Tally;
    use super::*;

    fn run(seconds: u64, measured: std::ops::Range<u64>) -> (Tally, Timeline) {
        let (mut tally, mut timeline) = (Tally::default(), Timeline::default());
        for second in 0..seconds {
            let at = Duration::from_secs(second);
            tally.set_measuring(measured.contains(&second));
            for part in 0..4 {
                tally.answered(
                    at + Duration::from_millis(part * 200),
                    Duration::from_micros(100 + second),
                    0,
                    200,
                );
            }
            tally.failures.cut += u64::from(second == 3);
            timeline.add(tally.tell(at + Duration::from_millis(900), second));
        }
        timeline.add(tally.take_last());
        timeline.finish();
        (tally, timeline)
    }

    #[test]
    fn each_second_has_its_answers_and_failures() {
        let (_, timeline) = run(6, 2..5);
        let shown: Vec<_> = timeline
            .columns()
            .iter()
            .map(|column| (column.second, column.is_measured, column.answers))
            .collect();
        assert_eq!(
            shown,
            [(0, false, 4), (1, false, 4), (2, true, 4), (3, true, 4), (4, true, 4), (5, false, 4)]
        );
        let failures: Vec<_> = timeline.columns().iter().map(|column| column.events.failures).collect();
        assert_eq!(failures, [0, 0, 0, 1, 0, 0]);
        assert_eq!(timeline.columns()[4].events.open, 4);
    }

    #[test]
    fn measured_intervals_add_up_to_the_latency_of_the_whole() {
        let (tally, timeline) = run(9, 3..8);
        let mut sum = Histogram::<u64>::new_with_bounds(1, 3_600_000_000, 3).expect("bounds");
        for column in timeline.columns().iter().filter(|column| column.is_measured) {
            for value in column.latency().iter_recorded() {
                sum.record_n(value.value_iterated_to(), u64::from(value.count_at_value())).expect("in range");
            }
        }
        assert_eq!((sum.len(), sum.max(), sum.value_at_quantile(0.5)), (20, 107, 105));
        assert_eq!((tally.latency.len(), tally.latency.max()), (sum.len(), sum.max()));
    }

    #[test]
    fn a_long_run_keeps_its_bounds_and_loses_nothing() {
        let (_, mut timeline) = run(5000, 0..5000);
        assert!(timeline.columns().len() <= COLUMNS_MAX && timeline.width == 4, "{}", timeline.width);
        assert_eq!(timeline.columns().iter().map(|column| column.answers).sum::<u64>(), 20_000);
        assert_eq!(timeline.columns().iter().map(|column| column.events.failures).sum::<u64>(), 1);
        assert!(timeline.columns().windows(2).all(|pair| pair[0].second < pair[1].second));
        for second in 0..9000 {
            timeline.look(Look { at: Duration::from_secs(second), glances: Vec::new() });
        }
        assert!(timeline.looks().len() <= LOOKS_MAX);
        assert!(timeline.looks().last().is_some_and(|look| look.at > Duration::from_secs(8980)));
    }

    #[test]
    fn threads_that_hand_over_late_are_added_up() {
        let mut timeline = Timeline::default();
        for thread in 0..2 {
            let mut tally = Tally::default();
            for second in 0..3 {
                tally.answered(Duration::from_secs(second), Duration::from_millis(thread + 1), 0, 200);
                timeline.add(tally.tell(Duration::from_secs(second), 10));
            }
            timeline.add(tally.take_last());
        }
        timeline.finish();
        let shown: Vec<_> =
            timeline.columns().iter().map(|column| (column.answers, column.events.open)).collect();
        assert_eq!(shown, [(2, 20), (2, 20), (2, 20)]);
    }
}
