//! What has arrived for one exchange and was not taken yet: heads, body bytes, the end. Filled by
//! the link (or by another shard's), emptied by the task that serves the exchange.

use std::cell::{Ref, RefCell};
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::task::{Context, Waker};

use crate::channel::ResetCode;
use crate::limits;
use crate::shard::{Lent, Ring};

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

/// Body bytes that arrived together.
enum Piece {
    /// Copied out of what was received: little, or behind much that nobody took.
    Own { bytes: Vec<u8>, at: usize },
    /// Where they were received, beside bytes of other streams. `roomy`: around it lies nothing that anybody
    /// still reads, before it a record's header and behind it a record's footer.
    Shared { buffer: Rc<Lent>, range: Range<usize>, roomy: bool },
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Piece::Own { bytes, at } => &bytes[*at..],
            Piece::Shared { buffer, range, .. } => buffer.bytes(range.clone()),
        }
    }

    /// The buffer it keeps.
    fn shared(&self) -> Option<&Rc<Lent>> {
        match self {
            Piece::Own { .. } => None,
            Piece::Shared { buffer, .. } => Some(buffer),
        }
    }
}

#[derive(Default)]
struct Mail {
    heads: VecDeque<Vec<u8>>,
    /// None of them empty.
    data: VecDeque<Piece>,
    /// Shared buffers among them; those behind one another count once.
    shared: usize,
    end: Option<Vec<u8>>,
    broken: Option<Broken>,
    waker: Option<Waker>,
    /// See [`Mailbox::set_patient`].
    is_patient: bool,
}

/// Mailboxes that are used again: one exchange after the other is told by the same.
pub(super) struct Mailboxes {
    ring: Rc<Ring>,
    spare: RefCell<Vec<Rc<Mailbox>>>,
}

impl Mailboxes {
    /// With none to spare yet.
    pub(super) fn new(ring: &Rc<Ring>) -> Mailboxes {
        Mailboxes { ring: ring.clone(), spare: RefCell::default() }
    }

    /// An empty one.
    pub(super) fn take(&self) -> Rc<Mailbox> {
        self.spare.borrow_mut().pop().unwrap_or_else(|| Mailbox::new(&self.ring))
    }

    /// Its exchange is over. Kept only if nobody else holds it: what a link still told it would reach
    /// the next exchange.
    pub(super) fn give_back(&self, mailbox: &Rc<Mailbox>) {
        if Rc::strong_count(mailbox) > 1 {
            return;
        }
        mailbox.clear();
        let mut spare = self.spare.borrow_mut();
        if spare.len() < limits::MAILBOXES_SPARE_MAX {
            spare.push(mailbox.clone());
        }
    }
}

/// See the file's head. At rest it holds no buffer.
pub struct Mailbox {
    mail: RefCell<Mail>,
    ring: Rc<Ring>,
}

impl Mailbox {
    /// An empty one.
    fn new(ring: &Rc<Ring>) -> Rc<Mailbox> {
        Rc::new(Mailbox { mail: RefCell::default(), ring: ring.clone() })
    }

    /// As it was when it was new, but for the room of its queue.
    fn clear(&self) {
        let mut mail = self.mail.borrow_mut();
        mail.give_back_buffers(&self.ring);
        let Mail { heads: _, data: _, shared: _, end, broken, waker, is_patient } = &mut *mail;
        (*end, *broken, *waker, *is_patient) = (None, None, None, false);
    }

    // ── the link's side ─────────────────────────────────────────────────────────────────────────

    pub(super) fn put_head(&self, message: &[u8]) {
        let mut head = self.ring.pool.borrow_mut().small();
        head.extend_from_slice(message);
        let mut mail = self.mail.borrow_mut();
        mail.heads.push_back(head);
        mail.wake(&self.ring);
    }

    /// Copies bytes in.
    pub(super) fn put_data(&self, bytes: &[u8]) {
        let mut mail = self.mail.borrow_mut();
        let room = match mail.data.back() {
            Some(Piece::Own { bytes, .. }) => bytes.capacity() - bytes.len(),
            Some(Piece::Shared { .. }) | None => 0,
        };
        if room < bytes.len() {
            let mut pool = self.ring.pool.borrow_mut();
            let own = if bytes.len() <= SMALL { pool.small() } else { pool.large() };
            mail.data.push_back(Piece::Own { bytes: own, at: 0 });
        }
        if let Some(Piece::Own { bytes: own, .. }) = mail.data.back_mut() {
            own.extend_from_slice(bytes);
        }
        mail.wake(&self.ring);
    }

