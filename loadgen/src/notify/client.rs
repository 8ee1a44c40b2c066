//! One client that waits for notifications: signs in, has one request held, and looks at every answer to it.
//!
//! Pure: a script for the engine in `clients/`. The counterpart that holds and answers is `origin/`.

use super::board::{Board, add};
use crate::clients::options::Check;
use crate::clients::work::{
    Answer, Expect, NO_ANSWER, Next, Population, Request, RequestBody, Script, Statuses,
};
use crate::content::{self, Shape};
use crate::notification::{CLIENT_FIELD, PUSH_FIELD};
use crate::population::catalogue::Reply;
use crate::random::Random;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Who was turned away comes back within this, or within the spread when that is longer.
const REFUSED_WAIT: Duration = Duration::from_secs(1);
/// Names of the two requests, by [`Request::name`].
const NAMES: [&str; 2] = ["sign in", "held"];

/// All clients of a run.
#[derive(Clone, Debug)]
pub struct Waiting(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    board: Arc<Board>,
    /// `Host`.
    host: String,
    /// The endpoint, without its query.
    path: String,
    keep_alive: Duration,
    spread: Duration,
    seed: u64,
    /// The push that was there before the run.
    seen: u64,
}

impl Waiting {
    /// Clients of the endpoint `path` at `host`, which tell `board`.
    pub fn new(
        board: Arc<Board>,
        (host, path): (String, String),
        (keep_alive, spread): (Duration, Duration),
        (seed, seen): (u64, u64),
    ) -> Self {
        Self(Arc::new(Shared { board, host, path, keep_alive, spread, seed, seen }))
    }
}

impl Population for Waiting {
    fn script(&self, number: u32, _: Instant) -> Box<dyn Script> {
        Box::new(Client {
            shared: Arc::clone(&self.0),
            number: u64::from(number),
            chance: Random::new(self.0.seed, u64::from(number)),
            state: State::SignedOut,
            id: 0,
            seen: self.0.seen,
            rests: None,
        })
    }

    fn names(&self) -> Vec<String> {
        NAMES.map(str::to_owned).into()
    }

    fn conclude(&self) -> (String, bool) {
        (String::new(), true)
    }
}

/// SignedOut ── signed in ──▶ Idle ── asked ──▶ Held ── answered ──▶ Idle      (any ── connection lost ──▶ SignedOut)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    SignedOut,
    Idle,
    Held,
}

struct Client {
    shared: Arc<Shared>,
    number: u64,
    chance: Random,
    state: State,
    /// Of the request asked last.
    id: u64,
    /// Number of the push it had last.
    seen: u64,
    /// When it goes on, and whether it stays connected until then.
    rests: Option<(Instant, bool)>,
}

impl Client {
    fn request(&mut self, id: u64) -> Request {
        let (kind, name, held) = match self.state {
            State::SignedOut => ("LogIn", 0, Duration::ZERO),
            // Between three quarters of the time and all of it: who was pushed to at once is not to ask at once for ever.
            State::Idle | State::Held => {
                ("KeepAlive", 1, self.shared.keep_alive.mul_f64(0.75 + self.chance.unit() / 4.0))
            }
        };
        let mut head = String::with_capacity(256);
        let Shared { host, path, .. } = &*self.shared;
        let (id_text, client) = (content::id_text(id), self.number);
        let id_text = std::str::from_utf8(&id_text).unwrap_or_default();
        let _ = write!(
            head,
            "GET {path}?RequestType={kind} HTTP/1.1\r\nHost: {host}\r\nX-Load-Id: {id_text}\r\nX-Load: client={client}"
        );
        if !held.is_zero() {
            let _ = write!(head, "&seen={}&delay_ms={}", self.seen, held.as_millis());
        }
        head.push_str("\r\n\r\n");
        let expect = Expect {
            statuses: Statuses::of(&[200]),
            // The script looks at ids itself: it tells a doubled answer from one for somebody else.
            check: Check::Off,
            size: None,
            offset: 0,
            is_head: false,
            segment: Arc::from(&b""[..]),
            keeps: true,
            shape: None,
            held,
        };
        Request { head: head.into_bytes(), body: RequestBody::None, expect, name }
    }

    /// The request asked last is held no longer.
    fn let_go(&mut self) {
        if self.state == State::Held {
            self.state = State::Idle;
            self.shared.board.held.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Judges an answer with status 200. Whether it is right.
    fn judge(&mut self, answer: &Answer<'_>, was_held: bool, now: Instant) -> bool {
        let number = |name| answer.field(name).and_then(content::number);
        let (client, push) = (number(CLIENT_FIELD), number(PUSH_FIELD));
        let id = content::id_text(self.id);
        let is_ours = client == Some(self.number);
        let board = &self.shared.board;
        match push {
            _ if !is_ours && client.is_some() => add(&board.misdelivered),
            Some(push) if is_ours && push <= self.seen => add(&board.duplicated),
            _ if answer.field("x-id") != Some(&id) => add(&board.misdelivered),
            _ if !is_ours => add(&board.malformed),
            Some(_) if !was_held => add(&board.misdelivered),
            Some(push) if is_it(Reply::Push, &id, answer) => {
                self.seen = push;
                return board.deliver(push, self.number, now);
            }
            None if was_held && is_it(Reply::Nothing, &id, answer) => {
                add(&board.keep_alives);
                return true;
            }
            None if !was_held && is_it(Reply::SignedIn, &id, answer) => {
                add(&board.sign_ins);
                self.state = State::Idle;
                return true;
            }
            Some(_) | None => add(&board.malformed),
        }
        false
    }
}

/// Whether the body is this reply to the request `id`, byte for byte.
fn is_it(reply: Reply, id: &[u8], answer: &Answer<'_>) -> bool {
    let shape: Shape = reply.row().shape;
    answer.size == shape.size && answer.body.len() as u64 == shape.size && shape.matches(id, 0, answer.body)
}

impl Script for Client {
    fn next(&mut self, id: u64, now: Instant) -> Next {
        match self.rests {
            Some((at, true)) if at > now => return Next::At(at),
            Some((at, false)) if at > now => return Next::Away(at),
            Some(_) | None => self.rests = None,
        }
        self.id = id;
        let request = self.request(id);
        if self.state == State::Idle {
            self.state = State::Held;
            add(&self.shared.board.held);
        }
        Next::Ask(Box::new(request))
    }

    fn answered(&mut self, answer: &Answer<'_>, now: Instant) -> bool {
        let was_held = self.state == State::Held;
        self.let_go();
        if answer.status != 200 {
            add(&self.shared.board.refused);
            if was_held {
                add(&self.shared.board.put_out);
            }
            let rest = REFUSED_WAIT.max(self.shared.spread).mul_f64(self.chance.unit());
            self.rests = Some((now + rest, true));
            return false;
        }
        self.judge(answer, was_held, now)
    }

    fn lost(&mut self, why: &'static str, now: Instant) {
        if self.state == State::Held {
            add(&self.shared.board.put_out);
        }
        self.let_go();
        add(&self.shared.board.lost_connections);
        if why == NO_ANSWER {
            add(&self.shared.board.malformed);
        }
        self.state = State::SignedOut;
        self.rests = Some((now + self.shared.spread.mul_f64(self.chance.unit()), false));
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.let_go();
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
