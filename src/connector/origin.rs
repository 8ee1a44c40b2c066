//! Connections to one origin, as one shard holds them: at rest, in use, waited for.
//!
//! Those at rest keep a receive armed, so that an origin that closes one is noticed before the next
//! request goes out on it. What is said on a connection belongs to `exchange.rs`.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::board::OriginCounts;
use super::names::Name;
use super::plan::OriginPlan;
use super::record::Fault;
use super::sources::{PortsUsedUp, Sources};
use super::wait::within;
use crate::dispatch::OriginSign;
use crate::limits;
use crate::logs::{self, Limited};
use crate::refusal::Refusal;
use crate::settings::ConnectorLimits;
use crate::shard::{Deadline, Shard, Socket};
use crate::transport::{Tls, Wire, listen};

/// Which connection a request may go out on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Any that is not known to be closed.
    Any,
    /// A new one, or one used so recently that the origin cannot be about to close it.
    Recent,
    /// A new one.
    Fresh,
}

/// What a connection is for: requests that are held must not be in the way of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Requests that are answered soon.
    Ordinary,
    /// Requests that wait until the site has something to say.
    Held,
}

/// Connections of one kind.
#[derive(Default)]
struct Pool {
    /// The one used last at the end.
    resting: RefCell<Vec<Resting>>,
    /// Connections in use, at rest and being made.
    open: Cell<usize>,
}

impl Pool {
    fn gone(&self, count: usize) {
        self.open.set(self.open.get() - count);
    }
}

/// A connection in use. Dropped, it is closed and its place goes to who waits.
pub struct Connection {
    /// What is said on it.
    pub wire: Wire,
    /// Of the exchange on it; it stays with the connection so that moving it costs nothing.
    pub deadline: Deadline,
    /// No request went out on it before.
    pub is_fresh: bool,
    lease: Lease,
}

impl Connection {
    /// Where it leads.
    pub fn origin(&self) -> &Origin {
        &self.lease.origin
    }

    /// Gives it back for the next request. Nothing of an answer may be left on it.
    pub fn give_back(self) {
        let Connection { mut wire, deadline, mut lease, .. } = self;
        wire.use_own_buffer(false);
        deadline.clear();
        // Whoever waited on it does so no more, and must not be kept by it.
        let nobody = Context::from_waker(Waker::noop());
        let _ = deadline.poll(&nobody);
        if !is_alive(&mut wire) {
            return;
        }
        lease.is_open = false;
        let since = lease.origin.shard.now();
        lease.origin.take_back(lease.kind, Resting { wire, deadline, since });
    }
}

/// A place among the connections of an origin.
struct Lease {
    origin: Rc<Origin>,
    kind: Kind,
    /// False once the connection rests: then the place is the resting one's.
    is_open: bool,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.is_open {
            self.origin.place_free(self.kind);
        }
    }
}

struct Resting {
    wire: Wire,
    deadline: Deadline,
    since: Instant,
}

/// What a request in the queue is given.
enum Grant {
    Waiting(Waker),
    Connection(Box<Resting>),
    /// It may make a connection in a place that another left.
    Place,
    /// It waits no more, or has what it was given.
    Gone,
}

/// Connections that are being made.
#[derive(Clone, Copy, Default)]
struct Connecting {
    count: usize,
    /// Since when none came about; `None` while none is being made.
    since: Option<Instant>,
}

impl Connecting {
    fn is_stalled(self, now: Instant) -> bool {
        let waited = self.since.map(|since| now.saturating_duration_since(since));
        waited.is_some_and(|waited| waited >= limits::CONNECT_STALLED_AFTER)
    }
}

/// One of them, as long as this lives.
struct Attempt<'o>(&'o Cell<Connecting>);

