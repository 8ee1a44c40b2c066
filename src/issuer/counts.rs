//! What the issuer has given and refused, for `/status` and `/metrics`.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::admin::Report;
use crate::metrics::{Counter, Health, Page, Start, describe_process, show_list};
use crate::transport::Internal;

/// Only the one thread that serves counts; anybody reads.
pub(super) struct Counts {
    internal: Arc<Internal>,
    start: Start,
    /// Certificates made.
    pub given: Counter,
    /// Requests that did not prove what they have to.
    pub refused: Counter,
    /// Requests beyond what one identity may have.
    pub excessive: Counter,
    /// Requests for which nothing could be made.
    pub broken: Counter,
    /// Lists given.
    pub lists: Counter,
    /// Requests that were none for it.
    pub mistaken: Counter,
    /// Connections of somebody who is no role.
    pub strangers: Counter,
}

impl Counts {
    pub(super) fn new(internal: Arc<Internal>) -> Counts {
        Counts {
            internal,
            start: Start::now(),
            given: Counter::default(),
            refused: Counter::default(),
            excessive: Counter::default(),
            broken: Counter::default(),
            lists: Counter::default(),
            mistaken: Counter::default(),
            strangers: Counter::default(),
        }
    }
}

impl Report for Counts {
    fn is_ready(&self) -> bool {
        true
    }

    fn status(&self) -> Value {
        let now = rustls::pki_types::UnixTime::now().as_secs();
        let listed = self.internal.listed();
        let mut health = Health::default();
        if listed.lists.is_empty() {
            health.suffers("there is no list of the internal authority that can be read");
        }
        json!({
            "role": "issuer",
            "state": health.word(),
            "reason": health.reason(),
            "version": env!("CARGO_PKG_VERSION"),
            "started": self.start.at(),
            "uptime_secs": self.start.uptime_secs(),
            "lists": listed.lists.iter().map(|list| show_list(list, now)).collect::<Vec<_>>(),
            "given": self.given.count(),
            "refused": self.refused.count(),
            "excessive": self.excessive.count(),
            "broken": self.broken.count(),
            "lists_given": self.lists.count(),
            "mistaken": self.mistaken.count(),
            "strangers": self.strangers.count(),
        })
    }

    fn metrics(&self) -> String {
        let mut page = Page::default();
        describe_process(&mut page, "issuer");
        for (name, help, counter) in [
            ("cmg_issuer_given_total", "Internal certificates made.", &self.given),
            ("cmg_issuer_refused_total", "Requests that did not prove what they have to.", &self.refused),
            ("cmg_issuer_excessive_total", "Requests beyond what one identity may have.", &self.excessive),
            ("cmg_issuer_broken_total", "Requests for which nothing could be made.", &self.broken),
            ("cmg_issuer_lists_given_total", "Revocation lists given.", &self.lists),
            ("cmg_issuer_mistaken_total", "Requests for another path or by another method.", &self.mistaken),
            ("cmg_issuer_strangers_total", "Connections of nobody who is heard.", &self.strangers),
        ] {
            page.counter(name, help).count(&[], counter.count());
        }
        page.text()
    }
}
