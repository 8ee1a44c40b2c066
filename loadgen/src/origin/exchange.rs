//! What the origin does with bytes: requests in, answers out.
//!
//! Pure: no ring, no clock. The shell in `origin/mod.rs` passes bytes on, sends what is staged, and keeps delays. What a
//! request is and wishes is in `origin/request.rs`, what named endpoints say in `origin/named.rs`.

use super::bits::Sessions;
use super::named::{self, Said};
use super::request::{Range, Request, parse_range};
use super::rules::{Fault, Rules};
use super::seen::Seen;
use crate::content::{self, Account, Pattern};
use crate::notification::Push;
use crate::random::Random;
use crate::tokens::Signer;
use crate::wire::{self, Body, Framing, Malformed};
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Answers are staged up to this size; more is made when it was sent.
const STAGED_SIZE_MAX: usize = 64 * 1024;
const CHUNK_SIZE: usize = 16 * 1024;
/// Input is held up to this size while an answer is made or waits; then reading pauses.
pub const HELD_SIZE_MAX: usize = 64 * 1024;
/// What no reader of HTTP takes for an answer.
const GARBAGE: &[u8] = b"\x00\xffHTPT/1,1 2OO\n\r\x16\x03\x01garbage on demand\r\r\n";

/// What the shell does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Read on.
    Read,
    /// Send what is staged, then come back: there is more.
    Send,
    /// Wait so long, then call [`Exchange::answer_delayed`].
    Wait(Duration),
    /// Read nothing and answer nothing, until the client goes.
    Stall,
    /// Send what is staged, then close.
    Close,
    /// Reset the connection; what is staged is lost.
    Reset,
}

/// Head ─▶ Content ─▶ (Delayed ─▶) Answer ─▶ Head …      Head ─▶ Stalled;  any ── close ──▶ Ended;  Content ── fault ──▶ Broken
#[derive(Clone, Copy, Debug)]
enum State {
    Head,
    Content(Body),
    Delayed,
    Answer(Answer),
    Stalled,
    Ended,
    Broken,
}

/// An answer's body on its way out: `Exchange::lead`, letters, and this tail at its place.
#[derive(Clone, Copy, Debug)]
struct Answer {
    position: u64,
    end: u64,
    framing: Framing,
    pattern: Pattern,
    tail: &'static [u8],
    tail_at: u64,
}

/// What all connections of an origin share.
#[derive(Debug, Default)]
pub struct Common {
    /// What the flags say.
    pub rules: Rules,
    /// Who signs tokens.
    pub signer: Option<Signer>,
    /// Uploads under way.
    pub sessions: Mutex<Sessions>,
    /// The last push, as one word.
    pub push: AtomicU64,
    /// Notification requests that are held now, on all shards.
    pub held: AtomicU64,
    /// Which requests came, where that is kept.
    pub seen: Option<Seen>,
}

impl Common {
    /// The last push.
    pub fn push(&self) -> Push {
        Push::unpack(self.push.load(Ordering::Acquire))
    }
}

/// One connection's exchanges.
#[derive(Debug)]
pub struct Exchange {
    state: State,
    request: Request,
    lead: Vec<u8>,
    common: Arc<Common>,
    chance: Random,
}

impl Exchange {
    /// A fresh connection, the `number`th.
    pub fn new(common: &Arc<Common>, number: u64) -> Self {
        Self {
            state: State::Head,
            request: Request::default(),
            lead: Vec::new(),
            common: Arc::clone(common),
            chance: Random::new(common.rules.seed, number),
        }
    }

    /// Reads from the front of `bytes` and stages answers: how many bytes were used, and what to do next.
    pub fn handle_bytes(&mut self, bytes: &[u8], staged: &mut Vec<u8>) -> (usize, Next) {
        let mut used = 0;
        loop {
            let step = match &mut self.state {
                State::Head => self.read_head(&bytes[used..], staged),
                State::Content(_) => self.read_content(&bytes[used..], staged),
                State::Answer(_) if staged.len() >= STAGED_SIZE_MAX => Ok((0, Some(Next::Send))),
                State::Answer(_) => Ok((0, self.answer(staged))),
                State::Delayed => Ok((0, Some(Next::Read))),
                State::Stalled => Ok((0, Some(Next::Stall))),
                State::Ended => return (bytes.len(), Next::Close),
                State::Broken => return (bytes.len(), Next::Reset),
            };
            match step {
                Ok((size, None)) => used += size,
                Ok((size, Some(next))) => return (used + size, next),
                Err(Malformed(_)) => {
                    staged.extend_from_slice(
                        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                    );
                    self.state = State::Ended;
                }
            }
        }
    }

    /// The delay is over.
    pub fn answer_delayed(&mut self, staged: &mut Vec<u8>) {
        if matches!(self.state, State::Delayed) {
            self.begin_answer(staged);
        }
    }

