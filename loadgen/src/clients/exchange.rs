//! The requests and answers of one connection: what is asked, and whether what comes back is the answer to it.
//!
//! Pure: bytes and `now` in, bytes and judgements out. The counterpart that answers is `origin/exchange.rs`.

use super::options::Check;
use super::plan::Plan;
use super::work::{BODY_KEPT_SIZE_MAX, Expect, Request, RequestBody};
use crate::content::{self, Hash64, ID_SIZE, Pattern};
use crate::wire::{self, Body, Framing, Malformed};
use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Content of a request's body is made in pieces of this size; each is a chunk, when chunked.
pub const PIECE_SIZE: usize = 16 * 1024;
/// How much of an answer is kept to be searched.
const KEPT_SIZE_MAX: usize = 16 * 1024;

/// An answer that is not ours, or not whole: never allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It belongs to another request.
    Id,
    /// Length or content differ.
    Content,
    /// It is not HTTP, or comes unasked.
    Malformed,
}

impl From<Malformed> for Wrong {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// An answer that came whole; with an expected status it was checked.
#[derive(Debug, PartialEq, Eq)]
pub struct Answered {
    /// Its status.
    pub status: u16,
    /// Whether that status was expected.
    pub is_right: bool,
    /// When it was to start.
    pub planned: Instant,
    /// From the planned start to the last byte.
    pub latency: Duration,
    /// Which step asked.
    pub name: u16,
    /// Bytes of the body, or that the head announced (HEAD).
    pub size: u64,
    /// What a script wants to read of it.
    pub kept: Option<Box<Kept>>,
    /// Where the body differs from its shape.
    pub differs_at: Option<u64>,
    /// The request's id.
    pub id: u64,
    /// When it was asked.
    pub asked: Instant,
    /// The reason phrase of a status that was not expected.
    pub reason: Box<str>,
}

/// An answer's head and the first bytes of its body.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// As it came.
    pub head: Vec<u8>,
    /// At most [`BODY_KEPT_SIZE_MAX`] bytes.
    pub body: Vec<u8>,
}

#[derive(Debug)]
struct Asked {
    id: u64,
    at: Instant,
    planned: Instant,
    size: u64,
    hash: u64,
    /// What a script asked; `None` is the plan's request.
    order: Option<Box<Order>>,
}

#[derive(Debug)]
struct Order {
    expect: Expect,
    name: u16,
    bytes: Option<Arc<[u8]>>,
}

impl Asked {
    fn new(id: u64, planned: Instant, at: Instant, order: Option<Box<Order>>) -> Self {
        Self { id, at, planned, size: 0, hash: Hash64::default().finish(), order }
    }

    fn expect<'a>(&'a self, plan: &'a Plan) -> &'a Expect {
        self.order.as_ref().map_or(&plan.expect, |order| &order.expect)
    }

    /// What the origin finds as id in the body.
    fn body_id<'a>(&'a self, id: &'a [u8; ID_SIZE]) -> &'a [u8] {
        match self.order.as_ref().and_then(|order| order.bytes.as_deref()) {
            Some(bytes) => content::body_id(&bytes[..bytes.len().min(content::ID_SIZE_MAX + 4)]),
            None => body_id(id, self.size),
        }
    }
}

/// A body on its way out.
#[derive(Debug)]
struct Upload {
    id: [u8; ID_SIZE],
    pattern: Pattern,
    position: u64,
    size: u64,
    is_chunked: bool,
    hash: Hash64,
    bytes: Option<Arc<[u8]>>,
}

/// An answer's body on its way in.
#[derive(Debug)]
struct Reading {
    status: u16,
    is_right: bool,
    has_no_body: bool,
    body: Body,
    check: Check,
    /// Bytes of content that came.
    size: u64,
    /// Where in the whole content the next byte belongs.
    position: u64,
    pattern: Pattern,
    is_past_account: bool,
    kept: Option<Box<Kept>>,
    differs_at: Option<u64>,
    reason: Box<str>,
}

/// One connection's requests, in order.
#[derive(Debug, Default)]
pub struct Exchange {
    waiting: VecDeque<Asked>,
    upload: Option<Upload>,
    reading: Option<Reading>,
    kept: Vec<u8>,
    is_closing: bool,
}

impl Exchange {
    /// Requests without a whole answer.
    pub fn outstanding(&self) -> usize {
        self.waiting.len()
    }

