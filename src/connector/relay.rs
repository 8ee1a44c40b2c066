//! One request on one origin connection: both directions at once, in bounded memory.
//!
//! Nothing is read that cannot be passed on: a slow client leaves the answer with the origin, a slow
//! origin leaves the body with the gateway. One task, one poll; every wait has the deadline that fits
//! whom it waits for.

use std::io;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::Here;
use super::group;
use super::head::{self, Client, Written};
use super::origin::{Connection, refusal_of};
use super::record::{Fault, Tally};
use super::works::Works;
use crate::channel::{
    Body, Busy, RequestMessage, ResponseStart, ResponseWriter, TrailersWriter, parse_trailers,
};
use crate::http::{
    BodyReader, Field, FieldScratch, Parsed, Step, chunk_end, chunk_header, forwarded_trailer_fields,
    last_chunk, parse_response,
};
use crate::limits;
use crate::mapping::Mapped;
use crate::refusal::Refusal;
use crate::transport::{Broke, Ends, Patience, Stream, Tls, Tunnel, Wire};

/// How long the origin has for the head of its answer.
fn answer_within(works: &Works, mapped: &Mapped<'_, '_>) -> Duration {
    if mapped.endpoint.held { works.plan.limits.held } else { works.plan.limits.answer }
}

/// The request's body.
/// Held ── 100, or time passed ──▶ Flowing ── end, all written ──▶ Whole
/// Held ── final answer ──▶ Abandoned        Flowing ── origin takes no more ──▶ Abandoned
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sending {
    Held { until: Instant },
    Flowing,
    Whole,
    Abandoned,
}

/// The answer. Awaited ── final head ──▶ Flowing ── all ──▶ Ended
///             Awaited ── 101 ──▶ Switched
enum Answering {
    Awaited,
    Flowing(BodyReader),
    Switched,
    Ended,
}

/// What an exchange came to.
pub enum Carried {
    /// An answer, whole.
    Whole,
    /// A tunnel, whose head was passed on: see [`Relay::tunnel`].
    Switched,
}

/// What the answer's direction does next.
enum Next {
    Again,
    /// More bytes of the origin are needed.
    Fill,
    /// The channel takes nothing now; it wakes us.
    Blocked,
}

/// See the file's head.
pub struct Relay<'r> {
    here: &'r Here,
    works: &'r Works,
    stream: &'r Stream,
    connection: Connection,
    request: &'r RequestMessage<'r>,
    mapped: &'r Mapped<'r, 'r>,
    tally: &'r mut Tally,
    sending: Sending,
    answering: Answering,
    /// A head that the channel had no room for.
    head: Option<Vec<u8>>,
    /// Body bytes at the front of what was received that the reader is done with and the channel not.
    owed: usize,
    began: Instant,
    answer_due: Instant,
    /// The client was told to go on.
    has_continued: bool,
    /// Interim answers passed on, except a 100.
    interims: u8,
    /// Heads read, of any kind.
    heads: u8,
    has_heard: bool,
    keeps_alive: bool,
    saw_connection_login: bool,
}

