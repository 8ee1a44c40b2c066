//! `loadgen origin`: an HTTP/1.1 origin that says of every request what it was, and is never the bottleneck.
//!
//! One thread and one ring per shard, all on one port. What is answered is decided in `origin/exchange.rs`.

mod bits;
mod control;
mod exchange;
mod named;
mod request;
pub mod rules;
mod seen;

use crate::ring::{self, Buffers, Completion, Flight, GENERATION_MASK, Operation, Ring, Tag};
use crate::tokens::Signer;
use control::{Letters, Order, letterbox};
use exchange::{Common, Exchange, HELD_SIZE_MAX, Next};
use rules::{Likely, Rules, Span};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Accepts armed at once, per shard.
const ACCEPTS_MAX: usize = 64;
const BUFFER_COUNT: u16 = 256;
const BUFFER_SIZE: usize = 16 * 1024;
/// A closed connection whose client does not go is dropped after this time.
const LINGER: Duration = Duration::from_secs(5);
/// Held requests that a push answers in one turn.
const PUSH_BATCH: u64 = 64;
/// Buffers that grew beyond this are given up when they are empty.
const KEPT_SIZE_MAX: usize = 16 * 1024;

/// The flags of `loadgen origin`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where to listen; port 0 picks a free one, which is printed
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    /// Where to take control: `POST /push` answers all held notification requests (`number=`, `share=` and `rate=` per second in
    /// its query), `GET /held` counts them, `GET /seen` tells what `--seen` kept; port 0 picks a free one, which is printed
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub control: Option<SocketAddr>,
    /// Keep the id of every request, so that `GET /seen` of the control listener says how many came more than once
    #[arg(long, requires = "control")]
    pub seen: bool,
    /// Threads, each with its own ring and listener
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub shards: u16,
    /// Delay of every answer in milliseconds, one or any between two; `delay_ms=` in a request overrides it
    #[arg(long, alias = "delay-ms", default_value = "0", value_name = "MS[..MS]", value_parser = Span::parse)]
    pub delay: Span,
    /// How long a notification request is held, in milliseconds; `delay_ms=` in a request overrides it
    #[arg(long, default_value = "10000", value_name = "MS[..MS]", value_parser = Span::parse)]
    pub hold: Span,
    /// What goes wrong, and how often: reset, stall, close (each before the answer), cut (in the middle of its body), garbage
    /// (no HTTP, then closed). reset=0.01,cut=0.002; `fault=KIND` in a request asks for one
    #[arg(long, value_name = "KIND=PROBABILITY", value_delimiter = ',', value_parser = Likely::parse)]
    pub fault: Vec<Likely>,
    /// Where the chance of delays and faults begins: the same seed and connections, the same faults
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Give a token of its own at CCM_STS to whoever shows one that was signed with this folder's key (`loadgen tokens`)
    #[arg(long, value_name = "FOLDER")]
    pub tokens: Option<PathBuf>,
}

impl Options {
    /// What the flags say about every answer. Errors: a text for the user.
    pub fn rules(&self) -> Result<Rules, String> {
        let rules = Rules { delay: self.delay, hold: self.hold, faults: self.fault.clone(), seed: self.seed };
        rules.check().map(|()| rules)
    }

    /// Who signs tokens. Errors: a text for the user.
    pub fn signer(&self) -> Result<Option<Signer>, String> {
        self.tokens.as_deref().map(Signer::read).transpose()
    }
}