    /// Whether a request's body is not yet all written.
    pub fn is_uploading(&self) -> bool {
        self.upload.is_some()
    }

    /// Whether the server ends the connection behind its last answer.
    pub fn is_closing(&self) -> bool {
        self.is_closing
    }

    /// Whether no byte came of the answer to the oldest request.
    pub fn is_unanswered(&self) -> bool {
        self.reading.is_none() && self.kept.is_empty()
    }

    /// How long the server may hold the oldest outstanding request.
    pub fn held(&self) -> Duration {
        let order = self.waiting.front().and_then(|asked| asked.order.as_ref());
        order.map_or(Duration::ZERO, |order| order.expect.held)
    }

    /// Whether the only request without an answer is one that the server may hold.
    pub fn is_held(&self) -> bool {
        self.waiting.len() == 1 && !self.held().is_zero()
    }

    /// When the oldest outstanding request was asked.
    pub fn asked_at(&self) -> Option<Instant> {
        self.waiting.front().map(|asked| asked.at)
    }

    /// Ids of the outstanding requests and when they were asked, the oldest first.
    pub fn asked(&self) -> impl Iterator<Item = (u64, Instant)> {
        self.waiting.iter().map(|asked| (asked.id, asked.at))
    }

    /// When the outstanding requests were to start, the last one first.
    pub fn planned_backwards(&self) -> impl Iterator<Item = Instant> {
        self.waiting.iter().rev().map(|asked| asked.planned)
    }

    /// Writes the head of the plan's request; its body follows by [`Self::write_body`].
    pub fn ask(&mut self, plan: &Plan, id: u64, planned: Instant, now: Instant, out: &mut Vec<u8>) {
        let text = content::id_text(id);
        out.extend_from_slice(&plan.before_id);
        out.extend_from_slice(&text);
        out.extend_from_slice(&plan.after_id);
        self.begin(Asked::new(id, planned, now, None));
        self.upload = plan.body.map(|size| Upload::new(text, size, plan.is_chunked, None));
    }

    /// The same with a request of a script.
    pub fn ask_order(
        &mut self,
        id: u64,
        request: Request,
        planned: Instant,
        now: Instant,
        out: &mut Vec<u8>,
    ) {
        let Request { head, body, expect, name } = request;
        let text = content::id_text(id);
        out.extend_from_slice(&head);
        let (bytes, upload) = match body {
            RequestBody::None => (None, None),
            RequestBody::Bytes(bytes) => {
                let upload = Upload::new(text, bytes.len() as u64, false, Some(Arc::clone(&bytes)));
                (Some(bytes), Some(upload))
            }
        };
        self.begin(Asked::new(id, planned, now, Some(Box::new(Order { expect, name, bytes }))));
        self.upload = upload;
    }

    fn begin(&mut self, asked: Asked) {
        debug_assert!(self.upload.is_none(), "a request begins behind the body of the one before");
        self.waiting.push_back(asked);
    }

    /// Writes the next piece of the body being written.
    pub fn write_body(&mut self, out: &mut Vec<u8>) {
        let Some(upload) = &mut self.upload else { return };
        upload.write(out);
        if upload.position == upload.size {
            if let Some(asked) = self.waiting.back_mut() {
                (asked.size, asked.hash) = (upload.size, upload.hash.finish());
            }
            self.upload = None;
        }
    }

    /// Reads answers; whole ones go to `answered`.
    pub fn read(
        &mut self,
        plan: &Plan,
        mut bytes: &[u8],
        now: Instant,
        answered: &mut Vec<Answered>,
    ) -> Result<(), Wrong> {
        while !bytes.is_empty() {
            let used = match self.reading.take() {
                None => self.read_head(plan, bytes)?,
                Some(mut reading) => {
                    let (used, content) = reading.body.read(bytes)?;
                    self.take_content(plan, &mut reading, content)?;
                    self.reading = Some(reading);
                    used
                }
            };
            bytes = &bytes[used..];
            if self.reading.as_ref().is_some_and(|reading| reading.body.is_done()) {
                self.finish(plan, now, answered)?;
            }
        }
        Ok(())
    }

    /// The connection ended: whether that was the end of an answer without a length.
    pub fn handle_end(
        &mut self,
        plan: &Plan,
        now: Instant,
        answered: &mut Vec<Answered>,
    ) -> Result<bool, Wrong> {
        let ends = self.reading.as_ref().is_some_and(|reading| reading.body == Body::Close);
        if ends {
            self.finish(plan, now, answered)?;
        }
        Ok(ends)
    }

