//! What has arrived for one exchange and was not taken yet: heads, body bytes, the end. Filled by
//! the link (or by another shard's), emptied by the task that serves the exchange.

use std::cell::{Ref, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Waker};

use crate::channel::ResetCode;
use crate::shard::Ring;

/// Why an exchange broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The other hop said so.
    Reset(ResetCode),
    /// The channel was lost. When `not_taken`, the other hop had said that it never took the stream.
    Lost {
        /// A DRAIN excluded the stream: it may be sent elsewhere.
        not_taken: bool,
    },
}

#[derive(Default)]
struct Mail {
    heads: VecDeque<Vec<u8>>,
    data: Vec<u8>,
    at: usize,
    end: Option<Vec<u8>>,
    broken: Option<Broken>,
    waker: Option<Waker>,
}

/// See the file's head. At rest it holds no buffer.
pub struct Mailbox {
    mail: RefCell<Mail>,
    ring: Rc<Ring>,
}

impl Mailbox {
    /// An empty one.
    pub fn new(ring: &Rc<Ring>) -> Rc<Mailbox> {
        Rc::new(Mailbox { mail: RefCell::default(), ring: ring.clone() })
    }

    // ── the link's side ─────────────────────────────────────────────────────────────────────────

    pub(super) fn put_head(&self, message: &[u8]) {
        let mut head = self.ring.pool.borrow_mut().small();
        head.extend_from_slice(message);
        let mut mail = self.mail.borrow_mut();
        mail.heads.push_back(head);
        mail.wake();
    }

    pub(super) fn put_data(&self, bytes: &[u8]) {
        let mut mail = self.mail.borrow_mut();
        if mail.data.capacity() == 0 {
            let mut pool = self.ring.pool.borrow_mut();
            mail.data = if bytes.len() <= 2048 { pool.small() } else { pool.large() };
        }
        if mail.at > 0 && mail.data.len() + bytes.len() > mail.data.capacity() {
            let at = mail.at;
            mail.data.drain(..at);
            mail.at = 0;
        }
        mail.data.extend_from_slice(bytes);
        mail.wake();
    }

    pub(super) fn put_end(&self, trailers: &[u8]) {
        let mut mail = self.mail.borrow_mut();
        mail.end = Some(trailers.to_vec());
        mail.wake();
    }

    pub(super) fn put_broken(&self, broken: Broken) {
        let mut mail = self.mail.borrow_mut();
        if mail.broken.is_none() {
            mail.broken = Some(broken);
        }
        mail.wake();
    }

    pub(super) fn wake(&self) {
        self.mail.borrow_mut().wake();
    }

    // ── the task's side ─────────────────────────────────────────────────────────────────────────

    /// Remembers the task to wake at the next arrival, or when a refused send may go on.
    pub fn watch(&self, context: &Context<'_>) {
        let mut mail = self.mail.borrow_mut();
        match &mail.waker {
            Some(held) if held.will_wake(context.waker()) => {}
            _ => mail.waker = Some(context.waker().clone()),
        }
    }

    /// The next head, interim or final.
    pub fn take_head(&self) -> Option<Vec<u8>> {
        self.mail.borrow_mut().heads.pop_front()
    }

    /// Body bytes that arrived.
    pub fn data(&self) -> Ref<'_, [u8]> {
        Ref::map(self.mail.borrow(), |mail| &mail.data[mail.at..])
    }

    /// Marks body bytes as taken; `Stream::consumed` tells the other hop.
    pub(super) fn consume(&self, size: usize) {
        let mut mail = self.mail.borrow_mut();
        mail.at += size;
        if mail.at == mail.data.len() {
            mail.at = 0;
            let data = std::mem::take(&mut mail.data);
            self.ring.pool.borrow_mut().give_back(data);
        }
    }

    /// Whether the other side's direction has ended well and all its bytes were taken.
    pub fn is_ended(&self) -> bool {
        let mail = self.mail.borrow();
        mail.end.is_some() && mail.data.is_empty() && mail.heads.is_empty()
    }

    /// Whether the other side's direction has ended; bytes may still wait.
    pub fn has_end(&self) -> bool {
        self.mail.borrow().end.is_some()
    }

    /// The trailers of an ended direction, as they travelled.
    pub fn trailers(&self) -> Ref<'_, [u8]> {
        Ref::map(self.mail.borrow(), |mail| mail.end.as_deref().unwrap_or_default())
    }

    /// Why the exchange broke off, if it did.
    pub fn broken(&self) -> Option<Broken> {
        self.mail.borrow().broken
    }
}

impl Mail {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        let mail = self.mail.get_mut();
        let mut pool = self.ring.pool.borrow_mut();
        for buffer in mail.heads.drain(..) {
            pool.give_back(buffer);
        }
        if mail.data.capacity() > 0 {
            pool.give_back(std::mem::take(&mut mail.data));
        }
    }
}
