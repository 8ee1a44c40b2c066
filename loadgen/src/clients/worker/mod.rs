//! One thread's connections: its ring, its timers, and each client's way from connecting to its last answer.
//!
//! The thread owns all it touches; with the main thread it shares only what is in `shared.rs`. How connections end is told in
//! `worker/ending.rs`.

mod ending;

use super::client::{BACKOFF_MIN, Client, State};
use super::exchange::{Answered, PIECE_SIZE};
use super::options::{Amount, Plan, Reading};
use super::report::{Tally, record};
use super::session::{Identities, Opened, Session, SessionError};
use super::shared::{Phase, Progress, Shared};
use super::work::{Answer, Life, Stand};
use crate::ring::{Buffers, Completion, Flight, Operation, Ring};
use ending::{Cause, REST};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const BUFFER_SIZE: usize = 16 * 1024;
/// Bytes staged before the first of them went.
const STAGED_SIZE_MAX: usize = 64 * 1024;
/// Emptied buffers kept for the next connection that sends.
const SPARES_MAX: usize = 512;
/// How long a turn waits when nothing happens; phases are looked at as often.
const TURN: Duration = Duration::from_millis(50);
/// Deadlines are looked at as often.
const SCAN: Duration = Duration::from_millis(250);
/// How long outstanding answers are awaited when the time is over.
const GRACE: Duration = Duration::from_secs(5);
/// Reads of a paced client follow one another by this much, or less at high rates.
const PACE: Duration = Duration::from_millis(100);
/// Wait before asking again after a 5xx.
const BUSY_WAIT: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// Connect.
    Start,
    /// Ask again.
    Ask,
    /// Read on, paced.
    Read,
}

/// One thread's clients.
pub struct Worker<'a> {
    plan: &'a Plan,
    shared: &'a Shared,
    progress: &'a Progress,
    identities: Option<&'a Identities>,
    index: u16,
    ring: Ring,
    buffers: Buffers,
    target: SockAddr,
    clients: Vec<Client>,
    slots: Vec<u32>,
    to_connect: VecDeque<u32>,
    connecting: u32,
    timers: BinaryHeap<Reverse<(Instant, u32, u32, Timer)>>,
    /// Requests left for all clients of this thread together; `None` when each has its own number.
    pool: Option<u64>,
    next_id: u64,
    phase: Phase,
    tally: Tally,
    open: u64,
    arrived: u64,
    served: u64,
    done: usize,
    last_answer: Instant,
    plain: Vec<u8>,
    answered: Vec<Answered>,
    spares: Vec<Vec<u8>>,
    starved: Vec<u32>,
}

impl<'a> Worker<'a> {
    /// The thread's share of the plan, on a ring of its own.
    pub fn new(
        plan: &'a Plan,
        shared: &'a Shared,
        progress: &'a Progress,
        identities: Option<&'a Identities>,
        index: u16,
    ) -> io::Result<Self> {
        let share = |whole: u64| {
            whole / u64::from(plan.threads) + u64::from(u64::from(index) < whole % u64::from(plan.threads))
        };
        let count = share(u64::from(plan.connections)) as u32;
        let ring = Ring::new(plan.slots)?;
        let buffer_count = count.next_power_of_two().clamp(64, 1024) as u16;
        let buffers = Buffers::new(&ring, buffer_count, BUFFER_SIZE)?;
        let (pool, left) = match plan.amount {
            Amount::Each(each) => (None, each),
            Amount::Lives => (None, 0),
            Amount::Total(total) => (Some(share(total)), 0),
            Amount::Lasting(_) => (Some(u64::MAX), 0),
        };
        let now = Instant::now();
        let life = |key: u32| match &plan.population {
            None => Life::Fixed,
            Some(population) => {
                Life::scripted(population.script(key * u32::from(plan.threads) + u32::from(index), now))
            }
        };
        let mut worker = Self {
            plan,
            shared,
            progress,
            identities,
            index,
            ring,
            buffers,
            target: plan.target.into(),
            clients: (0..count).map(|key| Client::new(life(key), left, now)).collect(),
            slots: (0..plan.slots).rev().collect(),
            to_connect: VecDeque::new(),
            connecting: 0,
            timers: BinaryHeap::new(),
            pool,
            next_id: shared.run.wrapping_add(u64::from(index) << 40),
            phase: Phase::Connecting,
            tally: Tally::default(),
            open: 0,
            arrived: 0,
            served: 0,
            done: 0,
            last_answer: shared.start,
            plain: Vec::new(),
            answered: Vec::new(),
            spares: Vec::new(),
            starved: Vec::new(),
        };
        for key in 0..count {
            let number = f64::from(key) * f64::from(plan.threads) + f64::from(index);
            match plan.connect_rate {
                Some(rate) => worker.timers.push(Reverse((
                    now + Duration::from_secs_f64(number / rate),
                    key,
                    0,
                    Timer::Start,
                ))),
                None => worker.to_connect.push_back(key),
            }
        }
        Ok(worker)
    }