impl<'o> Attempt<'o> {
    fn new(held: &'o Cell<Connecting>, now: Instant) -> Attempt<'o> {
        let Connecting { count, since } = held.get();
        held.set(Connecting { count: count + 1, since: since.or(Some(now)) });
        Attempt(held)
    }

    /// It came about: the others have their time from now on.
    fn succeeded(self, now: Instant) {
        self.0.set(Connecting { since: Some(now), ..self.0.get() });
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let Connecting { count, since } = self.0.get();
        self.0.set(Connecting { count: count - 1, since: since.filter(|_| count > 1) });
    }
}

/// See the file's head.
pub struct Origin {
    shard: Rc<Shard>,
    plan: Arc<OriginPlan>,
    limits: Cell<ConnectorLimits>,
    sources: Arc<Sources>,
    /// Other settings have none like it: nothing rests here any more.
    is_retired: Cell<bool>,
    name: Name,
    ordinary: Pool,
    held: Pool,
    waiting: RefCell<VecDeque<Rc<RefCell<Grant>>>>,
    is_sweeping: Cell<bool>,
    connecting: Cell<Connecting>,
    /// Connections made, and lent again, since the start.
    made: Cell<(u64, u64)>,
    /// What was seen to fail since the start.
    pub failures: Failures,
    /// When it answered.
    pub alive: Alive,
    /// It could not be reached last time, and that was said.
    is_out_of_reach: Cell<bool>,
    /// One that comes and goes must not fill the log.
    outages: Rc<Limited>,
    /// What can be done about a certificate that it wants was said.
    has_told_of_certificate: Cell<bool>,
}

/// What failed at an origin since the start.
#[derive(Default)]
pub struct Failures {
    /// Requests that could not reach it, or were not answered in time.
    pub requests: Cell<u64>,
    /// Probes that did not pass.
    pub probes: Cell<u64>,
    /// A request failed, and none was answered since.
    pub is_recent: Cell<bool>,
}

/// When an origin last answered somebody on this shard.
#[derive(Default)]
pub struct Alive {
    /// The last time.
    pub last: Cell<Option<Instant>>,
    /// Of those, the one that other shards were told of.
    told: Cell<Option<Instant>>,
}

impl Alive {
    /// It answered. Whether others should be told.
    pub fn hear(&self, now: Instant) -> bool {
        self.last.set(Some(now));
        let is_due = |told| now.saturating_duration_since(told) >= limits::ORIGIN_ALIVE_EVERY;
        let is_due = self.told.get().is_none_or(is_due);
        if is_due {
            self.told.set(Some(now));
        }
        is_due
    }
}

impl Failures {
    /// What was counted goes on.
    fn go_on(&self) -> Failures {
        let (requests, probes) = (self.requests.clone(), self.probes.clone());
        Failures { requests, probes, is_recent: Cell::new(false) }
    }

    /// Counts what was seen.
    pub fn hear(&self, sign: OriginSign) {
        match sign {
            OriginSign::Answered => self.is_recent.set(false),
            OriginSign::Failed(_) | OriginSign::Unanswered(_) => {
                self.requests.set(self.requests.get() + 1);
                self.is_recent.set(true);
            }
            OriginSign::ProbePassed => {}
            OriginSign::ProbeFailed => self.probes.set(self.probes.get() + 1),
        }
    }
}

impl Origin {
    /// An origin like this; nothing is dialled yet. What one before it at the same place has counted goes on.
    pub fn new(
        shard: &Rc<Shard>,
        plan: &Arc<OriginPlan>,
        limits: ConnectorLimits,
        sources: &Arc<Sources>,
        before: Option<&Origin>,
    ) -> Rc<Origin> {
        let name = Name::new(&plan.host, plan.port);
        let (is_retired, ordinary, held, waiting) = Default::default();
        let (is_sweeping, connecting, alive) = Default::default();
        let (is_out_of_reach, has_told_of_certificate) = Default::default();
        let (shard, plan, sources) = (shard.clone(), plan.clone(), sources.clone());
        Rc::new(Origin {
            shard,
            plan,
            limits: Cell::new(limits),
            sources,
            is_retired,
            name,
            ordinary,
            held,
            waiting,
            is_sweeping,
            connecting,
            made: Cell::new(before.map_or((0, 0), |before| before.made.get())),
            failures: before.map(|before| before.failures.go_on()).unwrap_or_default(),
            alive,
            is_out_of_reach,
            outages: Limited::new("origins that came and went, not logged"),
            has_told_of_certificate,
        })
    }

