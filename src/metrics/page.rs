//! What a scrape gets: Prometheus text format 0.0.4.
//!
//! Written by the `prometheus` crate from families made here at the moment of the scrape. The other
//! library, `prometheus-client`, writes OpenMetrics text only, whose counters bear another name in
//! `# TYPE` than in their samples; read as 0.0.4, which is what a plain request gets and every tool
//! reads, its counters have no type and no help.

use std::fmt::Display;

use prometheus::TextEncoder;
use prometheus::proto;

use super::cell::{BUCKETS, Distribution};
use super::series::Name;

/// Name and value of a label.
pub type Label<'l> = (&'l str, &'l dyn Display);

/// Families in the order they were added.
#[derive(Default)]
pub struct Page {
    families: Vec<proto::MetricFamily>,
}

/// The rows of one family.
pub struct Rows<'p>(&'p mut proto::MetricFamily);

impl Page {
    /// Something that only grows; its name ends in `_total`.
    pub fn counter(&mut self, name: &str, help: &str) -> Rows<'_> {
        self.family(proto::MetricType::COUNTER, name, help)
    }

    /// Something that is so now.
    pub fn gauge(&mut self, name: &str, help: &str) -> Rows<'_> {
        self.family(proto::MetricType::GAUGE, name, help)
    }

    /// How long things took; its name ends in `_seconds`.
    pub fn histogram(&mut self, name: &str, help: &str) -> Rows<'_> {
        self.family(proto::MetricType::HISTOGRAM, name, help)
    }

    fn family(&mut self, kind: proto::MetricType, name: &str, help: &str) -> Rows<'_> {
        let mut family = proto::MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        self.families.push(family);
        Rows(self.families.last_mut().expect("it was just pushed"))
    }

    /// The text. A family without a row is left out, as the format wants it.
    pub fn text(mut self) -> String {
        self.families.retain(|family| !family.get_metric().is_empty());
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.families, &mut text) {
            tracing::error!(%error, "metrics cannot be written");
        }
        text
    }
}

impl Rows<'_> {
    /// A value; labels with an empty value are left out, which means the same.
    pub fn row(&mut self, labels: &[Label<'_>], value: f64) -> &mut Self {
        let mut metric = labelled(labels);
        match self.0.get_field_type() {
            proto::MetricType::COUNTER => {
                let mut counter = proto::Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            _ => {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        self.0.mut_metric().push(metric);
        self
    }

    /// A number of things.
    pub fn count(&mut self, labels: &[Label<'_>], count: u64) -> &mut Self {
        self.row(labels, count as f64)
    }

    /// A number of things at an endpoint.
    pub fn of(&mut self, name: &Name, more: &[Label<'_>], count: u64) -> &mut Self {
        self.count(&with(name, more), count)
    }

    /// What a histogram holds.
    pub fn distribution(&mut self, labels: &[Label<'_>], held: &Distribution) -> &mut Self {
        let mut metric = labelled(labels);
        let mut histogram = proto::Histogram::default();
        let mut below = 0;
        let bucket = |(bound, count): (&u64, &u64)| {
            below += count;
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(seconds(*bound));
            bucket.set_cumulative_count(below);
            bucket
        };
        histogram.set_bucket(BUCKETS.iter().zip(&held.counts).map(bucket).collect());
        histogram.set_sample_count(held.count());
        histogram.set_sample_sum(seconds(held.micros));
        metric.set_histogram(histogram);
        self.0.mut_metric().push(metric);
        self
    }

    /// What an endpoint's histogram holds; one that holds nothing is left out, because it is long.
    pub fn distribution_of(&mut self, name: &Name, held: &Distribution) -> &mut Self {
        if held.count() > 0 {
            self.distribution(&with(name, &[]), held);
        }
        self
    }
}

fn with<'l>(name: &'l Name, more: &[Label<'l>]) -> Vec<Label<'l>> {
    let mut labels: Vec<Label<'l>> = vec![
        ("site", &name.site),
        ("role", &name.role),
        ("endpoint", &name.endpoint),
        ("family", &name.family),
        ("origin", &name.origin),
    ];
    labels.extend_from_slice(more);
    labels
}

fn labelled(labels: &[Label<'_>]) -> proto::Metric {
    let mut pairs = Vec::with_capacity(labels.len());
    for (name, value) in labels {
        let value = value.to_string();
        if !value.is_empty() {
            let mut pair = proto::LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value(value);
            pairs.push(pair);
        }
    }
    let mut metric = proto::Metric::default();
    metric.set_label(pairs);
    metric
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::Histogram;

    #[test]
    fn every_family_says_what_it_is() {
        let mut page = Page::default();
        page.counter("a_total", "Things.").count(&[("shard", &0)], 3).count(&[("shard", &1)], 4);
        page.gauge("b_bytes", "Bytes.").row(&[("site", &"")], 0.25);
        page.gauge("c", "Nothing yet.");
        let expected = "# HELP a_total Things.\n# TYPE a_total counter\n\
                        a_total{shard=\"0\"} 3\na_total{shard=\"1\"} 4\n\
                        # HELP b_bytes Bytes.\n# TYPE b_bytes gauge\nb_bytes 0.25\n";
        assert_eq!(page.text(), expected);
    }

    #[test]
    fn a_label_cannot_end_its_line_or_its_quotes() {
        let mut page = Page::default();
        page.gauge("a", "A.").count(&[("name", &"x\"} 1\na 2 \\ ü")], 0);
        assert_eq!(page.text(), "# HELP a A.\n# TYPE a gauge\na{name=\"x\\\"} 1\\na 2 \\\\ ü\"} 0\n");
    }

    #[test]
    fn buckets_are_cumulative_and_end_in_all_of_them() {
        let histogram = Histogram::default();
        for millis in [1, 3, 4, 70_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let mut page = Page::default();
        page.histogram("a_seconds", "A.").distribution(&[], &Distribution::of([&histogram]));
        let text = page.text();
        for line in [
            "a_seconds_bucket{le=\"0.001\"} 1",
            "a_seconds_bucket{le=\"0.0025\"} 1",
            "a_seconds_bucket{le=\"0.005\"} 3",
            "a_seconds_bucket{le=\"60\"} 3",
            "a_seconds_bucket{le=\"+Inf\"} 4",
            "a_seconds_sum 70.008",
            "a_seconds_count 4",
        ] {
            assert!(text.lines().any(|held| held == line), "{line}\n{text}");
        }
    }

    #[test]
    fn large_counts_are_not_written_with_an_exponent() {
        let mut page = Page::default();
        page.counter("a_total", "A.").count(&[], 123_456_789_012_345);
        assert!(page.text().ends_with("\na_total 123456789012345\n"));
    }
}
