//! What a client asks next: the one request of the flags again and again, or the steps of a script.
//!
//! Pure: knows neither sockets nor clocks. The fixed request needs nothing of this but its [`Expect`], which the plan holds
//! once; a script (a profile of the population, a feature to be tried) hands over one [`Request`] after another and hears
//! what came of each. `worker/` asks, `exchange.rs` writes and checks.

use super::options::Check;
use crate::content::Shape;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// So much of a body is kept for a script that wants to read it.
pub const BODY_KEPT_SIZE_MAX: usize = 4 * 1024;
/// What a script hears of a connection whose bytes were no answer.
pub const NO_ANSWER: &str = "bytes that are no HTTP answer";
/// Statuses that one step may take for right.
pub const STATUSES_MAX: usize = 4;

/// A request, whole but for its body.
#[derive(Clone, Debug)]
pub struct Request {
    /// Request line, fields and the blank line; framing and `X-Load-Id` included.
    pub head: Vec<u8>,
    /// What follows it.
    pub body: RequestBody,
    /// What must come back.
    pub expect: Expect,
    /// Which named step this is, for the statistics: an index into [`Population::names`].
    pub name: u16,
}

/// A request's body; the head must say the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestBody {
    /// None.
    None,
    /// These bytes.
    Bytes(Arc<[u8]>),
}

/// The statuses that are right for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statuses([u16; STATUSES_MAX]);

impl Statuses {
    /// These; more than [`STATUSES_MAX`] are a mistake of ours.
    pub fn of(statuses: &[u16]) -> Self {
        assert!(!statuses.is_empty() && statuses.len() <= STATUSES_MAX, "a step takes one to four statuses");
        Self(std::array::from_fn(|index| statuses.get(index).copied().unwrap_or(statuses[0])))
    }

    /// Whether `status` is one of them.
    pub fn contains(self, status: u16) -> bool {
        self.0.contains(&status)
    }
}

/// What an answer must be to be right.
#[derive(Clone, Debug)]
pub struct Expect {
    /// Its status is one of these.
    pub statuses: Statuses,
    /// Whether id and content are looked at, and how; only of answers with an expected status.
    pub check: Check,
    /// Bytes of its body, when known; with HEAD, what its `Content-Length` says.
    pub size: Option<u64>,
    /// Where in the whole content the answer begins (`Range`). Above 0 only its letters are compared, so that it must lie
    /// behind the account of the origin.
    pub offset: u64,
    /// Whether the method is HEAD.
    pub is_head: bool,
    /// The last segment of the path asked for, as the origin escapes it.
    pub segment: Arc<[u8]>,
    /// Whether the script wants to read the head and the first bytes of the body.
    pub keeps: bool,
    /// What the body is, byte by byte, when it does not begin with an account; from [`Self::offset`] on. The script hears
    /// where it differs.
    pub shape: Option<Shape>,
    /// How long the server may hold the request before it answers, besides the time any request may take. That a held
    /// request is outstanding when the run ends is no failure.
    pub held: Duration,
}

/// What became of the request asked last.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// Its status; when it is none of the expected ones, the failure is counted already.
    pub status: u16,
    /// Bytes of the body that came, or that the head announced (HEAD).
    pub size: u64,
    /// From the planned start to the last byte.
    pub elapsed: Duration,
    /// The head as it came; empty unless [`Expect::keeps`].
    pub head: &'a [u8],
    /// The first bytes of the body, at most [`BODY_KEPT_SIZE_MAX`]; empty unless [`Expect::keeps`].
    pub body: &'a [u8],
    /// In the piece from here on the body differs from [`Expect::shape`].
    pub differs_at: Option<u64>,
}

impl<'a> Answer<'a> {
    /// The value of a field, when the head was kept and has it.
    pub fn field(&self, name: &str) -> Option<&'a [u8]> {
        let mut lines = self.head.split(|byte| *byte == b'\n').skip(1);
        lines.find_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let is_it = line[..colon].eq_ignore_ascii_case(name.as_bytes());
            is_it.then(|| line[colon + 1..].trim_ascii())
        })
    }
}

/// What a script wants.
#[derive(Clone, Debug)]
pub enum Next {
    /// Ask this now.
    Ask(Box<Request>),
    /// Nothing before then; the connection stays.
    At(Instant),
    /// Nothing before then, and the connection ends.
    Away(Instant),
    /// Nothing ever again.
    Done,
}

