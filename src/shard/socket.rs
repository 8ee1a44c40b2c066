//! A TCP socket on the shard's ring, and a listener: what a task waits for, and what the ring
//! answers.
//!
//! Receiving has four ways. At rest a socket receives by multishot into buffers that the whole shard
//! shares; it holds no memory. In a transfer it receives once at a time into a buffer of its own,
//! and not receiving is the back-pressure. One that waits for its next transfer receives once, into a
//! large buffer that is picked when bytes come. One whose bytes may wait for those of others waits until
//! there are some, and receives once when its turn comes. At most one send is in flight.
//!
//! One task waits on a socket, so one waker serves both directions.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::buffers::{Outgoing, SharedBuffer};
use super::ring::{Descriptor, Polled, Ring, outcome, remember};
use crate::limits;

/// Off ── poll_recv_shared ──▶ Shared ── leave_shared, or much untaken ──▶ Leaving ── last completion ──▶ Off
/// Off ── poll_recv_owned ──▶ Owned ── completion ──▶ Off
/// Off ── poll_recv_picked ──▶ Picked ── completion ──▶ Off
/// Shared ── no buffer ──▶ Starved ── buffers came back ──▶ Shared
/// Off ── poll_recv_shared, patient ──▶ Waiting ── bytes came ──▶ Ready ── its turn ──▶ Shared, once ──▶ Off
#[derive(Clone, Copy, PartialEq, Eq)]
enum Receiving {
    Off,
    Shared(u64),
    Leaving,
    Starved,
    Owned(u64),
    Picked(u64),
    Waiting(u64),
    Ready,
}

enum Sending {
    Idle,
    InFlight(u64),
    Done(io::Result<()>),
}

struct State {
    receiving: Receiving,
    sending: Sending,
    connecting: Option<(u64, Option<i32>)>,
    /// Shared buffers that arrived and were not taken yet: (buffer, bytes).
    arrived: VecDeque<(u16, u16)>,
    /// What arrived before and nobody took: copied out, so that the shard has its buffers back.
    aside: Vec<u8>,
    /// The buffer of the last owned receive, and its result.
    owned: Option<(Vec<u8>, i32)>,
    /// `owned` was picked: its bytes lie behind [`limits::RESEAL_HEADROOM`] bytes of room.
    is_picked: bool,
    /// End of file (0) or an errno (negative), once heard.
    finished: Option<i32>,
    waker: Option<Waker>,
    /// The task waits for the end of the send: most sends end well with nobody waiting for that.
    awaits_sent: bool,
    /// See [`Socket::set_patient`].
    is_patient: bool,
    /// See [`Socket::set_laborious`].
    is_laborious: bool,
    abandoned: bool,
}

/// What the ring knows of a socket; operations in flight keep it alive.
pub(super) struct SocketCore {
    ring: Rc<Ring>,
    descriptor: Descriptor,
    state: RefCell<State>,
    /// See [`Socket::keep`].
    kept: RefCell<Option<Box<dyn Any>>>,
}

impl SocketCore {
    pub(super) fn descriptor(&self) -> Descriptor {
        self.descriptor
    }

    /// Nobody holds the socket any more; what is in flight is being cancelled.
    pub(super) fn is_abandoned(&self) -> bool {
        self.state.borrow().abandoned
    }