    /// Keeps `range` of a received buffer, unless it is too little to keep all of that for, or much
    /// waits already: a stream that nobody reads holds few buffers. `roomy`: see [`Piece::Shared`].
    pub(super) fn put_shared(&self, buffer: &Rc<Lent>, range: Range<usize>, roomy: bool) {
        let mut mail = self.mail.borrow_mut();
        let is_held = mail.data.back().and_then(Piece::shared).is_some_and(|last| Rc::ptr_eq(last, buffer));
        let may_hold = mail.shared < limits::PIECES_SHARED_MAX && !self.ring.pool.borrow().is_lent_out();
        if range.len() <= SMALL || !(is_held || may_hold) {
            drop(mail);
            return self.put_data(buffer.bytes(range));
        }
        mail.shared += usize::from(!is_held);
        mail.data.push_back(Piece::Shared { buffer: buffer.clone(), range, roomy });
        mail.wake(&self.ring);
    }

    pub(super) fn put_end(&self, trailers: &[u8]) {
        let mut mail = self.mail.borrow_mut();
        mail.end = Some(trailers.to_vec());
        mail.wake(&self.ring);
    }

    pub(super) fn put_broken(&self, broken: Broken) {
        let mut mail = self.mail.borrow_mut();
        if mail.broken.is_none() {
            mail.broken = Some(broken);
        }
        mail.wake(&self.ring);
    }

    pub(super) fn wake(&self) {
        self.mail.borrow_mut().wake(&self.ring);
    }

    /// What arrives here may wait for what arrives elsewhere: the task is woken when its turn comes
    /// ([`Ring::take_turns`]).
    pub fn set_patient(&self) {
        self.mail.borrow_mut().is_patient = true;
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

    /// Body bytes that arrived: the first of them that lie together.
    pub fn data(&self) -> Ref<'_, [u8]> {
        Ref::map(self.mail.borrow(), |mail| mail.data.front().map(Piece::bytes).unwrap_or_default())
    }

    /// Marks body bytes as taken; `Stream::consumed` tells the other hop.
    pub(super) fn consume(&self, mut size: usize) {
        let mut mail = self.mail.borrow_mut();
        while let Some(piece) = mail.data.front_mut() {
            let taken = size.min(piece.bytes().len());
            size -= taken;
            match piece {
                Piece::Own { at, .. } => *at += taken,
                Piece::Shared { range, .. } => range.start += taken,
            }
            if !piece.bytes().is_empty() {
                break;
            }
            if let Some(Piece::Own { bytes, .. }) = mail.take_piece() {
                self.ring.pool.borrow_mut().give_back(bytes);
            }
        }
        debug_assert!(size == 0, "only what was shown can be taken");
    }

