//! What failed one by one, each with its moment, and the times in which a target gave no right answer: what `--log` writes.
//!
//! The counts of a report say how much failed; this says when, where and how, so that whoever broke something on purpose can
//! set the two side by side. Each thread has its own, with a bound; the main thread writes them as one, in order of time.

use serde::Serialize;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

/// Entries of one thread; beyond, they are counted alone. Some 20 MB.
const ENTRIES_MAX: usize = 200_000;
/// A time without a right answer is told from here on.
const GAP_MIN: Duration = Duration::from_millis(100);

/// One thing that happened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// When, since the start of the run; of a gap its begin.
    pub at: Duration,
    /// What it was.
    pub kind: &'static str,
    /// Which of the targets.
    pub target: u16,
    /// The request, when there was one.
    pub id: Option<u64>,
    /// How long before it was asked.
    pub asked: Option<Duration>,
    /// For how long nothing had moved on its connection when it was asked; nothing when others were outstanding there.
    pub rest: Option<Duration>,
    /// Whether bytes of its answer had come.
    pub is_begun: bool,
    /// Whether it counts as closed unread, and is asked again.
    pub is_unread: bool,
    /// Status of an answer that is not right.
    pub status: Option<u16>,
    /// Its reason, or what the system or TLS says.
    pub text: Box<str>,
    /// How long a gap was.
    pub lasted: Option<Duration>,
}

/// See the file's head.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    is_kept: bool,
    entries: Vec<Entry>,
    lost: u64,
    /// The last right answer of each target, once requests are asked.
    last_right: Vec<Option<Duration>>,
}

#[derive(Serialize)]
struct Line<'a> {
    at: f64,
    kind: &'a str,
    target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    asked_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rest_ms: Option<f64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    begun: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unread: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "str::is_empty")]
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    lasted_ms: Option<f64>,
}

impl Journal {
    /// One that keeps what happens to so many targets.
    pub fn of(targets: usize) -> Self {
        Self { is_kept: true, last_right: vec![None; targets], ..Self::default() }
    }

    /// Whether entries are kept: who makes one that costs something asks before.
    pub fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Takes an entry down.
    pub fn note(&mut self, entry: Entry) {
        if !self.is_kept {
            return;
        }
        if self.entries.len() < ENTRIES_MAX { self.entries.push(entry) } else { self.lost += 1 }
    }

    /// From now on right answers are due.
    pub fn begin(&mut self, at: Duration) {
        self.last_right.fill(Some(at));
    }

    /// A target gave a right answer.
    pub fn answered(&mut self, at: Duration, target: u16) {
        let Some(Some(last)) = self.last_right.get_mut(usize::from(target)) else { return };
        let (began, lasted) = (*last, at.saturating_sub(*last));
        *last = at.max(began);
        if lasted >= GAP_MIN {
            self.note(Entry { at: began, kind: "gap", target, lasted: Some(lasted), ..Entry::default() });
        }
    }

    /// No more answers are due.
    pub fn end(&mut self, at: Duration) {
        for target in 0..self.last_right.len() as u16 {
            self.answered(at, target);
        }
        self.last_right.fill(None);
    }

    /// Takes in what another thread kept.
    pub fn add(&mut self, other: &Self) {
        self.is_kept |= other.is_kept;
        self.entries.extend_from_slice(&other.entries);
        self.lost += other.lost;
    }