    /// What the settings say of it.
    pub fn plan(&self) -> &Arc<OriginPlan> {
        &self.plan
    }

    /// These deadlines from now on.
    pub fn keep_to(&self, limits: ConnectorLimits) {
        self.limits.set(limits);
    }

    /// Has nothing rest here any more; what is in use goes on to its end.
    pub fn retire(&self) {
        self.is_retired.set(true);
        for pool in [&self.ordinary, &self.held] {
            pool.gone(pool.resting.take().len());
        }
    }

    /// Copies what there is to where others read it.
    pub fn show(&self) {
        let board: &OriginCounts = &self.plan.counts[self.shard.index];
        let waits = |grant: &&Rc<RefCell<Grant>>| matches!(*grant.borrow(), Grant::Waiting(_));
        let (opened, reused) = self.made.get();
        board.open.set(self.ordinary.open.get() as u64);
        board.held.set(self.held.open.get() as u64);
        board.idle.set(self.ordinary.resting.borrow().len() as u64);
        board.waiting.set(self.waiting.borrow().iter().filter(waits).count() as u64);
        board.opened.set(opened);
        board.reused.set(reused);
        board.failures.set(self.failures.requests.get());
        board.probes_failed.set(self.failures.probes.get());
    }

    /// Whether a request finds a connection here, or may have one made, while those that are being made come about.
    pub fn has_room(&self, kind: Kind) -> bool {
        let pool = self.pool(kind);
        let rests = || !pool.resting.borrow().is_empty();
        let may_grow = pool.open.get() < self.open_max(kind);
        rests() || may_grow && !self.connecting.get().is_stalled(self.shard.now())
    }

    /// A connection at rest that fits, if there is one.
    pub fn ready(self: &Rc<Self>, want: Want, kind: Kind) -> Option<Connection> {
        self.take_resting(want, kind).map(|resting| self.lend(resting, kind))
    }

    fn pool(&self, kind: Kind) -> &Pool {
        match kind {
            Kind::Ordinary => &self.ordinary,
            Kind::Held => &self.held,
        }
    }

    /// A connection for one request that found none ready; nothing was sent when there is none.
    ///
    /// # Errors
    /// `NotBegun` after too long a wait for a free one, `BadGateway` or `GatewayTimeout` when none can
    /// be made.
    pub async fn connection(self: &Rc<Self>, want: Want, kind: Kind) -> Result<Connection, Fault> {
        let pool = self.pool(kind);
        if pool.open.get() >= self.open_max(kind) && !self.retire_oldest(kind) {
            return match kind {
                Kind::Ordinary => self.wait_for_one(want).await,
                // None of them comes back soon.
                Kind::Held => Err(self.too_many_held()),
            };
        }
        pool.open.set(pool.open.get() + 1);
        self.dial(self.lease(kind)).await
    }

    fn open_max(&self, kind: Kind) -> usize {
        match kind {
            Kind::Ordinary => self.plan().connections_max,
            Kind::Held => limits::ORIGIN_HELD_MAX,
        }
    }

    fn too_many_held(&self) -> Fault {
        let (authority, held) = (&self.plan().authority, limits::ORIGIN_HELD_MAX);
        Fault::NotBegun(
            format!("{held} requests are held by origin {authority} on this shard, which is all it may hold")
                .into(),
        )
    }

    fn lease(self: &Rc<Self>, kind: Kind) -> Lease {
        Lease { origin: self.clone(), kind, is_open: true }
    }

    fn lend(self: &Rc<Self>, resting: Resting, kind: Kind) -> Connection {
        let Resting { wire, deadline, .. } = resting;
        let (opened, reused) = self.made.get();
        self.made.set((opened, reused + 1));
        Connection { wire, deadline, is_fresh: false, lease: self.lease(kind) }
    }

    // ── at rest ─────────────────────────────────────────────────────────────────────────────────