    /// Takes the first bytes with the buffer they lie in, when there is room around them; they count as
    /// taken, and are the caller's alone.
    pub(super) fn take_roomy(&self) -> Option<(Rc<Lent>, Range<usize>)> {
        let mut mail = self.mail.borrow_mut();
        let Some(Piece::Shared { roomy: true, .. }) = mail.data.front() else { return None };
        match mail.take_piece() {
            Some(Piece::Shared { buffer, range, .. }) => Some((buffer, range)),
            Some(Piece::Own { .. }) | None => None,
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
    fn take_piece(&mut self) -> Option<Piece> {
        let piece = self.data.pop_front()?;
        let next = self.data.front().and_then(Piece::shared);
        let is_last = |buffer| next.is_none_or(|next| !Rc::ptr_eq(next, buffer));
        self.shared -= usize::from(piece.shared().is_some_and(is_last));
        Some(piece)
    }

    fn give_back_buffers(&mut self, ring: &Ring) {
        while let Some(head) = self.heads.pop_front() {
            ring.pool.borrow_mut().give_back(head);
        }
        while let Some(piece) = self.data.pop_front() {
            match piece {
                Piece::Own { bytes, .. } => ring.pool.borrow_mut().give_back(bytes),
                // The last to let go of a shared buffer gives it back to the pool: nobody else may hold
                // that now.
                Piece::Shared { buffer, .. } => drop(buffer),
            }
        }
        self.shared = 0;
    }

    fn wake(&mut self, ring: &Ring) {
        match self.waker.take() {
            Some(waker) if self.is_patient => ring.wake_patient(waker),
            Some(waker) => waker.wake(),
            None => {}
        }
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.mail.get_mut().give_back_buffers(&self.ring);
    }
}

/// Bytes that are copied rather than keep a whole received buffer.
const SMALL: usize = 2 * 1024;

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;
    use crate::shard::Slots;

    #[test]
    fn a_mailbox_used_again_holds_nothing_of_the_exchange_before() {
        let ring = Ring::new(64, Slots::ByRing).expect("this machine has io_uring");
        let mailboxes = Mailboxes::new(&ring);
        let first = mailboxes.take();
        first.watch(&Context::from_waker(Waker::noop()));
        first.put_head(b"head");
        first.put_data(b"data");
        first.consume(2);
        first.put_shared(&Lent::new(&ring, vec![1; 3 * SMALL]), 0..2 * SMALL, false);
        first.put_end(b"trailers");
        first.put_broken(Broken::Lost { not_taken: true });
        let address = Rc::as_ptr(&first);
        mailboxes.give_back(&first);
        drop(first);
        let second = mailboxes.take();
        assert!(std::ptr::eq(address, Rc::as_ptr(&second)), "it is used again");
        assert!(second.take_head().is_none() && second.data().is_empty() && !second.has_end());
        assert!(second.trailers().is_empty() && second.broken().is_none());
        assert!(second.mail.borrow().waker.is_none(), "whoever waited for the first is not woken");
    }

    #[test]
    fn a_patient_mailbox_wakes_its_task_when_its_turn_comes() {
        let ring = Ring::new(64, Slots::ByRing).expect("this machine has io_uring");
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let count = || woken.0.load(Ordering::Relaxed);
        let mailbox = Mailbox::new(&ring);
        mailbox.watch(&Context::from_waker(&waker));
        mailbox.put_head(b"head");
        assert_eq!((count(), ring.has_patient()), (1, false), "at once");
        mailbox.set_patient();
        mailbox.watch(&Context::from_waker(&waker));
        mailbox.put_head(b"head");
        mailbox.put_end(b"");
        assert_eq!((count(), ring.has_patient()), (1, true), "not yet");
        assert_eq!(ring.take_turns().taken, 1);
        assert_eq!((count(), ring.has_patient()), (2, false), "once for both");
        mailbox.clear();
        mailbox.watch(&Context::from_waker(&waker));
        mailbox.put_head(b"head");
        assert_eq!(count(), 3, "the next exchange is not patient");
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_mailbox_that_somebody_still_tells_is_not_used_again() {
        let ring = Ring::new(64, Slots::ByRing).expect("this machine has io_uring");
        let mailboxes = Mailboxes::new(&ring);
        let first = mailboxes.take();
        let teller = first.clone();
        mailboxes.give_back(&first);
        drop(first);
        assert!(!Rc::ptr_eq(&teller, &mailboxes.take()));
    }

    #[test]
    fn streams_that_nobody_reads_keep_no_more_buffers_together_than_the_bound_says() {
        let ring = Ring::new(64, Slots::ByRing).expect("this machine has io_uring");
        let stalled: Vec<_> = (0..limits::LENT_COUNT_MAX + 40).map(|_| Mailbox::new(&ring)).collect();
        for mailbox in &stalled {
            let bytes = vec![7; 2 * SMALL];
            mailbox.put_shared(&Lent::new(&ring, bytes), 0..SMALL + 1, false);
            assert_eq!(*mailbox.data(), [7; SMALL + 1]);
        }
        let keeping = stalled.iter().filter(|mailbox| mailbox.mail.borrow().shared == 1).count();
        assert_eq!(keeping, limits::LENT_COUNT_MAX);
        stalled[0].consume(SMALL + 1);
        let next = Mailbox::new(&ring);
        next.put_shared(&Lent::new(&ring, vec![7; 2 * SMALL]), 0..SMALL + 1, false);
        assert_eq!(next.mail.borrow().shared, 1, "room again");
        drop((stalled, next));
        assert!(!ring.pool.borrow().is_lent_out());
    }

    #[test]
    fn pieces_of_one_buffer_hold_it_once_and_only_roomy_ones_are_given_away() {
        let ring = Ring::new(64, Slots::ByRing).expect("this machine has io_uring");
        let mailbox = Mailbox::new(&ring);
        let piece = 2 * SMALL;
        let buffers: Vec<_> =
            (0..=limits::PIECES_SHARED_MAX).map(|_| Lent::new(&ring, vec![3; 4 * piece])).collect();
        for buffer in &buffers {
            for at in 0..3 {
                mailbox.put_shared(buffer, at * piece..(at + 1) * piece, at != 1);
            }
        }
        assert_eq!(mailbox.mail.borrow().shared, limits::PIECES_SHARED_MAX, "the last one was copied");
        let (buffer, range) = mailbox.take_roomy().expect("the first piece is roomy");
        assert!(Rc::ptr_eq(&buffer, &buffers[0]) && range == (0..piece));
        assert_eq!(mailbox.mail.borrow().shared, limits::PIECES_SHARED_MAX, "two pieces of it are left");
        assert!(mailbox.take_roomy().is_none(), "the next is not");
        mailbox.consume(piece);
        assert_eq!(mailbox.take_roomy().map(|(_, range)| range), Some(2 * piece..3 * piece));
        assert_eq!(mailbox.mail.borrow().shared, limits::PIECES_SHARED_MAX - 1);
        while !mailbox.data().is_empty() {
            let size = mailbox.data().len();
            mailbox.consume(size);
        }
        assert_eq!(mailbox.mail.borrow().shared, 0);
    }

    #[test]
    fn no_more_mailboxes_are_spared_than_the_bound_says() {
        let ring = Ring::new(64, Slots::ByRing).expect("this machine has io_uring");
        let mailboxes = Mailboxes::new(&ring);
        let all: Vec<_> = (0..limits::MAILBOXES_SPARE_MAX + 10).map(|_| mailboxes.take()).collect();
        all.iter().for_each(|mailbox| mailboxes.give_back(mailbox));
        assert_eq!(mailboxes.spare.borrow().len(), limits::MAILBOXES_SPARE_MAX);
    }
}
