//! One io_uring and its receive buffers, owned by one thread.
//!
//! Knows operations, slots and buffers, nothing of HTTP or TLS. Both halves of the program stand on it: `origin.rs` accepts
//! into automatic slots, `clients/worker/` places sockets into slots of its choice. Direct descriptors do not count as
//! files of the process, so that one process can hold as many connections as its rings have slots.

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use std::alloc::Layout;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// What a completion belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Operation {
    /// A new connection on a listener.
    Accept,
    /// An outgoing connection was made, or was not.
    Connect,
    /// Bytes came, or the end.
    Receive,
    /// Bytes went.
    Send,
    /// A slot is free again.
    Close,
    /// A watched descriptor can be read.
    Readable,
    /// Nobody waits for this one: cancellations.
    Unwatched,
}

impl Operation {
    fn of(byte: u8) -> Self {
        match byte {
            0 => Self::Accept,
            1 => Self::Connect,
            2 => Self::Receive,
            3 => Self::Send,
            4 => Self::Close,
            5 => Self::Readable,
            _ => Self::Unwatched,
        }
    }
}

/// The `user_data` of an operation: slab keys are used again while completions are in flight, so a generation goes along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// What was asked.
    pub operation: Operation,
    /// Which use of the key asked, modulo 2^24.
    pub generation: u32,
    /// Who asked.
    pub key: u32,
}

/// Generations count modulo this.
pub const GENERATION_MASK: u32 = 0x00ff_ffff;

impl Tag {
    fn pack(self) -> u64 {
        u64::from(self.operation as u8) << 56
            | u64::from(self.generation & GENERATION_MASK) << 32
            | u64::from(self.key)
    }

    fn unpack(word: u64) -> Self {
        Self {
            operation: Operation::of((word >> 56) as u8),
            generation: (word >> 32) as u32 & GENERATION_MASK,
            key: word as u32,
        }
    }
}

/// One finished (or, with `more`, one continuing) operation.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// Whose.
    pub tag: Tag,
    /// Bytes, a slot, or a negative errno.
    pub result: i32,
    /// The lent buffer that holds received bytes; it must be given back.
    pub buffer: Option<u16>,
    /// Whether a multishot operation stays armed.
    pub more: bool,
}

/// How an operation of one direction of a connection stands.
///
/// Idle ── asked ──▶ Armed ── last completion ──▶ Idle      (Armed ── cancelled ──▶ Cancelling ── last completion ──▶ Idle)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flight {
    /// Nothing is with the kernel.
    Idle,
    /// The kernel holds an operation.
    Armed,
    /// The kernel was asked to let go.
    Cancelling,
}

const SUBMISSIONS: u32 = 4096;
const COMPLETIONS: u32 = 32 * 1024;
const BUFFER_GROUP: u16 = 0;

/// The ring of one thread.
pub struct Ring {
    uring: IoUring,
}

impl Ring {
    /// A ring with `slots` direct descriptors. Errors: no io_uring here, a kernel before 6.1, too many slots.
    pub fn new(slots: u32) -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        uring.submitter().register_files_sparse(slots)?;
        Ok(Self { uring })
    }

    /// Places a socket into `slot`; the process's own descriptor is closed.
    pub fn place(&self, slot: u32, socket: OwnedFd) -> io::Result<()> {
        self.uring.submitter().register_files_update(slot, &[socket.as_raw_fd()]).map(drop)
    }

    /// Accepts one connection into a slot of the kernel's choice. Not multishot: with a full table the kernel would accept and drop
    /// clients, while single accepts that are not armed leave them in the backlog.
    pub fn accept(&mut self, listener: RawFd, tag: Tag) {
        let entry = opcode::Accept::new(types::Fd(listener), std::ptr::null_mut(), std::ptr::null_mut())
            .file_index(Some(types::DestinationSlot::auto_target()))
            .build();
        self.push(entry, tag);
    }

    /// Connects `slot`. The address is copied when the entry is submitted and must live until then.
    pub fn connect(&mut self, slot: u32, address: &socket2::SockAddr, tag: Tag) {
        self.push(
            opcode::Connect::new(types::Fixed(slot), address.as_ptr().cast(), address.len()).build(),
            tag,
        );
    }

    /// Receives into lent buffers until told otherwise.
    pub fn receive(&mut self, slot: u32, tag: Tag) {
        self.push(opcode::RecvMulti::new(types::Fixed(slot), BUFFER_GROUP).build(), tag);
    }

    /// Receives once, at most `size` bytes, into a lent buffer.
    pub fn receive_once(&mut self, slot: u32, size: u32, tag: Tag) {
        let entry =
            opcode::Recv::new(types::Fixed(slot), std::ptr::null_mut(), size).buf_group(BUFFER_GROUP).build();
        self.push(entry.flags(squeue::Flags::BUFFER_SELECT), tag);
    }

    /// Sends `bytes`, which must stay where they are until the completion.
    pub fn send(&mut self, slot: u32, bytes: &[u8], tag: Tag) {
        let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.push(
            opcode::Send::new(types::Fixed(slot), bytes.as_ptr(), size).flags(libc::MSG_NOSIGNAL).build(),
            tag,
        );
    }

    /// Ends our direction of the connection. The kernel looks for the slot's socket only when it comes to it: the slot must not be
    /// closed before the completion.
    pub fn shut_down(&mut self, slot: u32, tag: Tag) {
        self.push(opcode::Shutdown::new(types::Fixed(slot), libc::SHUT_WR).build(), tag);
    }

    /// Asks the kernel to let go of the operation `tag`, whose last completion still comes.
    pub fn cancel(&mut self, tag: Tag) {
        self.push(
            opcode::AsyncCancel::new(tag.pack()).build(),
            Tag { operation: Operation::Unwatched, ..tag },
        );
    }

    /// Tells once when `descriptor`, which is no slot, can be read.
    pub fn watch(&mut self, descriptor: RawFd, tag: Tag) {
        self.push(opcode::PollAdd::new(types::Fd(descriptor), libc::POLLIN as u32).build(), tag);
    }

    /// Closes `slot`. Nothing else may be in flight on it.
    pub fn close(&mut self, slot: u32, tag: Tag) {
        self.push(opcode::Close::new(types::Fixed(slot)).build(), tag);
    }

    fn push(&mut self, entry: squeue::Entry, tag: Tag) {
        let entry = entry.user_data(tag.pack());
        // SAFETY: senders keep their bytes in place until the completion; other operations own no memory of ours.
        while unsafe { self.uring.submission().push(&entry) }.is_err() {
            // A refused submission (EBUSY) leaves the entries queued; the next turn of `while` tries again.
            let _ = self.uring.submit();
        }
    }

    /// Submits what was asked, waits for at least one completion or until `patience` ends, and hands all over.
    pub fn wait(&mut self, patience: Duration, into: &mut Vec<Completion>) -> io::Result<()> {
        self.wait_for(patience, usize::MAX, into)
    }

    /// The same, and hands over at most `count`.
    pub fn wait_for(
        &mut self,
        patience: Duration,
        count: usize,
        into: &mut Vec<Completion>,
    ) -> io::Result<()> {
        into.clear();
        let limit = types::Timespec::from(patience);
        match self.uring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&limit)) {
            Ok(_) => {}
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
                _ => return Err(error),
            },
        }
        into.extend(self.uring.completion().take(count).map(|entry| Completion {
            tag: Tag::unpack(entry.user_data()),
            result: entry.result(),
            buffer: cqueue::buffer_select(entry.flags()),
            more: cqueue::more(entry.flags()),
        }));
        Ok(())
    }
}

