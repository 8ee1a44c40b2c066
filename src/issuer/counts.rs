//! What the issuer has given and refused, for `/status` and `/metrics`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use crate::admin::Report;
use crate::logs;
use crate::metrics::{
    self, Certificate, Counter, Health, Page, Start, describe_certificates, describe_process, is_list_ageing,
    show_certificates, show_list,
};
use crate::pki::ISSUER_TLS_NAME;
use crate::transport::Internal;

/// What may be wrong for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The list's file cannot be taken.
    Reading,
    /// The next list cannot be signed.
    Signing,
    /// The next certificate of its own cannot be made.
    Certificate,
}

/// Each is counted by one thread at a time: certificates by whoever is at the desk, the rest by the one that serves.
/// Anybody reads.
pub(super) struct Counts {
    internal: Arc<Internal>,
    start: Start,
    /// By [`Trouble`]; nothing where empty.
    troubles: Mutex<[String; 3]>,
    /// Certificates made.
    pub given: Counter,
    /// Requests that came again, and were given what was made before.
    pub repeated: Counter,
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
            troubles: Mutex::default(),
            given: Counter::default(),
            repeated: Counter::default(),
            refused: Counter::default(),
            excessive: Counter::default(),
            broken: Counter::default(),
            lists: Counter::default(),
            mistaken: Counter::default(),
            strangers: Counter::default(),
        }
    }

    /// Says once what is wrong, and once that it is not any more.
    pub(super) fn tell(&self, which: Trouble, trouble: Option<String>) {
        logs::tell_once(&mut self.troubles()[which as usize], trouble);
    }

    fn troubles(&self) -> MutexGuard<'_, [String; 3]> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wrong now.
    fn trouble(&self) -> Vec<String> {
        let now = rustls::pki_types::UnixTime::now().as_secs();
        let mut all: Vec<String> = self.troubles().iter().filter(|text| !text.is_empty()).cloned().collect();
        let listed = self.internal.listed();
        if listed.lists.is_empty() {
            all.push("there is no list of the internal authority that can be read".to_owned());
        }
        let ageing = listed.lists.iter().filter(|list| is_list_ageing(list, now));
        all.extend(ageing.map(|list| metrics::ageing_text(list, now)));
        all
    }

    /// What it shows, which is in no file.
    fn certificates(&self) -> Vec<Certificate> {
        let ends = metrics::expiry(&self.internal.own().cert);
        ends.into_iter().map(|ends| ("issuer", ISSUER_TLS_NAME.to_owned(), ends)).collect()
    }
}

impl Report for Counts {
    fn is_ready(&self) -> bool {
        true
    }

    fn status(&self) -> Value {
        let now = rustls::pki_types::UnixTime::now().as_secs();
        let listed = self.internal.listed();
        let (mut health, trouble, certificates) = (Health::default(), self.trouble(), self.certificates());
        trouble.iter().for_each(|text| health.suffers(text.clone()));
        health.knows_certificates(&certificates, i64::try_from(now).unwrap_or(i64::MAX));
        json!({
            "role": "issuer",
            "state": health.word(),
            "reason": health.reason(),
            "version": env!("CARGO_PKG_VERSION"),
            "started": self.start.at(),
            "uptime_secs": self.start.uptime_secs(),
            "lists": listed.lists.iter().map(|list| show_list(list, now)).collect::<Vec<_>>(),
            "trouble": trouble,
            "certificates": show_certificates(&certificates),
            "given": self.given.count(),
            "repeated": self.repeated.count(),
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
            ("cmg_issuer_repeated_total", "Requests that came again, and count once.", &self.repeated),
            ("cmg_issuer_refused_total", "Requests that did not prove what they have to.", &self.refused),
            ("cmg_issuer_excessive_total", "Requests beyond what one identity may have.", &self.excessive),
            ("cmg_issuer_broken_total", "Requests for which nothing could be made.", &self.broken),
            ("cmg_issuer_lists_given_total", "Revocation lists given.", &self.lists),
            ("cmg_issuer_mistaken_total", "Requests for another path or by another method.", &self.mistaken),
            ("cmg_issuer_strangers_total", "Connections of nobody who is heard.", &self.strangers),
        ] {
            page.counter(name, help).count(&[], counter.count());
        }
        let help = "1 when the list or the issuer's own certificate is not as it should be.";
        page.gauge("cmg_issuer_trouble", help).count(&[], u64::from(!self.trouble().is_empty()));
        let help = "Until when the next list of revoked internal certificates comes, in seconds since 1970.";
        let mut rows = page.gauge("cmg_issuer_internal_list_next_update_timestamp_seconds", help);
        for list in &self.internal.listed().lists {
            rows.count(&[("issuer", &list.issuer_text)], list.next_update);
        }
        describe_certificates(&mut page, &self.certificates());
        page.text()
    }
}