    /// One JSON object a line, the beginning of the run first, then entries in order of time. Moments are seconds
    /// since 1970.
    pub fn lines(mut self, began: SystemTime, targets: &[SocketAddr]) -> Vec<u8> {
        self.entries.sort_by_key(|entry| entry.at);
        let since = began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut out =
            format!("{}\n", serde_json::json!({"at": since.as_secs_f64(), "kind": "begin"})).into_bytes();
        for entry in &self.entries {
            let target = targets.get(usize::from(entry.target)).map(ToString::to_string).unwrap_or_default();
            let id = entry.id.map(|id| String::from_utf8_lossy(&crate::content::id_text(id)).into_owned());
            let line = Line {
                at: (since + entry.at).as_secs_f64(),
                kind: entry.kind,
                target,
                id,
                asked_ms: entry.asked.map(millis),
                rest_ms: entry.rest.map(millis),
                begun: entry.is_begun,
                unread: entry.is_unread,
                status: entry.status,
                text: &entry.text,
                lasted_ms: entry.lasted.map(millis),
            };
            serde_json::to_writer(&mut out, &line).expect("writing to memory cannot fail");
            out.push(b'\n');
        }
        if self.lost > 0 {
            out.extend_from_slice(format!("{{\"kind\":\"lost\",\"entries\":{}}}\n", self.lost).as_bytes());
        }
        out
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: &str = "10.0.0.1:443";

    fn told(journal: Journal) -> Vec<serde_json::Value> {
        let began = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let text = journal.lines(began, &[TARGET.parse().expect("address")]);
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let mut told: Vec<_> = lines.map(|line| serde_json::from_slice(line).expect("JSON")).collect();
        assert_eq!(told.remove(0), serde_json::json!({"at": 1000.0, "kind": "begin"}));
        told
    }

    #[test]
    fn nothing_is_kept_unless_it_was_asked_for() {
        let mut journal = Journal::default();
        journal.begin(Duration::ZERO);
        journal.note(Entry { kind: "cut", ..Entry::default() });
        journal.answered(Duration::from_secs(9), 0);
        assert!(told(journal).is_empty());
    }

    #[test]
    fn entries_of_threads_are_one_list_in_order_of_time() {
        let (mut one, mut other) = (Journal::of(1), Journal::of(1));
        let at = |secs, kind| Entry { at: Duration::from_secs(secs), kind, ..Entry::default() };
        one.note(at(3, "cut"));
        one.note(Entry { id: Some(0xab), status: Some(503), text: "Busy".into(), ..at(1, "status") });
        other.note(at(2, "connect"));
        let mut sum = Journal::default();
        sum.add(&one);
        sum.add(&other);
        let told = told(sum);
        let kinds: Vec<_> = told.iter().map(|line| line["kind"].as_str().expect("text")).collect();
        assert_eq!(kinds, ["status", "connect", "cut"]);
        let first = serde_json::json!({"at": 1001.0, "kind": "status", "target": TARGET, "id": "00000000000000ab",
            "status": 503, "text": "Busy"});
        assert_eq!(told[0], first, "what is not known is not written");
    }

    #[test]
    fn a_gap_is_from_one_right_answer_to_the_next() {
        let mut journal = Journal::of(2);
        journal.answered(Duration::from_millis(1), 0);
        journal.begin(Duration::from_millis(1_000));
        for millis in [1_050, 1_149, 1_400] {
            journal.answered(Duration::from_millis(millis), 0);
        }
        journal.answered(Duration::from_millis(1_010), 1);
        journal.end(Duration::from_millis(3_000));
        journal.answered(Duration::from_secs(60), 0);
        let gaps: Vec<_> = journal
            .entries
            .iter()
            .map(|entry| (entry.at.as_millis(), entry.target, entry.lasted.expect("a gap").as_millis()))
            .collect();
        assert_eq!(gaps, [(1_149, 0, 251), (1_400, 0, 1_600), (1_010, 1, 1_990)]);
    }

    #[test]
    fn entries_beyond_the_bound_are_counted() {
        let mut journal = Journal::of(1);
        for _ in 0..ENTRIES_MAX + 3 {
            journal.note(Entry::default());
        }
        let told = told(journal);
        assert_eq!(told.len(), ENTRIES_MAX + 1);
        assert_eq!(told[ENTRIES_MAX], serde_json::json!({"kind": "lost", "entries": 3}));
    }
}