/// Receive buffers lent to the kernel, which picks one when bytes arrive; idle connections hold none.
///
/// Must be dropped after its ring.
pub struct Buffers {
    entries: NonNull<types::BufRingEntry>,
    layout: Layout,
    bytes: Box<[u8]>,
    size: usize,
    mask: u16,
    tail: u16,
}

impl Buffers {
    /// Lends `count` (a power of two) buffers of `size` bytes to `ring`.
    pub fn new(ring: &Ring, count: u16, size: usize) -> io::Result<Self> {
        assert!(count.is_power_of_two(), "the kernel indexes by mask");
        let layout = Layout::array::<types::BufRingEntry>(usize::from(count))
            .and_then(|layout| layout.align_to(4096))
            .map_err(io::Error::other)?;
        // SAFETY: the layout has a size above zero.
        let entries = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })
            .ok_or(io::ErrorKind::OutOfMemory)?
            .cast::<types::BufRingEntry>();
        let bytes = vec![0; usize::from(count) * size].into_boxed_slice();
        let mut buffers = Self { entries, layout, bytes, size, mask: count - 1, tail: 0 };
        // SAFETY: the entries are page-aligned, `count` long, and outlive the ring by contract.
        unsafe {
            ring.uring.submitter().register_buf_ring_with_flags(
                entries.as_ptr() as u64,
                count,
                BUFFER_GROUP,
                0,
            )?;
        }
        (0..count).for_each(|buffer| buffers.give_back(buffer));
        Ok(buffers)
    }

    /// The first `filled` bytes of a lent buffer.
    pub fn filled(&mut self, buffer: u16, filled: usize) -> &mut [u8] {
        let start = usize::from(buffer) * self.size;
        &mut self.bytes[start..start + filled.min(self.size)]
    }

    /// Lends the buffer again.
    pub fn give_back(&mut self, buffer: u16) {
        let start = usize::from(buffer) * self.size;
        // SAFETY: the masked index is inside the entries, and the kernel reads an entry only below the published tail.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(usize::from(self.tail & self.mask));
            entry.set_addr(self.bytes.as_mut_ptr().add(start) as u64);
            entry.set_len(self.size as u32);
            entry.set_bid(buffer);
            self.tail = self.tail.wrapping_add(1);
            let tail = types::BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and the ring that read them is gone.
        unsafe { std::alloc::dealloc(self.entries.as_ptr().cast(), self.layout) }
    }
}

/// Open files that are no slots: certificates while they are read, sockets on their way into a slot, rings, `/proc`.
const FILES_KEPT: u32 = 500;
/// Slots of one ring: the kernel takes ten times as many, but one thread serves no more well.
const SLOTS_MAX: u32 = 100_000;

/// Raises the soft limit of open files to the hard one and tells how many slots a ring may have.
pub fn slots_max() -> io::Result<u32> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls only read or write the struct they are given.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) != 0 {
            return Err(io::Error::last_os_error());
        }
        limit.rlim_cur = limit.rlim_max;
        if libc::setrlimit(libc::RLIMIT_NOFILE, &limit) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let hard = u32::try_from(limit.rlim_max).unwrap_or(u32::MAX);
    Ok(hard.saturating_sub(FILES_KEPT).clamp(64, SLOTS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_survives_its_way_through_the_kernel() {
        for (operation, generation, key) in [
            (Operation::Accept, 0, 0),
            (Operation::Send, GENERATION_MASK, u32::MAX),
            (Operation::Unwatched, 7, 19_499),
        ] {
            let tag = Tag { operation, generation, key };
            assert_eq!(Tag::unpack(tag.pack()), tag);
        }
    }
}