    /// Whether a notification request is held and not answered.
    pub fn is_held(&self) -> bool {
        matches!(self.state, State::Delayed) && self.request.is_held()
    }

    /// Begins the answer with this push, when a request is held that has not seen it. Whether it was.
    pub fn push(&mut self, push: Push, staged: &mut Vec<u8>) -> bool {
        let is_answered = self.is_held() && self.take_owed(push);
        if is_answered {
            self.begin_answer(staged);
        }
        is_answered
    }

    /// Gives up room that a held request does not need.
    pub fn trim(&mut self) {
        self.lead = Vec::new();
        self.request.trim();
    }

    /// Whether the push is to answer the request; that is then written down in it.
    fn take_owed(&mut self, push: Push) -> bool {
        let wish = &self.request.wish;
        let is_owed = self.request.is_held() && push.is_owed(wish.client.unwrap_or_default(), wish.seen);
        // A request that names no client is pushed to while it is held, and owed nothing when it comes.
        let is_known = wish.client.is_some() || matches!(self.state, State::Delayed);
        if is_owed && is_known {
            self.request.pushed = Some(push.number);
        }
        is_owed && is_known
    }

    fn read_head(&mut self, bytes: &[u8], staged: &mut Vec<u8>) -> Result<(usize, Option<Next>), Malformed> {
        if bytes.is_empty() {
            return Ok((0, Some(Next::Read)));
        }
        let Some(head) = wire::parse_request(bytes)? else { return Ok((0, Some(Next::Read))) };
        self.request.take(&head);
        if self.request.wish.stalls {
            self.state = State::Stalled;
            return Ok((head.size, None));
        }
        let body = Body::new(head.framing);
        if head.expects_continue && !body.is_done() {
            staged.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        self.state = State::Content(body);
        Ok((head.size, None))
    }

    fn read_content(
        &mut self,
        bytes: &[u8],
        staged: &mut Vec<u8>,
    ) -> Result<(usize, Option<Next>), Malformed> {
        let State::Content(mut body) = self.state else { return Ok((0, None)) };
        let (used, content) = body.read(bytes)?;
        self.request.take_content(content);
        self.state = State::Content(body);
        if !body.is_done() {
            return Ok((used, (used == 0).then_some(Next::Read)));
        }
        if let Some(seen) = &self.common.seen {
            seen.note(&self.request.id, self.request.is_safe);
        }
        let delay = if self.take_owed(self.common.push()) { Duration::ZERO } else { self.delay() };
        if delay.is_zero() {
            self.begin_answer(staged);
            return Ok((used, None));
        }
        self.state = State::Delayed;
        Ok((used, Some(Next::Wait(delay))))
    }

    fn delay(&mut self) -> Duration {
        let rules = &self.common.rules;
        match self.request.wish.delay {
            Some(delay) => delay,
            None if self.request.is_held() => rules.hold(&mut self.chance),
            None => rules.delay(&mut self.chance),
        }
    }

    /// Stages the head of the answer, or does what is to go wrong; the body follows in pieces.
    fn begin_answer(&mut self, staged: &mut Vec<u8>) {
        let fault = self.request.wish.fault.or_else(|| self.common.rules.fault(&mut self.chance));
        match fault {
            None => {}
            Some(Fault::Cut) => self.request.wish.is_halved = true,
            Some(Fault::Reset) => return self.state = State::Broken,
            Some(Fault::Stall) => return self.state = State::Stalled,
            Some(Fault::Close) => return self.state = State::Ended,
            Some(Fault::Garbage) => {
                staged.extend_from_slice(GARBAGE);
                return self.state = State::Ended;
            }
        }
        match self.request.named.take() {
            None => self.begin_plain(staged),
            Some(named) => {
                let said = named::say(&named, &self.request, &self.common);
                self.begin_named(&said, staged);
                self.request.named = Some(named);
            }
        }
    }

    /// The answer that says what the request was.
    fn begin_plain(&mut self, staged: &mut Vec<u8>) {
        let request = &self.request;
        self.lead.clear();
        let account = Account {
            id: &request.id,
            path: &request.path,
            body: content::body_id(&request.start),
            size: request.hash.size(),
            hash: request.hash.finish(),
        };
        account.write(&mut self.lead);
        let (status, size) = (request.wish.status.unwrap_or(200), request.wish.size);
        let range = request.range.as_deref().filter(|_| status == 200);
        let range = range.map_or(Range::Whole, |range| parse_range(range, size));
        let pattern = Pattern::new(&request.id);
        let body = Answer {
            position: 0,
            end: size,
            framing: request.wish.framing,
            pattern,
            tail: b"",
            tail_at: size,
        };
        self.write_head(staged, status, range, body, "text/plain", b"");
    }

    /// The answer of a named endpoint.
    fn begin_named(&mut self, said: &Said, staged: &mut Vec<u8>) {
        let request = &self.request;
        let shape = said.shape;
        self.lead.clear();
        self.lead.extend_from_slice(shape.lead);
        let range = request.range.as_deref().filter(|_| said.status == 200 && shape.file.is_some());
        let range = range.map_or(Range::Whole, |range| parse_range(range, shape.size));
        let body = Answer {
            position: 0,
            end: shape.size,
            framing: request.wish.framing,
            pattern: shape.pattern(&request.id),
            tail: shape.tail,
            tail_at: shape.size - shape.tail.len() as u64,
        };
        self.write_head(staged, said.status, range, body, said.kind, &said.fields);
    }

    fn write_head(
        &mut self,
        staged: &mut Vec<u8>,
        status: u16,
        range: Range,
        body: Answer,
        kind: &str,
        fields: &[u8],
    ) {
        let whole = body.end;
        let (status, position, end) = match range {
            Range::Whole => (status, 0, whole),
            Range::Part(first, last) => (206, first, last + 1),
            Range::Outside => (416, 0, 0),
        };
        let has_no_body = matches!(status, 204 | 304);
        let framing =
            if body.framing == Framing::Length(0) { Framing::Length(end - position) } else { body.framing };
        let keep_alive = self.request.keep_alive && framing != Framing::Close;
        let _ = write!(staged, "HTTP/1.1 {status} {}\r\n", reason(status));
        match framing {
            _ if has_no_body => {}
            Framing::Length(size) => drop(write!(staged, "Content-Length: {size}\r\n")),
            Framing::Chunked => staged.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            Framing::Close => {}
        }
        if let Range::Part(first, last) = range {
            let _ = write!(staged, "Content-Range: bytes {first}-{last}/{whole}\r\n");
        }
        staged.extend_from_slice(fields);
        staged.extend_from_slice(b"Content-Type: ");
        staged.extend_from_slice(kind.as_bytes());
        staged.extend_from_slice(b"\r\nX-Id: ");
        staged.extend_from_slice(&self.request.id);
        staged.extend_from_slice(if keep_alive { b"\r\n\r\n" } else { b"\r\nConnection: close\r\n\r\n" });
        self.request.keep_alive = keep_alive;
        if self.request.wish.is_halved {
            self.request.wish.cut = Some(position + (end - position) / 2);
        }
        self.state = if self.request.is_head || has_no_body {
            self.after_answer()
        } else {
            State::Answer(Answer { position, end, framing, ..body })
        };
    }

    fn answer(&mut self, staged: &mut Vec<u8>) -> Option<Next> {
        let State::Answer(mut answer) = self.state else { return None };
        let whole = usize::try_from(answer.end - answer.position).unwrap_or(usize::MAX);
        let size = whole.min(CHUNK_SIZE);
        let size = match self.request.wish.cut {
            Some(cut) => size.min(usize::try_from(cut.saturating_sub(answer.position)).unwrap_or(usize::MAX)),
            None => size,
        };
        if size == 0 && whole > 0 {
            self.state = State::Ended;
            return None;
        }
        let is_chunked = answer.framing == Framing::Chunked;
        if is_chunked && size > 0 {
            let _ = write!(staged, "{size:x}\r\n");
        }
        let start = staged.len();
        staged.resize(start + size, 0);
        answer.fill(&self.lead, &mut staged[start..]);
        answer.position += size as u64;
        if is_chunked && size > 0 {
            staged.extend_from_slice(b"\r\n");
        }
        self.state = State::Answer(answer);
        if answer.position == answer.end {
            if is_chunked {
                staged.extend_from_slice(b"0\r\n\r\n");
            }
            self.state = self.after_answer();
        }
        None
    }

    fn after_answer(&self) -> State {
        if self.request.keep_alive { State::Head } else { State::Ended }
    }
}

impl Answer {
    /// Writes the bytes of its position onwards.
    fn fill(&self, lead: &[u8], out: &mut [u8]) {
        self.pattern.fill(self.position, out);
        if let Some(lead) = usize::try_from(self.position).ok().and_then(|position| lead.get(position..)) {
            let shown = lead.len().min(out.len());
            out[..shown].copy_from_slice(&lead[..shown]);
        }
        if self.position + out.len() as u64 > self.tail_at {
            // Both fit: the overlap is no longer than `out` or the tail.
            let from = self.tail_at.saturating_sub(self.position) as usize;
            let skipped = self.position.saturating_sub(self.tail_at) as usize;
            let shown = (self.tail.len() - skipped).min(out.len() - from);
            out[from..from + shown].copy_from_slice(&self.tail[skipped..skipped + shown]);
        }
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        416 => "Range Not Satisfiable",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "As Asked",
    }
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
