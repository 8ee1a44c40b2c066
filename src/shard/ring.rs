//! The shard's io_uring: what is in flight, and who is told when it ends.
//!
//! A ring belongs to one thread. Every operation owns the memory the kernel may touch (buffers,
//! addresses) and keeps its socket alive until its last completion; so a task may drop a socket at
//! any time, and the socket is closed only when nothing is in flight. What bytes mean belongs to
//! `transport/`.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use slab::Slab;

use super::buffers::{Outgoing, PickedBuffers, Pool, SharedBuffers};
use super::socket::{Installed, ListenerCore, SocketCore};
use crate::limits;

/// An operation in flight, with all memory that the kernel may touch until its last completion.
pub(super) enum Op {
    /// Receives into shared buffers: again and again, or once where the socket is patient.
    RecvShared { socket: Rc<SocketCore> },
    /// Waits until there is something to receive.
    Readable { socket: Rc<SocketCore> },
    /// Receives once into the spare room of a buffer.
    RecvOwned { socket: Rc<SocketCore>, buffer: Vec<u8> },
    /// Receives once into a buffer for a transfer that is picked when there are bytes.
    RecvPicked { socket: Rc<SocketCore> },
    /// Sends `bytes[at..]`; `quick` ends without a completion, see [`Ring::end_quick_sends`].
    Send { socket: Rc<SocketCore>, bytes: Outgoing, at: usize, quick: bool },
    /// Accepts one connection.
    Accept { listener: Rc<ListenerCore>, address: Box<Address> },
    /// Connects a socket.
    Connect { socket: Rc<SocketCore>, address: Box<Address> },
    /// Shuts the sending side down.
    Shutdown { socket: Rc<SocketCore> },
    /// Waits until another shard or thread writes to the eventfd.
    Wake { _count: Box<u64> },
    /// Makes an ordinary descriptor beside a direct one.
    Install { _socket: Rc<SocketCore>, installed: Rc<Installed> },
    /// Closes a direct descriptor; its slot is free afterwards.
    CloseSlot { slot: u32 },
    /// Cancels another operation; only the other one's completion matters.
    Cancel,
}

/// A socket address as the kernel reads and writes it.
pub(super) struct Address {
    pub storage: libc::sockaddr_storage,
    pub length: libc::socklen_t,
}

impl Address {
    fn empty() -> Box<Address> {
        // SAFETY: sockaddr_storage is plain old data; all zeros is a valid value.
        let storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        Box::new(Address { storage, length: size_of::<libc::sockaddr_storage>() as libc::socklen_t })
    }

    fn of(address: &SocketAddr) -> Box<Address> {
        let from = socket2::SockAddr::from(*address);
        let mut boxed = Address::empty();
        boxed.length = from.len();
        // SAFETY: both are at least `from.len()` bytes of plain old data and do not overlap.
        unsafe {
            std::ptr::copy_nonoverlapping(
                from.as_ptr().cast::<u8>(),
                (&raw mut boxed.storage).cast::<u8>(),
                from.len() as usize,
            );
        }
        boxed
    }

    fn read(&self) -> Option<SocketAddr> {
        // SAFETY: `storage` holds what the kernel wrote and its family says how to read it.
        unsafe {
            match i32::from(self.storage.ss_family) {
                libc::AF_INET => {
                    let v4 = &*(&raw const self.storage).cast::<libc::sockaddr_in>();
                    let ip = u32::from_be(v4.sin_addr.s_addr);
                    Some(SocketAddr::from((std::net::Ipv4Addr::from(ip), u16::from_be(v4.sin_port))))
                }
                libc::AF_INET6 => {
                    let v6 = &*(&raw const self.storage).cast::<libc::sockaddr_in6>();
                    let ip = std::net::Ipv6Addr::from(v6.sin6_addr.s6_addr);
                    Some(SocketAddr::from((ip.to_canonical(), u16::from_be(v6.sin6_port))))
                }
                _ => None,
            }
        }
    }
}

/// What [`Ring::take_turns`] did.
pub struct Turns {
    /// How many went on.
    pub taken: usize,
    /// One at a time, for there are others who do not wait.
    pub gently: bool,
}

/// Who may wait for others.
enum Patient {
    /// It has something to receive.
    Socket(Weak<SocketCore>),
    /// Something came for it.
    Task(Waker),
}

