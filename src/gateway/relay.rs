//! Carrying one exchange: the request's body to the connection point and the answer back, both at
//! once, each as fast as its slowest hop.

use std::borrow::Cow;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::answer::{self, AnswerFraming};
use super::client::Connection;
use super::gate::Gate;
use super::request::Request;
use crate::channel::{self, ResetCode, ResponseMessage, TrailersWriter};
use crate::dispatch::Broke;
use crate::http::{self, Step};
use crate::limits;
use crate::refusal::{Refusal, Refused};
use crate::transport::{Broken, Passed, Stream};

/// How an exchange ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Whole; whether the connection goes on.
    Answered {
        /// The next request can be read where this one ended.
        keep: bool,
    },
    /// Nothing of an answer was sent: the gateway answers so.
    Refused(Refused),
    /// The stream broke off before an answer began.
    Broke(Broke),
    /// It broke off in the middle; why.
    Cut(Cow<'static, str>),
    /// The head of a tunnel is written: bytes follow, both ways ([`Relay::into_stream`]).
    Switched,
}

/// The way of the request's body.
enum Sending {
    /// Bytes of the body are read and sent; so many decoded ones lie at the front of what was received.
    /// `held`: records that were not opened wait because the channel takes nothing.
    Body { decoded: usize, held: bool },
    /// A tunnel is asked for: what the client sends waits for the answer, for only bytes of a tunnel may
    /// pass. An origin that goes on speaking HTTP would take them for a request that nobody judged.
    Asked,
    /// All sent.
    Done,
}

/// Why no more of the request's body is sent.
enum Halt {
    /// It is not taken.
    Refused(Refused),
    /// The client's connection broke in the middle of it: nobody is there for an answer.
    Left(io::Error),
}

impl From<Refused> for Halt {
    fn from(refused: Refused) -> Halt {
        Halt::Refused(refused)
    }
}

/// The way of the answer.
enum Answering {
    /// No final head yet.
    Head,
    /// The body follows.
    Body(AnswerFraming),
    /// No answer to a request any more: a tunnel.
    Switched,
    /// Everything is written.
    Done,
}

/// See the file's head.
pub struct Relay<'c> {
    gate: Rc<Gate>,
    connection: &'c mut Connection,
    request: &'c mut Request,
    stream: Stream,
    sending: Sending,
    answering: Answering,
    /// Body bytes that the answer's head still promises; `None` when it promised no number.
    promised: Option<u64>,
    keep: bool,
    moved: bool,
    /// When something moved last.
    since: Instant,
    /// The client's direction ended without TLS's closing alert: it is gone, or ends its half rudely.
    has_left: bool,
}

