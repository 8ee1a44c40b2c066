//! Memory that the connections of a shard share: buffers the kernel picks from when a connection at
//! rest receives, and a pool of vectors that are lent for as long as a message needs.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::UnsafeCell;
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::ring::Ring;
use crate::limits;

/// The list of buffers that the kernel may pick from, in the order in which it picks.
struct Offers {
    ring: *mut BufRingEntry,
    count: u16,
    tail: u16,
}

impl Offers {
    /// `count` must be a power of two.
    fn new(count: u16) -> io::Result<Offers> {
        assert!(count.is_power_of_two(), "the kernel masks positions with count - 1");
        // SAFETY: the layout has a size above zero.
        let ring = unsafe { alloc_zeroed(Self::layout(count)) };
        if ring.is_null() {
            return Err(io::Error::from(io::ErrorKind::OutOfMemory));
        }
        Ok(Offers { ring: ring.cast(), count, tail: 0 })
    }

    fn layout(count: u16) -> Layout {
        let size = usize::from(count) * size_of::<BufRingEntry>();
        Layout::from_size_align(size, PAGE).expect("a small power of two")
    }

    /// Offers `size` bytes at `memory` under the number `buffer`.
    ///
    /// # Safety
    /// The memory stays valid, and nobody else's, until the kernel picked it or the list is taken from the
    /// kernel; no more than `count` buffers are offered at once.
    unsafe fn put(&mut self, buffer: u16, memory: *mut u8, size: usize) {
        let at = usize::from(self.tail & (self.count - 1));
        // SAFETY: `at` is below `count`, the entries of the list; the tail is published only after the
        // entry is written.
        unsafe {
            let entry = &mut *self.ring.add(at);
            entry.set_addr(memory as u64);
            entry.set_len(size as u32);
            entry.set_bid(buffer);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(self.ring).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}

impl Drop for Offers {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout.
        unsafe { dealloc(self.ring.cast(), Self::layout(self.count)) };
    }
}

/// The buffers that connections at rest receive into, and the memory behind them.
pub(super) struct SharedBuffers {
    offers: Offers,
    memory: *mut u8,
    size: usize,
    lent: u16,
}

impl SharedBuffers {
    /// `count` must be a power of two.
    pub(super) fn new(count: u16, size: usize) -> io::Result<SharedBuffers> {
        let offers = Offers::new(count)?;
        // SAFETY: the layout has a size above zero.
        let memory = unsafe { alloc_zeroed(Self::layout(count, size)) };
        if memory.is_null() {
            return Err(io::Error::from(io::ErrorKind::OutOfMemory));
        }
        // Every page is touched now: the kernel hands the buffers out in turn, so all of them would be
        // faulted in by the first thousand receives, under load.
        // SAFETY: `memory` has the size of its layout.
        unsafe { std::ptr::write_bytes(memory, 0, usize::from(count) * size) };
        let mut buffers = SharedBuffers { offers, memory, size, lent: count };
        for buffer in 0..count {
            buffers.give_back(buffer);
        }
        Ok(buffers)
    }

    fn layout(count: u16, size: usize) -> Layout {
        Layout::from_size_align(usize::from(count) * size, PAGE).expect("a small power of two")
    }

    pub(super) fn ring_address(&self) -> u64 {
        self.offers.ring as u64
    }

    /// Buffers that the kernel may pick.
    pub(super) fn free(&self) -> u16 {
        self.offers.count - self.lent
    }

    /// Whether more of them had better come back before more is received.
    pub(super) fn is_scarce(&self) -> bool {
        self.free() < self.offers.count / 4
    }

    pub(super) fn lend(&mut self) {
        self.lent += 1;
    }

    /// Gives a buffer back to the kernel.
    pub(super) fn give_back(&mut self, buffer: u16) {
        let memory = self.bytes(buffer);
        // SAFETY: it lies inside `memory`, and whoever had it is done with it.
        unsafe { self.offers.put(buffer, memory, self.size) };
        self.lent = self.lent.saturating_sub(1);
    }

    fn bytes(&self, buffer: u16) -> *mut u8 {
        // SAFETY: buffer numbers come from the kernel, which got them from `new`.
        unsafe { self.memory.add(usize::from(buffer) * self.size) }
    }
}

impl Drop for SharedBuffers {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout.
        unsafe { dealloc(self.memory, Self::layout(self.offers.count, self.size)) };
    }
}

const PAGE: usize = 4096;

/// Buffers for transfers, of which the kernel picks one when bytes have come: who waits for the next
/// transfer holds none. The bytes lie behind [`limits::RESEAL_HEADROOM`] bytes of room.
pub(super) struct PickedBuffers {
    offers: Offers,
    offered: Vec<Vec<u8>>,
}