impl Patient {
    /// Gives it its turn; for how many it counts, 0 where there was nobody to take it.
    fn go_on(self) -> usize {
        match self {
            Patient::Task(waker) => {
                waker.wake();
                1
            }
            Patient::Socket(socket) => socket.upgrade().map_or(0, |socket| socket.take_turn()),
        }
    }
}

struct InFlight {
    generation: u32,
    op: Op,
}

/// Counts that the ring keeps for `/metrics` and benchmarks.
#[derive(Default)]
pub struct RingCounts {
    /// Calls of io_uring_enter.
    pub enters: Cell<u64>,
    /// Completions dispatched.
    pub completions: Cell<u64>,
    /// Multishot receives that found no shared buffer.
    pub starved: Cell<u64>,
    /// Completions whose generation did not fit: a mistake of ours.
    pub stale: Cell<u64>,
}

/// One io_uring and everything in flight on it.
pub struct Ring {
    uring: RefCell<IoUring>,
    flight: RefCell<Slab<InFlight>>,
    generation: Cell<u32>,
    backlog: RefCell<VecDeque<squeue::Entry>>,
    /// Entries ever put into the submission queue.
    queued: Cell<u64>,
    /// Quick sends under way: their tags, and how many entries were queued before each.
    quick: RefCell<VecDeque<(u64, u64)>>,
    /// Something was queued that moves much, or for whose end a task waits: it is not kept back.
    pressed: Cell<bool>,
    pub(super) shared: RefCell<SharedBuffers>,
    /// Made with the first receive that needs them.
    picked: RefCell<Option<PickedBuffers>>,
    /// The kernel did not take them.
    picks_nothing: Cell<bool>,
    /// Vectors for messages and transfers.
    pub pool: RefCell<Pool>,
    starved: RefCell<VecDeque<Weak<SocketCore>>>,
    /// Who may wait for others, in the order in which they came.
    patient: RefCell<VecDeque<Patient>>,
    /// See [`Ring::note_urgent`].
    urgent: Cell<Instant>,
    free_slots: RefCell<Vec<u32>>,
    slots: u32,
    slots_used: Cell<u32>,
    wake: OwnedFd,
    now: Cell<Instant>,
    /// What happened so far.
    pub counts: RingCounts,
}

/// Who chooses the slots of the direct-descriptor table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Slots {
    /// The kernel, at each direct accept (a gateway).
    ByAccept,
    /// This ring, for sockets that it dials (a connector).
    ByRing,
}