    fn read_head(&mut self, plan: &Plan, bytes: &[u8]) -> Result<usize, Wrong> {
        let Some(asked) = self.waiting.front() else { return Err(Wrong::Malformed) };
        let held = self.kept.len();
        let source = if held == 0 {
            bytes
        } else {
            self.kept.extend_from_slice(bytes);
            &self.kept
        };
        let expect = asked.expect(plan);
        let Some(head) = wire::parse_response(source, expect.is_head)? else {
            if held == 0 {
                self.kept.extend_from_slice(bytes);
            }
            return Ok(bytes.len());
        };
        let used = head.size.saturating_sub(held);
        if head.status >= 200 {
            let id = content::id_text(asked.id);
            let is_right = expect.statuses.contains(head.status);
            let check = if is_right { expect.check } else { Check::Off };
            if check == Check::Full && head.id != Some(&id) {
                return Err(Wrong::Id);
            }
            self.is_closing |= !head.keep_alive || head.framing == Framing::Close;
            self.reading = Some(Reading {
                status: head.status,
                is_right,
                has_no_body: expect.is_head || matches!(head.status, 204 | 304),
                body: Body::new(head.framing),
                check,
                size: if expect.is_head { head.length.unwrap_or(0) } else { 0 },
                position: expect.offset,
                pattern: if check == Check::Full { Pattern::new(&id) } else { Pattern::new(b"") },
                is_past_account: expect.offset > 0,
                kept: expect
                    .keeps
                    .then(|| Box::new(Kept { head: source[..head.size].to_vec(), body: Vec::new() })),
                differs_at: None,
                reason: if is_right { Box::default() } else { head.reason.into() },
            });
        }
        self.kept.clear();
        Ok(used)
    }

    fn take_content(&mut self, plan: &Plan, reading: &mut Reading, content: &[u8]) -> Result<(), Wrong> {
        let mut rest = content;
        if reading.is_right
            && reading.differs_at.is_none()
            && let Some(asked) = self.waiting.front()
            && let Some(shape) = asked.expect(plan).shape
        {
            let place = asked.expect(plan).offset + reading.size;
            let is_it = shape.matches(&content::id_text(asked.id), place, content);
            reading.differs_at = (!is_it).then_some(place);
        }
        reading.size += content.len() as u64;
        if let Some(kept) = &mut reading.kept {
            let room = BODY_KEPT_SIZE_MAX - kept.body.len();
            kept.body.extend_from_slice(&content[..content.len().min(room)]);
        }
        match reading.check {
            Check::Off => rest = &[],
            Check::Contains => {
                let room = KEPT_SIZE_MAX - self.kept.len();
                self.kept.extend_from_slice(&content[..content.len().min(room)]);
                rest = &[];
            }
            Check::Full if reading.is_past_account => {}
            Check::Full => match content.iter().position(|byte| *byte == b';') {
                Some(end) => {
                    let asked = self.waiting.front().ok_or(Wrong::Malformed)?;
                    if self.kept.is_empty() {
                        check_account(&content[..end], asked, &asked.expect(plan).segment)?;
                    } else {
                        self.kept.extend_from_slice(&content[..end]);
                        check_account(&self.kept, asked, &asked.expect(plan).segment)?;
                        self.kept.clear();
                    }
                    reading.is_past_account = true;
                    reading.position += end as u64 + 1;
                    rest = &content[end + 1..];
                }
                None if self.kept.len() + content.len() > KEPT_SIZE_MAX => return Err(Wrong::Content),
                None => {
                    self.kept.extend_from_slice(content);
                    reading.position += content.len() as u64;
                    return Ok(());
                }
            },
        }
        if !reading.pattern.matches(reading.position, rest) {
            return Err(Wrong::Content);
        }
        reading.position += rest.len() as u64;
        Ok(())
    }