impl PickedBuffers {
    pub(super) fn new(pool: &mut Pool) -> io::Result<PickedBuffers> {
        let count = limits::PICKED_BUFFER_COUNT;
        let mut buffers = PickedBuffers { offers: Offers::new(count)?, offered: Vec::new() };
        for number in 0..count {
            buffers.offered.push(pool.roomy());
            buffers.offer(number);
        }
        Ok(buffers)
    }

    pub(super) fn ring_address(&self) -> u64 {
        self.offers.ring as u64
    }

    fn offer(&mut self, number: u16) {
        let spare = self.offered[usize::from(number)].spare_capacity_mut();
        let (memory, size) = (spare.as_mut_ptr().cast(), spare.len());
        // SAFETY: the vector is kept here, untouched, until the kernel has picked it.
        unsafe { self.offers.put(number, memory, size) };
    }

    /// What the kernel picked, with `size` bytes received; another is offered in its place.
    pub(super) fn take(&mut self, number: u16, size: usize, pool: &mut Pool) -> Vec<u8> {
        let mut taken = std::mem::replace(&mut self.offered[usize::from(number)], pool.roomy());
        self.offer(number);
        // SAFETY: the kernel wrote so many bytes into the spare room it was given.
        unsafe { taken.set_len(taken.len() + size) };
        taken
    }
}

/// Received bytes in a buffer of the shard; goes back to the kernel when dropped.
pub struct SharedBuffer {
    ring: Rc<Ring>,
    buffer: u16,
    bytes: *mut u8,
    size: u16,
}

impl SharedBuffer {
    pub(super) fn new(ring: Rc<Ring>, buffer: u16, size: u16) -> SharedBuffer {
        let bytes = ring.shared.borrow().bytes(buffer);
        SharedBuffer { ring, buffer, bytes, size }
    }
}

impl Deref for SharedBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: until it is given back the buffer belongs to this value alone, and the kernel
        // wrote `size` bytes of it.
        unsafe { std::slice::from_raw_parts(self.bytes, usize::from(self.size)) }
    }
}

