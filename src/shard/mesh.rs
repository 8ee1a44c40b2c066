//! Talk between the shards of a process: one bounded lock-free inbox each, woken by the eventfd of
//! its ring, once per batch.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use crossbeam::queue::ArrayQueue;

use super::ring;
use crate::limits::INBOX_MESSAGES;

struct Inbox<M> {
    queue: ArrayQueue<M>,
    /// The eventfd of the shard's ring; negative until the shard runs.
    wake: AtomicI32,
    /// Whether the shard has been woken for what lies in the queue.
    rung: AtomicBool,
}

/// The inboxes of all shards of a process.
pub struct Mesh<M> {
    inboxes: Box<[Inbox<M>]>,
}

impl<M: Send> Mesh<M> {
    /// A mesh for `shards` shards.
    pub fn new(shards: usize) -> Arc<Mesh<M>> {
        let inbox = || Inbox {
            queue: ArrayQueue::new(INBOX_MESSAGES),
            wake: AtomicI32::new(-1),
            rung: AtomicBool::new(false),
        };
        Arc::new(Mesh { inboxes: (0..shards).map(|_| inbox()).collect() })
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.inboxes.len()
    }

    /// Puts a message into the inbox of `to` and wakes that shard.
    ///
    /// # Errors
    /// The message comes back when the inbox is full.
    pub fn send(&self, to: usize, message: M) -> Result<(), M> {
        let inbox = &self.inboxes[to];
        inbox.queue.push(message)?;
        inbox.ring();
        Ok(())
    }
}

impl<M> Inbox<M> {
    fn ring(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            let fd = self.wake.load(Ordering::Acquire);
            if fd >= 0 {
                ring::wake(fd);
            }
        }
    }
}

/// One shard's place in the mesh.
pub struct Port<M> {
    mesh: Arc<Mesh<M>>,
    here: usize,
    /// Messages that found an inbox full, in order; bounded by the windows of the streams whose
    /// messages they are. Sent on at the next turn.
    waiting: RefCell<VecDeque<(usize, M)>>,
}

impl<M: Send> Port<M> {
    /// The place of shard `here`, woken by the eventfd `wake`.
    pub fn new(mesh: Arc<Mesh<M>>, here: usize, wake: RawFd) -> Port<M> {
        let inbox = &mesh.inboxes[here];
        inbox.wake.store(wake, Ordering::Release);
        // What came before the shard ran has rung nobody.
        ring::wake(wake);
        Port { mesh, here, waiting: RefCell::new(VecDeque::new()) }
    }

    /// For threads that answer a shard.
    pub fn mesh(&self) -> Arc<Mesh<M>> {
        self.mesh.clone()
    }

    /// This shard.
    pub fn here(&self) -> usize {
        self.here
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.mesh.shards()
    }

    /// Sends a message to another shard (or to this one), behind those that still wait.
    pub fn send(&self, to: usize, message: M) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            if let Err(message) = self.mesh.send(to, message) {
                waiting.push_back((to, message));
            }
        } else {
            waiting.push_back((to, message));
        }
    }

    /// Sends on what waits. Whether nothing waits any more.
    pub fn flush(&self) -> bool {
        let mut waiting = self.waiting.borrow_mut();
        while let Some((to, message)) = waiting.pop_front() {
            if let Err(message) = self.mesh.send(to, message) {
                waiting.push_front((to, message));
                return false;
            }
        }
        true
    }

    /// The next message of this shard's inbox.
    pub fn receive(&self) -> Option<M> {
        let inbox = &self.mesh.inboxes[self.here];
        if let Some(message) = inbox.queue.pop() {
            return Some(message);
        }
        // Only an empty inbox is marked as not rung; what came in between is seen by the second look.
        inbox.rung.swap(false, Ordering::AcqRel);
        inbox.queue.pop()
    }
}

impl<M> Drop for Port<M> {
    fn drop(&mut self) {
        self.mesh.inboxes[self.here].wake.store(-1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_in_order_also_when_the_inbox_was_full() {
        let mesh = Mesh::new(2);
        let (one, two) = (Port::new(mesh.clone(), 0, -1), Port::new(mesh, 1, -1));
        let count = INBOX_MESSAGES as u32 + 1_000;
        for number in 0..count {
            one.send(1, number);
        }
        let mut seen = 0;
        loop {
            while let Some(number) = two.receive() {
                assert_eq!(number, seen);
                seen += 1;
            }
            if one.flush() && seen == count {
                break;
            }
        }
    }
}