    fn take_resting(&self, want: Want, kind: Kind) -> Option<Resting> {
        let idle_max = match want {
            Want::Any => self.limits.get().origin_idle,
            Want::Recent => self.limits.get().origin_idle / 2,
            Want::Fresh => return None,
        };
        loop {
            // The last one is the youngest; if it is too old, all are.
            let is_recent = |resting: &Resting| self.age(resting) < idle_max;
            let pool = self.pool(kind);
            let mut resting = pool.resting.borrow_mut().pop_if(|resting| is_recent(resting))?;
            if is_alive(&mut resting.wire) {
                return Some(resting);
            }
            pool.gone(1);
        }
    }

    fn age(&self, resting: &Resting) -> Duration {
        self.shard.now().saturating_duration_since(resting.since)
    }

    /// Closes the connection at rest the longest, to make room; whether there was one.
    fn retire_oldest(&self, kind: Kind) -> bool {
        let pool = self.pool(kind);
        let mut resting = pool.resting.borrow_mut();
        if resting.is_empty() {
            return false;
        }
        drop(resting.remove(0));
        pool.gone(1);
        true
    }

    fn take_back(self: &Rc<Self>, kind: Kind, resting: Resting) {
        if kind == Kind::Ordinary
            && let Some(grant) = self.next_waiting()
        {
            hand(&grant, Grant::Connection(Box::new(resting)));
            return;
        }
        if self.is_retired.get() {
            drop(resting);
            return self.pool(kind).gone(1);
        }
        self.pool(kind).resting.borrow_mut().push(resting);
        if !self.is_sweeping.replace(true) {
            self.shard.spawn("sweep", self.clone().sweep());
        }
    }

    /// Closes what rested too long or was closed by the origin; runs only while something rests.
    async fn sweep(self: Rc<Self>) {
        loop {
            let idle_max = self.limits.get().origin_idle;
            let pools = [&self.ordinary, &self.held];
            let oldest =
                pools.iter().filter_map(|pool| pool.resting.borrow().first().map(|one| self.age(one)));
            let Some(oldest) = oldest.max() else { break };
            self.shard.sleep(idle_max.saturating_sub(oldest).max(SWEEP_EVERY_MIN)).await;
            for pool in pools {
                let mut resting = pool.resting.borrow_mut();
                let before = resting.len();
                resting.retain_mut(|one| self.age(one) < idle_max && is_alive(&mut one.wire));
                pool.gone(before - resting.len());
            }
        }
        self.is_sweeping.set(false);
    }

    // ── waiting for a free one ──────────────────────────────────────────────────────────────────

    async fn wait_for_one(self: &Rc<Self>, want: Want) -> Result<Connection, Fault> {
        let busy = |what: &str| {
            let OriginPlan { authority, connections_max, .. } = &*self.plan;
            Fault::NotBegun(
                format!("all {connections_max} connections to origin {authority} are in use{what}").into(),
            )
        };
        if !self.has_queue_room() {
            return Err(busy(", and too many requests wait for one"));
        }
        let ticket = Ticket { origin: self.clone(), grant: Rc::new(RefCell::new(Grant::Gone)) };
        let granted = within(&self.shard, self.limits.get().wait, ticket.granted()).await;
        let waited = || busy(&format!("; waited {} s", self.limits.get().wait.as_secs_f32()));
        match granted.ok_or_else(waited)? {
            Grant::Connection(resting) if want != Want::Fresh => Ok(self.lend(*resting, Kind::Ordinary)),
            Grant::Connection(resting) => {
                drop(resting);
                self.dial(self.lease(Kind::Ordinary)).await
            }
            Grant::Place => self.dial(self.lease(Kind::Ordinary)).await,
            Grant::Waiting(_) | Grant::Gone => Err(waited()),
        }
    }

    fn has_queue_room(&self) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= limits::ORIGIN_WAITING_MAX {
            // Those that gave up stand in it still.
            waiting.retain(|grant| matches!(*grant.borrow(), Grant::Waiting(_)));
        }
        waiting.len() < limits::ORIGIN_WAITING_MAX
    }

    fn next_waiting(&self) -> Option<Rc<RefCell<Grant>>> {
        let mut waiting = self.waiting.borrow_mut();
        loop {
            let grant = waiting.pop_front()?;
            if matches!(*grant.borrow(), Grant::Waiting(_)) {
                return Some(grant);
            }
        }
    }