    /// Works until all is done, or the time is over.
    pub fn run(mut self) -> io::Result<Tally> {
        let mut completions = Vec::with_capacity(1024);
        let mut next_scan = Instant::now() + SCAN;
        let mut over = None;
        while self.done < self.clients.len() {
            let now = Instant::now();
            self.fire_timers(now);
            self.connect_waiting(now);
            self.ring.wait(self.patience(now), &mut completions)?;
            for completion in &completions {
                self.dispatch(*completion, Instant::now());
            }
            for key in std::mem::take(&mut self.starved) {
                if self.clients[key as usize].state == State::Open && self.plan.reading != Reading::Never {
                    self.arm(key);
                }
                self.settle(key);
            }
            let now = Instant::now();
            self.follow_phase(now);
            if now >= next_scan {
                self.look_for_timeouts(now);
                next_scan = now + SCAN;
            }
            self.publish();
            if self.phase == Phase::Ending {
                let grace = if self.plan.reading == Reading::Free { GRACE } else { Duration::ZERO };
                if now >= *over.get_or_insert(now + grace) {
                    break;
                }
            }
        }
        self.publish();
        self.tally.failures.timeout += if self.plan.reading == Reading::Free {
            self.clients.iter().map(|client| client.exchange.outstanding() as u64).sum()
        } else {
            0
        };
        Ok(self.tally)
    }

    fn patience(&self, now: Instant) -> Duration {
        let next = self.timers.peek().map_or(TURN, |Reverse((at, ..))| at.saturating_duration_since(now));
        next.min(TURN)
    }

    fn publish(&self) {
        let Progress { answers, failures, wrong, open, arrived, served, last_answer } = self.progress;
        answers.store(self.tally.answers, Ordering::Relaxed);
        failures.store(self.tally.failures.clean(), Ordering::Relaxed);
        wrong.store(self.tally.failures.wrong(), Ordering::Relaxed);
        open.store(self.open, Ordering::Relaxed);
        arrived.store(self.arrived, Ordering::Relaxed);
        served.store(self.served, Ordering::Relaxed);
        last_answer.store((self.last_answer - self.shared.start).as_micros() as u64, Ordering::Relaxed);
    }

    fn follow_phase(&mut self, now: Instant) {
        let phase = self.shared.phase();
        if phase == self.phase {
            return;
        }
        self.phase = phase;
        for key in 0..self.clients.len() as u32 {
            match self.clients[key as usize].state {
                State::Waiting if phase == Phase::Ending => self.retire(key),
                State::Connecting | State::Shaking if phase == Phase::Ending => self.close(key, false),
                _ => self.advance(key, now),
            }
        }
    }

    fn fire_timers(&mut self, now: Instant) {
        while let Some(Reverse((at, key, generation, timer))) = self.timers.peek().copied() {
            if at > now {
                return;
            }
            self.timers.pop();
            let client = &self.clients[key as usize];
            if client.generation != generation {
                continue;
            }
            match (timer, client.state) {
                (Timer::Start, State::Waiting) => self.to_connect.push_back(key),
                (Timer::Ask, State::Open) => self.advance(key, now),
                (Timer::Read, State::Open) => self.arm(key),
                _ => {}
            }
        }
    }

    fn connect_waiting(&mut self, now: Instant) {
        while self.connecting < self.plan.connecting_max {
            let Some(key) = self.to_connect.pop_front() else { return };
            if self.clients[key as usize].state == State::Waiting {
                self.connect(key, now);
            }
        }
    }

