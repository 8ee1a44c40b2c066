//! The story of a client: TLS, then one request after the other, each judged, sent to a connection
//! point, and answered.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::Seated;
use super::admission::{self, Mark};
use super::answer;
use super::gate::{self, Client, Gate};
use super::handshake::Passage;
use super::https_door;
use super::record::{self, Account, End, Place, Record};
use super::relay::{Outcome, Relay, told};
use super::request::{Answer, Manner, Own, Planned, Request, plan};
use super::token::{self, Bearer};
use super::verdict;
use super::wait;
use crate::auth::token::TokenKind;
use crate::channel::{HTTPS_ALPN, ResetCode, message};
use crate::dispatch::{self as waiting, Attempts, Facts, GIVEN_BACK_MAX, Preface, Then, WhyNot};
use crate::http::{self, FieldScratch, HeadError, Parsed, Version};
use crate::limits;
use crate::refusal::{Refusal, Refused};
use crate::shard::{Deadline, Nested, Socket};
use crate::transport::{Broke, Ends, Patience, Stream, Tls, Tunnel, Wire, tls_config};

/// What a connection knows while it lasts.
pub struct Connection {
    gate: Rc<Gate>,
    /// Its TCP connection and TLS.
    pub wire: Wire,
    /// Its one deadline.
    pub deadline: Deadline,
    client: Present,
    judged: Option<Judged>,
    /// A request of it was read.
    has_asked: bool,
}

/// A verdict on the client's certificate, for one site under one set of settings.
struct Judged {
    site: u32,
    /// Who it is, where that was asked.
    mark: Option<Mark>,
    /// Epoch of the lists that were last looked at, the last digits of it.
    looked: u32,
    epoch: u64,
    until: Instant,
    verdict: Result<(), Refused>,
    /// Of the certificate; for logs, trusted or not.
    subject: Option<Rc<str>>,
}

/// Who opened a connection.
#[derive(Clone, Copy)]
enum Opener {
    /// The client.
    Itself,
    /// A proxy in front, for a client that it named.
    Proxy,
    /// A proxy in front, to see whether the gateway is there.
    Check,
    /// A proxy in front that said nothing which is taken.
    Nobody,
}

/// What comes after an answer.
enum Next {
    /// Another request.
    GoOn,
    /// The end, after everything written has left.
    Finish,
    /// The end: everything has left, and each side has said so.
    Over,
    /// The end at once: what was sent must not look whole.
    Cut,
}

/// Serves one client until it leaves.
pub fn serve(
    gate: Rc<Gate>,
    socket: Socket,
    peer: SocketAddr,
    tls: Tls,
    seat: Seated,
) -> impl Future<Output = ()> {
    let mut connection = Connection::new(gate, socket, peer, tls, seat);
    // Lent, not handed over: the task would hold it twice for as long as the client is here.
    async move {
        if connection.live().await {
            connection.go_on_as_channel();
        }
    }
}

impl Connection {
    fn new(gate: Rc<Gate>, socket: Socket, peer: SocketAddr, tls: Tls, seat: Seated) -> Connection {
        Connection {
            wire: Wire::new(socket, Some(tls)),
            deadline: gate.shard.deadline(),
            client: Present::new(&gate, peer, seat),
            judged: None,
            has_asked: false,
            gate,
        }
    }

    /// Whether it was a connection point, and goes on as a channel.
    async fn live(&mut self) -> bool {
        self.within(self.limits().handshake);
        let is_proxy = self.gate.is_proxy(self.client.peer.ip());
        let opener = if is_proxy { self.hear_proxy().await } else { Opener::Itself };
        if matches!(opener, Opener::Nobody) || !self.handshake(opener).await {
            return false;
        }
        if self.wire.tls().and_then(Tls::alpn) == Some(HTTPS_ALPN) {
            return true;
        }
        if self.wire.tls().is_some_and(Tls::is_resumed) {
            gate::add(&self.gate.counters().handshakes_resumed, 1);
        }
        loop {
            match self.serve_next().await {
                Ok(Next::GoOn) => {}
                Ok(Next::Finish) => {
                    self.finish().await;
                    return false;
                }
                Ok(Next::Over | Next::Cut) | Err(_) => return false,
            }
        }
    }