/// Serves until the process ends.
pub fn run(options: &Options, rules: Rules, signer: Option<Signer>) -> io::Result<()> {
    let slots = ring::slots_max()?;
    let first = listen(options.listen)?;
    let address = first.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
    let mut listeners = vec![first];
    for _ in 1..options.shards {
        listeners.push(listen(address)?);
    }
    let control = options.control.map(TcpListener::bind).transpose()?;
    println!("origin on http://{address} with {} shard(s)", options.shards);
    if let Some(control) = &control {
        println!("control on http://{}", control.local_addr()?);
    }
    let seen = options.seen.then(Default::default);
    let common = Arc::new(Common { rules, signer, seen, ..Common::default() });
    let boxes: Vec<_> = listeners.iter().map(|_| letterbox()).collect::<io::Result<_>>()?;
    let (boxes, letters): (Vec<_>, Vec<_>) = boxes.into_iter().unzip();
    std::thread::scope(|scope| {
        if let Some(control) = &control {
            let (common, boxes) = (&common, &boxes);
            scope.spawn(move || control::serve(control, common, boxes));
        }
        let shards: Vec<_> = listeners
            .into_iter()
            .zip(letters)
            .enumerate()
            .map(|(index, (listener, letters))| {
                let common = Arc::clone(&common);
                scope.spawn(move || Shard::new(listener, letters, slots, common, index as u64)?.serve())
            })
            .collect();
        shards
            .into_iter()
            .try_for_each(|shard| shard.join().map_err(|_| io::Error::other("a shard panicked"))?)
    })
}

fn listen(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket)
}

/// Connecting a socket to no family disconnects it, which a peer sees as a reset; closing it would be an end.
fn nowhere() -> SockAddr {
    // SAFETY: a storage of zeros is initialised and names no family (0), and the size is that of an IPv4 address within it.
    unsafe { SockAddr::new(SockAddrStorage::zeroed(), size_of::<libc::sockaddr_in>() as libc::socklen_t) }
}

/// Open ── answered with close ──▶ Lingering ── end heard ──▶ Closing      (Open ── end heard ──▶ Closing)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Lingering,
    Closing,
}

struct Connection {
    generation: u32,
    state: State,
    receive: Flight,
    send: Flight,
    exchange: Exchange,
    wants_input: bool,
    is_stalled: bool,
    held: Vec<u8>,
    staged: Vec<u8>,
    sending: Vec<u8>,
    sent: usize,
    /// Whether our direction was ended.
    has_shut: bool,
    /// When the answer that waits is due.
    due: Option<Instant>,
    /// The earliest of its timers: a request answered early leaves one, and the next is not to add another.
    timer: Option<Instant>,
    /// Whether it is counted among those that hold a notification request.
    is_holding: bool,
}

/// A push under way on one shard.
struct Pushing {
    order: Order,
    began: Instant,
    /// The slot to look at next.
    at: usize,
    answered: u64,
}

struct Shard {
    ring: Ring,
    buffers: Buffers,
    listener: Socket,
    /// Accepts with the kernel.
    armed: usize,
    /// Slots in use.
    open: usize,
    common: Arc<Common>,
    /// Number of the next connection: this shard's in the upper half, its own in the lower.
    next_number: u64,
    /// An address of no family: connecting to it resets a connection.
    nowhere: SockAddr,
    /// By slot: the kernel chooses slots, so a slot is a key.
    connections: Vec<Option<Box<Connection>>>,
    generations: Vec<u32>,
    timers: BinaryHeap<Reverse<(Instant, u32, u32)>>,
    starved: Vec<u32>,
    letters: Letters,
    pushing: VecDeque<Pushing>,
}

impl Shard {
    fn new(
        listener: Socket,
        letters: Letters,
        slots: u32,
        common: Arc<Common>,
        index: u64,
    ) -> io::Result<Self> {
        let ring = Ring::new(slots)?;
        let buffers = Buffers::new(&ring, BUFFER_COUNT, BUFFER_SIZE)?;
        let connections = (0..slots).map(|_| None).collect();
        Ok(Self {
            ring,
            buffers,
            listener,
            armed: 0,
            open: 0,
            common,
            next_number: index << 32,
            nowhere: nowhere(),
            connections,
            generations: vec![0; slots as usize],
            timers: BinaryHeap::new(),
            starved: Vec::new(),
            letters,
            pushing: VecDeque::new(),
        })
    }