    fn connect(&mut self, key: u32, now: Instant) {
        if !self.has_work(key) {
            return self.retire(key);
        }
        if let Some(script) = self.clients[key as usize].life.script() {
            match script.look(&mut self.next_id, now) {
                Stand::Ready => {}
                Stand::Until(at) | Stand::Away(at) => return self.start_at(key, at),
                Stand::Done => return self.retire(key),
            }
        }
        let Some(slot) = self.slots.pop() else {
            // Every client has a slot of its own and some are spare, so that one is always back soon.
            return self.start_at(key, now + BACKOFF_MIN);
        };
        let number = key as usize * usize::from(self.plan.threads) + usize::from(self.index);
        let client = &mut self.clients[key as usize];
        client.begin(slot, now);
        self.connecting += 1;
        let made = self.socket(number).and_then(|socket| self.ring.place(slot, socket.into()));
        let session = Session::new(self.identities, number);
        let client = &mut self.clients[key as usize];
        match (made, session) {
            (Ok(()), Ok(session)) => {
                client.session = session;
                client.receive = Flight::Idle;
                client.send = Flight::Armed;
                let tag = client.tag(key, Operation::Connect);
                self.ring.connect(slot, &self.target, tag);
            }
            (Err(error), _) => {
                self.remember(|| format!("socket: {error}"));
                self.lose(key, Cause::Failed, now);
            }
            (Ok(()), Err(error)) => {
                self.remember(|| error.to_string());
                self.lose(key, Cause::Tls, now);
            }
        }
    }

    /// Connects the client at `at`.
    fn start_at(&mut self, key: u32, at: Instant) {
        self.timers.push(Reverse((at, key, self.clients[key as usize].generation, Timer::Start)));
    }

    fn socket(&self, number: usize) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(self.plan.target), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        if let Some(size) = self.plan.receive_buffer {
            socket.set_recv_buffer_size(size)?;
        }
        if !self.plan.sources.is_empty() {
            let source = self.plan.sources[number % self.plan.sources.len()];
            choose_port_late(&socket)?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        Ok(socket)
    }

    fn dispatch(&mut self, completion: Completion, now: Instant) {
        let key = completion.tag.key;
        let is_watched = completion.tag.operation != Operation::Unwatched;
        if is_watched && self.clients[key as usize].generation == completion.tag.generation {
            match completion.tag.operation {
                Operation::Connect => self.connected(key, completion.result, now),
                Operation::Receive => self.received(key, completion, now),
                Operation::Send => self.sent(key, completion.result, now),
                Operation::Close => self.closed(key, now),
                Operation::Accept | Operation::Unwatched => {}
            }
        }
        if let Some(buffer) = completion.buffer {
            self.buffers.give_back(buffer);
        }
    }

    fn connected(&mut self, key: u32, result: i32, now: Instant) {
        let client = &mut self.clients[key as usize];
        client.send = Flight::Idle;
        if client.state != State::Connecting {
            return self.settle(key);
        }
        if result < 0 {
            self.remember(|| format!("connect: {}", io::Error::from_raw_os_error(-result)));
            return self.lose(key, Cause::Failed, now);
        }
        client.state = State::Shaking;
        client.last_traffic = now;
        self.open_bytes(key, None, now);
    }

    fn received(&mut self, key: u32, completion: Completion, now: Instant) {
        let client = &mut self.clients[key as usize];
        if !completion.more {
            client.receive = Flight::Idle;
        }
        match (completion.result, completion.buffer) {
            (size @ 1.., Some(buffer)) => {
                client.last_traffic = now;
                self.tally.received += size as u64;
                if matches!(client.state, State::Shaking | State::Open) {
                    self.open_bytes(key, Some((buffer, size as usize)), now);
                } else {
                    self.settle(key);
                }
            }
            (result, _) if result == -libc::ENOBUFS => self.starved.push(key),
            (result, _) if result == -libc::ECANCELED || result > 0 => self.settle(key),
            // Under TLS only its own alert ends an answer; a bare end may have been cut by anybody.
            (0, _) if client.session.is_plain() => self.lose(key, Cause::Ended, now),
            _ => self.lose(key, Cause::Failed, now),
        }
    }