    /// Its number: no other client of the shard has it.
    pub fn id(&self) -> u64 {
        self.client.id
    }

    /// Takes its place among clients along, until it is a channel.
    fn go_on_as_channel(self) {
        let Connection { gate, wire, client, .. } = self;
        https_door::enter(&gate, wire, client);
    }

    fn limits(&self) -> crate::settings::GatewayLimits {
        self.gate.limits()
    }

    fn within(&self, wait: Duration) {
        self.deadline.set(self.gate.shard.now(), wait);
    }

    /// Hears from the proxy in front for whom it connected.
    async fn hear_proxy(&mut self) -> Opener {
        let Connection { gate, wire, deadline, .. } = &mut *self;
        let heard = std::future::poll_fn(|context| {
            loop {
                match Preface::read(wire.heard()) {
                    Ok(Preface::Whole { size, client }) => {
                        wire.skip_heard(size);
                        return Poll::Ready(Ok(client));
                    }
                    Ok(Preface::Partial) => {}
                    Err(error) => return Poll::Ready(Err(Some(error.to_string()))),
                }
                if deadline.poll(context) {
                    return Poll::Ready(Err(Some("no whole PROXY header came in time".into())));
                }
                match std::task::ready!(wire.poll_hear(context)) {
                    Ok(true) => {}
                    // It looked whether somebody listens.
                    Ok(false) | Err(_) if wire.heard().is_empty() => return Poll::Ready(Err(None)),
                    Ok(false) => {
                        return Poll::Ready(Err(Some("it left before its PROXY header was whole".into())));
                    }
                    Err(error) => return Poll::Ready(Err(Some(error.to_string()))),
                }
            }
        })
        .await;
        match heard {
            Ok(Some(client)) => {
                self.client.peer = client;
                Opener::Proxy
            }
            Ok(None) => Opener::Check,
            Err(None) => Opener::Nobody,
            Err(Some(cause)) => {
                gate::add(&gate.counters().preface_failures, 1);
                if gate.records.prefaces.admits(&gate.shard) {
                    tracing::warn!(peer = %self.client.peer, cause, "a proxy in front is not heard");
                }
                Opener::Nobody
            }
        }
    }

    async fn handshake(&mut self, opener: Opener) -> bool {
        let Connection { gate, wire, deadline, client, .. } = &mut *self;
        let mut passage = Passage::new(gate, client.peer.ip(), !wire.heard().is_empty());
        let done = std::future::poll_fn(|context| {
            if deadline.poll(context) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            passage.poll(wire, context)
        })
        .await;
        let has_begun = passage.has_begun();
        drop(passage);
        if matches!((&done, opener), (Err(_), Opener::Check)) && !has_begun && wire.heard().is_empty() {
            return false;
        }
        if done.is_err() {
            // The alert that says why.
            std::future::poll_fn(|context| match wire.poll_flush(context) {
                Poll::Pending if !deadline.poll(context) => Poll::Pending,
                _ => Poll::Ready(()),
            })
            .await;
        }
        let counters = self.gate.counters();
        gate::add(if done.is_ok() { &counters.handshakes } else { &counters.handshake_failures }, 1);
        if done.is_err() && Preface::begins(self.wire.heard()) {
            gate::add(&counters.preface_failures, 1);
            if self.gate.records.foreign_prefaces.admits(&self.gate.shard) {
                let cause = match opener {
                    Opener::Proxy | Opener::Check => {
                        "a second PROXY header came behind that of the proxy in front"
                    }
                    Opener::Itself | Opener::Nobody => {
                        "it sends a PROXY header and is not listed in gateway.proxy_protocol_from"
                    }
                };
                tracing::warn!(peer = %self.client.peer, cause, "a client is refused");
            }
        }
        if let Err(error) = &done
            && tracing::enabled!(tracing::Level::DEBUG)
            && self.gate.records.handshakes.admits(&self.gate.shard)
        {
            let error = tls_config::cause(error);
            tracing::debug!(peer = %self.client.peer, error, "handshake failed");
        }
        done.is_ok()
    }