    fn wake(state: &mut State) {
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    pub(super) fn received_shared(&self, result: i32, buffer: Option<u16>, goes_on: bool) {
        let mut state = self.state.borrow_mut();
        if !goes_on {
            state.receiving = Receiving::Off;
        }
        match (result, buffer) {
            (1.., Some(buffer)) if state.abandoned => self.ring.shared.borrow_mut().give_back(buffer),
            (1.., Some(buffer)) => {
                state.arrived.push_back((buffer, result as u16));
                self.hold_little(&mut state);
            }
            (result, Some(buffer)) => {
                self.ring.shared.borrow_mut().give_back(buffer);
                if result == 0 {
                    state.finished = Some(0);
                }
            }
            (result, None) if result == -libc::ECANCELED => {}
            (result, None) => state.finished = Some(result.min(0)),
        }
        Self::wake(&mut state);
    }

    /// Buffers belong to the whole shard: a socket whose bytes nobody takes keeps none of them.
    fn hold_little(&self, state: &mut State) {
        if let Receiving::Shared(tag) = state.receiving
            && state.arrived.len() >= limits::SHARED_BUFFERS_HELD_MAX
        {
            self.ring.cancel(tag);
            state.receiving = Receiving::Leaving;
        }
        if state.receiving == Receiving::Leaving {
            self.set_aside(state);
        }
    }

    fn set_aside(&self, state: &mut State) {
        let State { arrived, aside, .. } = state;
        for (buffer, size) in arrived.drain(..) {
            aside.extend_from_slice(&SharedBuffer::new(self.ring.clone(), buffer, size));
        }
    }

    pub(super) fn received_owned(&self, buffer: Vec<u8>, result: i32) {
        let mut state = self.state.borrow_mut();
        state.receiving = Receiving::Off;
        state.owned = Some((buffer, result));
        Self::wake(&mut state);
    }

    /// `bytes`: what was picked, if anything came.
    pub(super) fn received_picked(&self, bytes: Option<Vec<u8>>, result: i32) {
        let mut state = self.state.borrow_mut();
        state.receiving = Receiving::Off;
        match bytes {
            Some(bytes) if state.abandoned => self.ring.pool.borrow_mut().give_back(bytes),
            Some(bytes) => {
                state.owned = Some((bytes, result));
                state.is_picked = true;
            }
            // All that were offered were picked in this turn; others are by now.
            None if matches!(-result, libc::ENOBUFS | libc::ECANCELED) => {}
            None => state.finished = Some(result.min(0)),
        }
        Self::wake(&mut state);
    }

    /// No buffer was left. Whether the socket wants one when there is: not if it was leaving anyway.
    pub(super) fn starve(&self) -> bool {
        let mut state = self.state.borrow_mut();
        let wants = state.receiving != Receiving::Leaving;
        state.receiving = if wants { Receiving::Starved } else { Receiving::Off };
        if !wants {
            Self::wake(&mut state);
        }
        wants
    }

    pub(super) fn unstarve(self: &Rc<Self>) {
        let mut state = self.state.borrow_mut();
        if state.receiving == Receiving::Starved {
            state.receiving = Receiving::Off;
            if !state.abandoned {
                let is_once = state.is_patient;
                state.receiving = Receiving::Shared(self.ring.recv_shared(self, is_once));
            }
        }
    }

    /// The wait of a patient socket has ended: bytes came, or it was cancelled. Whether it wants a turn.
    pub(super) fn readable(&self, result: i32) -> bool {
        let mut state = self.state.borrow_mut();
        let wants = result >= 0 && matches!(state.receiving, Receiving::Waiting(_)) && !state.abandoned;
        state.receiving = if wants { Receiving::Ready } else { Receiving::Off };
        if result < 0 && result != -libc::ECANCELED {
            state.finished = Some(result);
        }
        if !wants {
            Self::wake(&mut state);
        }
        wants
    }

    /// The turn of a patient socket has come. For how many it counts; 0: it wants none any more.
    pub(super) fn take_turn(self: &Rc<Self>) -> usize {
        let mut state = self.state.borrow_mut();
        if state.receiving != Receiving::Ready || state.abandoned {
            return 0;
        }
        state.receiving = Receiving::Shared(self.ring.recv_shared(self, true));
        if state.is_laborious { limits::PATIENT_HANDSHAKE } else { 1 }
    }

    pub(super) fn sent(&self, bytes: Outgoing, result: i32) {
        match bytes {
            Outgoing::Own(buffer) => self.ring.pool.borrow_mut().give_back(buffer),
            // The last to let go of it gives it back to the pool.
            Outgoing::Lent { buffer, .. } => drop(buffer),
        }
        let mut state = self.state.borrow_mut();
        state.sending = Sending::Done(outcome(result).map(drop));
        if std::mem::take(&mut state.awaits_sent) || result < 0 {
            Self::wake(&mut state);
        }
    }

    pub(super) fn connected(&self, result: i32) {
        let mut state = self.state.borrow_mut();
        if let Some((_, answer)) = &mut state.connecting {
            *answer = Some(result);
        }
        Self::wake(&mut state);
    }
}

impl Drop for SocketCore {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        for (buffer, _) in state.arrived.drain(..) {
            self.ring.shared.borrow_mut().give_back(buffer);
        }
        match self.descriptor {
            Descriptor::Slot(slot) => self.ring.close_slot(slot),
            // SAFETY: this core is the only owner of the descriptor.
            Descriptor::File(fd) => drop(unsafe { OwnedFd::from_raw_fd(fd) }),
        }
    }
}

