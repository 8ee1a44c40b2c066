//! What the origin does with bytes: requests in, answers out.
//!
//! Pure: no ring, no clock. The shell in `origin/mod.rs` passes bytes on, sends what is staged, and keeps delays.

use crate::content::{self, ANSWER_SIZE, Account, Hash64, ID_SIZE_MAX, Pattern};
use crate::wire::{self, Body, Framing, Malformed, RequestHead};
use std::io::Write;
use std::time::Duration;

/// Answers are staged up to this size; more is made when it was sent.
const STAGED_SIZE_MAX: usize = 64 * 1024;
const CHUNK_SIZE: usize = 16 * 1024;
/// Input is held up to this size while an answer is made or waits; then reading pauses.
pub const HELD_SIZE_MAX: usize = 64 * 1024;

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
}

/// Head ─▶ Content ─▶ (Delayed ─▶) Answer ─▶ Head …      Head ─▶ Stalled;  any ── close ──▶ Ended
#[derive(Clone, Copy, Debug)]
enum State {
    Head,
    Content(Body),
    Delayed,
    Answer(Answer),
    Stalled,
    Ended,
}

/// An answer's body on its way out.
#[derive(Clone, Copy, Debug)]
struct Answer {
    position: u64,
    end: u64,
    framing: Framing,
    pattern: Pattern,
}

/// What is known of the request being read; its vectors are used again.
#[derive(Debug, Default)]
struct Request {
    id: Vec<u8>,
    path: Vec<u8>,
    range: Option<Vec<u8>>,
    start: Vec<u8>,
    hash: Hash64,
    is_head: bool,
    keep_alive: bool,
    wish: Wish,
}

/// What the query asks for.
#[derive(Clone, Copy, Debug)]
struct Wish {
    size: u64,
    status: u16,
    delay: Duration,
    framing: Framing,
    cut: Option<u64>,
}

impl Default for Wish {
    fn default() -> Self {
        Self { size: ANSWER_SIZE, status: 200, delay: Duration::ZERO, framing: Framing::Length(0), cut: None }
    }
}

impl Wish {
    fn read(query: &[u8], delay: Duration) -> Self {
        let value = |name: &str| content::query_value(query, name.as_bytes());
        let count = |name: &str| value(name).and_then(content::number);
        Self {
            size: count("bytes").unwrap_or(ANSWER_SIZE),
            status: count("status")
                .and_then(|status| u16::try_from(status).ok())
                .filter(|status| (200..600).contains(status))
                .unwrap_or(200),
            delay: count("delay_ms").map_or(delay, Duration::from_millis),
            framing: match value("framing") {
                Some(b"chunked") => Framing::Chunked,
                Some(b"close") => Framing::Close,
                _ => Framing::Length(0),
            },
            cut: count("cut"),
        }
    }
}

/// One connection's exchanges.
#[derive(Debug)]
pub struct Exchange {
    state: State,
    request: Request,
    account: Vec<u8>,
    delay: Duration,
}