    fn finish(&mut self, plan: &Plan, now: Instant, answered: &mut Vec<Answered>) -> Result<(), Wrong> {
        let (Some(reading), Some(asked)) = (self.reading.take(), self.waiting.front()) else {
            return Err(Wrong::Malformed);
        };
        let expect = asked.expect(plan);
        let id = content::id_text(asked.id);
        if !reading.has_no_body {
            match reading.check {
                Check::Contains if !self.kept.windows(ID_SIZE).any(|window| window == id) => {
                    return Err(Wrong::Id);
                }
                Check::Full if !reading.is_past_account => {
                    let mut start = b"id=".to_vec();
                    start.extend_from_slice(&id);
                    let shown = self.kept.len().min(start.len());
                    if self.kept[..shown] != start[..shown] {
                        return Err(Wrong::Id);
                    }
                }
                Check::Full | Check::Contains | Check::Off => {}
            }
        }
        let has_size = !reading.has_no_body || expect.is_head;
        if reading.is_right && has_size && expect.size.is_some_and(|size| size != reading.size) {
            return Err(Wrong::Content);
        }
        answered.push(Answered {
            status: reading.status,
            is_right: reading.is_right,
            planned: asked.planned,
            latency: now.saturating_duration_since(asked.planned),
            name: asked.order.as_ref().map_or(0, |order| order.name),
            size: reading.size,
            kept: reading.kept,
            differs_at: reading.differs_at,
            id: asked.id,
            asked: asked.at,
            reason: reading.reason,
        });
        // An answer before the whole request: the connection cannot carry another one.
        self.is_closing |= self.waiting.len() == 1 && self.upload.is_some();
        self.waiting.pop_front();
        self.kept.clear();
        if self.waiting.is_empty() && self.kept.capacity() > 1024 {
            self.kept = Vec::new();
        }
        Ok(())
    }
}

impl Upload {
    fn new(id: [u8; ID_SIZE], size: u64, is_chunked: bool, bytes: Option<Arc<[u8]>>) -> Self {
        let pattern = Pattern::new(&id);
        Self { id, pattern, position: 0, size, is_chunked, hash: Hash64::default(), bytes }
    }

    fn write(&mut self, out: &mut Vec<u8>) {
        let size = usize::try_from(self.size - self.position).unwrap_or(usize::MAX).min(PIECE_SIZE);
        if self.is_chunked && size > 0 {
            let _ = write!(out, "{size:x}\r\n");
        }
        let start = out.len();
        match &self.bytes {
            Some(bytes) => out.extend_from_slice(&bytes[self.position as usize..][..size]),
            None => self.write_pattern(size, out),
        }
        self.hash.update(&out[start..]);
        self.position += size as u64;
        if self.is_chunked && size > 0 {
            out.extend_from_slice(b"\r\n");
        }
        if self.is_chunked && self.position == self.size {
            out.extend_from_slice(b"0\r\n\r\n");
        }
    }
}

impl Upload {
    /// Writes the next `size` letters; the first line of a body names its id.
    fn write_pattern(&self, size: usize, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + size, 0);
        let piece = &mut out[start..];
        self.pattern.fill(self.position, piece);
        if self.position == 0 {
            let mut line = [0; ID_SIZE + 4];
            line[..3].copy_from_slice(b"id=");
            line[3..3 + ID_SIZE].copy_from_slice(&self.id);
            line[3 + ID_SIZE] = b'\n';
            let shown = size.min(line.len());
            piece[..shown].copy_from_slice(&line[..shown]);
        }
    }
}

/// Compares what the origin says with what was asked.
fn check_account(account: &[u8], asked: &Asked, last_segment: &[u8]) -> Result<(), Wrong> {
    let id = content::id_text(asked.id);
    let rest = account.strip_prefix(b"id=").and_then(|rest| rest.strip_prefix(&id)).ok_or(Wrong::Id)?;
    let rest = rest.strip_prefix(b" path=").ok_or(Wrong::Content)?;
    let end = rest.iter().position(|byte| *byte == b' ').ok_or(Wrong::Content)?;
    let segment = rest[..end].rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    if segment != last_segment {
        return Err(Wrong::Content);
    }
    let rest = rest[end..].strip_prefix(b" body=").ok_or(Wrong::Content)?;
    let rest =
        rest.strip_prefix(asked.body_id(&id)).filter(|rest| rest.starts_with(b" ")).ok_or(Wrong::Id)?;
    let mut expected = [0; 64];
    let mut room = &mut expected[..];
    let _ = write!(room, " len={} hash={:016x}", asked.size, asked.hash);
    let size = 64 - room.len();
    if rest == &expected[..size] { Ok(()) } else { Err(Wrong::Content) }
}

/// What the origin finds as id in a body of `size` bytes.
fn body_id(id: &[u8; ID_SIZE], size: u64) -> &[u8] {
    let shown = usize::try_from(size).unwrap_or(usize::MAX).saturating_sub(3).min(ID_SIZE);
    if shown == 0 { b"-" } else { &id[..shown] }
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