    fn serve(mut self) -> io::Result<()> {
        let mut completions = Vec::with_capacity(1024);
        self.watch_letters();
        loop {
            self.arm_accepts();
            let patience = self.timers.peek().map_or(Duration::from_secs(3600), |Reverse((at, ..))| {
                at.saturating_duration_since(Instant::now())
            });
            let patience = patience.min(self.push_patience(Instant::now()));
            self.ring.wait(patience, &mut completions)?;
            for completion in &completions {
                self.dispatch(*completion);
            }
            for slot in std::mem::take(&mut self.starved) {
                self.settle(slot);
            }
            self.fire_timers();
            self.step_pushes(Instant::now());
        }
    }

    fn arm_accepts(&mut self) {
        while self.armed < ACCEPTS_MAX && self.open + self.armed < self.connections.len() {
            let tag = Tag { operation: Operation::Accept, generation: 0, key: 0 };
            self.ring.accept(self.listener.as_raw_fd(), tag);
            self.armed += 1;
        }
    }

    fn dispatch(&mut self, completion: Completion) {
        let slot = completion.tag.key;
        match completion.tag.operation {
            Operation::Accept => return self.accepted(completion),
            Operation::Readable => return self.take_letters(),
            Operation::Unwatched | Operation::Connect => return,
            Operation::Receive | Operation::Send | Operation::Close => {}
        }
        let index = slot as usize;
        let is_current = self.connections[index]
            .as_ref()
            .is_some_and(|connection| connection.generation == completion.tag.generation);
        match completion.tag.operation {
            Operation::Receive if is_current => self.received(slot, completion),
            Operation::Send if is_current => self.sent(slot, completion.result),
            Operation::Close if is_current => {
                self.connections[index] = None;
                self.open -= 1;
            }
            _ => {}
        }
        if let Some(buffer) = completion.buffer {
            self.buffers.give_back(buffer);
        }
    }

    fn accepted(&mut self, completion: Completion) {
        self.armed -= 1;
        let Ok(slot) = u32::try_from(completion.result) else {
            // The system has no files or memory left: pause, so that failing does not spin.
            std::thread::sleep(Duration::from_millis(1));
            return;
        };
        self.open += 1;
        let generation = self.generations[slot as usize].wrapping_add(1) & GENERATION_MASK;
        self.generations[slot as usize] = generation;
        self.next_number += 1;
        self.connections[slot as usize] = Some(Box::new(Connection {
            generation,
            state: State::Open,
            receive: Flight::Idle,
            send: Flight::Idle,
            exchange: Exchange::new(&self.common, self.next_number),
            wants_input: true,
            is_stalled: false,
            held: Vec::new(),
            staged: Vec::new(),
            sending: Vec::new(),
            sent: 0,
            has_shut: false,
            due: None,
            timer: None,
            is_holding: false,
        }));
        self.settle(slot);
    }

    fn received(&mut self, slot: u32, completion: Completion) {
        let Some(connection) = self.connections[slot as usize].as_mut() else { return };
        if !completion.more {
            connection.receive = Flight::Idle;
        }
        match (completion.result, completion.buffer) {
            (1.., Some(buffer)) => {
                let bytes = self.buffers.filled(buffer, completion.result as usize);
                match connection.state {
                    State::Open if connection.held.is_empty() && !connection.is_stalled => {
                        let used = self.handle(slot, Some((buffer, completion.result as usize)));
                        if let Some(connection) = self.connections[slot as usize].as_mut() {
                            connection.held.extend_from_slice(
                                &self.buffers.filled(buffer, completion.result as usize)[used..],
                            );
                        }
                    }
                    State::Open => {
                        connection.held.extend_from_slice(bytes);
                        if !connection.is_stalled {
                            self.handle(slot, None);
                        }
                    }
                    State::Lingering | State::Closing => {}
                }
            }
            (result, _) if result == -libc::ENOBUFS => return self.starved.push(slot),
            (result, _) if result == -libc::ECANCELED || result > 0 => {}
            _ => connection.state = State::Closing,
        }
        self.settle(slot);
    }