impl<'r> Relay<'r> {
    /// The request's head is written, not sent yet.
    pub fn new(
        (here, works): (&'r Here, &'r Works),
        stream: &'r Stream,
        mut connection: Connection,
        request: &'r RequestMessage<'r>,
        mapped: &'r Mapped<'r, 'r>,
        client: Option<&Client>,
        tally: &'r mut Tally,
    ) -> Relay<'r> {
        *tally = Tally { has_token: tally.has_token, ..Tally::default() };
        connection.wire.set_patient(mapped.endpoint.held && !request.is_tunnel);
        let now = here.shard.now();
        let mut bytes = here.shard.ring.pool.borrow_mut().small();
        let authority = &connection.origin().plan().authority;
        head::write_request(&mut bytes, request, mapped, authority, client);
        let written = connection.wire.write(&bytes);
        here.shard.ring.pool.borrow_mut().give_back(bytes);
        // The head is all that an origin gets before a tunnel.
        let has_body = request.has_body && !request.is_tunnel;
        let sending = match (written.is_ok(), has_body, request.expect_continue) {
            (false, ..) => Sending::Abandoned,
            (true, true, true) => Sending::Held { until: now + limits::CONTINUE_WITHIN },
            (true, true, false) => Sending::Flowing,
            (true, false, _) => Sending::Whole,
        };
        Relay {
            here,
            works,
            stream,
            connection,
            request,
            mapped,
            tally,
            sending,
            answering: Answering::Awaited,
            head: None,
            owed: 0,
            began: now,
            answer_due: now + answer_within(works, mapped),
            has_continued: !request.expect_continue,
            interims: 0,
            heads: 0,
            has_heard: false,
            keeps_alive: false,
            saw_connection_login: false,
        }
    }

    /// Carries request and answer. Lent, not handed over: the task would hold it twice, for as long as
    /// a client waits for its site to call.
    pub fn run(&mut self) -> impl Future<Output = Result<Carried, Fault>> {
        std::future::poll_fn(|context| self.poll(context))
    }

    /// For how long the origin has had the whole request and not answered.
    pub fn waited(&self) -> Option<Duration> {
        let has_request = matches!(self.sending, Sending::Whole | Sending::Abandoned);
        let is_waiting = has_request && matches!(self.answering, Answering::Awaited);
        let left = self.answer_due.saturating_duration_since(self.here.shard.now());
        is_waiting.then(|| answer_within(self.works, self.mapped).saturating_sub(left))
    }

    /// The answer is whole; the connection is kept when nothing is left on it.
    pub fn finish(self) {
        let is_clean = self.connection.wire.received().is_empty() && self.connection.wire.unsent() == 0;
        if self.keeps_alive && self.sending == Sending::Whole && is_clean && !self.saw_connection_login {
            self.connection.give_back();
        }
    }

    /// Carries the tunnel that the answer began. Its connection must not be used again.
    pub async fn tunnel(&mut self) -> Result<(), Fault> {
        let limits = &self.works.plan.limits;
        let patience = Patience { idle: limits.held, taking: limits.body };
        let Connection { wire, deadline, .. } = &mut self.connection;
        let mut tunnel = Tunnel::new(wire, self.stream, Ends::Said);
        let end = tunnel.carry(&self.here.shard, deadline, patience).await;
        // What the wire brings is what goes to the gateway.
        (self.tally.bytes_in, self.tally.bytes_out) = (tunnel.bytes_out, tunnel.bytes_in);
        end.map_err(|broke| match broke {
            Broke::Stream(_) => Fault::Left,
            Broke::Wire(error) => self.broke(&format!("broke off the tunnel: {error}")),
            Broke::Silent(cause) => Fault::Broke(cause.into()),
        })
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Carried, Fault>> {
        match (self.step(context), &self.answering) {
            (Err(fault), _) => return Poll::Ready(Err(fault)),
            (Ok(()), Answering::Ended) => return Poll::Ready(Ok(Carried::Whole)),
            (Ok(()), Answering::Switched) if self.head.is_none() => {
                return Poll::Ready(Ok(Carried::Switched));
            }
            (Ok(()), Answering::Awaited | Answering::Flowing(_) | Answering::Switched) => {}
        }
        self.stream.mailbox().watch(context);
        self.connection.wire.watch(context);
        if self.sending == Sending::Flowing {
            // How long to wait depends on whether the origin took all of it.
            self.connection.wire.want_sent();
        }
        match self.patience() {
            Some(wait) => self.connection.deadline.set(self.here.shard.now(), wait),
            None => self.connection.deadline.clear(),
        }
        if self.connection.deadline.poll(context) {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn step(&mut self, context: &Context<'_>) -> Result<(), Fault> {
        if self.stream.mailbox().broken().is_some() {
            return Err(Fault::Left);
        }
        let is_early = self.request.is_tunnel
            && matches!(self.answering, Answering::Awaited)
            && (self.stream.mailbox().has_end() || !self.stream.data().is_empty());
        if is_early {
            return Err(Fault::Protocol("the gateway sent bytes of a tunnel that there is not yet".into()));
        }
        if self.connection.deadline.has_passed() {
            self.hear_deadline()?;
        }
        self.pass_request(context)?;
        self.pass_answer(context)?;
        if self.sending == Sending::Flowing {
            // A 100 in the answer's direction may just have let the body go.
            self.pass_request(context)?;
        }
        Ok(())
    }

    /// How long to wait for whom we wait for. Nobody waits here for a slow client: the gateway does.
    fn patience(&self) -> Option<Duration> {
        let now = self.here.shard.now();
        let limits = &self.works.plan.limits;
        match (&self.answering, self.sending) {
            (Answering::Ended | Answering::Switched, _) => None,
            (Answering::Flowing(_), _) => {
                let within = if self.mapped.endpoint.held { limits.held } else { limits.body };
                (self.owed == 0 && self.head.is_none()).then_some(within)
            }
            (Answering::Awaited, Sending::Held { until }) => Some(until.saturating_duration_since(now)),
            (Answering::Awaited, Sending::Flowing) => {
                (!self.connection.wire.is_flushed()).then_some(limits.body)
            }
            (Answering::Awaited, Sending::Whole | Sending::Abandoned) => {
                let due = self.parts_at().map_or(self.answer_due, |at| at.min(self.answer_due));
                Some(due.saturating_duration_since(now))
            }
        }
    }

    /// When the request ends because the connection point does: one that is held would not end by itself. A tunnel
    /// stays until the last.
    fn parts_at(&self) -> Option<Instant> {
        let parting = self.here.parting.get()?;
        let [.., a, b, c, d, e, f, g, h] = self.request.request_id;
        let number = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let is_held = self.mapped.endpoint.held && !self.request.is_tunnel;
        is_held.then(|| parting.of_held(number))
    }

    fn hear_deadline(&mut self) -> Result<(), Fault> {
        match (&self.answering, self.sending) {
            (Answering::Awaited, Sending::Held { until }) if until <= self.here.shard.now() => {
                self.begin_body()
            }
            (Answering::Awaited, Sending::Held { .. }) => Ok(()),
            (Answering::Awaited, Sending::Flowing) => {
                let secs = self.works.plan.limits.body.as_secs_f32();
                let cause = format!("origin {} took nothing of the body for {secs} s", self.authority());
                Err(Fault::refused(Refusal::GatewayTimeout, cause))
            }
            (Answering::Awaited, Sending::Whole | Sending::Abandoned)
                if self.parts_at().is_some_and(|at| at <= self.here.shard.now()) =>
            {
                Err(Fault::refused(Refusal::NoConnector, HELD_NO_LONGER))
            }
            (Answering::Awaited, Sending::Whole | Sending::Abandoned) => {
                let secs = answer_within(self.works, self.mapped).as_secs_f32();
                let cause = format!("origin {} did not answer within {secs} s", self.authority());
                Err(Fault::refused(Refusal::GatewayTimeout, cause))
            }
            (Answering::Flowing(_) | Answering::Switched | Answering::Ended, _) => {
                let secs = self.works.plan.limits.body.as_secs_f32();
                Err(self.broke(&format!("sent nothing more of its answer for {secs} s")))
            }
        }
    }

    fn authority(&self) -> &str {
        &self.connection.origin().plan().authority
    }

    /// The origin's answer cannot be passed on; what it did.
    fn bad_gateway(&self, what: &str) -> Fault {
        Fault::refused(Refusal::BadGateway, format!("origin {} {what}", self.authority()))
    }

    /// The origin's answer ends in the middle; what it did.
    fn broke(&self, what: &str) -> Fault {
        Fault::Broke(format!("origin {} {what}", self.authority()).into())
    }

    // ── the request's direction ─────────────────────────────────────────────────────────────────

    /// The body may go: the origin said 100, or said nothing for long enough.
    fn begin_body(&mut self) -> Result<(), Fault> {
        self.sending = Sending::Flowing;
        if !std::mem::replace(&mut self.has_continued, true) {
            let mut message = self.here.shard.ring.pool.borrow_mut().small();
            let start = ResponseStart { status: 100, reason: b"Continue", length: None, body: Body::None };
            ResponseWriter::new(&mut message, &start)
                .map_err(|_| Fault::refused(Refusal::BadGateway, "an interim answer fits no frame"))?
                .finish();
            self.head = Some(message);
        }
        Ok(())
    }

    fn pass_request(&mut self, context: &Context<'_>) -> Result<(), Fault> {
        loop {
            while self.sending == Sending::Flowing && self.connection.wire.has_room() && self.pass_piece()? {}
            match self.connection.wire.poll_room(context) {
                Poll::Ready(Ok(())) if self.has_more_to_send() => {}
                Poll::Ready(Ok(())) | Poll::Pending => return Ok(()),
                Poll::Ready(Err(_)) => {
                    // It may have answered before it closed; what there is will be read.
                    self.abandon();
                    return Ok(());
                }
            }
        }
    }

    fn has_more_to_send(&self) -> bool {
        self.sending == Sending::Flowing && !self.stream.data().is_empty()
    }

    fn abandon(&mut self) {
        self.sending = Sending::Abandoned;
        self.answer_due = self.here.shard.now() + answer_within(self.works, self.mapped);
    }

    /// Moves some of the body to the wire; whether there was any.
    fn pass_piece(&mut self) -> Result<bool, Fault> {
        let data = self.stream.data();
        if data.is_empty() {
            drop(data);
            if self.stream.mailbox().has_end() {
                self.end_body()?;
            }
            return Ok(false);
        }
        let size = data.len().min(self.connection.wire.room());
        self.tally.bytes_in += size as u64;
        self.check_size()?;
        let wire = &mut self.connection.wire;
        let written = write_piece(wire, &data[..size], self.request.length.is_none());
        drop(data);
        self.stream.consume(size);
        if written.is_err() {
            self.abandon();
        }
        Ok(true)
    }

    fn check_size(&self) -> Result<(), Fault> {
        match self.request.length {
            Some(length) if self.tally.bytes_in > length => {
                Err(Fault::Protocol("the gateway sent more body than it announced".into()))
            }
            None if self.tally.bytes_in > self.mapped.endpoint.request_length_max => {
                let max = self.mapped.endpoint.request_length_max;
                let cause = format!("the body is over the endpoint's {max}");
                Err(Fault::refused(Refusal::ContentTooLarge, cause))
            }
            _ => Ok(()),
        }
    }

    fn end_body(&mut self) -> Result<(), Fault> {
        if self.request.length.is_some_and(|length| length != self.tally.bytes_in) {
            return Err(Fault::Protocol("the gateway sent less body than it announced".into()));
        }
        self.sending = Sending::Whole;
        self.answer_due = self.here.shard.now() + answer_within(self.works, self.mapped);
        if self.request.length.is_none() {
            let trailers = self.stream.mailbox().trailers();
            let fields =
                parse_trailers(&trailers).map_err(|error| Fault::Protocol(error.to_string().into()))?;
            let fields = fields.map(|field| Field { name: field.name, value: field.value });
            let mut bytes = self.here.shard.ring.pool.borrow_mut().small();
            last_chunk(&mut bytes, forwarded_trailer_fields(fields));
            let written = self.connection.wire.write(&bytes);
            self.here.shard.ring.pool.borrow_mut().give_back(bytes);
            drop(trailers);
            if written.is_err() {
                self.abandon();
            }
        }
        Ok(())
    }

    // ── the answer's direction ──────────────────────────────────────────────────────────────────

    fn pass_answer(&mut self, context: &Context<'_>) -> Result<(), Fault> {
        loop {
            let next = match &self.answering {
                _ if self.head.is_some() => self.send_head(),
                Answering::Awaited => self.read_head()?,
                Answering::Flowing(_) => self.pass_body()?,
                Answering::Switched | Answering::Ended => return Ok(()),
            };
            match next {
                Next::Again => {}
                Next::Blocked => {
                    // What the origin sends meanwhile stays with it.
                    self.connection.wire.use_own_buffer(true);
                    self.connection.wire.pause();
                    return Ok(());
                }
                Next::Fill => match self.connection.wire.poll_fill(context) {
                    Poll::Pending => return Ok(()),
                    Poll::Ready(Ok(true)) => self.has_heard = true,
                    Poll::Ready(Ok(false)) => self.hear_close(None)?,
                    Poll::Ready(Err(error)) => self.hear_close(Some(&error))?,
                },
            }
        }
    }

    fn send_head(&mut self) -> Next {
        let Some(message) = self.head.take() else { return Next::Again };
        if self.stream.head(&message) == Err(Busy::Backlog) {
            self.head = Some(message);
            return Next::Blocked;
        }
        // An interim answer that finds its count full is dropped; a closed channel breaks the stream.
        self.here.shard.ring.pool.borrow_mut().give_back(message);
        Next::Again
    }

    fn read_head(&mut self) -> Result<Next, Fault> {
        let bytes = self.connection.wire.received();
        if bytes.is_empty() {
            return Ok(Next::Fill);
        }
        let mut scratch = FieldScratch::new();
        let is_head = self.request.method == b"HEAD";
        let parsed = parse_response(bytes, is_head, &mut scratch);
        let (head, size) = match parsed {
            Ok(Parsed::Complete { head, size }) if head.status != 101 => (head, size),
            Ok(Parsed::Partial) => return Ok(Next::Fill),
            Ok(Parsed::Complete { head, size }) => match self.request.protocol() {
                Some(protocol) if head.switches_to(protocol) => (head, size),
                Some(_) => return Err(self.bad_gateway("answered 101, but not for what was asked")),
                None => return Err(self.bad_gateway("answered 101, which nobody asked for")),
            },
            Err(error) => return Err(self.bad_gateway(&format!("answered what is not HTTP: {error}"))),
        };
        let mut message = self.here.shard.ring.pool.borrow_mut().small();
        let Written { saw_connection_login } =
            head::write_answer(&mut message, &head, &self.works.plan.mapping, self.mapped)
                .map_err(Fault::Refused)?;
        self.saw_connection_login |= saw_connection_login;
        let (status, is_interim) = (head.status, head.is_interim());
        if group::is_upload(self.request) && (200..300).contains(&status) {
            self.here.hear_upload(self.works, self.mapped, self.connection.origin(), &head);
        }
        if !is_interim {
            self.tally.status = Some(status);
            self.tally.answered_after = Some(self.here.shard.now().saturating_duration_since(self.began));
            self.keeps_alive = head.keep_alive;
            self.answering = match status {
                101 => Answering::Switched,
                _ => Answering::Flowing(BodyReader::of_response(head.framing)),
            };
        }
        self.connection.wire.consume(size);
        self.heads += 1;
        if usize::from(self.heads) > limits::INTERIM_COUNT_READ_MAX {
            let what = format!("sent more than {} interim answers", limits::INTERIM_COUNT_READ_MAX);
            return Err(self.bad_gateway(&what));
        }
        self.take_head(message, status, is_interim);
        Ok(Next::Again)
    }

    /// Passes a head on, unless it is an interim one that nobody waits for.
    fn take_head(&mut self, message: Vec<u8>, status: u16, is_interim: bool) {
        let is_told = match (is_interim, status) {
            (false, _) => true,
            (true, 100) => !std::mem::replace(&mut self.has_continued, true),
            (true, _) => {
                self.interims = self.interims.saturating_add(1);
                // One is kept for a 100 of ours.
                usize::from(self.interims) < limits::INTERIM_COUNT_MAX
            }
        };
        if let Sending::Held { .. } = self.sending {
            match (is_interim, status) {
                (true, 100) => self.sending = Sending::Flowing,
                (true, _) => {}
                (false, _) => self.sending = Sending::Abandoned,
            }
        }
        if is_told {
            self.head = Some(message);
        } else {
            self.here.shard.ring.pool.borrow_mut().give_back(message);
        }
    }

    fn pass_body(&mut self) -> Result<Next, Fault> {
        let wire = &mut self.connection.wire;
        if self.owed > 0 {
            let taken = self.stream.send(&wire.received()[..self.owed]);
            wire.consume(taken);
            self.owed -= taken;
            self.tally.bytes_out += taken as u64;
            return Ok(if self.owed > 0 { Next::Blocked } else { Next::Again });
        }
        let Answering::Flowing(reader) = &mut self.answering else { return Ok(Next::Again) };
        let step = match reader.next(wire.received()) {
            Ok(step) => step,
            Err(error) => {
                let what = format!("answered with a body that cannot be read: {error}");
                return Err(self.broke(&what));
            }
        };
        match step {
            Step::Data { consumed, data } => {
                self.owed = data.len();
                let framing = consumed - data.len();
                wire.consume(framing);
                Ok(Next::Again)
            }
            Step::More { consumed } => {
                wire.consume(consumed);
                if reader.remaining_hint().is_none_or(|rest| rest > LARGE_BODY_SIZE) {
                    wire.use_own_buffer(true);
                }
                Ok(Next::Fill)
            }
            Step::End { consumed } => {
                wire.consume(consumed);
                self.end_answer();
                Ok(Next::Again)
            }
        }
    }

    fn end_answer(&mut self) {
        let Answering::Flowing(reader) = std::mem::replace(&mut self.answering, Answering::Ended) else {
            return;
        };
        let mut fields = forwarded_trailer_fields(reader.trailers()).peekable();
        if fields.peek().is_none() {
            self.stream.end(&[]);
            return;
        }
        let mut trailers = Vec::new();
        let mut writer = TrailersWriter::new(&mut trailers);
        for Field { name, value } in fields {
            // Bounded as the origin's were; one field too many for a frame is left out.
            let _ = writer.field(name, value);
        }
        writer.finish();
        self.stream.end(&trailers);
    }

    /// The origin sends nothing more.
    fn hear_close(&mut self, error: Option<&io::Error>) -> Result<(), Fault> {
        let wire = &self.connection.wire;
        match &mut self.answering {
            Answering::Awaited => {
                if error.map(refusal_of) == Some(Refusal::ConnectorCertificateRequired)
                    || wire.tls().is_some_and(Tls::has_refused_renegotiation)
                {
                    return Err(self.connection.origin().certificate_wanted());
                }
                Err(if self.has_heard {
                    self.bad_gateway("closed in the middle of its answer's head")
                } else {
                    Fault::Died
                })
            }
            // A cut must not pass for an end: without TLS's closing alert it could be one.
            Answering::Flowing(reader) if error.is_none() && wire.is_cleanly_closed() => {
                let ended = reader.handle_eof();
                ended.map_err(|error| self.broke(&format!("closed in the middle of its answer: {error}")))
            }
            Answering::Flowing(_) | Answering::Switched | Answering::Ended => {
                let how =
                    error.map_or("the connection ended without a goodbye".to_owned(), io::Error::to_string);
                Err(self.broke(&format!("broke off its answer: {how}")))
            }
        }
    }
}

/// Writes body bytes, as one chunk where the body has no length.
fn write_piece(wire: &mut Wire, data: &[u8], is_chunked: bool) -> io::Result<()> {
    if !is_chunked {
        return wire.write(data);
    }
    let mut line = Vec::with_capacity(CHUNK_LINE_ROOM);
    chunk_header(data.len(), &mut line);
    wire.write(&line)?;
    wire.write(data)?;
    line.clear();
    chunk_end(&mut line);
    wire.write(&line)
}

const HELD_NO_LONGER: &str =
    "the connection point stops, and the request was held; another one takes it at once";
/// From here on a body is received into a buffer of its own, and not reading it holds the origin back.
const LARGE_BODY_SIZE: u64 = 16 * 1024;
/// Sixteen digits and CRLF.
const CHUNK_LINE_ROOM: usize = 18;
