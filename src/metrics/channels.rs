//! The channels of one shard as an operator sees them: copied out about once a second, and whenever one
//! comes or goes, so that who asks never waits for the shard, nor the shard for who asks.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;

use super::page::{Label, Page, Rows};
use crate::transport::Link;

/// Where one shard leaves what others read.
pub type Board<K> = ArcSwap<Vec<Seen<K>>>;

/// A channel at the moment it was looked at.
#[derive(Clone, Debug)]
pub struct Seen<K> {
    /// Which channel, as the role knows it.
    pub key: K,
    /// When it came up.
    pub since: SystemTime,
    /// Exchanges on it.
    pub streams: usize,
    /// Clients that it introduced.
    pub identities: usize,
    /// Smoothed; `None` before the first was measured.
    pub round_trip: Option<Duration>,
    /// Plain bytes sent and received.
    pub bytes: (u64, u64),
    /// Whether it takes more exchanges.
    pub is_open: bool,
    /// The other side gives no sign of life: others are asked. `None` where that is not told.
    pub is_stalled: Option<bool>,
}

impl<K> Seen<K> {
    /// Two channels shown as one: a side that was restarted has for some seconds its old channel beside
    /// the new one.
    pub fn merge(&mut self, other: &Seen<K>) {
        self.streams += other.streams;
        self.identities += other.identities;
        self.bytes = plus(self.bytes, other.bytes);
        self.since = self.since.min(other.since);
        self.round_trip = other.round_trip.or(self.round_trip);
        self.is_open |= other.is_open;
        self.is_stalled = self.is_stalled.zip(other.is_stalled).map(|(one, other)| one && other);
    }

    /// For `/status`, behind what names the channel.
    pub fn describe(&self, mut named: serde_json::Value) -> serde_json::Value {
        named["open"] = self.is_open.into();
        if let Some(is_stalled) = self.is_stalled {
            named["stalled"] = is_stalled.into();
        }
        named["streams"] = self.streams.into();
        named["identities"] = self.identities.into();
        named["round_trip_secs"] = self.round_trip.map(|time| time.as_secs_f64()).into();
        named["up_secs"] = self.since.elapsed().unwrap_or_default().as_secs().into();
        named["sent_bytes"] = self.bytes.0.into();
        named["received_bytes"] = self.bytes.1.into();
        named
    }
}

/// Adds the families of channels; `prefix` is that of the role, `labels` names a channel.
pub fn describe_channels<'c, K>(
    page: &mut Page,
    prefix: &str,
    channels: &'c [Seen<K>],
    labels: impl Fn(&'c K) -> Vec<Label<'c>>,
) {
    let fill = |mut rows: Rows<'_>, what: fn(&Seen<K>) -> Option<f64>| {
        for seen in channels {
            if let Some(value) = what(seen) {
                rows.row(&labels(&seen.key), value);
            }
        }
    };
    let name = |end: &str| format!("{prefix}_channel_{end}");
    fill(page.gauge(&name("streams"), "Exchanges on a channel."), |seen| Some(seen.streams as f64));
    fill(page.gauge(&name("identities"), "Clients that a channel has introduced."), |seen| {
        Some(seen.identities as f64)
    });
    fill(
        page.gauge(&name("stalled"), "1 while nothing comes on a channel, so that others are asked."),
        |seen| Some(f64::from(u8::from(seen.is_stalled?))),
    );
    fill(page.gauge(&name("round_trip_seconds"), "Smoothed round trip on a channel."), |seen| {
        Some(seen.round_trip?.as_secs_f64())
    });
    fill(page.gauge(&name("start_time_seconds"), "When a channel came up, in seconds since 1970."), |seen| {
        Some(seen.since.duration_since(UNIX_EPOCH).ok()?.as_secs_f64())
    });
    fill(
        page.counter(&name("sent_bytes_total"), "Plain bytes sent on a channel since it came up."),
        |seen| Some(seen.bytes.0 as f64),
    );
    let received = "Plain bytes received on a channel since it came up.";
    fill(page.counter(&name("received_bytes_total"), received), |seen| Some(seen.bytes.1 as f64));
}

/// See the file's head.
pub struct Channels<K> {
    live: RefCell<Vec<Live<K>>>,
    /// Bytes of those that ended.
    past: Cell<(u64, u64)>,
    shown: Cell<Instant>,
}