    /// Passes bytes (of a lent buffer, or those held) to the exchange. How many were used.
    fn handle(&mut self, slot: u32, lent: Option<(u16, usize)>) -> usize {
        let Some(connection) = self.connections[slot as usize].as_mut() else { return 0 };
        let (used, next) = match lent {
            Some((buffer, size)) => {
                connection.exchange.handle_bytes(self.buffers.filled(buffer, size), &mut connection.staged)
            }
            None => {
                let (used, next) = connection.exchange.handle_bytes(&connection.held, &mut connection.staged);
                connection.held.drain(..used);
                (used, next)
            }
        };
        connection.wants_input = true;
        match next {
            Next::Read => {}
            Next::Send => connection.wants_input = false,
            Next::Wait(delay) => {
                let at = Instant::now() + delay;
                connection.due = Some(at);
                if connection.timer.is_none_or(|timer| at < timer) {
                    connection.timer = Some(at);
                    self.timers.push(Reverse((at, slot, connection.generation)));
                }
                if connection.exchange.is_held() {
                    connection.exchange.trim();
                }
            }
            Next::Stall => (connection.is_stalled, connection.wants_input) = (true, false),
            Next::Close => {
                connection.state = State::Lingering;
                connection.due = Some(Instant::now() + LINGER);
                connection.timer = connection.due;
                self.timers.push(Reverse((Instant::now() + LINGER, slot, connection.generation)));
            }
            Next::Reset => {
                let tag =
                    Tag { operation: Operation::Unwatched, generation: connection.generation, key: slot };
                self.ring.connect(slot, &self.nowhere, tag);
                connection.state = State::Closing;
            }
        }
        used
    }

    fn sent(&mut self, slot: u32, result: i32) {
        let Some(connection) = self.connections[slot as usize].as_mut() else { return };
        connection.send = Flight::Idle;
        if connection.has_shut {
            return self.settle(slot);
        }
        match usize::try_from(result) {
            Ok(size) => connection.sent += size,
            Err(_) => connection.state = State::Closing,
        }
        if connection.sent >= connection.sending.len() {
            connection.sending.clear();
            connection.sent = 0;
            if connection.state == State::Open && !connection.is_stalled && connection.staged.is_empty() {
                self.handle(slot, None);
            }
        }
        self.settle(slot);
    }

    /// Brings what is with the kernel in line with what the connection wants.
    fn settle(&mut self, slot: u32) {
        let Some(connection) = self.connections[slot as usize].as_mut() else { return };
        let is_holding = connection.state == State::Open && connection.exchange.is_held();
        if is_holding != connection.is_holding {
            connection.is_holding = is_holding;
            let change = if is_holding { 1 } else { u64::MAX };
            self.common.held.fetch_add(change, Ordering::Relaxed);
        }
        let tag = |operation| Tag { operation, generation: connection.generation, key: slot };
        if connection.state == State::Closing {
            if connection.receive == Flight::Armed {
                self.ring.cancel(tag(Operation::Receive));
                connection.receive = Flight::Cancelling;
            }
            if connection.send == Flight::Armed {
                self.ring.cancel(tag(Operation::Send));
                connection.send = Flight::Cancelling;
            }
            if (connection.receive, connection.send) == (Flight::Idle, Flight::Idle) {
                self.ring.close(slot, tag(Operation::Close));
                // The slot is the kernel's until the completion: nothing else is asked of it.
                (connection.receive, connection.send) = (Flight::Cancelling, Flight::Cancelling);
            }
            return;
        }
        if connection.send == Flight::Idle {
            if connection.sending.is_empty() {
                std::mem::swap(&mut connection.sending, &mut connection.staged);
            }
            let rest = &connection.sending[connection.sent..];
            if !rest.is_empty() {
                self.ring.send(slot, rest, tag(Operation::Send));
                connection.send = Flight::Armed;
            } else if connection.state == State::Lingering && !connection.has_shut {
                self.ring.shut_down(slot, tag(Operation::Send));
                (connection.has_shut, connection.send) = (true, Flight::Armed);
            }
            // A held request costs no buffer.
            let kept = if is_holding { 0 } else { KEPT_SIZE_MAX };
            for idle in [&mut connection.staged, &mut connection.held, &mut connection.sending] {
                if idle.is_empty() && idle.capacity() > kept {
                    *idle = Vec::new();
                }
            }
        }
        let is_full = connection.held.len() >= HELD_SIZE_MAX;
        let wants_input = connection.wants_input && !is_full || connection.state == State::Lingering;
        match connection.receive {
            Flight::Idle if wants_input => {
                self.ring.receive(slot, tag(Operation::Receive));
                connection.receive = Flight::Armed;
            }
            Flight::Armed if is_full || connection.is_stalled => {
                self.ring.cancel(tag(Operation::Receive));
                connection.receive = Flight::Cancelling;
            }
            Flight::Idle | Flight::Armed | Flight::Cancelling => {}
        }
    }