/// One client's life, step by step. One request is outstanding at a time.
pub trait Script: Send {
    /// What comes next. `id` is new and of this client alone: a request that is asked carries it.
    fn next(&mut self, id: u64, now: Instant) -> Next;
    /// The request asked last was answered, rightly or with a status that was not expected. Whether the script finds all
    /// of it right; when it does not, and the status was expected, it counts as a wrong answer.
    fn answered(&mut self, answer: &Answer<'_>, now: Instant) -> bool;
    /// The request asked last will not be answered: its connection ended, and `why` says how. The engine connects anew;
    /// the script says what is asked then.
    fn lost(&mut self, why: &'static str, now: Instant);
}

/// All clients of a run that follow scripts.
pub trait Population: Send + Sync + fmt::Debug {
    /// The script of client `number`, which begins now.
    fn script(&self, number: u32, now: Instant) -> Box<dyn Script>;
    /// What steps are called in reports, by [`Request::name`].
    fn names(&self) -> Vec<String>;
    /// What is to be said when the run is over, and whether all that was to happen did.
    fn conclude(&self) -> (String, bool);
}

/// What one client does: the plan's request, or a script.
pub enum Life {
    /// The request of the flags, as often as the plan says.
    Fixed,
    /// A script.
    Scripted(Box<Scripted>),
}

/// A script and what it said last.
pub struct Scripted {
    script: Box<dyn Script>,
    /// What it wants and did not get yet, with the id it was given.
    pending: Option<(u64, Box<Request>)>,
    stand: Stand,
}

/// Where a script stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stand {
    /// It has a request to ask, or is to be asked for one.
    Ready,
    /// It waits, connected.
    Until(Instant),
    /// It waits, and needs no connection.
    Away(Instant),
    /// It has ended.
    Done,
}

impl Life {
    /// A client that follows `script`.
    pub fn scripted(script: Box<dyn Script>) -> Self {
        Self::Scripted(Box::new(Scripted { script, pending: None, stand: Stand::Ready }))
    }

    /// The script, when there is one.
    pub fn script(&mut self) -> Option<&mut Scripted> {
        match self {
            Self::Fixed => None,
            Self::Scripted(scripted) => Some(scripted),
        }
    }
}

impl Scripted {
    /// Where it stands at `now`, asking the script when it must be asked; a request takes `next_id`.
    pub fn look(&mut self, next_id: &mut u64, now: Instant) -> Stand {
        let is_due = match self.stand {
            Stand::Ready => self.pending.is_none(),
            Stand::Until(at) | Stand::Away(at) => at <= now,
            Stand::Done => false,
        };
        if is_due {
            self.stand = match self.script.next(*next_id, now) {
                Next::Ask(request) => {
                    self.pending = Some((*next_id, request));
                    *next_id += 1;
                    Stand::Ready
                }
                Next::At(at) => Stand::Until(at),
                Next::Away(at) => Stand::Away(at),
                Next::Done => Stand::Done,
            };
        }
        self.stand
    }

    /// Where it stood when it was asked last.
    pub fn stand(&self) -> Stand {
        self.stand
    }

    /// Takes the request that is to be asked now, with its id.
    pub fn take(&mut self) -> Option<(u64, Box<Request>)> {
        self.pending.take()
    }

    /// The request asked last was answered.
    pub fn answered(&mut self, answer: &Answer<'_>, now: Instant) -> bool {
        self.script.answered(answer, now)
    }

    /// The request asked last will not be answered.
    pub fn lost(&mut self, why: &'static str, now: Instant) {
        self.script.lost(why, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_kept_head_are_found_by_name() {
        let head = b"HTTP/1.1 200 OK\r\nBITS-Session-Id: {1}\r\nETag:\"x\"\r\n\r\n";
        let answer =
            Answer { status: 200, size: 0, elapsed: Duration::ZERO, head, body: b"", differs_at: None };
        assert_eq!(answer.field("bits-session-id"), Some(&b"{1}"[..]));
        assert_eq!(answer.field("etag"), Some(&b"\"x\""[..]));
        assert_eq!(answer.field("HTTP/1.1 200 OK"), None);
    }

    #[test]
    fn statuses_are_those_named_and_no_other() {
        let statuses = Statuses::of(&[200, 404]);
        assert!(statuses.contains(200) && statuses.contains(404) && !statuses.contains(0));
    }
}
