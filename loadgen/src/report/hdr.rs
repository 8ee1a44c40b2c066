//! Latency of a run as an HDR histogram log, the interval format (version 1.3) that HdrHistogram's tools read.
//!
//! Values are microseconds. Intervals of the measured time have no tag, and add up to the latency of the report; those
//! before and behind it are tagged `unmeasured`, so that tools leave them out unless asked.

use super::summary::Report;
use super::timeline::Timeline;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use std::io;
use std::time::{Duration, SystemTime};

/// Maxima are shown in milliseconds.
const MICROS_PER_MILLI: f64 = 1000.0;

/// The log of a run that began at `started`.
pub fn log(report: &Report, timeline: &Timeline, started: SystemTime) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3]")
        .add_comment(&format!("loadgen {}, latency in microseconds", report.run.version))
        .with_start_time(started)
        .with_base_time(started)
        .with_max_value_divisor(MICROS_PER_MILLI)
        .begin_log_with(&mut bytes, &mut serializer)?;
    log.write_comment(
        "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"",
    )?;
    for (column, point) in timeline.columns().iter().zip(&report.timeline) {
        let (at, length) = (Duration::from_secs_f64(point.at), Duration::from_secs_f64(point.seconds));
        let tag = if column.is_measured { None } else { Tag::new("unmeasured") };
        log.write_histogram(&column.latency(), at, length, tag)
            .map_err(|error| io::Error::other(format!("histogram log: {error:?}")))?;
    }
    Ok(bytes)
}