    fn fire_timers(&mut self) {
        while let Some(Reverse((at, slot, generation))) = self.timers.peek().copied() {
            if at > Instant::now() {
                break;
            }
            self.timers.pop();
            let Some(connection) =
                self.connections[slot as usize].as_mut().filter(|found| found.generation == generation)
            else {
                continue;
            };
            if connection.timer == Some(at) {
                connection.timer = None;
            }
            match connection.due {
                Some(due) if due <= at => connection.due = None,
                Some(due) => {
                    if connection.timer.is_none() {
                        connection.timer = Some(due);
                        self.timers.push(Reverse((due, slot, generation)));
                    }
                    continue;
                }
                None => continue,
            }
            match connection.state {
                State::Open => {
                    connection.exchange.answer_delayed(&mut connection.staged);
                    self.handle(slot, None);
                }
                State::Lingering => connection.state = State::Closing,
                State::Closing => {}
            }
            self.settle(slot);
        }
    }

    fn watch_letters(&mut self) {
        let tag = Tag { operation: Operation::Readable, generation: 0, key: 0 };
        self.ring.watch(self.letters.bell(), tag);
    }

    /// Takes up the pushes that were ordered.
    fn take_letters(&mut self) {
        self.letters.hush();
        let orders = self.letters.orders.try_iter();
        let pushing = orders.map(|order| Pushing { order, began: Instant::now(), at: 0, answered: 0 });
        self.pushing.extend(pushing);
        self.watch_letters();
    }

    /// How long a push under way has nothing to do.
    fn push_patience(&self, now: Instant) -> Duration {
        match self.pushing.front() {
            None => Duration::MAX,
            Some(pushing) => pushing.patience(now),
        }
    }

    /// Answers some of the held requests; the rest of the turn belongs to everybody else.
    fn step_pushes(&mut self, now: Instant) {
        let Some(mut pushing) = self.pushing.pop_front() else { return };
        let mut allowed = pushing.allowed(now);
        while allowed > 0 && pushing.at < self.connections.len() {
            let slot = pushing.at as u32;
            pushing.at += 1;
            if self.push_to(slot, &pushing.order) {
                pushing.answered += 1;
                allowed -= 1;
            }
        }
        if pushing.at < self.connections.len() {
            return self.pushing.push_front(pushing);
        }
        // Whoever ordered it may have gone.
        let _ = pushing.order.done.send(pushing.answered);
    }

    fn push_to(&mut self, slot: u32, order: &Order) -> bool {
        let Some(connection) = self.connections[slot as usize].as_mut() else { return false };
        let is_pushed = connection.is_holding && connection.exchange.push(order.push, &mut connection.staged);
        if is_pushed {
            connection.due = None;
            self.handle(slot, None);
            self.settle(slot);
        }
        is_pushed
    }
}

impl Pushing {
    /// Answers that may go now.
    fn allowed(&self, now: Instant) -> u64 {
        let Some(rate) = self.order.rate else { return PUSH_BATCH };
        let due = (rate * now.saturating_duration_since(self.began).as_secs_f64()) as u64;
        due.saturating_sub(self.answered).min(PUSH_BATCH)
    }

    /// Until the next answer may go.
    fn patience(&self, now: Instant) -> Duration {
        match self.order.rate {
            Some(rate) if self.allowed(now) == 0 => Duration::from_secs_f64((1.0 / rate).clamp(0.001, 1.0)),
            Some(_) | None => Duration::ZERO,
        }
    }
}