impl Ring {
    /// Makes the ring of this thread with `slots` direct descriptors.
    ///
    /// # Errors
    /// What the kernel says; `probe::explain` turns it into a remedy.
    pub fn new(slots: u32, owner: Slots) -> io::Result<Rc<Ring>> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_cqsize(limits::COMPLETIONS)
            .build(limits::SUBMISSIONS)?;
        uring.submitter().register_files_sparse(slots)?;
        let shared = SharedBuffers::new(limits::SHARED_BUFFER_COUNT, limits::SHARED_BUFFER_SIZE)?;
        // SAFETY: the ring memory lives in `shared`, which `Ring` drops after `uring` is gone
        // (see `Drop`), so it stays valid for as long as the kernel may use it.
        unsafe {
            uring.submitter().register_buf_ring_with_flags(
                shared.ring_address(),
                limits::SHARED_BUFFER_COUNT,
                SHARED_GROUP,
                0,
            )?;
        }
        // SAFETY: eventfd gives a new descriptor that nobody else owns.
        let wake = unsafe {
            let fd = libc::eventfd(0, libc::EFD_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        let free_slots = match owner {
            Slots::ByAccept => Vec::new(),
            Slots::ByRing => (0..slots).rev().collect(),
        };
        let ring = Rc::new(Ring {
            uring: RefCell::new(uring),
            flight: RefCell::new(Slab::new()),
            generation: Cell::new(0),
            backlog: RefCell::new(VecDeque::new()),
            queued: Cell::new(0),
            quick: RefCell::new(VecDeque::new()),
            pressed: Cell::new(false),
            shared: RefCell::new(shared),
            picked: RefCell::default(),
            picks_nothing: Cell::new(false),
            pool: RefCell::new(Pool::default()),
            starved: RefCell::new(VecDeque::new()),
            patient: RefCell::new(VecDeque::new()),
            urgent: Cell::new(Instant::now()),
            free_slots: RefCell::new(free_slots),
            slots,
            slots_used: Cell::new(0),
            wake,
            now: Cell::new(Instant::now()),
            counts: RingCounts::default(),
        });
        ring.listen_for_wakes();
        Ok(ring)
    }

    /// The time of this turn.
    pub fn now(&self) -> Instant {
        self.now.get()
    }

    /// Direct descriptors: used now, and in all.
    pub fn slots(&self) -> (u32, u32) {
        (self.slots_used.get(), self.slots)
    }

    /// The descriptor that wakes this ring's driver; the mesh writes to it.
    pub fn wake_fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    /// Operations in flight.
    pub fn in_flight(&self) -> usize {
        self.flight.borrow().len()
    }

    // ── submission ──────────────────────────────────────────────────────────────────────────────

    pub(super) fn start(&self, op: Op, entry: squeue::Entry) -> u64 {
        let generation = self.generation.get().wrapping_add(1);
        self.generation.set(generation);
        let key = self.flight.borrow_mut().insert(InFlight { generation, op });
        let tag = tag(key, generation);
        self.push(entry.user_data(tag));
        tag
    }

    fn push(&self, entry: squeue::Entry) {
        if !self.backlog.borrow().is_empty() || !self.try_push(&entry) {
            self.backlog.borrow_mut().push_back(entry);
        }
    }

    fn try_push(&self, entry: &squeue::Entry) -> bool {
        // SAFETY: the memory that `entry` names is owned by its `Op` until the last completion.
        let pushed = unsafe { self.uring.borrow_mut().submission().push(entry) }.is_ok();
        self.queued.set(self.queued.get() + u64::from(pushed));
        pushed
    }

    /// What is queued goes to the kernel before the driver lets tasks run on.
    pub(super) fn press(&self) {
        self.pressed.set(true);
    }

    /// Whether something queued must not be kept back.
    pub fn is_pressed(&self) -> bool {
        self.pressed.get()
    }

    pub(super) fn cancel(&self, tag: u64) {
        self.start(Op::Cancel, opcode::AsyncCancel::new(tag).build());
    }

    /// Receives into shared buffers, again and again or, if `is_once`, what there is now.
    pub(super) fn recv_shared(self: &Rc<Self>, socket: &Rc<SocketCore>, is_once: bool) -> u64 {
        let entry = match (socket.descriptor(), is_once) {
            (Descriptor::Slot(slot), false) => {
                opcode::RecvMulti::new(types::Fixed(slot), SHARED_GROUP).build()
            }
            (Descriptor::File(fd), false) => opcode::RecvMulti::new(types::Fd(fd), SHARED_GROUP).build(),
            (descriptor, true) => recv_once_entry(descriptor, SHARED_GROUP),
        };
        self.start(Op::RecvShared { socket: socket.clone() }, entry)
    }

    pub(super) fn wait_readable(self: &Rc<Self>, socket: &Rc<SocketCore>) -> u64 {
        let events = (libc::POLLIN | libc::POLLRDHUP) as u32;
        let entry = match socket.descriptor() {
            Descriptor::Slot(slot) => opcode::PollAdd::new(types::Fixed(slot), events).build(),
            Descriptor::File(fd) => opcode::PollAdd::new(types::Fd(fd), events).build(),
        };
        self.start(Op::Readable { socket: socket.clone() }, entry)
    }

    pub(super) fn recv_owned(self: &Rc<Self>, socket: &Rc<SocketCore>, mut buffer: Vec<u8>) -> u64 {
        let spare = buffer.spare_capacity_mut();
        let (pointer, length) = (spare.as_mut_ptr().cast::<u8>(), spare.len() as u32);
        let entry = match socket.descriptor() {
            Descriptor::Slot(slot) => opcode::Recv::new(types::Fixed(slot), pointer, length).build(),
            Descriptor::File(fd) => opcode::Recv::new(types::Fd(fd), pointer, length).build(),
        };
        self.press();
        self.start(Op::RecvOwned { socket: socket.clone(), buffer }, entry)
    }

    /// Receives once, into a buffer that is picked when there are bytes. [`Ring::can_pick`] was asked before.
    pub(super) fn recv_picked(self: &Rc<Self>, socket: &Rc<SocketCore>) -> u64 {
        let entry = recv_once_entry(socket.descriptor(), PICKED_GROUP);
        self.start(Op::RecvPicked { socket: socket.clone() }, entry)
    }

    /// Whether there are buffers that the kernel picks from: it is asked to take them once.
    pub fn can_pick(&self) -> bool {
        let is_known = self.picked.borrow().is_some() || self.picks_nothing.get();
        if !is_known {
            self.picks_nothing.set(self.offer_picked().is_err());
        }
        !self.picks_nothing.get()
    }

    fn offer_picked(&self) -> io::Result<()> {
        let buffers = PickedBuffers::new(&mut self.pool.borrow_mut())?;
        let (address, count) = (buffers.ring_address(), limits::PICKED_BUFFER_COUNT);
        // SAFETY: the memory goes into `picked`; `Drop` takes the list from the kernel before that goes.
        unsafe {
            let uring = self.uring.borrow();
            uring.submitter().register_buf_ring_with_flags(address, count, PICKED_GROUP, 0)?;
        }
        *self.picked.borrow_mut() = Some(buffers);
        Ok(())
    }

    pub(super) fn send(self: &Rc<Self>, socket: &Rc<SocketCore>, bytes: Outgoing) -> u64 {
        let descriptor = socket.descriptor();
        let is_small = bytes.bytes().len() <= limits::QUICK_SEND_SIZE_MAX;
        // In the backlog nobody could tell when it was submitted.
        let quick = is_small && self.backlog.borrow().is_empty() && self.has_room();
        if !is_small {
            self.press();
        }
        let entry = if quick { quick_send_entry } else { send_entry }(descriptor, bytes.bytes());
        let before = self.queued.get();
        let tag = self.start(Op::Send { socket: socket.clone(), bytes, at: 0, quick }, entry);
        if quick {
            self.quick.borrow_mut().push_back((tag, before));
        }
        tag
    }

    fn has_room(&self) -> bool {
        !self.uring.borrow_mut().submission().is_full()
    }

    pub(super) fn connect(self: &Rc<Self>, socket: &Rc<SocketCore>, to: &SocketAddr) -> u64 {
        let address = Address::of(to);
        let (pointer, length) = ((&raw const address.storage).cast(), address.length);
        let entry = match socket.descriptor() {
            Descriptor::Slot(slot) => opcode::Connect::new(types::Fixed(slot), pointer, length).build(),
            Descriptor::File(fd) => opcode::Connect::new(types::Fd(fd), pointer, length).build(),
        };
        self.start(Op::Connect { socket: socket.clone(), address }, entry)
    }

    pub(super) fn accept(self: &Rc<Self>, listener: &Rc<ListenerCore>) -> u64 {
        let mut address = Address::empty();
        let (storage, length) = ((&raw mut address.storage).cast(), &raw mut address.length);
        let accept = opcode::Accept::new(types::Fd(listener.fd()), storage, length);
        let entry = if listener.is_direct() {
            accept.file_index(Some(types::DestinationSlot::auto_target())).build()
        } else {
            accept.flags(libc::SOCK_CLOEXEC).build()
        };
        self.start(Op::Accept { listener: listener.clone(), address }, entry)
    }

    pub(super) fn shutdown(self: &Rc<Self>, socket: &Rc<SocketCore>) {
        let how = libc::SHUT_WR;
        let entry = match socket.descriptor() {
            Descriptor::Slot(slot) => opcode::Shutdown::new(types::Fixed(slot), how).build(),
            Descriptor::File(fd) => opcode::Shutdown::new(types::Fd(fd), how).build(),
        };
        self.start(Op::Shutdown { socket: socket.clone() }, entry);
    }

    /// Takes back every accept armed on this listening descriptor.
    pub(super) fn cancel_accepts(&self, fd: RawFd) {
        let all = types::CancelBuilder::fd(types::Fd(fd)).all();
        self.start(Op::Cancel, opcode::AsyncCancel2::new(all).build());
    }

    /// Moves an ordinary descriptor into the table of direct ones and closes the ordinary one.
    ///
    /// # Errors
    /// `ENFILE` when the table is full, else what the kernel says.
    pub(super) fn adopt(&self, fd: OwnedFd) -> io::Result<u32> {
        let slot =
            self.free_slots.borrow_mut().pop().ok_or_else(|| io::Error::from_raw_os_error(libc::ENFILE))?;
        let done = self.uring.borrow().submitter().register_files_update(slot, &[fd.as_raw_fd()]);
        if let Err(error) = done {
            self.free_slots.borrow_mut().push(slot);
            return Err(error);
        }
        self.slots_used.set(self.slots_used.get() + 1);
        Ok(slot)
    }

    /// Makes an ordinary descriptor of the direct one in `slot`, which stays. Linux 6.8.
    pub(super) fn install(&self, socket: &Rc<SocketCore>, slot: u32, installed: &Rc<Installed>) {
        let entry = opcode::FixedFdInstall::new(types::Fixed(slot), 0).build();
        self.start(Op::Install { _socket: socket.clone(), installed: installed.clone() }, entry);
    }

    pub(super) fn close_slot(&self, slot: u32) {
        self.start(Op::CloseSlot { slot }, opcode::Close::new(types::Fixed(slot)).build());
    }

    // ── the driver's turn ───────────────────────────────────────────────────────────────────────

    /// Begins a turn: tells who waited for what has completed; gives how much that was.
    pub fn deliver(self: &Rc<Self>) -> usize {
        self.now.set(Instant::now());
        let done = self.dispatch() + self.end_quick_sends() + self.feed_starved();
        if self.patient.borrow().is_empty() { done } else { done + self.hear_out() }
    }

    /// Hears the kernel out while somebody patient waits: what it has to say comes in the order in which it
    /// happened, twenty at a time (Linux 6.18), and what is urgent may stand behind thousands that are not.
    /// What is queued leaves meanwhile: it may be the end of a receive by which a peer floods the shard.
    fn hear_out(self: &Rc<Self>) -> usize {
        let mut done = 0;
        while done < limits::HEAR_OUT_MAX && !self.shared.borrow().is_scarce() {
            let is_due = self.uring.borrow_mut().submission().taskrun();
            // A ring that is broken says so again in the call that ends the turn.
            if !is_due || self.submit().is_err() {
                break;
            }
            let heard = self.dispatch() + self.end_quick_sends();
            if heard == 0 {
                break;
            }
            done += heard;
        }
        done
    }

    /// Whether receives that found no buffer can go on: buffers came back since.
    pub fn can_feed(&self) -> bool {
        !self.starved.borrow().is_empty() && self.shared.borrow().free() > 0
    }

    // ── who may wait ────────────────────────────────────────────────────────────────────────────

    /// Wakes `waker` when its turn comes: see [`Ring::take_turns`].
    pub fn wake_patient(&self, waker: Waker) {
        self.put_off(Patient::Task(waker));
    }

    /// Who comes when the bound is reached goes on at once.
    fn put_off(&self, who: Patient) {
        let has_room = self.patient.borrow().len() < limits::PATIENT_MAX;
        if has_room {
            self.patient.borrow_mut().push_back(who);
        } else {
            who.go_on();
        }
    }

    /// Waits for a turn: see [`Ring::take_turns`].
    pub async fn turn(&self) {
        let mut has_waited = false;
        std::future::poll_fn(|context| {
            if std::mem::replace(&mut has_waited, true) {
                return Poll::Ready(());
            }
            self.wake_patient(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Whether somebody patient waits for a turn.
    pub fn has_patient(&self) -> bool {
        !self.patient.borrow().is_empty()
    }

    /// A request was begun that does not wait for others. For a while those who do then go one by one.
    pub fn note_urgent(&self) {
        self.urgent.set(self.now.get());
    }

    /// Lets some of those go on who may wait for others, the first who came first: many together, or one when
    /// there are others.
    pub fn take_turns(self: &Rc<Self>) -> Turns {
        if self.patient.borrow().is_empty() {
            return Turns { taken: 0, gently: false };
        }
        let gently = self.now.get().duration_since(self.urgent.get()) < limits::URGENT_WITHIN;
        let mut left = if gently { 1 } else { limits::PATIENT_PER_TURN };
        let mut taken = 0;
        while left > 0 {
            let Some(next) = self.patient.borrow_mut().pop_front() else { break };
            let count = next.go_on();
            taken += usize::from(count > 0);
            left = left.saturating_sub(count);
        }
        Turns { taken, gently }
    }

    /// Gives to the kernel what is queued, and has it bring what completed meanwhile.
    ///
    /// # Errors
    /// Only what cannot be waited out: the ring is broken.
    pub fn submit(&self) -> io::Result<()> {
        loop {
            let is_pressed = self.is_pressed();
            let (queued, due) = self.prepare();
            if queued == 0 && !due {
                return Ok(());
            }
            // SAFETY: no argument is passed; entries own their memory.
            let entered = unsafe { self.uring.borrow().submitter().enter::<()>(queued, 0, GET_EVENTS, None) };
            if is_pressed && !entered.as_ref().is_ok_and(|taken| *taken >= queued as usize) {
                // What somebody waits for may be among the rest: the driver must not sleep on it.
                self.press();
            }
            match entered {
                Ok(_) if self.backlog.borrow().is_empty() => return Ok(()),
                Ok(_) => {}
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR | libc::EBUSY | libc::EAGAIN) => return Ok(()),
                    _ => return Err(error),
                },
            }
        }
    }

    /// Before the kernel is entered: as much of the backlog as there is room for. Gives how many entries
    /// are queued, and whether the kernel has work to do for earlier ones.
    fn prepare(&self) -> (u32, bool) {
        let mut backlog = self.backlog.borrow_mut();
        while let Some(entry) = backlog.front() {
            if !self.try_push(entry) {
                break;
            }
            backlog.pop_front();
        }
        self.pressed.set(false);
        let mut uring = self.uring.borrow_mut();
        let mut queue = uring.submission();
        queue.sync();
        let (queued, due) = (queue.len() as u32, queue.taskrun());
        if queued > 0 || due {
            self.counts.enters.set(self.counts.enters.get() + 1);
        }
        (queued, due)
    }

    fn dispatch(self: &Rc<Self>) -> usize {
        let mut done = 0;
        loop {
            let mut batch = [const { MaybeUninit::<cqueue::Entry>::uninit() }; 64];
            let mut uring = self.uring.borrow_mut();
            let batch = uring.completion().fill(&mut batch);
            drop(uring);
            let count = batch.len();
            for completion in batch {
                self.complete(completion.user_data(), completion.result(), completion.flags());
            }
            done += count;
            if count < 64 {
                break;
            }
        }
        self.counts.completions.set(self.counts.completions.get() + done as u64);
        done
    }

    /// Ends the quick sends that the kernel took and said nothing about: those left whole.
    ///
    /// A quick send neither waits in the kernel (`MSG_DONTWAIT`) nor says that it went well
    /// (`IOSQE_CQE_SKIP_SUCCESS`). So it has ended when the call returns that submitted it; what became of
    /// less than all its bytes (`MSG_WAITALL`) stands in the completion queue by then, unless that
    /// overflowed. That queue was emptied before: a send that came to nothing is no longer quick.
    fn end_quick_sends(self: &Rc<Self>) -> usize {
        if self.quick.borrow().is_empty() {
            return 0;
        }
        let (left, overflowed) = {
            let mut uring = self.uring.borrow_mut();
            let queue = uring.submission();
            (queue.len() as u64, queue.cq_overflow())
        };
        if overflowed {
            return 0;
        }
        let (taken, mut ended) = (self.queued.get() - left, 0);
        loop {
            let next = self.quick.borrow_mut().pop_front_if(|(_, before)| *before < taken);
            let Some((tag, _)) = next else { return ended };
            ended += usize::from(self.end_quick_send(tag));
        }
    }

    fn end_quick_send(self: &Rc<Self>, tag: u64) -> bool {
        let (key, generation) = untag(tag);
        let mut flight = self.flight.borrow_mut();
        let is_under_way = flight.get(key).is_some_and(|held| {
            held.generation == generation && matches!(held.op, Op::Send { quick: true, .. })
        });
        if !is_under_way {
            return false;
        }
        let op = flight.remove(key).op;
        drop(flight);
        if let Op::Send { socket, bytes, .. } = op {
            let size = bytes.bytes().len() as i32;
            socket.sent(bytes, size);
        }
        true
    }

    fn complete(self: &Rc<Self>, tag: u64, result: i32, flags: u32) {
        let (key, generation) = untag(tag);
        let mut flight = self.flight.borrow_mut();
        let fits = flight.get(key).is_some_and(|held| held.generation == generation);
        if !fits {
            drop(flight);
            self.counts.stale.set(self.counts.stale.get() + 1);
            return;
        }
        let buffer = cqueue::buffer_select(flags);
        if buffer.is_some() && !matches!(flight[key].op, Op::RecvPicked { .. }) {
            self.shared.borrow_mut().lend();
        }
        if cqueue::more(flags) {
            if let Op::RecvShared { socket } = &flight[key].op {
                let socket = socket.clone();
                drop(flight);
                socket.received_shared(result, buffer, true);
            }
            return;
        }
        if let Op::Send { socket, bytes, at, quick } = &mut flight[key].op
            && is_unfinished(result, bytes.bytes().len() - *at, *quick)
            && !socket.is_abandoned()
        {
            // A short send goes on where it stopped, under the same tag; so does one that would have had
            // to wait, and now may. One that was cancelled after a part had left ends so, too: it must
            // not go on, for nobody would cancel it again.
            *at += result.max(0) as usize;
            *quick = false;
            let entry = send_entry(socket.descriptor(), &bytes.bytes()[*at..]).user_data(tag);
            drop(flight);
            self.press();
            self.push(entry);
            return;
        }
        let op = flight.remove(key).op;
        drop(flight);
        self.ended(op, result, buffer);
    }

    fn ended(self: &Rc<Self>, op: Op, result: i32, buffer: Option<u16>) {
        match op {
            Op::RecvShared { socket } => {
                if result == -libc::ENOBUFS {
                    self.counts.starved.set(self.counts.starved.get() + 1);
                    if socket.starve() {
                        self.starved.borrow_mut().push_back(Rc::downgrade(&socket));
                    }
                    return;
                }
                socket.received_shared(result, buffer, false);
            }
            Op::Readable { socket } => {
                if socket.readable(result) {
                    self.put_off(Patient::Socket(Rc::downgrade(&socket)));
                }
            }
            Op::RecvOwned { socket, buffer: mut into } => {
                if result > 0 {
                    // SAFETY: the kernel wrote `result` bytes into the spare room it was given.
                    unsafe { into.set_len(into.len() + result as usize) };
                }
                socket.received_owned(into, result);
            }
            Op::RecvPicked { socket } => {
                let bytes = buffer.and_then(|buffer| self.take_picked(buffer, result));
                socket.received_picked(bytes, result);
            }
            Op::Send { socket, bytes, .. } => socket.sent(bytes, result),
            Op::Connect { socket, address } => {
                drop(address);
                socket.connected(result);
            }
            Op::Accept { listener, address } => {
                if result >= 0 && listener.is_direct() {
                    self.slots_used.set(self.slots_used.get() + 1);
                }
                listener.accepted(self, result, address.read());
            }
            Op::Wake { .. } => self.listen_for_wakes(),
            Op::CloseSlot { slot } => {
                self.slots_used.set(self.slots_used.get().saturating_sub(1));
                let mut free = self.free_slots.borrow_mut();
                if free.capacity() > 0 {
                    free.push(slot);
                }
            }
            Op::Install { installed, .. } => installed.end(result),
            Op::Shutdown { socket } => drop(socket),
            Op::Cancel => {}
        }
    }

    fn take_picked(&self, buffer: u16, result: i32) -> Option<Vec<u8>> {
        let mut pool = self.pool.borrow_mut();
        let taken = self.picked.borrow_mut().as_mut()?.take(buffer, result.max(0) as usize, &mut pool);
        if result > 0 {
            return Some(taken);
        }
        pool.give_back(taken);
        None
    }

    /// Lets receives go on that found no buffer, oldest first, as far as buffers came back; gives how
    /// many.
    fn feed_starved(self: &Rc<Self>) -> usize {
        if self.starved.borrow().is_empty() {
            return 0;
        }
        let (mut free, mut fed) = (self.shared.borrow().free(), 0);
        while free > 0 {
            let Some(socket) = self.starved.borrow_mut().pop_front() else { break };
            if let Some(socket) = socket.upgrade() {
                socket.unstarve();
                free -= 1;
                fed += 1;
            }
        }
        fed
    }

    /// Gives to the kernel what is queued and sleeps until something completes, the eventfd is written
    /// to, or `until` has come.
    ///
    /// Waiting a little for several completions instead of one (`min_wait_usec`, Linux 6.12) was measured
    /// and left out: at 64 busy connections 50 us took a quarter of the system calls away and cost more CPU
    /// than they did, in timers; a busy shard finds enough each time anyway.
    ///
    /// # Errors
    /// Only what cannot be waited out: the ring is broken.
    pub fn wait(&self, until: Option<Instant>) -> io::Result<()> {
        let (queued, due) = self.prepare();
        if queued == 0 && !due {
            self.counts.enters.set(self.counts.enters.get() + 1);
        }
        let time = until.map(|until| {
            let wait = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            types::Timespec::from(wait)
        });
        let mut args = types::SubmitArgs::new();
        if let Some(time) = &time {
            args = args.timespec(time);
        }
        let entered = self.uring.borrow().submitter().submit_with_args(1, &args);
        match entered {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Receives what is written to the eventfd.
    fn listen_for_wakes(&self) {
        let mut count = Box::new(0u64);
        let entry = opcode::Read::new(types::Fd(self.wake.as_raw_fd()), (&raw mut *count).cast(), 8).build();
        self.start(Op::Wake { _count: count }, entry);
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel ends what is in flight some time after the ring is closed: its memory is left
        // to it. A ring is dropped once, when its process or test ends.
        std::mem::forget(self.flight.take());
        for group in [SHARED_GROUP, PICKED_GROUP] {
            let _ = self.uring.borrow().submitter().unregister_buf_ring(group);
        }
    }
}

/// Which descriptor an operation names.
#[derive(Clone, Copy, Debug)]
pub(super) enum Descriptor {
    /// A slot of the ring's table.
    Slot(u32),
    /// An ordinary descriptor of the process.
    File(RawFd),
}

/// One receive into a buffer of `group`.
fn recv_once_entry(from: Descriptor, group: u16) -> squeue::Entry {
    let (pointer, length) = (std::ptr::null_mut(), 0);
    let entry = match from {
        Descriptor::Slot(slot) => {
            opcode::Recv::new(types::Fixed(slot), pointer, length).buf_group(group).build()
        }
        Descriptor::File(fd) => opcode::Recv::new(types::Fd(fd), pointer, length).buf_group(group).build(),
    };
    entry.flags(squeue::Flags::BUFFER_SELECT)
}

fn send_entry(to: Descriptor, bytes: &[u8]) -> squeue::Entry {
    send_with(to, bytes, libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
}

/// See [`Ring::end_quick_sends`].
fn quick_send_entry(to: Descriptor, bytes: &[u8]) -> squeue::Entry {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL | libc::MSG_DONTWAIT;
    send_with(to, bytes, flags).flags(squeue::Flags::SKIP_SUCCESS)
}

fn send_with(to: Descriptor, bytes: &[u8], flags: i32) -> squeue::Entry {
    let (pointer, length) = (bytes.as_ptr(), bytes.len() as u32);
    match to {
        Descriptor::Slot(slot) => opcode::Send::new(types::Fixed(slot), pointer, length).flags(flags).build(),
        Descriptor::File(fd) => opcode::Send::new(types::Fd(fd), pointer, length).flags(flags).build(),
    }
}

/// Whether a send of `size` bytes has to go on: it was short, or quick and would have had to wait.
fn is_unfinished(result: i32, size: usize, quick: bool) -> bool {
    result > 0 && (result as usize) < size || quick && result == -libc::EAGAIN
}

/// Adds one to an eventfd. A full counter already wakes.
pub(super) fn wake(fd: RawFd) {
    let one = 1u64;
    // SAFETY: eight bytes of a local are written to a descriptor the caller owns.
    unsafe { libc::write(fd, (&raw const one).cast(), 8) };
}

/// Remembers who waits, without a new reference when it is the same task.
pub(super) fn remember(slot: &mut Option<Waker>, context: &Context<'_>) {
    match slot {
        Some(held) if held.will_wake(context.waker()) => {}
        _ => *slot = Some(context.waker().clone()),
    }
}

/// Turns a kernel result into an io result.
pub(super) fn outcome(result: i32) -> io::Result<usize> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result as usize) }
}

fn tag(key: usize, generation: u32) -> u64 {
    u64::from(generation) << 32 | key as u64
}

fn untag(tag: u64) -> (usize, u32) {
    ((tag & u64::from(u32::MAX)) as usize, (tag >> 32) as u32)
}

/// Poll result of an operation on a socket.
pub type Polled<T> = Poll<io::Result<T>>;

const SHARED_GROUP: u16 = 0;
const PICKED_GROUP: u16 = 1;
const GET_EVENTS: u32 = 1;