    /// Opens received bytes (or begins the handshake) and acts on what they say.
    fn open_bytes(&mut self, key: u32, lent: Option<(u16, usize)>, now: Instant) {
        let Client { session, exchange, staged, .. } = &mut self.clients[key as usize];
        take_spare(&mut self.spares, staged);
        let bytes = match lent {
            Some((buffer, size)) => self.buffers.filled(buffer, size),
            None => &mut [],
        };
        let (plan, answered) = (self.plan, &mut self.answered);
        let opened = session.open(bytes, staged, |content| exchange.read(plan, content, now, answered));
        self.judge(key, now);
        match opened {
            Ok(Opened { is_ready, has_ended }) => {
                if is_ready && self.clients[key as usize].state == State::Shaking {
                    self.ready(key, now);
                }
                if has_ended {
                    return self.lose(key, Cause::Ended, now);
                }
                if lent.is_some() && self.clients[key as usize].state == State::Open {
                    self.pace(key, now);
                }
                self.advance(key, now);
            }
            Err(SessionError::Tls(error)) => {
                self.remember(|| error.to_string());
                self.lose(key, Cause::Tls, now);
            }
            Err(SessionError::Content(wrong)) => self.lose(key, Cause::Wrong(wrong), now),
        }
    }

    fn ready(&mut self, key: u32, now: Instant) {
        self.connecting -= 1;
        self.open += 1;
        self.tally.connects += 1;
        let client = &mut self.clients[key as usize];
        client.state = State::Open;
        record(&mut self.tally.handshake, now - client.began);
        if client.ask_at > now {
            self.timers.push(Reverse((client.ask_at, key, client.generation, Timer::Ask)));
        }
        self.arrive(key);
        self.arm(key);
    }

    fn arrive(&mut self, key: u32) {
        let client = &mut self.clients[key as usize];
        self.arrived += u64::from(!client.has_arrived);
        client.has_arrived = true;
    }

    /// Counts the answers that just came.
    fn judge(&mut self, key: u32, now: Instant) {
        let mut answered = std::mem::take(&mut self.answered);
        for answer in answered.drain(..) {
            let client = &mut self.clients[key as usize];
            client.rested = false;
            tell(&mut client.life, &answer, now);
            if answer.is_right {
                self.tally.answers += 1;
                self.last_answer = now;
                if self.phase == Phase::Measuring {
                    record(&mut self.tally.latency, answer.latency);
                }
                self.served += u64::from(!client.was_served);
                (client.was_served, client.trying_since) = (true, None);
                client.failures_in_row = 0;
                if let Some(every) = self.plan.every {
                    client.ask_at = now + every;
                    self.timers.push(Reverse((client.ask_at, key, client.generation, Timer::Ask)));
                }
                continue;
            }
            *self.tally.failures.status.entry(answer.status).or_default() += 1;
            if answer.status >= 500 || answer.status == 429 {
                client.ask_at = now + BUSY_WAIT;
                self.timers.push(Reverse((client.ask_at, key, client.generation, Timer::Ask)));
                self.put_back(key, 1);
                self.has_failed(key, now);
            }
        }
        self.answered = answered;
    }

    /// Asks what may be asked, sends what is staged, closes what is finished.
    fn advance(&mut self, key: u32, now: Instant) {
        if self.clients[key as usize].state == State::Open {
            if self.clients[key as usize].has_given_up {
                return self.close(key, true);
            }
            if self.write(key, now).is_err() {
                return self.lose(key, Cause::Tls, now);
            }
            let client = &self.clients[key as usize];
            let is_used_up = client.exchange.is_closing()
                || self.plan.churn.is_some_and(|churn| client.asked_here >= churn);
            let is_used_up = self.follow_script(key) || is_used_up;
            let client = &self.clients[key as usize];
            let may_end = self.phase != Phase::Connecting && client.exchange.outstanding() == 0;
            if may_end && (is_used_up || !self.has_work(key)) {
                return self.close(key, true);
            }
        }
        self.settle(key);
    }