    /// A connection was closed: its place goes to who waits longest.
    fn place_free(&self, kind: Kind) {
        let next = if kind == Kind::Ordinary { self.next_waiting() } else { None };
        match next {
            Some(grant) => hand(&grant, Grant::Place),
            None => self.pool(kind).gone(1),
        }
    }

    // ── dialling ────────────────────────────────────────────────────────────────────────────────

    async fn dial(&self, lease: Lease) -> Result<Connection, Fault> {
        let (deadline, wait) = (self.shard.deadline(), self.limits.get().connect);
        let authority = &self.plan().authority;
        let attempt = Attempt::new(&self.connecting, self.shard.now());
        match within(&self.shard, wait, self.connect(lease.kind)).await {
            Some(Ok(wire)) => {
                attempt.succeeded(self.shard.now());
                if self.is_out_of_reach.replace(false) && self.outages.admits(&self.shard) {
                    tracing::info!(origin = authority, "the origin is reached again");
                }
                let (opened, reused) = self.made.get();
                self.made.set((opened + 1, reused));
                Ok(Connection { wire, deadline, is_fresh: true, lease })
            }
            Some(Err(error)) if wants_certificate(&error) => Err(self.certificate_wanted()),
            Some(Err(error)) => {
                let cause = format!("origin {authority} {}", why_not_reached(&error));
                if has_no_port(&error) {
                    // It may be in reach of other requests, and the limit is told of.
                    return Err(Fault::refused(Refusal::NoSourcePort, cause));
                }
                Err(self.out_of_reach(refusal_of(&error), cause))
            }
            None => {
                let cause = format!("origin {authority} did not accept within {} s", wait.as_secs_f32());
                Err(self.out_of_reach(Refusal::GatewayTimeout, cause))
            }
        }
    }

    /// Says once, and not for each request, that the origin is out of reach.
    fn out_of_reach(&self, refusal: Refusal, cause: String) -> Fault {
        // TLS tells every name of the certificate that was shown.
        let cause = logs::bounded(cause);
        if !self.is_out_of_reach.replace(true) && self.outages.admits(&self.shard) {
            tracing::warn!(origin = self.plan().authority, cause, "the origin cannot be reached");
        }
        Fault::refused(refusal, cause)
    }

    /// The origin wants a certificate of the connection point. Says once what an operator can do.
    pub fn certificate_wanted(&self) -> Fault {
        let authority = &self.plan().authority;
        if !self.has_told_of_certificate.replace(true) {
            tell_certificate_wanted(authority);
        }
        let cause = format!("origin {authority} wants the connection point's certificate");
        Fault::refused(Refusal::ConnectorCertificateRequired, cause)
    }

    /// A connection of nobody's, with its TLS handshake.
    pub async fn connect(&self, kind: Kind) -> io::Result<Wire> {
        let addresses = self.name.addresses(&self.shard).await?;
        let socket = self.sources.connect(&self.shard, &addresses, kind).await?;
        match kind {
            Kind::Ordinary => {
                let mut wire = Wire::new(socket, self.tls()?);
                wire.handshake().await?;
                Ok(wire)
            }
            Kind::Held => {
                // Thousands come at once when an origin comes back, and others are not to wait for their arithmetic.
                self.shard.ring.turn().await;
                let mut wire = Wire::new(socket, self.tls()?);
                wire.handshake_patiently().await?;
                Ok(wire)
            }
        }
    }

    fn tls(&self) -> io::Result<Option<Tls>> {
        let Some((config, name)) = &self.plan.tls else { return Ok(None) };
        Tls::client(config.clone(), name.clone()).map(Some).map_err(io::Error::other)
    }
}

/// The first of these addresses that accepts.
pub async fn connect_any(shard: &Shard, addresses: &[SocketAddr]) -> io::Result<Socket> {
    let mut outcome = Err(io::ErrorKind::NotFound.into());
    for address in addresses {
        let socket = Socket::adopt(&shard.ring, listen::dialler(*address)?)?;
        match socket.connect(address).await {
            Ok(()) => return Ok(socket),
            Err(error) => outcome = Err(error),
        }
    }
    outcome
}