    /// Waits for the next request and answers it.
    async fn serve_next(&mut self) -> io::Result<Next> {
        let planned = match self.next_head().await? {
            Head::Planned(planned) => planned,
            Head::Left => return Ok(Next::Finish),
            Head::Unreadable(error) => self.unreadable(error),
        };
        self.has_asked = true;
        gate::add(&self.gate.counters().requests, 1);
        match planned {
            Planned::Forward(request) => self.forward(request).await,
            Planned::Own(own) => self.answer_own(*own),
        }
    }

    fn answer_own(&mut self, own: Own) -> io::Result<Next> {
        let Own { manner, mut account, answer } = own;
        let (next, end) = match answer {
            Answer::Metadata => (self.answer_metadata(manner, &mut account), End::Own),
            Answer::Directory(body) => (self.answer_json(&body, manner, &mut account), End::Own),
            Answer::Refused(refused) => (self.refuse(&refused, manner, &mut account), End::Refused(refused)),
        };
        self.end(&account, &[], &end, None);
        next
    }

    /// Every request ends here.
    fn end(&self, account: &Account, message: &[u8], end: &End, bearer: Option<&str>) {
        let client = bearer.or_else(|| self.judged.as_ref().and_then(|judged| judged.subject.as_deref()));
        let record =
            Record { account, end, ended: self.gate.shard.now(), peer: self.client.peer, client, message };
        record::finish(&self.gate, &record);
    }

    /// Why a client that was accepted is let in no more: asked again and again, answered once for each
    /// change of the lists.
    #[inline]
    pub fn shut_out(&mut self) -> Option<Refused> {
        if !has_news(&self.gate, self.judged.as_ref()) {
            return None;
        }
        look_again(&self.gate, &self.wire, &mut self.judged, self.client.peer)
    }