struct Live<K> {
    key: K,
    since: SystemTime,
    link: Rc<Link>,
}

impl<K: Clone> Channels<K> {
    /// None yet.
    pub fn new(now: Instant) -> Channels<K> {
        Channels { live: RefCell::default(), past: Cell::default(), shown: Cell::new(now) }
    }

    /// A channel came up.
    pub fn up(&self, key: K, link: &Rc<Link>) {
        self.live.borrow_mut().push(Live { key, since: SystemTime::now(), link: link.clone() });
    }

    /// A channel ended; its bytes stay counted.
    pub fn down(&self, link: &Rc<Link>) {
        let mut live = self.live.borrow_mut();
        if let Some(place) = live.iter().position(|one| Rc::ptr_eq(&one.link, link)) {
            live.swap_remove(place);
            self.past.set(plus(self.past.get(), traffic(link)));
        }
    }

    /// Every channel that is up. It must not end for what is done.
    pub fn each(&self, mut what: impl FnMut(&K, &Rc<Link>)) {
        self.live.borrow().iter().for_each(|one| what(&one.key, &one.link));
    }

    /// Bytes sent and received on all channels there ever were.
    pub fn traffic(&self) -> (u64, u64) {
        self.live.borrow().iter().fold(self.past.get(), |sum, one| plus(sum, traffic(&one.link)))
    }

    /// Whether what is on the board is old.
    pub fn is_stale(&self, now: Instant) -> bool {
        now.duration_since(self.shown.get()) >= SHOWN_EVERY
    }

    /// Leaves what there is on the board.
    pub fn show(&self, board: &Board<K>, now: Instant) {
        self.shown.set(now);
        board.store(Arc::new(self.live.borrow().iter().map(Live::look).collect()));
    }
}

impl<K: Clone> Live<K> {
    fn look(&self) -> Seen<K> {
        Seen {
            key: self.key.clone(),
            since: self.since,
            streams: self.link.stream_count(),
            identities: self.link.identity_count(),
            round_trip: self.link.round_trip(),
            bytes: traffic(&self.link),
            is_open: self.link.is_open(),
            is_stalled: self.link.tells_stalls().then(|| self.link.is_stalled()),
        }
    }
}

fn traffic(link: &Link) -> (u64, u64) {
    (link.traffic.0.get(), link.traffic.1.get())
}

fn plus(one: (u64, u64), other: (u64, u64)) -> (u64, u64) {
    (one.0 + other.0, one.1 + other.1)
}

/// A scrape comes every few seconds at most.
const SHOWN_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(streams: usize, age: u64, round_trip: Option<Duration>) -> Seen<&'static str> {
        let since = SystemTime::now() - Duration::from_secs(age);
        Seen {
            key: "a",
            since,
            streams,
            identities: 2 * streams,
            round_trip,
            bytes: (streams as u64, 10),
            is_open: round_trip.is_some(),
            is_stalled: Some(round_trip.is_none()),
        }
    }

    #[test]
    fn two_channels_of_one_name_are_one_row() {
        let mut held = seen(2, 50, None);
        held.merge(&seen(3, 1, Some(Duration::from_millis(4))));
        let mut page = Page::default();
        describe_channels(&mut page, "x", std::slice::from_ref(&held), |name| vec![("name", name)]);
        let text = page.text();
        for row in [
            "x_channel_streams{name=\"a\"} 5",
            "x_channel_identities{name=\"a\"} 10",
            "x_channel_stalled{name=\"a\"} 0",
            "x_channel_round_trip_seconds{name=\"a\"} 0.004",
            "x_channel_sent_bytes_total{name=\"a\"} 5",
            "x_channel_received_bytes_total{name=\"a\"} 20",
        ] {
            assert!(text.lines().any(|line| line == row), "{row}: {text}");
        }
        let told = held.describe(serde_json::json!({ "name": "a" }));
        assert_eq!((&told["name"], &told["streams"], &told["open"]), (&"a".into(), &5.into(), &true.into()));
        assert!(told["up_secs"].as_u64().is_some_and(|secs| (50..60).contains(&secs)), "{told}");
    }

    #[test]
    fn a_round_trip_that_was_not_measured_is_not_shown() {
        let channels = [seen(0, 0, None)];
        let mut page = Page::default();
        describe_channels(&mut page, "x", &channels, |_| Vec::new());
        assert!(!page.text().contains("round_trip"));
    }
}
