//! One io_uring with its receive buffers, as bare as it can be: what the floor server stands on.
//!
//! Shares no line with `src/shard/`: a floor that leant on what it is compared with would sink with it.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, DestinationSlot, Fd, Fixed};
use io_uring::{IoUring, cqueue, opcode, squeue};

/// What a completion belongs to, in the upper half of its `user_data`; the slot is the lower one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A client was accepted; the result is its slot.
    Accept,
    /// Bytes came, or the end.
    Receive,
    /// Bytes went.
    Send,
    /// The slot is free again.
    Close,
    /// Nobody waits for it.
    Shutdown,
}

const OPERATIONS: [Operation; 5] =
    [Operation::Accept, Operation::Receive, Operation::Send, Operation::Close, Operation::Shutdown];

/// One finished, or with `more` continuing, operation.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// What was asked.
    pub operation: Operation,
    /// Of which connection.
    pub slot: u32,
    /// Bytes, a slot, or a negative errno.
    pub result: i32,
    /// The lent buffer with what was received.
    pub buffer: Option<u16>,
    /// A multishot operation stays armed.
    pub more: bool,
}

const SUBMISSIONS: u32 = 4096;
const COMPLETIONS: u32 = 32 * 1024;
const GROUP: u16 = 0;
/// As many and as large as a shard of the gateway lends.
const BUFFER_COUNT: u16 = 1024;
const BUFFER_SIZE: usize = 4096;

#[repr(C, align(4096))]
struct Entries([BufRingEntry; BUFFER_COUNT as usize]);

/// The ring of one thread. Its buffers are never given up: a floor server runs until its process ends.
pub struct Ring {
    uring: IoUring,
    entries: *mut BufRingEntry,
    bytes: *mut u8,
    tail: u16,
}

impl Ring {
    /// A ring with `slots` direct descriptors.
    pub fn new(slots: u32) -> io::Result<Ring> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        uring.submitter().register_files_sparse(slots)?;
        // SAFETY: entries are plain integers; all zeros is a valid value of each.
        let entries = Box::leak(Box::new(unsafe { std::mem::zeroed::<Entries>() }));
        let bytes = Box::leak(vec![0; usize::from(BUFFER_COUNT) * BUFFER_SIZE].into_boxed_slice());
        let mut ring = Ring { uring, entries: entries.0.as_mut_ptr(), bytes: bytes.as_mut_ptr(), tail: 0 };
        // SAFETY: page-aligned, as many entries as said, and leaked: valid for as long as any ring.
        unsafe {
            let address = ring.entries as u64;
            ring.uring.submitter().register_buf_ring_with_flags(address, BUFFER_COUNT, GROUP, 0)?;
        }
        (0..BUFFER_COUNT).for_each(|buffer| ring.give_back(buffer));
        Ok(ring)
    }

    /// Lends a buffer to the kernel.
    pub fn give_back(&mut self, buffer: u16) {
        // SAFETY: the masked index is one of the entries, the buffer lies inside `bytes`, and the kernel reads
        // only entries below the tail that is published last.
        unsafe {
            let entry = &mut *self.entries.add(usize::from(self.tail & (BUFFER_COUNT - 1)));
            entry.set_addr(self.bytes.add(usize::from(buffer) * BUFFER_SIZE) as u64);
            entry.set_len(BUFFER_SIZE as u32);
            entry.set_bid(buffer);
            self.tail = self.tail.wrapping_add(1);
            (*BufRingEntry::tail(self.entries).cast::<AtomicU16>()).store(self.tail, Ordering::Release);
        }
    }

    /// What was received into `buffer`, to be decrypted in place before it is given back.
    pub fn filled(&mut self, buffer: u16, size: usize) -> &mut [u8] {
        // SAFETY: until it is given back nobody else touches the buffer, and the borrow of the ring keeps it so.
        unsafe {
            let start = self.bytes.add(usize::from(buffer) * BUFFER_SIZE);
            std::slice::from_raw_parts_mut(start, size.min(BUFFER_SIZE))
        }
    }

    /// Accepts one client into a slot of the kernel's choice.
    pub fn accept(&mut self, listener: RawFd) {
        let entry = opcode::Accept::new(Fd(listener), std::ptr::null_mut(), std::ptr::null_mut())
            .file_index(Some(DestinationSlot::auto_target()))
            .build();
        self.push(entry, Operation::Accept, 0);
    }

    /// Receives until the end.
    pub fn receive(&mut self, slot: u32) {
        self.push(opcode::RecvMulti::new(Fixed(slot), GROUP).build(), Operation::Receive, slot);
    }

    /// Sends `bytes`, which stay where they are until the completion.
    pub fn send(&mut self, slot: u32, bytes: &[u8]) {
        let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let entry = opcode::Send::new(Fixed(slot), bytes.as_ptr(), size).flags(libc::MSG_NOSIGNAL);
        self.push(entry.build(), Operation::Send, slot);
    }

    /// Ends both directions, so that an armed receive completes.
    pub fn shut_down(&mut self, slot: u32) {
        self.push(opcode::Shutdown::new(Fixed(slot), libc::SHUT_RDWR).build(), Operation::Shutdown, slot);
    }

    /// Closes; nothing else may be in flight there.
    pub fn close(&mut self, slot: u32) {
        self.push(opcode::Close::new(Fixed(slot)).build(), Operation::Close, slot);
    }

    fn push(&mut self, entry: squeue::Entry, operation: Operation, slot: u32) {
        let entry = entry.user_data(u64::from(operation as u8) << 32 | u64::from(slot));
        // SAFETY: bytes being sent are not touched until their completion; other operations own no memory.
        while unsafe { self.uring.submission().push(&entry) }.is_err() {
            // Refused (EBUSY) entries stay queued; the next turn of the loop tries again.
            let _ = self.uring.submit();
        }
    }

    /// Submits, waits for at least one completion, and hands over all there are.
    pub fn wait(&mut self, into: &mut Vec<Completion>) -> io::Result<()> {
        into.clear();
        if let Err(error) = self.uring.submit_and_wait(1) {
            match error.raw_os_error() {
                Some(libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
                _ => return Err(error),
            }
        }
        into.extend(self.uring.completion().map(|entry| Completion {
            operation: OPERATIONS[(entry.user_data() >> 32) as usize],
            slot: entry.user_data() as u32,
            result: entry.result(),
            buffer: cqueue::buffer_select(entry.flags()),
            more: cqueue::more(entry.flags()),
        }));
        Ok(())
    }
}