    /// Sets the timer a script waits for. Whether it needs no connection meanwhile.
    fn follow_script(&mut self, key: u32) -> bool {
        let client = &mut self.clients[key as usize];
        let generation = client.generation;
        match client.life.script().map(|script| script.stand()) {
            Some(Stand::Until(at)) if at > client.ask_at => {
                client.ask_at = at;
                self.timers.push(Reverse((at, key, generation, Timer::Ask)));
                false
            }
            Some(Stand::Away(_)) => true,
            Some(Stand::Until(_) | Stand::Ready | Stand::Done) | None => false,
        }
    }

    /// Stages requests and pieces of bodies.
    fn write(&mut self, key: u32, now: Instant) -> Result<(), rustls::Error> {
        while self.clients[key as usize].staged.len() < STAGED_SIZE_MAX {
            self.plain.clear();
            let is_more = self.write_plain(key, now);
            if !self.plain.is_empty() {
                let client = &mut self.clients[key as usize];
                take_spare(&mut self.spares, &mut client.staged);
                client.session.seal(&self.plain, &mut client.staged)?;
            }
            if !is_more {
                break;
            }
        }
        Ok(())
    }

    /// Writes up to about one record of requests. Whether there may be more.
    fn write_plain(&mut self, key: u32, now: Instant) -> bool {
        while self.plain.len() < PIECE_SIZE {
            let client = &mut self.clients[key as usize];
            if client.exchange.is_uploading() && !client.exchange.is_closing() {
                client.exchange.write_body(&mut self.plain);
            } else if self.may_ask(key, now) {
                let client = &mut self.clients[key as usize];
                if client.exchange.outstanding() == 0 {
                    client.rested = client.asked_here > 0 && now - client.last_traffic >= REST;
                    client.last_traffic = now;
                }
                client.asked_here += 1;
                match client.life.script().map(|script| script.take()) {
                    None => {
                        client.exchange.ask(self.plan, self.next_id, now, now, &mut self.plain);
                        self.next_id += 1;
                        self.take_work(key);
                    }
                    Some(None) => return false,
                    Some(Some((id, request))) => {
                        client.exchange.ask_order(id, *request, now, now, &mut self.plain);
                    }
                }
            } else {
                return false;
            }
        }
        true
    }

    fn may_ask(&mut self, key: u32, now: Instant) -> bool {
        let client = &self.clients[key as usize];
        let may = matches!(self.phase, Phase::WarmUp | Phase::Measuring)
            && !client.exchange.is_closing()
            && client.exchange.outstanding() < self.plan.pipeline
            && self.plan.churn.is_none_or(|churn| client.asked_here < churn)
            && now >= client.ask_at
            && self.has_work(key);
        let client = &mut self.clients[key as usize];
        match client.life.script() {
            Some(script) if may => {
                client.exchange.outstanding() == 0 && script.look(&mut self.next_id, now) == Stand::Ready
            }
            Some(_) | None => may,
        }
    }

    fn has_work(&self, key: u32) -> bool {
        let client = &self.clients[key as usize];
        let has_more = match &client.life {
            Life::Fixed => self.pool.unwrap_or(client.left) > 0,
            Life::Scripted(script) => script.stand() != Stand::Done,
        };
        self.phase != Phase::Ending && !client.has_given_up && has_more
    }

    fn take_work(&mut self, key: u32) {
        *self.pool.as_mut().unwrap_or(&mut self.clients[key as usize].left) -= 1;
    }

    /// Requests of the plan that must be asked again. A script was told what became of its request, and says so itself.
    fn put_back(&mut self, key: u32, requests: usize) {
        if matches!(self.clients[key as usize].life, Life::Scripted(_)) {
            return;
        }
        *self.pool.as_mut().unwrap_or(&mut self.clients[key as usize].left) += requests as u64;
    }

    fn sent(&mut self, key: u32, result: i32, now: Instant) {
        let client = &mut self.clients[key as usize];
        client.send = Flight::Idle;
        let Ok(size) = usize::try_from(result) else {
            client.sending.clear();
            (client.sent, client.cannot_send) = (0, true);
            return match client.state {
                // What came before the end is still to be read; the armed receive tells it, and then the end.
                State::Shaking | State::Open if client.receive == Flight::Idle => {
                    self.lose(key, Cause::Failed, now)
                }
                _ => self.settle(key),
            };
        };
        self.tally.sent += size as u64;
        client.sent += size;
        client.last_traffic = now;
        if client.sent >= client.sending.len() {
            client.sending.clear();
            client.sent = 0;
        }
        match client.state {
            State::Open if client.exchange.is_uploading() => self.advance(key, now),
            _ => self.settle(key),
        }
    }