    /// Waits for a whole head. At rest the connection holds no buffer.
    async fn next_head(&mut self) -> io::Result<Head> {
        let gate = self.gate.clone();
        if !self.wire.has_room() {
            self.room().await?;
        }
        let mut begun = !self.wire.received().is_empty();
        self.within(if begun { self.limits().head } else { self.limits().idle });
        self.wire.use_own_buffer(false);
        std::future::poll_fn(|context| {
            loop {
                if self.shut_out().is_some() {
                    return Poll::Ready(Ok(Head::Left));
                }
                // Written answers leave while we look at what came behind the request.
                let _ = self.wire.poll_room(context)?;
                let mut has_parted = false;
                if !self.wire.received().is_empty() {
                    let mut scratch = FieldScratch::new();
                    match http::parse_request(self.wire.received(), &mut scratch) {
                        Ok(Parsed::Complete { head, size }) => {
                            let planned = plan(&gate, &head, size);
                            self.wire.consume(size);
                            return Poll::Ready(Ok(Head::Planned(planned)));
                        }
                        Ok(Parsed::Partial) => self.wire.release(),
                        Err(error) => return Poll::Ready(Ok(Head::Unreadable(error))),
                    }
                    if !begun {
                        begun = true;
                        self.within(self.limits().head);
                    }
                } else if let Some(parting) = gate.parting()
                    && !self.wire.has_unread()
                {
                    // At once or in its turn; what it asks until then is answered.
                    let (now, until) = (gate.shard.now(), parting.of_client(self.client.id, self.has_asked));
                    has_parted = until <= now;
                    self.deadline.set(now, until.saturating_duration_since(now));
                }
                let is_late = has_parted || self.deadline.poll(context);
                match self.wire.poll_fill(context) {
                    // What is there already came in time.
                    Poll::Ready(Ok(true)) => {}
                    Poll::Ready(Ok(false)) => return Poll::Ready(Ok(Head::Left)),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending if is_late => return Poll::Ready(Ok(Head::Left)),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// Waits until the client took enough of the answers written; without an end, a client that sends
    /// requests and reads no answer would stay for ever.
    async fn room(&mut self) -> io::Result<()> {
        self.within(self.limits().body);
        let Connection { wire, deadline, .. } = self;
        // What it sends meanwhile stays with it, and out of the buffers that the shard shares.
        wire.pause();
        std::future::poll_fn(|context| match wire.poll_room(context) {
            Poll::Pending if deadline.poll(context) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            polled => polled,
        })
        .await
    }

    // ── requests for a connection point ─────────────────────────────────────────────────────────

    async fn forward(&mut self, mut request: Nested<Request>) -> io::Result<Next> {
        let active = Active::new(&self.gate, request.account.place.clone());
        let (next, end) = match self.identify(&request).and_then(|()| self.admit(&mut request)) {
            Ok(()) => match self.exchange(&mut request).await {
                Ok(Done::Answered(next)) => (Ok(next), End::Answered),
                Ok(Done::Refused(refused)) => {
                    let next = self.refuse(&refused, request.manner, &mut request.account);
                    (next, End::Refused(refused))
                }
                Ok(Done::Cut(cause)) => (Ok(Next::Cut), End::Cut(cause)),
                Err(error) => (Err(error), End::Left),
            },
            Err(refused) => {
                (self.refuse(&refused, request.manner, &mut request.account), End::Refused(refused))
            }
        };
        drop(active);
        let bearer = request.bearer.as_ref().map(|bearer| bearer.facts.label.as_str());
        self.end(&request.account, &request.message, &end, bearer);
        self.gate.shard.ring.pool.borrow_mut().give_back(std::mem::take(&mut request.message));
        next
    }

    /// Sends the request and carries the answer back; once more where that is safe.
    async fn exchange(&mut self, request: &mut Request) -> io::Result<Done> {
        let mut attempts = Attempts::default();
        let (mut place, mut wait_until) = (None, None);
        loop {
            // Who was blocked while the request waited has nothing done any more.
            if let Some(refused) =
                self.shut_out().or_else(|| request.bearer.as_ref().and_then(Bearer::shut_out))
            {
                return Ok(Done::Refused(refused));
            }
            // Taken apart at once: a name for both would stay in the task for as long as the exchange.
            let Some((stream, point)) = self.gate.open(&self.client, self.leaf(), request, place.as_ref())
            else {
                // One place and one time for all attempts, however often links come and go.
                let wait = self.limits().wait;
                let until = *wait_until.get_or_insert_with(|| self.gate.shard.now() + wait);
                let waited = self.wait_for_link(&mut place, request, until).await?;
                match wait::refusal(waited) {
                    None => attempts.handle_turn(),
                    Some(refusal) => {
                        let cause = self.why_not_taken(waited, request.site, until - wait);
                        return Ok(Done::Refused(Refused::new(refusal, cause)));
                    }
                }
                continue;
            };
            request.account.connection_point = point;
            let keep = request.manner.keep_alive && !self.gate.is_draining();
            let mut relay = Relay::new(self.gate.clone(), self, request, stream, keep);
            // The relay is awaited where it lies: handed over, the task would hold it twice.
            let outcome = std::future::poll_fn(|context| relay.poll(context)).await?;
            let stream = relay.into_stream();
            let broke = match outcome {
                // Boxed, so that other clients do not hold the room for a tunnel.
                Outcome::Switched => return Box::pin(self.tunnel(request, stream)).await,
                // It was told that the connection goes on: so it does, also when the gateway drains since.
                Outcome::Answered { keep: true } => return Ok(Done::Answered(Next::GoOn)),
                Outcome::Answered { keep: false } => return Ok(Done::Answered(Next::Finish)),
                Outcome::Refused(refused) => return Ok(Done::Refused(refused)),
                Outcome::Cut(cause) => return Ok(Done::Cut(cause)),
                Outcome::Broke(broke) => broke,
            };
            drop(stream);
            let (has_body, is_repeatable) = (request.manner.has_body, request.is_repeatable);
            match attempts.handle_broken(broke, Facts { has_body, is_repeatable }) {
                Then::GiveUp(why) => return Ok(Done::Refused(why_given_up(request, why))),
                Then::Again => {}
                Then::AgainAfter(pause) => self.gate.shard.sleep(pause).await,
            }
            gate::add(&self.gate.counters().retried, 1);
        }
    }

    /// Carries the tunnel that an answer began.
    async fn tunnel(&mut self, request: &mut Request, stream: Stream) -> io::Result<Done> {
        let Connection { gate, wire, deadline, judged, client, .. } = self;
        let limits = gate.limits();
        let patience = Patience { idle: limits.held, taking: limits.body };
        let mut tunnel = Tunnel::new(wire, &stream, Ends::Any);
        let mut shut_out = None;
        let bearer = &request.bearer;
        let end = loop {
            let carried = {
                let mut carry = std::pin::pin!(tunnel.carry(&gate.shard, deadline, patience));
                std::future::poll_fn(|context| match carry.as_mut().poll(context) {
                    _ if bearer.as_ref().is_some_and(|bearer| bearer.is_blocked(context)) => {
                        Poll::Ready(Some(Err(Broke::Silent(token::BLOCKED.into()))))
                    }
                    Poll::Ready(end) => Poll::Ready(Some(end)),
                    Poll::Pending if has_news(gate, judged.as_ref()) => Poll::Ready(None),
                    Poll::Pending => Poll::Pending,
                })
                .await
            };
            if let Some(end) = carried {
                break end;
            }
            shut_out = look_again(gate, tunnel.wire(), judged, client.peer);
            if shut_out.is_some() {
                break Ok(());
            }
        };
        let account = &mut request.account;
        (account.bytes_in, account.bytes_out) = (tunnel.bytes_in, tunnel.bytes_out);
        if let Some(refused) = shut_out {
            stream.reset(ResetCode::Cancelled);
            return Ok(Done::Cut(refused.cause));
        }
        match end {
            Ok(()) => Ok(Done::Answered(Next::Over)),
            Err(Broke::Wire(error)) => Err(error),
            Err(Broke::Stream(broken)) => Ok(Done::Cut(told(broken))),
            Err(Broke::Silent(cause)) => Ok(Done::Cut(cause.into())),
        }
    }

    /// Why no connection point took a request whose first wait began at `since`.
    fn why_not_taken(&self, outcome: waiting::Outcome, site: usize, since: Instant) -> String {
        let code = self.gate.common.settings.sites.get(site).map_or("", |site| &site.code);
        let secs = self.gate.shard.now().saturating_duration_since(since).as_secs_f32();
        let what = if self.gate.has_link(site) { "has room" } else { "is attached" };
        let nobody = format!("no connection point of site {code} {what}");
        match outcome {
            waiting::Outcome::Came | waiting::Outcome::TimedOut => format!("{nobody}; waited {secs:.1} s"),
            waiting::Outcome::TooManyOfClient => {
                let most = limits::WAITING_OF_CLIENT_MAX;
                format!("{nobody}, and {most} requests of this client wait already; {most} at most may")
            }
            waiting::Outcome::NoPlace => {
                let most = self.limits().waiting_max;
                format!("{nobody}, and {most} requests wait already; {most} at most may")
            }
            waiting::Outcome::Displaced => {
                format!("{nobody}; waited {secs:.1} s and gave way to one with fewer requests waiting")
            }
            waiting::Outcome::Draining => format!("{nobody}, and the gateway stops"),
        }
    }

    /// Waits for its turn to look for a link. A client that leaves meanwhile is an error, so that its
    /// place is free at once.
    async fn wait_for_link(
        &mut self,
        place: &mut Option<wait::Place>,
        request: &Request,
        until: Instant,
    ) -> io::Result<waiting::Outcome> {
        let now = self.gate.shard.now();
        // One that is called again and again, always in vain, would never come to the deadline below.
        if now >= until {
            return Ok(waiting::Outcome::TimedOut);
        }
        if let Err(outcome) = self.gate.line_up(place, request, || self.key(request)) {
            return Ok(outcome);
        }
        self.deadline.set(now, until.saturating_duration_since(now));
        let Connection { gate, wire, deadline, .. } = self;
        wire.release();
        wire.start_send()?;
        let waited = std::future::poll_fn(|context| {
            if let Poll::Ready(outcome) = gate.poll_turn(place.as_ref(), context) {
                return Poll::Ready(Ok(outcome));
            }
            // It is looked at before it would be sent.
            if request.bearer.as_ref().is_some_and(|bearer| bearer.is_blocked(context)) {
                return Poll::Ready(Ok(waiting::Outcome::Came));
            }
            if deadline.poll(context) {
                return Poll::Ready(Ok(waiting::Outcome::TimedOut));
            }
            stay(wire, context)?;
            wire.watch(context);
            Poll::Pending
        })
        .await;
        gate.counters().waited.observe(gate.shard.now().saturating_duration_since(now));
        waited
    }

    /// Whose requests share a bound.
    fn key(&self, request: &Request) -> waiting::ClientKey {
        // One registration token is in many hands; the bound is on each of them.
        if let Some(bearer) = &request.bearer
            && bearer.facts.kind != TokenKind::Registration
        {
            return token::key(request.site, &bearer.facts);
        }
        // A certificate that nobody judges may be another one each time.
        match self.leaf().filter(|_| request.needs_certificate) {
            Some(leaf) => {
                let hash = ring::digest::digest(&ring::digest::SHA256, leaf);
                let hash = hash.as_ref().try_into().expect("SHA-256 has 32 bytes");
                waiting::ClientKey::Certificate(hash)
            }
            None => waiting::ClientKey::Address(self.client.peer.ip().into()),
        }
    }

    /// The certificate whose key the client proved to hold.
    fn leaf(&self) -> Option<&[u8]> {
        let chain = self.wire.tls().and_then(Tls::peer_certificates).unwrap_or_default();
        chain.first().map(|leaf| leaf.as_ref())
    }

    /// Who the client is, for the site of this request: judged once per site and settings, and again
    /// after a while, because certificates expire.
    fn identify(&mut self, request: &Request) -> Result<(), Refused> {
        if !request.needs_certificate {
            return Ok(());
        }
        let now = self.gate.shard.now();
        let (site, epoch) = (request.site, request.settings.epoch);
        if let Some(judged) = &self.judged
            && judged.site as usize == site
            && judged.epoch == epoch
            && judged.until > now
        {
            return judged.verdict.clone();
        }
        let chain = self.wire.tls().and_then(Tls::peer_certificates).unwrap_or_default();
        let (verdict, subject) = verdict::judge(&self.gate, chain, request);
        let until = now + JUDGED_FOR;
        let (site, looked) = (site as u32, epoch as u32);
        self.judged =
            Some(Judged { site, mark: None, looked, epoch, until, verdict: verdict.clone(), subject });
        verdict
    }

    /// Counts the request among those of its client and its endpoint, if there may be one more.
    fn admit(&mut self, request: &mut Request) -> Result<(), Refused> {
        let Some(row) = request.account.place.as_ref().map(|place| place.row) else { return Ok(()) };
        let gate = self.gate.clone();
        let is_stranger = request.bearer.is_none() && !request.needs_certificate;
        let mark = || self.mark(request);
        let admitted = admission::admit(&gate, &request.settings, row, is_stranger, mark)?;
        request.admitted = admitted;
        Ok(())
    }

    /// Whose requests share a rate, and a bound on those under way: as with [`key`](Self::key).
    fn mark(&mut self, request: &Request) -> Mark {
        let admission = &self.gate.common.admission;
        if let Some(bearer) = &request.bearer
            && bearer.facts.kind != TokenKind::Registration
        {
            return admission.mark_of_bearer(request.site, &bearer.facts);
        }
        if !request.needs_certificate {
            return admission.mark_of_address(self.client.peer.ip().into());
        }
        if let Some(mark) = self.judged.as_ref().and_then(|judged| judged.mark) {
            return mark;
        }
        let mark = admission.mark_of_certificate(self.leaf().unwrap_or_default());
        if let Some(judged) = &mut self.judged {
            judged.mark = Some(mark);
        }
        mark
    }

    // ── answers of the gateway's own ────────────────────────────────────────────────────────────

    fn answer_metadata(&mut self, manner: Manner, account: &mut Account) -> io::Result<Next> {
        let settings = &self.gate.common.settings;
        let body = serde_json::json!({
            "service": self.gate.local().settings.name,
            "version": env!("CARGO_PKG_VERSION"),
            "instance": settings.instance,
            "time": jiff::Timestamp::now().to_string(),
        });
        self.answer_json(&body.to_string(), manner, account)
    }

    fn answer_json(&mut self, body: &str, manner: Manner, account: &mut Account) -> io::Result<Next> {
        let keep = manner.keep_alive && !manner.has_body && !self.gate.is_draining();
        let mut out = Vec::with_capacity(512);
        let size = answer::json(&mut out, body.as_bytes(), &manner, keep);
        (account.status, account.bytes_out) = (Some(200), size as u64);
        self.say(&out, keep)
    }

    fn refuse(&mut self, refused: &Refused, manner: Manner, account: &mut Account) -> io::Result<Next> {
        // A body that was not read would be taken for the next request.
        let keep = manner.keep_alive && !manner.has_body && !self.gate.is_draining();
        let mut out = Vec::with_capacity(512);
        let size = answer::refuse(&mut out, refused, &manner, keep);
        (account.status, account.bytes_out) = (Some(refused.refusal.status()), size as u64);
        self.say(&out, keep)
    }

    fn unreadable(&self, error: HeadError) -> Planned {
        let manner = Manner {
            version: Version::Http11,
            is_head: false,
            keep_alive: false,
            has_body: false,
            expects_continue: false,
            request_id: self.gate.next_request_id(),
        };
        let account = Account::new(manner.request_id, self.gate.shard.now());
        let cause = format!("the head cannot be read: {error}");
        let answer = Answer::Refused(Refused::new(error.refusal(), cause));
        Planned::Own(Box::new(Own { manner, account, answer }))
    }

    fn say(&mut self, answer: &[u8], keep: bool) -> io::Result<Next> {
        self.wire.write(answer)?;
        self.wire.start_send()?;
        Ok(if keep { Next::GoOn } else { Next::Finish })
    }

    // ── the end ─────────────────────────────────────────────────────────────────────────────────

    /// Lets what was written leave, says goodbye, and reads over what the client still sends: closing
    /// with bytes unread would reset the connection under the answer.
    async fn finish(&mut self) {
        self.within(self.limits().body);
        {
            // The end of an answer may wait here for its client.
            let _active = Active::new(&self.gate, None);
            let Connection { wire, deadline, .. } = &mut *self;
            let mut finish = std::pin::pin!(wire.finish());
            let done = std::future::poll_fn(|context| {
                if deadline.poll(context) {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                finish.as_mut().poll(context)
            });
            if done.await.is_err() {
                return;
            }
        }
        self.within(limits::LINGER_FOR);
        let mut left = limits::LINGER_SIZE_MAX;
        let Connection { wire, deadline, .. } = &mut *self;
        std::future::poll_fn(|context| {
            loop {
                let size = wire.received().len();
                wire.consume(size);
                left = left.saturating_sub(size);
                if left == 0 || deadline.poll(context) {
                    return Poll::Ready(());
                }
                match wire.poll_fill(context) {
                    Poll::Ready(Ok(true)) => {}
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
    }
}

/// Whether lists changed since they were last looked at for this client.
#[inline]
fn has_news(gate: &Gate, judged: Option<&Judged>) -> bool {
    judged.is_some_and(|judged| judged.looked != gate.epoch() as u32)
}

/// Why a client that was accepted is let in no more, after the lists changed.
#[cold]
fn look_again(gate: &Gate, wire: &Wire, judged: &mut Option<Judged>, peer: SocketAddr) -> Option<Refused> {
    let held = judged.as_mut()?;
    held.looked = gate.epoch() as u32;
    let accepted = Some(held).filter(|held| held.verdict.is_ok())?;
    let chain = wire.tls().and_then(Tls::peer_certificates)?;
    let refused = verdict::shut_out(gate, chain, accepted.site as usize)?;
    gate::add(&gate.counters().shut_out, 1);
    if gate.records.strangers.admits(&gate.shard) {
        let subject = accepted.subject.as_deref();
        tracing::warn!(%peer, subject, cause = %refused.cause, "a client is shut out");
    }
    *judged = None;
    Some(refused)
}

/// How an exchange was done.
enum Done {
    /// By the origin's answer, whole; what comes after it.
    Answered(Next),
    /// Nothing of an answer was sent: the gateway answers so.
    Refused(Refused),
    /// In the middle; why.
    Cut(Cow<'static, str>),
}

/// What a client is told whose request is not sent again.
fn why_given_up(request: &Request, why: WhyNot) -> Refused {
    let method = message::request_line(&request.message)
        .map_or("", |(method, _)| std::str::from_utf8(method).unwrap_or_default());
    let with = if request.manner.has_body { " with a body" } else { "" };
    match why {
        WhyNot::TooOften => {
            let cause = format!("given back {} times before it was begun", GIVEN_BACK_MAX + 1);
            Refused::new(Refusal::NoConnector, cause)
        }
        WhyNot::BodyIsGone => Refused::new(
            Refusal::NoConnector,
            "the connection point took nothing, but part of the body is gone already",
        ),
        WhyNot::NotRepeatable => {
            let cause = format!("the channel was lost and the request cannot be repeated: {method}{with}");
            Refused::new(Refusal::BadGateway, cause)
        }
        WhyNot::LostTwice => {
            Refused::new(Refusal::BadGateway, "the channel was lost, and so was that of its repetition")
        }
    }
}

/// What came when a head was awaited.
enum Head {
    Planned(Planned),
    /// The client left, or was silent too long.
    Left,
    Unreadable(HeadError),
}

/// A client that is counted, and holds its seat, as long as it is here; then connection points forget it.
pub struct Present {
    client: Client,
    gate: Rc<Gate>,
    seat: Option<Seated>,
}

impl Present {
    fn new(gate: &Rc<Gate>, peer: SocketAddr, seat: Seated) -> Present {
        gate::add(&gate.counters().clients, 1);
        let client = Client::new(gate.shard.next_id(), peer);
        Present { client, gate: gate.clone(), seat: Some(seat) }
    }
}

impl Deref for Present {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Present {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.gate.forget(&self.client);
        gate::take(&self.gate.counters().clients, 1);
        // The seat is free before those who want it look.
        self.seat = None;
        self.gate.wake_acceptors();
    }
}

/// Reads what a client sends while its request waits, to see that it left; up to a bound, the rest stays
/// with it.
fn stay(wire: &mut Wire, context: &std::task::Context<'_>) -> io::Result<()> {
    while wire.received().len() < limits::WAITING_AHEAD_SIZE_MAX {
        match wire.poll_fill(context) {
            Poll::Ready(Ok(true)) => {}
            // One that said goodbye may have ended its own direction alone.
            Poll::Ready(Ok(false)) if wire.is_cleanly_closed() => break,
            Poll::Ready(Ok(false)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => return Ok(()),
        }
    }
    wire.pause();
    Ok(())
}

/// Counts a request under way, for as long as bytes of it may move: a gateway that drains waits for it.
struct Active {
    gate: Rc<Gate>,
    /// It counts at its endpoint, too.
    place: Option<Place>,
}

impl Active {
    fn new(gate: &Rc<Gate>, place: Option<Place>) -> Active {
        gate::add(&gate.counters().active, 1);
        if place.is_some() {
            gate.counts(place.as_ref()).active.rise();
        }
        Active { gate: gate.clone(), place }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let Active { gate, place } = self;
        gate::take(&gate.counters().active, 1);
        if place.is_some() {
            gate.counts(place.as_ref()).active.fall();
        }
    }
}

/// How long a verdict on a certificate holds at most: certificates expire.
const JUDGED_FOR: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_task<A, B, C, D, E, T>(_: impl Fn(A, B, C, D, E) -> T) -> usize {
        size_of::<T>()
    }

    #[test]
    fn the_task_of_a_client_holds_its_connection_once() {
        assert!(size_of::<Connection>() <= 400);
        let size = size_of_task(serve);
        assert!(size <= 1_024, "{size}");
    }
}
