//! The channels of one shard as an operator sees them: copied out about once a second, and whenever one
//! comes or goes, so that who asks never waits for the shard, nor the shard for who asks.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;

use crate::transport::Link;

/// Where one shard leaves what others read.
pub type Board = ArcSwap<Vec<Seen>>;

/// A channel at the moment it was looked at.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Number of its site.
    pub site: usize,
    /// Name of its connection point.
    pub point: Arc<str>,
    /// Its number among the channels of that connection point.
    pub index: u16,
    /// When it came up.
    pub since: SystemTime,
    /// Exchanges on it.
    pub streams: usize,
    /// Smoothed; `None` before the first was measured.
    pub round_trip: Option<Duration>,
    /// Plain bytes sent and received.
    pub bytes: (u64, u64),
    /// Whether it takes more exchanges.
    pub is_open: bool,
}

/// See the file's head.
pub struct Channels {
    live: RefCell<Vec<Live>>,
    /// Bytes of those that ended.
    past: Cell<(u64, u64)>,
    shown: Cell<Instant>,
}

struct Live {
    site: usize,
    point: Arc<str>,
    index: u16,
    since: SystemTime,
    link: Rc<Link>,
}

impl Channels {
    /// None yet.
    pub fn new(now: Instant) -> Channels {
        Channels { live: RefCell::default(), past: Cell::default(), shown: Cell::new(now) }
    }

    /// A channel came up.
    pub fn up(&self, site: usize, point: &str, index: u16, link: &Rc<Link>) {
        let since = SystemTime::now();
        let live = Live { site, point: point.into(), index, since, link: link.clone() };
        self.live.borrow_mut().push(live);
    }

    /// A channel ended; its bytes stay counted.
    pub fn down(&self, link: &Rc<Link>) {
        let mut live = self.live.borrow_mut();
        if let Some(place) = live.iter().position(|one| Rc::ptr_eq(&one.link, link)) {
            live.swap_remove(place);
            self.past.set(plus(self.past.get(), traffic(link)));
        }
    }

    /// Bytes sent and received on all channels there ever were.
    pub fn traffic(&self) -> (u64, u64) {
        self.live.borrow().iter().fold(self.past.get(), |sum, one| plus(sum, traffic(&one.link)))
    }

    /// Leaves what there is on the board, if that was long ago.
    pub fn show_sometimes(&self, board: &Board, now: Instant) {
        if now.duration_since(self.shown.get()) >= SHOWN_EVERY {
            self.show(board, now);
        }
    }

    /// Leaves what there is on the board.
    pub fn show(&self, board: &Board, now: Instant) {
        self.shown.set(now);
        board.store(Arc::new(self.live.borrow().iter().map(Live::look).collect()));
    }
}

impl Live {
    fn look(&self) -> Seen {
        Seen {
            site: self.site,
            point: self.point.clone(),
            index: self.index,
            since: self.since,
            streams: self.link.stream_count(),
            round_trip: self.link.round_trip(),
            bytes: traffic(&self.link),
            is_open: self.link.is_open(),
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