/// Whether a connection without a request stands and is silent. Arms its receive.
fn is_alive(wire: &mut Wire) -> bool {
    let is_silent = wire.poll_fill(&Context::from_waker(Waker::noop())).is_pending();
    wire.received().is_empty() && is_silent && !wire.awaits_turn()
}

/// What a failure of the connection means to the client.
pub fn refusal_of(error: &io::Error) -> Refusal {
    if wants_certificate(error) {
        Refusal::ConnectorCertificateRequired
    } else if has_no_port(error) {
        Refusal::NoSourcePort
    } else {
        Refusal::BadGateway
    }
}

/// What kept us from an origin, as the end of a sentence that begins with it.
pub fn why_not_reached(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused the connection".to_owned(),
        io::ErrorKind::NotFound => "has no address: its name is unknown".to_owned(),
        io::ErrorKind::UnexpectedEof => "closed the connection in the TLS handshake".to_owned(),
        _ => format!("cannot be reached: {error}"),
    }
}

/// Whether no source address has a port left.
pub fn has_no_port(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<PortsUsedUp>())
}

/// Whether the origin asked for our certificate late, or missed it: rustls refuses a request behind the
/// handshake (TLS 1.3), which IIS sends unless told to ask in the handshake.
fn wants_certificate(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InappropriateHandshakeMessage { got_type, .. }) => {
            *got_type == rustls::HandshakeType::CertificateRequest
        }
        Some(rustls::Error::AlertReceived(alert)) => *alert == rustls::AlertDescription::CertificateRequired,
        _ => false,
    }
}

/// Says what an operator can do about an origin that wants our certificate.
fn tell_certificate_wanted(authority: &str) {
    tracing::warn!(
        origin = authority,
        "the origin wants the connection point's certificate: name one for it in the site's settings; if one is \
         named, the origin asks behind the handshake: with IIS set clientcertnegotiation=enable on its binding \
         (netsh http), so that it asks in it"
    );
}

/// A request's place in the queue. What was handed to it and not taken goes on to the next.
struct Ticket {
    origin: Rc<Origin>,
    grant: Rc<RefCell<Grant>>,
}

impl Ticket {
    async fn granted(&self) -> Grant {
        let mut is_queued = false;
        std::future::poll_fn(|context| {
            let mut grant = self.grant.borrow_mut();
            if matches!(*grant, Grant::Connection(_) | Grant::Place) {
                return Poll::Ready(std::mem::replace(&mut *grant, Grant::Gone));
            }
            *grant = Grant::Waiting(context.waker().clone());
            if !std::mem::replace(&mut is_queued, true) {
                self.origin.waiting.borrow_mut().push_back(self.grant.clone());
            }
            Poll::Pending
        })
        .await
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let grant = std::mem::replace(&mut *self.grant.borrow_mut(), Grant::Gone);
        match grant {
            Grant::Connection(resting) => self.origin.take_back(Kind::Ordinary, *resting),
            Grant::Place => self.origin.place_free(Kind::Ordinary),
            Grant::Waiting(_) | Grant::Gone => {}
        }
    }
}

fn hand(to: &RefCell<Grant>, what: Grant) {
    let before = std::mem::replace(&mut *to.borrow_mut(), what);
    if let Grant::Waiting(waker) = before {
        waker.wake();
    }
}

/// Sweeping is not worth more turns than this.
const SWEEP_EVERY_MIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_do_not_come_about_are_noticed_until_one_does() {
        let (held, begin) = (Cell::new(Connecting::default()), Instant::now());
        let is_stalled = |millis| held.get().is_stalled(begin + Duration::from_millis(millis));
        let one = Attempt::new(&held, begin);
        let other = Attempt::new(&held, begin + Duration::from_millis(900));
        assert!(!is_stalled(999) && is_stalled(1_000));
        one.succeeded(begin + Duration::from_millis(1_100));
        assert!(!is_stalled(2_099) && is_stalled(2_100));
        drop(other);
        assert!(!is_stalled(9_000), "none is being made");
    }
}
