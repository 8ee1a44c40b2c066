//! What the token service has given and refused, for `/status` and `/metrics`.

use serde_json::{Value, json};

use crate::admin::Report;
use crate::metrics::{Counter, Page, Start, describe_process};

/// What was shown, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Registration,
    Client,
    Directory,
    Certificate,
}

impl Kind {
    const ALL: [(Kind, &'static str); 4] = [
        (Kind::Registration, "registration"),
        (Kind::Client, "client"),
        (Kind::Directory, "directory"),
        (Kind::Certificate, "certificate"),
    ];
}

/// Only the one thread that serves counts; anybody reads.
pub(super) struct Counts {
    site: String,
    hierarchy: String,
    start: Start,
    exchanged: [Counter; 4],
    /// Devices' own tokens.
    pub own: Counter,
    /// What was shown is not good.
    pub refused: Counter,
    /// Requests for which no token could be made.
    pub broken: Counter,
    /// Requests that were none for it.
    pub mistaken: Counter,
    /// Connections of somebody who is no connection point of the site.
    pub strangers: Counter,
}

impl Counts {
    pub(super) fn new(site: String, hierarchy: String) -> Counts {
        Counts {
            site,
            hierarchy,
            start: Start::now(),
            exchanged: Default::default(),
            own: Counter::default(),
            refused: Counter::default(),
            broken: Counter::default(),
            mistaken: Counter::default(),
            strangers: Counter::default(),
        }
    }

    pub(super) fn exchanged(&self, kind: Kind) {
        self.exchanged[kind as usize].add(1);
    }
}

impl Report for Counts {
    fn is_ready(&self) -> bool {
        true
    }

    fn status(&self) -> Value {
        let exchanged: serde_json::Map<String, Value> = Kind::ALL
            .iter()
            .map(|(kind, name)| ((*name).to_owned(), self.exchanged[*kind as usize].count().into()))
            .collect();
        json!({
            "role": "sts",
            "state": "Healthy",
            "version": env!("CARGO_PKG_VERSION"),
            "site": self.site,
            "hierarchy": self.hierarchy,
            "started": self.start.at(),
            "uptime_secs": self.start.uptime_secs(),
            "exchanged": exchanged,
            "own_tokens": self.own.count(),
            "refused": self.refused.count(),
            "broken": self.broken.count(),
            "mistaken": self.mistaken.count(),
            "strangers": self.strangers.count(),
        })
    }

    fn metrics(&self) -> String {
        let mut page = Page::default();
        describe_process(&mut page, "sts");
        let help = "Tokens of the session given, by what was shown for them.";
        let mut rows = page.counter("cmg_sts_exchanged_total", help);
        for (kind, name) in Kind::ALL {
            rows.count(&[("shown", &name)], self.exchanged[kind as usize].count());
        }
        for (name, help, counter) in [
            ("cmg_sts_own_tokens_total", "Devices' own tokens given.", &self.own),
            ("cmg_sts_refused_total", "Requests whose token or certificate was not good.", &self.refused),
            ("cmg_sts_broken_total", "Requests for which no token could be made.", &self.broken),
            ("cmg_sts_mistaken_total", "Requests for another path or by another method.", &self.mistaken),
            ("cmg_sts_strangers_total", "Connections that were no connection point's.", &self.strangers),
        ] {
            page.counter(name, help).count(&[], counter.count());
        }
        page.text()
    }
}