/// A connected TCP socket. Dropping it cancels what is in flight and then closes it.
pub struct Socket(Rc<SocketCore>);

impl Socket {
    fn new(ring: &Rc<Ring>, descriptor: Descriptor) -> Socket {
        Socket(Rc::new(SocketCore {
            ring: ring.clone(),
            descriptor,
            state: RefCell::new(State {
                receiving: Receiving::Off,
                sending: Sending::Idle,
                connecting: None,
                arrived: VecDeque::new(),
                aside: Vec::new(),
                owned: None,
                is_picked: false,
                finished: None,
                waker: None,
                awaits_sent: false,
                is_patient: false,
                is_laborious: false,
                abandoned: false,
            }),
            kept: RefCell::default(),
        }))
    }

    /// Takes over an ordinary descriptor and keeps it one.
    pub fn from_file(ring: &Rc<Ring>, fd: OwnedFd) -> Socket {
        Socket::new(ring, Descriptor::File(fd.into_raw_fd()))
    }

    /// Moves an ordinary descriptor into the ring's table; the process no longer counts it as open.
    ///
    /// # Errors
    /// `ENFILE` when the table is full.
    pub fn adopt(ring: &Rc<Ring>, fd: OwnedFd) -> io::Result<Socket> {
        Ok(Socket::new(ring, Descriptor::Slot(ring.adopt(fd)?)))
    }

    /// Keeps `what` until the socket is closed.
    pub fn keep(&self, what: Box<dyn Any>) {
        *self.0.kept.borrow_mut() = Some(what);
    }

    /// The ring that drives this socket.
    pub fn ring(&self) -> &Rc<Ring> {
        &self.0.ring
    }