impl DerefMut for SharedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`.
        unsafe { std::slice::from_raw_parts_mut(self.bytes, usize::from(self.size)) }
    }
}

impl Drop for SharedBuffer {
    fn drop(&mut self) {
        self.ring.shared.borrow_mut().give_back(self.buffer);
    }
}

/// Received bytes that several readers look at; goes back to the shard's pool with the last of them.
///
/// A reader may change its own part in place ([`Lent::part`]), which nobody else reads.
pub struct Lent {
    bytes: UnsafeCell<Vec<u8>>,
    ring: Rc<Ring>,
}

impl Lent {
    /// Shares a vector of the pool.
    pub fn new(ring: &Rc<Ring>, bytes: Vec<u8>) -> Rc<Lent> {
        ring.pool.borrow_mut().lent += 1;
        Rc::new(Lent { bytes: UnsafeCell::new(bytes), ring: ring.clone() })
    }

    /// Bytes there are.
    pub fn size(&self) -> usize {
        // SAFETY: the vector itself never changes while it is lent; only bytes of it do.
        unsafe { (*self.bytes.get()).len() }
    }

    /// The bytes in `range`.
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.size(), "a part lies within its buffer");
        // SAFETY: within the vector, which lives as long as `self`; who changes bytes of it is the only one
        // who looks at them (`part`).
        unsafe { std::slice::from_raw_parts((*self.bytes.get()).as_ptr().add(range.start), range.len()) }
    }

    /// The bytes in `range`, to be changed where they lie.
    ///
    /// # Safety
    /// No slice of any of them may live, and nobody else may be going to read what they were: the range is
    /// this reader's alone.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, range: Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= self.size(), "a part lies within its buffer");
        // SAFETY: within the vector; alone, as the caller says.
        unsafe {
            std::slice::from_raw_parts_mut((*self.bytes.get()).as_mut_ptr().add(range.start), range.len())
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut pool = self.ring.pool.borrow_mut();
        pool.lent -= 1;
        pool.give_back(std::mem::take(self.bytes.get_mut()));
    }
}

/// Bytes on their way out.
pub enum Outgoing {
    /// Goes back to the pool.
    Own(Vec<u8>),
    /// A part of what was received.
    Lent {
        /// Where it lies.
        buffer: Rc<Lent>,
        /// Which part.
        range: Range<usize>,
    },
}

impl Outgoing {
    /// What is sent.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Outgoing::Own(bytes) => bytes,
            Outgoing::Lent { buffer, range } => buffer.bytes(range.clone()),
        }
    }
}

impl From<Vec<u8>> for Outgoing {
    fn from(bytes: Vec<u8>) -> Outgoing {
        Outgoing::Own(bytes)
    }
}

/// Vectors lent for messages (up to a few KiB) and for transfers (128 KiB and more).
#[derive(Default)]
pub struct Pool {
    slim: Vec<Vec<u8>>,
    small: Vec<Vec<u8>>,
    /// Octets that those of `small` have room for, together.
    small_size: usize,
    large: Vec<Vec<u8>>,
    /// Vectors that are [`Lent`] now.
    lent: usize,
}

impl Pool {
    /// An empty vector with room for a message.
    pub fn small(&mut self) -> Vec<u8> {
        let Some(kept) = self.small.pop() else { return Vec::with_capacity(SMALL) };
        self.small_size -= kept.capacity();
        kept
    }

    /// An empty vector with room for a message of `size` bytes that is kept while somebody waits, perhaps
    /// for long and among thousands: no larger than need be.
    pub fn slim(&mut self, size: usize) -> Vec<u8> {
        if size > SLIM {
            return self.small();
        }
        self.slim.pop().unwrap_or_else(|| Vec::with_capacity(SLIM))
    }

    /// An empty vector with room for a transfer.
    pub fn large(&mut self) -> Vec<u8> {
        self.large.pop().unwrap_or_else(|| Vec::with_capacity(limits::TRANSFER_BUFFER_SIZE))
    }

    /// A vector for a transfer with [`limits::RESEAL_HEADROOM`] bytes of room at its front.
    pub fn roomy(&mut self) -> Vec<u8> {
        let mut roomy = self.large();
        roomy.resize(limits::RESEAL_HEADROOM, 0);
        roomy
    }

    /// Whether so many vectors are [`Lent`] that bytes are rather copied out of them.
    pub fn is_lent_out(&self) -> bool {
        self.lent > limits::LENT_COUNT_MAX
    }

    /// Takes a vector back, as far as there is room to keep it.
    pub fn give_back(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        match buffer.capacity() {
            SLIM..SMALL if self.slim.len() < SLIM_KEPT => self.slim.push(buffer),
            // By size, not by number: of those that grow in one storm more and more would be kept.
            size @ SMALL..=SMALL_TOP if self.small_size + size <= SMALL_KEPT => {
                self.small_size += size;
                self.small.push(buffer);
            }
            limits::TRANSFER_BUFFER_SIZE..=LARGE_TOP if self.large.len() < LARGE_KEPT => {
                self.large.push(buffer)
            }
            _ => {}
        }
    }
}

/// Holds the head of a request for a notification, which a client's agent keeps short.
const SLIM: usize = 640;
/// 320 KiB at rest.
const SLIM_KEPT: usize = 512;
/// Holds a usual head or a small answer.
const SMALL: usize = 2 * 1024;
/// A small vector that grew beyond this is not kept among the small.
const SMALL_TOP: usize = 8 * 1024;
/// 512 that never grew: as many as are in use at once under load.
const SMALL_KEPT: usize = 512 * SMALL;
const LARGE_TOP: usize = 2 * limits::TRANSFER_BUFFER_SIZE;
/// 4 MiB at rest, 8 MiB at most: what ten transfers at once use, so that none of their buffers is given
/// to the system and faulted in again.
const LARGE_KEPT: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_that_grew_are_kept_up_to_the_same_room_as_others() {
        for grown_to in [SMALL, SMALL + 1, 3 * 1024, SMALL_TOP] {
            let mut pool = Pool::default();
            for round in 0..3 {
                let mut storm: Vec<Vec<u8>> = (0..2 * SMALL_KEPT / SMALL).map(|_| pool.small()).collect();
                assert!(pool.small.is_empty() && pool.small_size == 0, "all are lent in round {round}");
                for buffer in storm.iter_mut().skip(round).step_by(2) {
                    buffer.reserve_exact(grown_to);
                }
                storm.into_iter().for_each(|buffer| pool.give_back(buffer));
                let kept: usize = pool.small.iter().map(Vec::capacity).sum();
                assert_eq!(kept, pool.small_size);
                assert!(kept <= SMALL_KEPT, "{kept} octets are kept in round {round}, grown to {grown_to}");
                assert!(kept > SMALL_KEPT - SMALL_TOP, "no more is given up than need be: {kept}");
            }
        }
    }

    #[test]
    fn a_vector_too_large_or_too_small_for_its_kind_is_not_kept() {
        let mut pool = Pool::default();
        for capacity in [0, SLIM - 1, SMALL_TOP + 1, LARGE_TOP + 1] {
            pool.give_back(Vec::with_capacity(capacity));
            assert!(pool.slim.is_empty() && pool.small.is_empty() && pool.large.is_empty(), "{capacity}");
        }
    }
}
