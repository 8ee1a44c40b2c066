//! What can go wrong with a request or a connection, counted by kind, and which of it may be allowed.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Requests and connections that failed, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// Connections not made.
    pub connect: u64,
    /// TLS handshakes that failed, and alerts.
    pub tls: u64,
    /// Requests whose connection ended without a whole answer.
    pub cut: u64,
    /// Requests and handshakes without progress.
    pub timeout: u64,
    /// Answers with another status than 200 and 206.
    pub status: BTreeMap<u16, u64>,
    /// Clients that gave up with work left.
    pub abandoned: u64,
    /// Answers to another request.
    pub wrong_id: u64,
    /// Answers of wrong length or content.
    pub wrong_body: u64,
    /// Answers that are not HTTP, or were not asked for.
    pub malformed: u64,
}

impl Failures {
    /// Answers that must never be.
    pub fn wrong(&self) -> u64 {
        self.wrong_id + self.wrong_body + self.malformed
    }

    /// All of them.
    pub fn all(&self) -> u64 {
        self.clean() + self.hard()
    }

    /// Failures that `--allow-failures` allows.
    pub fn clean(&self) -> u64 {
        self.connect + self.tls + self.cut + self.timeout + self.server_errors()
    }

    /// Failures that nothing allows: wrong answers, statuses below 500, work left undone.
    pub fn hard(&self) -> u64 {
        self.wrong() + self.abandoned + self.status.values().sum::<u64>() - self.server_errors()
    }

    fn server_errors(&self) -> u64 {
        self.status.range(500..).map(|(_, count)| count).sum()
    }

    /// What failed, by kind, for people.
    pub fn shown(&self) -> String {
        let statuses = self.status.iter().map(|(status, count)| (format!("status {status}"), *count));
        let kinds = [
            ("connect", self.connect),
            ("tls", self.tls),
            ("cut", self.cut),
            ("timeout", self.timeout),
            ("abandoned clients", self.abandoned),
            ("WRONG ID", self.wrong_id),
            ("WRONG BODY", self.wrong_body),
            ("MALFORMED", self.malformed),
        ];
        let kinds = kinds.into_iter().map(|(kind, count)| (kind.to_owned(), count)).chain(statuses);
        let shown: Vec<_> =
            kinds.filter(|(_, count)| *count > 0).map(|(kind, count)| format!("{count} {kind}")).collect();
        if shown.is_empty() { "none".into() } else { shown.join(", ") }
    }

    /// Takes in what another thread counted.
    pub fn add(&mut self, other: &Self) {
        self.connect += other.connect;
        self.tls += other.tls;
        self.cut += other.cut;
        self.timeout += other.timeout;
        self.abandoned += other.abandoned;
        self.wrong_id += other.wrong_id;
        self.wrong_body += other.wrong_body;
        self.malformed += other.malformed;
        for (status, count) in &other.status {
            *self.status.entry(*status).or_default() += count;
        }
    }
}