impl Exchange {
    /// A fresh connection; answers wait `delay` unless the query says otherwise.
    pub fn new(delay: Duration) -> Self {
        Self { state: State::Head, request: Request::default(), account: Vec::new(), delay }
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

    fn read_head(&mut self, bytes: &[u8], staged: &mut Vec<u8>) -> Result<(usize, Option<Next>), Malformed> {
        if bytes.is_empty() {
            return Ok((0, Some(Next::Read)));
        }
        let Some(head) = wire::parse_request(bytes)? else { return Ok((0, Some(Next::Read))) };
        self.request.take(&head, self.delay);
        if content::query_value(head.query, b"stall").is_some() {
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
        let delay = self.request.wish.delay;
        if delay.is_zero() {
            self.begin_answer(staged);
            return Ok((used, None));
        }
        self.state = State::Delayed;
        Ok((used, Some(Next::Wait(delay))))
    }

    /// Stages the head of the answer; its body follows in pieces.
    fn begin_answer(&mut self, staged: &mut Vec<u8>) {
        let request = &self.request;
        self.account.clear();
        let account = Account {
            id: &request.id,
            path: &request.path,
            body: content::body_id(&request.start),
            size: request.hash.size(),
            hash: request.hash.finish(),
        };
        account.write(&mut self.account);
        let wish = request.wish;
        let range = match &request.range {
            Some(range) if wish.status == 200 => parse_range(range, wish.size),
            _ => Range::Whole,
        };
        let (status, position, end) = match range {
            Range::Whole => (wish.status, 0, wish.size),
            Range::Part(first, last) => (206, first, last + 1),
            Range::Outside => (416, 0, 0),
        };
        let has_no_body = matches!(status, 204 | 304);
        let framing =
            if wish.framing == Framing::Length(0) { Framing::Length(end - position) } else { wish.framing };
        let keep_alive = request.keep_alive && framing != Framing::Close;
        let _ = write!(staged, "HTTP/1.1 {status} {}\r\n", reason(status));
        match framing {
            _ if has_no_body => {}
            Framing::Length(size) => drop(write!(staged, "Content-Length: {size}\r\n")),
            Framing::Chunked => staged.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            Framing::Close => {}
        }
        if let Range::Part(first, last) = range {
            let _ = write!(staged, "Content-Range: bytes {first}-{last}/{}\r\n", wish.size);
        }
        staged.extend_from_slice(b"Content-Type: text/plain\r\nX-Id: ");
        staged.extend_from_slice(&request.id);
        staged.extend_from_slice(if keep_alive { b"\r\n\r\n" } else { b"\r\nConnection: close\r\n\r\n" });
        let is_bare = request.is_head || has_no_body;
        self.request.keep_alive = keep_alive;
        let pattern = Pattern::new(&self.request.id);
        self.state = if is_bare {
            self.after_answer()
        } else {
            State::Answer(Answer { position, end, framing, pattern })
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
        answer.pattern.fill(answer.position, &mut staged[start..]);
        if let Some(account) =
            usize::try_from(answer.position).ok().and_then(|position| self.account.get(position..))
        {
            let shown = account.len().min(size);
            staged[start..start + shown].copy_from_slice(&account[..shown]);
        }
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

impl Request {
    fn take(&mut self, head: &RequestHead<'_>, delay: Duration) {
        let id = content::query_value(head.query, b"id").filter(|id| !id.is_empty()).unwrap_or(b"-");
        self.id.clear();
        self.id.extend_from_slice(&id[..id.len().min(ID_SIZE_MAX)]);
        self.path.clear();
        self.path.extend_from_slice(head.path);
        self.range = head.range.map(<[u8]>::to_vec);
        self.start.clear();
        self.hash = Hash64::default();
        self.is_head = head.method == b"HEAD";
        self.keep_alive = head.keep_alive;
        self.wish = Wish::read(head.query, delay);
    }

    fn take_content(&mut self, content: &[u8]) {
        let wanted = (ID_SIZE_MAX + 4).saturating_sub(self.start.len()).min(content.len());
        self.start.extend_from_slice(&content[..wanted]);
        self.hash.update(content);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    Whole,
    Part(u64, u64),
    Outside,
}

/// One byte range; several, or anything else, is answered with the whole.
fn parse_range(value: &[u8], size: u64) -> Range {
    let Some(spec) = value.strip_prefix(b"bytes=") else { return Range::Whole };
    let Some(dash) = spec.iter().position(|byte| *byte == b'-') else { return Range::Whole };
    let (first, last) = (&spec[..dash], &spec[dash + 1..]);
    match (first, content::number(first), last, content::number(last)) {
        (_, Some(first), b"", _) if first < size => Range::Part(first, size - 1),
        (_, Some(first), _, Some(last)) if first <= last && first < size => {
            Range::Part(first, last.min(size - 1))
        }
        (b"", _, _, Some(count)) if count > 0 && size > 0 => Range::Part(size - count.min(size), size - 1),
        (_, Some(first), _, _) if first >= size => Range::Outside,
        _ => Range::Whole,
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        206 => "Partial Content",
        304 => "Not Modified",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        416 => "Range Not Satisfiable",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "As Asked",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(exchange: &mut Exchange, wire: &[u8]) -> (String, Next) {
        let mut staged = Vec::new();
        let (used, next) = exchange.handle_bytes(wire, &mut staged);
        assert_eq!(used, wire.len());
        (String::from_utf8(staged).expect("text"), next)
    }

    #[test]
    fn an_answer_says_who_asked_and_has_the_size_asked_for() {
        let mut exchange = Exchange::new(Duration::ZERO);
        let (answer, next) = ask(
            &mut exchange,
            b"POST /p;q/r?id=ab&bytes=150 HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nid=cd\nxyz",
        );
        let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
        assert!(head.contains("X-Id: ab") && head.contains("Content-Length: 150"), "{head}");
        assert!(body.starts_with("id=ab path=/p%3Bq/r body=cd len=9 hash="), "{body}");
        let end = body.find(';').expect("account") + 1;
        assert_eq!((body.len(), next), (150, Next::Read));
        assert!(Pattern::new(b"ab").matches(end as u64, &body.as_bytes()[end..]));
    }

    #[test]
    fn pipelined_requests_in_any_pieces_are_answered_in_order() {
        let wire: Vec<u8> =
            (0..5).flat_map(|id| format!("GET /?id={id} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes()).collect();
        let mut whole = Vec::new();
        let mut exchange = Exchange::new(Duration::ZERO);
        assert_eq!(exchange.handle_bytes(&wire, &mut whole), (wire.len(), Next::Read));
        for cut in 1..wire.len() {
            let (mut exchange, mut staged) = (Exchange::new(Duration::ZERO), Vec::new());
            let (used, _) = exchange.handle_bytes(&wire[..cut], &mut staged);
            exchange.handle_bytes(&wire[used..], &mut staged);
            assert_eq!(staged, whole, "{cut}");
        }
    }

    #[test]
    fn a_large_answer_is_staged_in_bounded_pieces() {
        let mut exchange = Exchange::new(Duration::ZERO);
        let mut staged = Vec::new();
        let wire = b"GET /?bytes=10000000&id=x HTTP/1.1\r\nHost: h\r\n\r\n";
        let (mut used, mut next) = exchange.handle_bytes(wire, &mut staged);
        let mut size = 0;
        while next == Next::Send {
            assert!(staged.len() < STAGED_SIZE_MAX + 2 * CHUNK_SIZE);
            size += staged.len();
            staged.clear();
            (used, next) = exchange.handle_bytes(&wire[used.min(wire.len())..][..0], &mut staged);
        }
        let head = 82;
        assert!((10_000_000..10_000_000 + 2 * head).contains(&(size + staged.len())), "{size}");
    }

    #[test]
    fn what_the_query_wishes_is_done() {
        for (query, expected, next) in [
            ("stall", "", Next::Stall),
            ("delay_ms=20", "", Next::Wait(Duration::from_millis(20))),
            ("status=503", "HTTP/1.1 503 Service Unavailable", Next::Read),
            ("framing=chunked&bytes=3", "\r\n\r\n3\r\nid=\r\n0\r\n\r\n", Next::Read),
            ("framing=close&bytes=3", "Connection: close\r\n\r\nid=", Next::Close),
            ("bytes=100&cut=3", "Content-Length: 100", Next::Close),
        ] {
            let wire = format!("GET /?{query} HTTP/1.1\r\nHost: h\r\n\r\n");
            let (answer, found) = ask(&mut Exchange::new(Duration::ZERO), wire.as_bytes());
            assert!(answer.contains(expected), "{query}: {answer}");
            assert_eq!(found, next, "{query}");
        }
    }

    #[test]
    fn a_range_is_a_part_of_the_same_body() {
        for (value, range) in [
            ("bytes=0-9", Range::Part(0, 9)),
            ("bytes=90-", Range::Part(90, 99)),
            ("bytes=-10", Range::Part(90, 99)),
            ("bytes=90-200", Range::Part(90, 99)),
            ("bytes=100-", Range::Outside),
            ("bytes=5-4", Range::Whole),
            ("bytes=0-1,4-5", Range::Whole),
            ("lines=0-1", Range::Whole),
        ] {
            assert_eq!(parse_range(value.as_bytes(), 100), range, "{value}");
        }
    }

    #[test]
    fn what_is_not_http_is_refused_and_the_connection_ends() {
        let (answer, next) = ask(&mut Exchange::new(Duration::ZERO), b"\x16\x03\x01\x02\x00\x01");
        assert!(answer.starts_with("HTTP/1.1 400"));
        assert_eq!(next, Next::Close);
    }
}