impl<'c> Relay<'c> {
    /// An exchange whose head was sent on `stream`.
    pub fn new(
        gate: Rc<Gate>,
        connection: &'c mut Connection,
        request: &'c mut Request,
        stream: Stream,
        keep: bool,
    ) -> Relay<'c> {
        let sending = if request.manner.has_body {
            Sending::Body { decoded: 0, held: false }
        } else if request.is_tunnel {
            Sending::Asked
        } else {
            stream.has_no_body();
            Sending::Done
        };
        let own = request.body.remaining_hint().is_none_or(|left| left > SMALL_BODY);
        connection.wire.use_own_buffer(request.manner.has_body && own);
        connection.wire.expect_transfer(request.manner.has_body && own);
        // What is held for minutes can wait for its turn, and so can the client's next request of that kind.
        let is_patient = request.is_held && !request.is_tunnel;
        connection.wire.set_patient(is_patient);
        if is_patient {
            stream.mailbox().set_patient();
        } else {
            gate.shard.ring.note_urgent();
        }
        let answering = Answering::Head;
        let has_left = connection.wire.is_read_closed() && !connection.wire.is_cleanly_closed();
        let since = gate.shard.now();
        Relay {
            gate,
            connection,
            request,
            stream,
            sending,
            answering,
            promised: None,
            keep,
            moved: true,
            since,
            has_left,
        }
    }

    /// The stream of an exchange that became a tunnel.
    pub fn into_stream(self) -> Stream {
        self.stream
    }

    /// Carries it on; ready when it has ended.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Outcome>> {
        self.stream.mailbox().watch(context);
        let is_blocked = self.request.bearer.as_ref().is_some_and(|bearer| bearer.is_blocked(context));
        let refused = is_blocked.then(|| Refused::new(Refusal::InvalidToken, super::token::BLOCKED));
        if let Some(refused) = refused.or_else(|| self.connection.shut_out()) {
            self.stream.reset(ResetCode::Cancelled);
            return Poll::Ready(Ok(self.gone_wrong(refused)));
        }
        let sent = self.poll_send(context);
        if let Poll::Ready(Err(halt)) = sent {
            self.stream.reset(ResetCode::Cancelled);
            return Poll::Ready(match halt {
                Halt::Refused(refused) => Ok(self.gone_wrong(refused)),
                Halt::Left(error) => Err(error),
            });
        }
        if sent.is_ready()
            && let Err(error) = self.look_ahead(context)
        {
            self.stream.reset(ResetCode::Cancelled);
            return Poll::Ready(Err(error));
        }
        match self.poll_answer(context) {
            Poll::Ready(outcome) => return Poll::Ready(outcome),
            Poll::Pending => {}
        }
        let now = self.gate.shard.now();
        let has_moved = std::mem::take(&mut self.moved);
        if has_moved {
            self.since = now;
        }
        if has_moved || self.parts_at().is_some() {
            let left = self.left(now);
            // Set anew at each look, a deadline of no time would never pass.
            if left.is_zero() {
                return Poll::Ready(Ok(self.out_of_time(now)));
            }
            self.connection.deadline.set(now, left);
        }
        while self.connection.deadline.poll(context) {
            // Since then the client may have taken what was for it, and another be waited for.
            let left = self.left(now);
            if left.is_zero() {
                return Poll::Ready(Ok(self.out_of_time(now)));
            }
            self.connection.deadline.set(now, left);
        }
        self.connection.wire.watch(context);
        Poll::Pending
    }

    /// What is left of the time in which something has to move.
    fn left(&self, now: Instant) -> Duration {
        let left = self.patience().saturating_sub(now.saturating_duration_since(self.since));
        let parts_in = self.parts_at().map(|at| at.saturating_duration_since(now));
        parts_in.map_or(left, |parts_in| left.min(parts_in))
    }

    /// When the request ends because the gateway does: one that is held would not end by itself. A tunnel stays until
    /// the last.
    fn parts_at(&self) -> Option<Instant> {
        let parting = self.gate.parting()?;
        let is_held = self.request.is_held && !self.request.is_tunnel;
        (is_held && matches!(self.answering, Answering::Head)).then(|| parting.of_held(self.connection.id()))
    }

    /// How long nothing may move: an origin thinks longer than a transfer may pause.
    fn patience(&self) -> Duration {
        let limits = self.gate.limits();
        if self.has_left {
            return limits.answer.min(LEFT_WITHIN);
        }
        let owes_body = matches!(self.sending, Sending::Body { decoded: 0, held: false });
        let waits_for_client = owes_body || self.connection.wire.unsent() > 0;
        match (waits_for_client, self.request.is_held) {
            (true, _) => limits.body,
            (false, true) => limits.held,
            (false, false) => limits.answer,
        }
    }

    fn out_of_time(&self, now: Instant) -> Outcome {
        self.stream.reset(ResetCode::Cancelled);
        if self.parts_at().is_some_and(|at| at <= now) {
            return Outcome::Refused(Refused::new(Refusal::NoConnector, HELD_NO_LONGER));
        }
        let secs = self.patience().as_secs_f32();
        match (&self.answering, &self.sending) {
            // The client owes bytes.
            (Answering::Head, Sending::Body { decoded: 0, held: false }) => {
                Outcome::Cut(format!("the client sent nothing of its body for {secs} s").into())
            }
            // The origin owes an answer, or takes no more of the body.
            (Answering::Head, Sending::Done | Sending::Asked | Sending::Body { .. }) => {
                let cause = format!("no answer came from the connection point within {secs} s");
                Outcome::Refused(Refused::new(Refusal::GatewayTimeout, cause))
            }
            (Answering::Body(_) | Answering::Switched | Answering::Done, _) => {
                let waits_for_client = self.connection.wire.unsent() > 0;
                let who = if waits_for_client { "the client took" } else { "the connection point sent" };
                Outcome::Cut(format!("{who} nothing of the answer for {secs} s").into())
            }
        }
    }

    fn gone_wrong(&self, refused: Refused) -> Outcome {
        match self.answering {
            Answering::Head => Outcome::Refused(refused),
            Answering::Body(_) | Answering::Switched | Answering::Done => Outcome::Cut(refused.cause),
        }
    }

    // ── the request's body ──────────────────────────────────────────────────────────────────────

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Halt>> {
        while let Sending::Body { decoded, .. } = self.sending {
            if decoded == 0 && self.connection.wire.passes_records() {
                match self.poll_pass(context)? {
                    Poll::Ready(true) => continue,
                    Poll::Ready(false) => {}
                    Poll::Pending => return Poll::Pending,
                }
            }
            let Sending::Body { decoded, .. } = &mut self.sending else { break };
            let wire = &mut self.connection.wire;
            if *decoded > 0 {
                let sent = self.stream.send(&wire.received()[..*decoded]);
                if sent == 0 {
                    // What the client sends meanwhile stays with it.
                    wire.pause();
                    return Poll::Pending;
                }
                wire.consume(sent);
                self.request.account.bytes_in += sent as u64;
                *decoded -= sent;
                self.moved = true;
                continue;
            }
            let step = self.request.body.next(wire.received()).map_err(|error| {
                Refused::new(error.refusal(), format!("the body cannot be read: {error}"))
            })?;
            match step {
                Step::Data { consumed, data } => {
                    let framing = consumed - data.len();
                    *decoded = data.len();
                    wire.consume(framing);
                    let left = self.request.length_left.checked_sub(*decoded as u64);
                    let Some(left) = left else { return Poll::Ready(Err(self.too_long().into())) };
                    self.request.length_left = left;
                }
                Step::End { consumed } => {
                    wire.consume(consumed);
                    self.end_body()?;
                }
                Step::More { consumed } => {
                    wire.consume(consumed);
                    match wire.poll_fill(context) {
                        Poll::Ready(Ok(true)) => self.moved = true,
                        // Half a request, and somebody who may still read an answer.
                        Poll::Ready(Ok(false)) if wire.is_cleanly_closed() => {
                            return Poll::Ready(Err(Refused::new(Refusal::BadRequest, HALF_A_BODY).into()));
                        }
                        Poll::Ready(Ok(false)) => {
                            return Poll::Ready(Err(Halt::Left(io::ErrorKind::UnexpectedEof.into())));
                        }
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(Halt::Left(error))),
                        Poll::Pending => return Poll::Pending,
                    }
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Passes whole records of the body on as they are; whether it did. What else there is has to be read.
    fn poll_pass(&mut self, context: &Context<'_>) -> Result<Poll<bool>, Halt> {
        let left = self.request.body.remaining_hint().unwrap_or(0);
        // Of the last record, what follows the body may be a part.
        if left == 0 {
            return Ok(Poll::Ready(false));
        }
        let wire = &mut self.connection.wire;
        if wire.first_record().is_none() {
            match wire.poll_records(context) {
                Poll::Ready(Ok(true)) => self.moved = true,
                // Read on, it says so again.
                Poll::Ready(Ok(false) | Err(_)) => return Ok(Poll::Ready(false)),
                Poll::Pending => return Ok(Poll::Pending),
            }
            if wire.first_record().is_none() {
                return Ok(Poll::Ready(true));
            }
        }
        let passed = self.stream.pass(wire, left).map_err(Halt::Left)?;
        let is_blocked = passed == Passed::Blocked;
        self.sending = Sending::Body { decoded: 0, held: is_blocked };
        match passed {
            Passed::Bytes(count) => {
                self.request.body.pass(count as u64);
                self.request.account.bytes_in += count as u64;
                let left = self.request.length_left.checked_sub(count as u64);
                self.request.length_left = left.ok_or_else(|| self.too_long())?;
                self.moved = true;
                Ok(Poll::Ready(true))
            }
            Passed::Blocked => {
                wire.pause();
                Ok(Poll::Pending)
            }
            Passed::NotNow => Ok(Poll::Ready(false)),
        }
    }

    fn too_long(&self) -> Refused {
        let max = self.request.length_left + self.request.account.bytes_in;
        Refused::new(Refusal::ContentTooLarge, format!("the body is over the endpoint's {max}"))
    }

    fn end_body(&mut self) -> Result<(), Refused> {
        let mut trailers = Vec::new();
        let mut fields = http::forwarded_trailer_fields(self.request.body.trailers()).peekable();
        if fields.peek().is_some() {
            let mut writer = TrailersWriter::new(&mut trailers);
            for field in fields {
                writer
                    .field(field.name, field.value)
                    .map_err(|_| Refused::new(Refusal::HeadTooLarge, TRAILERS_TOO_LARGE))?;
            }
            writer.finish();
        }
        self.stream.end(&trailers);
        self.sending = Sending::Done;
        self.connection.wire.use_own_buffer(false);
        self.moved = true;
        Ok(())
    }

    /// Takes in what the client sends behind its request, up to a bound; then it must wait. A client
    /// that ended its direction still gets its answer; of one whose connection broke nobody waits for it.
    fn look_ahead(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let wire = &mut self.connection.wire;
        while !wire.is_read_closed() {
            if wire.received().len() >= limits::PIPELINE_SIZE_MAX {
                wire.pause();
                return Ok(());
            }
            match wire.poll_fill(context) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) if !wire.is_cleanly_closed() => {
                    self.has_left = true;
                    self.moved = true;
                    return Ok(());
                }
                Poll::Ready(Ok(false)) | Poll::Pending => return Ok(()),
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        Ok(())
    }

    // ── the answer ──────────────────────────────────────────────────────────────────────────────

    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Outcome>> {
        while matches!(self.answering, Answering::Head) {
            let Some(message) = self.stream.mailbox().take_head() else { break };
            let written = self.write_head(&message);
            self.gate.shard.ring.pool.borrow_mut().give_back(message);
            self.moved = true;
            if !written? {
                self.stream.reset(ResetCode::Protocol);
                return Poll::Ready(Ok(Outcome::Refused(Refused::new(Refusal::BadGateway, NOT_AN_ANSWER))));
            }
        }
        if let Answering::Switched = self.answering {
            return Poll::Ready(Ok(Outcome::Switched));
        }
        if let Answering::Body(framing) = self.answering
            && !self.write_body(context, framing)?
        {
            self.stream.reset(ResetCode::Protocol);
            return Poll::Ready(Ok(Outcome::Cut(NOT_AS_PROMISED.into())));
        }
        if let Answering::Done = self.answering {
            self.connection.wire.start_send()?;
            let whole = matches!(self.sending, Sending::Done);
            return Poll::Ready(Ok(Outcome::Answered { keep: self.keep && whole }));
        }
        if let Some(broken) = self.stream.mailbox().broken() {
            return self.poll_broken(context, broken);
        }
        if self.connection.wire.poll_room(context)?.is_ready() {
            self.connection.wire.start_send()?;
        }
        Poll::Pending
    }

    fn write_head(&mut self, message: &[u8]) -> io::Result<bool> {
        let Ok(message) = ResponseMessage::parse(message) else { return Ok(false) };
        let switches = answer::switches(&message, &self.request.message);
        if !switches && !answer::is_readable(&message, &self.request.manner) {
            return Ok(false);
        }
        if self.request.is_tunnel && !switches && !message.is_interim() {
            self.stream.end(&[]);
            self.sending = Sending::Done;
        }
        let wire = &mut self.connection.wire;
        let mut out = self.gate.shard.ring.pool.borrow_mut().small();
        let manner = &self.request.manner;
        if message.is_interim() {
            if manner.version == http::Version::Http11 {
                answer::interim(&mut out, &message);
            }
        } else if switches {
            answer::switching(&mut out, &message, manner);
            self.answering = Answering::Switched;
            self.request.account.status = Some(message.status);
        } else {
            let (framing, keep) = answer::head(&mut out, &message, manner, self.keep);
            self.keep = keep;
            self.answering = Answering::Body(framing);
            self.request.account.status = Some(message.status);
            self.promised = match framing {
                AnswerFraming::None => Some(0),
                AnswerFraming::Length => message.length,
                AnswerFraming::Chunked | AnswerFraming::UntilClose => None,
            };
            // A small answer leaves with its head in one record.
            let data = self.stream.data();
            let is_small = !data.is_empty() && data.len() <= SMALL_ANSWER;
            if framing == AnswerFraming::Length && is_small && keep_promise(&mut self.promised, data.len()) {
                let size = data.len();
                out.extend_from_slice(&data);
                drop(data);
                self.stream.consume(size);
                self.request.account.bytes_out += size as u64;
            }
        }
        let written = wire.write(&out);
        self.gate.shard.ring.pool.borrow_mut().give_back(out);
        written.map(|()| true)
    }

    /// Writes what there is. False: it is not what the head promised, and the client would take the rest
    /// for another answer, perhaps for that of another site.
    fn write_body(&mut self, context: &mut Context<'_>, framing: AnswerFraming) -> io::Result<bool> {
        let wire = &mut self.connection.wire;
        loop {
            let mut data = self.stream.data();
            if data.is_empty() {
                break;
            }
            match wire.poll_space(context) {
                Poll::Ready(result) => result?,
                Poll::Pending => return Ok(true),
            }
            if framing != AnswerFraming::Chunked {
                drop(data);
                let size = self.stream.pass_on(wire, self.promised.unwrap_or(u64::MAX))?;
                if size > 0 {
                    keep_promise(&mut self.promised, size);
                    self.request.account.bytes_out += size as u64;
                    self.moved = true;
                    continue;
                }
                data = self.stream.data();
            }
            let size = data.len().min(wire.room());
            if !keep_promise(&mut self.promised, size) {
                return Ok(false);
            }
            if framing == AnswerFraming::Chunked {
                let mut chunk = self.gate.shard.ring.pool.borrow_mut().large();
                http::chunk_header(size, &mut chunk);
                chunk.extend_from_slice(&data[..size]);
                http::chunk_end(&mut chunk);
                let written = wire.write(&chunk);
                self.gate.shard.ring.pool.borrow_mut().give_back(chunk);
                written?;
            } else {
                wire.write(&data[..size])?;
            }
            drop(data);
            self.stream.consume(size);
            self.request.account.bytes_out += size as u64;
            self.moved = true;
        }
        if self.stream.mailbox().is_ended() {
            if self.promised.is_some_and(|left| left > 0) {
                return Ok(false);
            }
            if framing == AnswerFraming::Chunked {
                let mut last = Vec::with_capacity(64);
                let trailers = self.stream.mailbox().trailers();
                match channel::parse_trailers(&trailers) {
                    Ok(fields) => {
                        let fields = fields
                            .into_iter()
                            .map(|field| http::Field { name: field.name, value: field.value });
                        http::last_chunk(&mut last, http::forwarded_trailer_fields(fields));
                    }
                    Err(_) => http::last_chunk(&mut last, std::iter::empty()),
                }
                wire.write(&last)?;
            }
            self.answering = Answering::Done;
        }
        Ok(true)
    }

    fn poll_broken(&mut self, context: &mut Context<'_>, broken: Broken) -> Poll<io::Result<Outcome>> {
        if let Answering::Head = self.answering {
            return Poll::Ready(Ok(match broken {
                Broken::Reset(ResetCode::Refused(refusal)) => {
                    Outcome::Refused(Refused::new(refusal, told(broken)))
                }
                Broken::Reset(ResetCode::NotBegun) | Broken::Lost { not_taken: true } => {
                    Outcome::Broke(Broke::NotBegun)
                }
                Broken::Lost { not_taken: false } => Outcome::Broke(Broke::Lost),
                Broken::Reset(
                    ResetCode::Cancelled | ResetCode::OriginBroke | ResetCode::Protocol | ResetCode::Other(_),
                ) => Outcome::Refused(Refused::new(Refusal::BadGateway, told(broken))),
            }));
        }
        // What arrived before the break is the client's; then the cut shows that it is not all.
        let flushed = self.stream.data().is_empty() && self.connection.wire.poll_flush(context)?.is_ready();
        if flushed { Poll::Ready(Ok(Outcome::Cut(told(broken)))) } else { Poll::Pending }
    }
}

/// What the connection point, or the loss of its channel, means.
pub fn told(broken: Broken) -> Cow<'static, str> {
    let what = match broken {
        Broken::Lost { .. } => return "the channel was lost".into(),
        Broken::Reset(ResetCode::Refused(refusal)) => refusal.reason(),
        Broken::Reset(ResetCode::NotBegun) => "no connection to the origin is free",
        Broken::Reset(ResetCode::Cancelled) => "the exchange was given up",
        Broken::Reset(ResetCode::OriginBroke) => "the origin broke off",
        Broken::Reset(ResetCode::Protocol) => "the exchange breaks the channel's rules",
        Broken::Reset(ResetCode::Other(code)) => {
            return format!("the connection point says: code {code}, which is unknown here").into();
        }
    };
    format!("the connection point says: {what}").into()
}

/// Takes `size` bytes of what is promised; whether that was so much.
fn keep_promise(promised: &mut Option<u64>, size: usize) -> bool {
    let Some(left) = promised else { return true };
    match left.checked_sub(size as u64) {
        Some(rest) => {
            *left = rest;
            true
        }
        None => false,
    }
}

const HALF_A_BODY: &str = "the client ended its direction in the middle of its body";
const TRAILERS_TOO_LARGE: &str = "the trailers do not fit one frame of a channel";
const HELD_NO_LONGER: &str = "the gateway stops, and the request was held; another one takes it at once";
const NOT_AN_ANSWER: &str = "the connection point sent an answer whose end this client would see elsewhere";
const NOT_AS_PROMISED: &str = "the connection point sent more or less than the answer's head promised";
/// What an origin has for a client whose connection ended without TLS's goodbye. Most such clients are
/// gone, and their requests must not stay; some only ended their half, and their answers come soon.
const LEFT_WITHIN: Duration = Duration::from_secs(5);
/// A body that fits the shared buffers; a longer one is received into a buffer of its own.
const SMALL_BODY: u64 = 8 * 1024;
/// An answer's body that leaves with its head.
const SMALL_ANSWER: usize = 12 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_connection_point_says_is_told_as_its_word() {
        let rows = [
            (Broken::Lost { not_taken: false }, "the channel was lost"),
            (
                Broken::Reset(ResetCode::Refused(Refusal::GatewayTimeout)),
                "the connection point says: CMGConnector_GatewayTimeout",
            ),
            (Broken::Reset(ResetCode::OriginBroke), "the connection point says: the origin broke off"),
            (
                Broken::Reset(ResetCode::Other(200)),
                "the connection point says: code 200, which is unknown here",
            ),
        ];
        for (broken, expected) in rows {
            assert_eq!(told(broken), expected);
        }
    }

    #[test]
    fn no_more_of_a_body_passes_than_its_head_promised() {
        let mut promised = Some(10);
        assert!(keep_promise(&mut promised, 4) && keep_promise(&mut promised, 6));
        assert!(!keep_promise(&mut promised, 1));
        assert!(keep_promise(&mut None, usize::MAX));
    }
}