    /// A second descriptor of the connection under this socket: for moving it to another shard, after
    /// which this one is dropped. `None` for a direct descriptor or while anything is in flight.
    pub fn duplicate(&self) -> Option<OwnedFd> {
        let Descriptor::File(fd) = self.0.descriptor else { return None };
        let state = self.0.state.borrow();
        if state.receiving != Receiving::Off || matches!(state.sending, Sending::InFlight(_)) {
            return None;
        }
        // SAFETY: the descriptor is open; the duplicate, if one was made, is ours alone.
        unsafe {
            let copy = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0);
            (copy >= 0).then(|| OwnedFd::from_raw_fd(copy))
        }
    }

    /// As [`Socket::duplicate`], of a direct descriptor, too: waits until nothing is in flight. `None` where the kernel
    /// makes no ordinary one of it (before Linux 6.8), or when bytes came that nobody took.
    pub async fn portable(&self) -> Option<OwnedFd> {
        let Descriptor::Slot(slot) = self.0.descriptor else { return self.duplicate() };
        std::future::poll_fn(|context| self.poll_left(context)).await;
        let is_sending = self.is_sending() || self.0.state.borrow().finished.is_some();
        if is_sending || !self.is_at_rest() {
            return None;
        }
        let installed = Rc::<Installed>::default();
        self.0.ring.install(&self.0, slot, &installed);
        std::future::poll_fn(|context| installed.poll(context)).await
    }

    /// Waits until the receive into shared buffers has ended.
    fn poll_left(&self, context: &Context<'_>) -> Poll<()> {
        self.leave_shared();
        let mut state = self.0.state.borrow_mut();
        match state.receiving {
            Receiving::Leaving | Receiving::Shared(_) | Receiving::Waiting(_) => {
                remember(&mut state.waker, context);
                Poll::Pending
            }
            Receiving::Off
            | Receiving::Starved
            | Receiving::Owned(_)
            | Receiving::Picked(_)
            | Receiving::Ready => Poll::Ready(()),
        }
    }

    /// Waits until `to` is connected.
    ///
    /// # Errors
    /// What `connect(2)` says.
    pub async fn connect(&self, to: &SocketAddr) -> io::Result<()> {
        let tag = self.0.ring.connect(&self.0, to);
        self.0.state.borrow_mut().connecting = Some((tag, None));
        std::future::poll_fn(|context| {
            let mut state = self.0.state.borrow_mut();
            match state.connecting {
                Some((_, Some(result))) => {
                    state.connecting = None;
                    Poll::Ready(outcome(result).map(drop))
                }
                _ => {
                    remember(&mut state.waker, context);
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Waits for bytes in a buffer of the shard; arms the multishot receive, or the wait of a patient socket,
    /// when it is not armed.
    /// `None` is the end of the stream.
    pub fn poll_recv_shared(&self, context: &Context<'_>) -> Polled<Option<SharedBuffer>> {
        let mut state = self.0.state.borrow_mut();
        debug_assert!(state.aside.is_empty(), "callers ask `is_receiving_owned` first");
        if let Some((buffer, size)) = state.arrived.pop_front() {
            return Poll::Ready(Ok(Some(SharedBuffer::new(self.0.ring.clone(), buffer, size))));
        }
        if let Some(result) = state.finished {
            return Poll::Ready(outcome(result).map(|_| None));
        }
        if state.receiving == Receiving::Off {
            state.receiving = if state.is_patient {
                Receiving::Waiting(self.0.ring.wait_readable(&self.0))
            } else {
                Receiving::Shared(self.0.ring.recv_shared(&self.0, false))
            };
        }
        remember(&mut state.waker, context);
        Poll::Pending
    }

    /// Waits for bytes behind what `buffer` holds; the buffer is away while the receive is in
    /// flight and comes back with its answer. Gives the bytes added; 0 is the end of the stream.
    /// A multishot receive is left first.
    pub fn poll_recv_owned(&self, context: &Context<'_>, buffer: &mut Vec<u8>) -> Polled<usize> {
        let mut state = self.0.state.borrow_mut();
        if let Some((mut done, result)) = state.owned.take() {
            if std::mem::take(&mut state.is_picked) {
                drop(state);
                buffer.extend_from_slice(&done[limits::RESEAL_HEADROOM..]);
                self.0.ring.pool.borrow_mut().give_back(done);
                return Poll::Ready(outcome(result));
            }
            debug_assert!(buffer.is_empty(), "the buffer was away");
            std::mem::swap(buffer, &mut done);
            if result <= 0 && result != -libc::ECANCELED {
                state.finished = Some(result);
            }
            return Poll::Ready(outcome(result));
        }
        if !state.aside.is_empty() {
            let size = state.aside.len();
            buffer.append(&mut state.aside);
            state.aside = Vec::new();
            return Poll::Ready(Ok(size));
        }
        if let Some((shared, size)) = state.arrived.pop_front() {
            drop(state);
            let bytes = SharedBuffer::new(self.0.ring.clone(), shared, size);
            buffer.extend_from_slice(&bytes);
            return Poll::Ready(Ok(usize::from(size)));
        }
        if let Some(result) = state.finished {
            return Poll::Ready(outcome(result));
        }
        match state.receiving {
            Receiving::Off => {
                if buffer.capacity() == buffer.len() {
                    buffer.reserve(limits::TRANSFER_BUFFER_SIZE);
                }
                let tag = self.0.ring.recv_owned(&self.0, std::mem::take(buffer));
                state.receiving = Receiving::Owned(tag);
            }
            Receiving::Shared(tag) | Receiving::Waiting(tag) => {
                self.0.ring.cancel(tag);
                state.receiving = Receiving::Leaving;
            }
            Receiving::Starved | Receiving::Ready => {
                // Nothing is in flight; the ring forgets it when its turn comes.
                state.receiving = Receiving::Off;
                drop(state);
                return self.poll_recv_owned(context, buffer);
            }
            Receiving::Leaving | Receiving::Owned(_) | Receiving::Picked(_) => {}
        }
        remember(&mut state.waker, context);
        Poll::Pending
    }

    /// Waits for bytes in a buffer for a transfer, behind [`limits::RESEAL_HEADROOM`] bytes of room; none is
    /// held while there are no bytes. `None` is the end of the stream. Callers ask [`Ring::can_pick`] first.
    pub fn poll_recv_picked(&self, context: &Context<'_>) -> Polled<Option<Vec<u8>>> {
        let mut state = self.0.state.borrow_mut();
        if state.is_picked
            && let Some((bytes, _)) = state.owned.take()
        {
            state.is_picked = false;
            return Poll::Ready(Ok(Some(bytes)));
        }
        if let Some(result) = state.finished {
            return Poll::Ready(outcome(result).map(|_| None));
        }
        if state.receiving == Receiving::Off {
            state.receiving = Receiving::Picked(self.0.ring.recv_picked(&self.0));
        }
        remember(&mut state.waker, context);
        Poll::Pending
    }

    /// Whether what comes on this socket may wait for what comes on others: it waits until there are bytes,
    /// which tells the ring little and costs it no buffer, and receives them when the ring gives it a turn
    /// ([`Ring::take_turns`]), as many in each as a shared buffer takes. So thousands of notifications that come
    /// at once do not stand before requests.
    pub fn set_patient(&self, is_patient: bool) {
        let mut state = self.0.state.borrow_mut();
        if std::mem::replace(&mut state.is_patient, is_patient) == is_patient {
            return;
        }
        match state.receiving {
            Receiving::Shared(tag) | Receiving::Waiting(tag) => {
                self.0.ring.cancel(tag);
                state.receiving = Receiving::Leaving;
            }
            Receiving::Ready => state.receiving = Receiving::Off,
            Receiving::Off
            | Receiving::Leaving
            | Receiving::Starved
            | Receiving::Owned(_)
            | Receiving::Picked(_) => {}
        }
    }

    /// Whether what comes on this patient socket costs as much as a step of a handshake: then fewer such go on
    /// in one turn.
    pub fn set_laborious(&self, is_laborious: bool) {
        self.0.state.borrow_mut().is_laborious = is_laborious;
    }

    /// Whether something came that waits for its turn, or is being received in it.
    pub fn awaits_turn(&self) -> bool {
        let state = self.0.state.borrow();
        let in_its_turn = matches!(state.receiving, Receiving::Shared(_) | Receiving::Starved);
        state.receiving == Receiving::Ready || state.is_patient && in_its_turn
    }

    /// Whether nothing is under way and nothing has come.
    pub fn is_at_rest(&self) -> bool {
        let state = self.0.state.borrow();
        let nothing_came = state.arrived.is_empty() && state.aside.is_empty() && state.owned.is_none();
        state.receiving == Receiving::Off && nothing_came
    }

    /// Whether a receive is under way, or has brought bytes, that [`Socket::poll_recv_picked`] takes.
    pub fn is_receiving_picked(&self) -> bool {
        let state = self.0.state.borrow();
        matches!(state.receiving, Receiving::Picked(_)) || state.is_picked
    }

    /// Whether the next bytes come by [`Socket::poll_recv_owned`]: a buffer of the caller is away in an
    /// owned receive, or bytes were set aside.
    pub fn is_receiving_owned(&self) -> bool {
        let state = self.0.state.borrow();
        matches!(state.receiving, Receiving::Owned(_))
            || state.owned.is_some() && !state.is_picked
            || !state.aside.is_empty()
    }

    /// Ends the multishot receive, so that a flooding peer fills its own window and no more of ours,
    /// and keeps no shared buffer.
    pub fn leave_shared(&self) {
        let mut state = self.0.state.borrow_mut();
        self.0.set_aside(&mut state);
        match state.receiving {
            Receiving::Shared(tag) | Receiving::Waiting(tag) => {
                self.0.ring.cancel(tag);
                state.receiving = Receiving::Leaving;
            }
            // Nothing is in flight; the ring forgets it when its turn comes.
            Receiving::Starved | Receiving::Ready => state.receiving = Receiving::Off,
            Receiving::Off | Receiving::Leaving | Receiving::Owned(_) | Receiving::Picked(_) => {}
        }
    }

    /// Starts to send `bytes`, whose buffer goes back to the shard's pool afterwards.
    ///
    /// # Panics
    /// When a send is in flight: callers ask [`Socket::poll_sent`] first.
    pub fn send(&self, bytes: impl Into<Outgoing>) {
        let mut state = self.0.state.borrow_mut();
        assert!(!matches!(state.sending, Sending::InFlight(_)), "one send at a time");
        state.sending = Sending::InFlight(self.0.ring.send(&self.0, bytes.into()));
    }

    /// Whether a send is in flight.
    pub fn is_sending(&self) -> bool {
        matches!(self.0.state.borrow().sending, Sending::InFlight(_))
    }

    /// Waits until no send is in flight.
    pub fn poll_sent(&self, context: &Context<'_>) -> Polled<()> {
        let mut state = self.0.state.borrow_mut();
        match std::mem::replace(&mut state.sending, Sending::Idle) {
            Sending::Idle => Poll::Ready(Ok(())),
            Sending::Done(result) => Poll::Ready(result),
            Sending::InFlight(tag) => {
                state.sending = Sending::InFlight(tag);
                remember(&mut state.waker, context);
                self.await_sent(&mut state);
                Poll::Pending
            }
        }
    }

    fn await_sent(&self, state: &mut State) {
        state.awaits_sent = true;
        // A quick send ends in the call that submits it: that must not be the one that sleeps.
        self.0.ring.press();
    }

    /// Whoever waits on this socket is woken, too, when the send in flight has ended, if there is one.
    pub fn want_sent(&self) {
        let mut state = self.0.state.borrow_mut();
        if matches!(state.sending, Sending::InFlight(_)) {
            self.await_sent(&mut state);
        }
    }

    /// Asks to be woken at whatever happens next, except a send that ends well: see
    /// [`Socket::want_sent`].
    pub fn watch(&self, context: &Context<'_>) {
        remember(&mut self.0.state.borrow_mut().waker, context);
    }

    /// Tells the peer that nothing more will be sent.
    pub fn shutdown(&self) {
        self.0.ring.shutdown(&self.0);
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut state = self.0.state.borrow_mut();
        state.abandoned = true;
        state.waker = None;
        let receiving = match state.receiving {
            Receiving::Shared(tag)
            | Receiving::Owned(tag)
            | Receiving::Picked(tag)
            | Receiving::Waiting(tag) => Some(tag),
            Receiving::Off | Receiving::Leaving | Receiving::Starved | Receiving::Ready => None,
        };
        let sending = match state.sending {
            Sending::InFlight(tag) => Some(tag),
            Sending::Idle | Sending::Done(_) => None,
        };
        let connecting = match state.connecting {
            Some((tag, None)) => Some(tag),
            _ => None,
        };
        drop(state);
        for tag in [receiving, sending, connecting].into_iter().flatten() {
            self.0.ring.cancel(tag);
        }
    }
}

/// An ordinary descriptor that is being made of a direct one; closed with this if nobody takes it.
#[derive(Default)]
pub(super) struct Installed {
    made: RefCell<Option<Option<OwnedFd>>>,
    waker: RefCell<Option<Waker>>,
}

impl Installed {
    pub(super) fn end(&self, result: i32) {
        // SAFETY: the kernel made this descriptor just now, for nobody else.
        let made = (result >= 0).then(|| unsafe { OwnedFd::from_raw_fd(result) });
        *self.made.borrow_mut() = Some(made);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    fn poll(&self, context: &Context<'_>) -> Poll<Option<OwnedFd>> {
        if let Some(made) = self.made.borrow_mut().take() {
            return Poll::Ready(made);
        }
        remember(&mut self.waker.borrow_mut(), context);
        Poll::Pending
    }
}

// ── listening ───────────────────────────────────────────────────────────────────────────────────

struct Listening {
    armed: usize,
    accepted: VecDeque<(Socket, SocketAddr)>,
    failed: Option<i32>,
    waker: Option<Waker>,
}

/// What the ring knows of a listener.
pub(super) struct ListenerCore {
    fd: OwnedFd,
    direct: bool,
    state: RefCell<Listening>,
    burst: Cell<usize>,
}

impl ListenerCore {
    pub(super) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub(super) fn is_direct(&self) -> bool {
        self.direct
    }

    pub(super) fn accepted(&self, ring: &Rc<Ring>, result: i32, from: Option<SocketAddr>) {
        let mut state = self.state.borrow_mut();
        state.armed -= 1;
        if result < 0 {
            // A client that left before it was accepted is nobody's failure.
            if !matches!(-result, libc::ECONNABORTED | libc::EINTR | libc::EAGAIN | libc::ECANCELED) {
                state.failed = Some(result);
            }
        } else {
            let descriptor =
                if self.direct { Descriptor::Slot(result as u32) } else { Descriptor::File(result) };
            let socket = Socket::new(ring, descriptor);
            if let Some(from) = from {
                state.accepted.push_back((socket, from));
            }
        }
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}

/// A listening socket with a number of accepts armed, each with room for the peer's address.
pub struct Listener {
    ring: Rc<Ring>,
    core: Rc<ListenerCore>,
}

impl Listener {
    /// Accepts on `fd`; `direct` gives direct descriptors.
    pub fn new(ring: &Rc<Ring>, fd: OwnedFd, direct: bool) -> Listener {
        let state = Listening { armed: 0, accepted: VecDeque::new(), failed: None, waker: None };
        let core = Rc::new(ListenerCore { fd, direct, state: RefCell::new(state), burst: Cell::new(2) });
        Listener { ring: ring.clone(), core }
    }

    /// Accepts armed and not answered yet.
    pub fn armed(&self) -> usize {
        self.core.state.borrow().armed
    }

    /// Accepts armed, and connections accepted that nobody took yet.
    pub fn pending(&self) -> usize {
        let state = self.core.state.borrow();
        state.armed + state.accepted.len()
    }

    /// Arms one more accept.
    pub fn arm(&self) {
        self.core.state.borrow_mut().armed += 1;
        self.ring.accept(&self.core);
    }

    /// Takes back the accepts that are armed. What they brought before that is there as ever, and they are armed until
    /// they have been answered.
    pub fn disarm(&self) {
        if self.armed() > 0 {
            self.ring.cancel_accepts(self.core.fd());
        }
    }

    /// How many accepts are worth arming: few at rest, so that the shards of a process take turns at
    /// the one backlog; doubled while all that were armed are used up at once.
    pub fn worth_arming(&self) -> usize {
        let burst = self.core.burst.get();
        let next = if self.armed() == 0 { (burst * 2).min(limits::ACCEPTS_ARMED_MAX) } else { 2 };
        self.core.burst.set(next);
        next
    }

    /// Waits for the next connection.
    pub fn poll_accept(&self, context: &Context<'_>) -> Polled<(Socket, SocketAddr)> {
        let mut state = self.core.state.borrow_mut();
        if let Some(next) = state.accepted.pop_front() {
            return Poll::Ready(Ok(next));
        }
        if let Some(failed) = state.failed.take() {
            return Poll::Ready(Err(io::Error::from_raw_os_error(-failed)));
        }
        remember(&mut state.waker, context);
        Poll::Pending
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.disarm();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "socket_tests.rs"]
mod tests;