    /// Puts reading off, when it is paced.
    fn pace(&mut self, key: u32, now: Instant) {
        if let Reading::Rate(rate) = self.plan.reading {
            let client = &self.clients[key as usize];
            let interval = PACE.min(Duration::from_secs_f64(BUFFER_SIZE as f64 / rate as f64));
            self.timers.push(Reverse((now + interval, key, client.generation, Timer::Read)));
        }
    }

    /// Arms receiving as the plan reads.
    fn arm(&mut self, key: u32) {
        let client = &mut self.clients[key as usize];
        if client.receive != Flight::Idle {
            return;
        }
        let tag = client.tag(key, Operation::Receive);
        match (self.plan.reading, client.state) {
            (Reading::Free, _) => self.ring.receive(client.slot, tag),
            (Reading::Never | Reading::Rate(_), State::Shaking) => {
                self.ring.receive_once(client.slot, BUFFER_SIZE as u32, tag)
            }
            (Reading::Rate(rate), _) => {
                let size = (rate as f64 * PACE.as_secs_f64()).ceil().clamp(1.0, BUFFER_SIZE as f64);
                self.ring.receive_once(client.slot, size as u32, tag);
            }
            (Reading::Never, _) => return,
        }
        client.receive = Flight::Armed;
    }

    /// Brings what is with the kernel in line with what the connection wants.
    fn settle(&mut self, key: u32) {
        let client = &mut self.clients[key as usize];
        match client.state {
            State::Shaking | State::Open => {
                client.push_send(key, &mut self.ring);
                if client.state == State::Shaking || self.plan.reading == Reading::Free {
                    self.arm(key);
                }
                self.spare(key);
            }
            State::Closing { is_slot_closing: true, .. } => {}
            State::Closing { is_polite, .. } => {
                if is_polite {
                    client.push_send(key, &mut self.ring);
                }
                if !is_polite && client.send == Flight::Armed {
                    // A connect in flight is known by its own tag.
                    self.ring.cancel(client.tag(key, Operation::Send));
                    self.ring.cancel(client.tag(key, Operation::Connect));
                    client.send = Flight::Cancelling;
                }
                if client.send != Flight::Idle {
                    return;
                }
                if client.receive == Flight::Armed {
                    self.ring.cancel(client.tag(key, Operation::Receive));
                    client.receive = Flight::Cancelling;
                }
                if client.receive == Flight::Idle {
                    client.state = State::Closing { is_polite, is_slot_closing: true };
                    self.ring.close(client.slot, client.tag(key, Operation::Close));
                }
            }
            State::Waiting | State::Connecting | State::Done => {}
        }
    }

    /// Gives emptied buffers to whoever sends next: most clients are idle most of the time.
    fn spare(&mut self, key: u32) {
        let client = &mut self.clients[key as usize];
        if client.send == Flight::Idle && client.exchange.outstanding() == 0 {
            for buffer in [&mut client.staged, &mut client.sending] {
                if buffer.capacity() > 0 && buffer.is_empty() {
                    let buffer = std::mem::take(buffer);
                    if self.spares.len() < SPARES_MAX && buffer.capacity() <= 2 * STAGED_SIZE_MAX {
                        self.spares.push(buffer);
                    }
                }
            }
        }
    }
}

/// Tells a script what came of its request.
fn tell(life: &mut Life, answered: &Answered, now: Instant) {
    let Life::Scripted(script) = life else { return };
    let (head, body) = answered.kept.as_ref().map_or((&[][..], &[][..]), |kept| (&kept.head, &kept.body));
    let Answered { status, size, latency, .. } = *answered;
    script.answered(&Answer { status, size, elapsed: latency, head, body }, now);
}

fn take_spare(spares: &mut Vec<Vec<u8>>, buffer: &mut Vec<u8>) {
    if buffer.capacity() == 0
        && let Some(spare) = spares.pop()
    {
        *buffer = spare;
    }
}

/// Chooses the source port when connecting, by the whole address pair: one port then serves many destinations.
fn choose_port_late(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the value is an int that lives through the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
