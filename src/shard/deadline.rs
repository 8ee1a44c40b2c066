//! Deadlines of a shard's connections: one coarse wheel instead of a timer each.
//!
//! Setting a deadline later than it was only writes a cell; the wheel notices when the old one
//! comes round. So a request that moves its connection's deadline costs nothing.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use crate::limits::WHEEL_TICK;

struct Entry {
    /// Tick at which the deadline passes; `NONE` when there is none.
    due: Cell<u64>,
    /// Tick at which the wheel looks at this entry next; `NONE` when it does not.
    queued: Cell<u64>,
    /// Where it lies in the slot of that tick.
    place: Cell<u32>,
    waker: RefCell<Option<Waker>>,
}

/// The wheel of one shard.
pub struct Wheel {
    start: Instant,
    /// Every tick up to this one has been looked at.
    tick: Cell<u64>,
    slots: RefCell<Vec<Vec<Rc<Entry>>>>,
    entries: Cell<usize>,
}

impl Wheel {
    /// An empty wheel.
    pub fn new(now: Instant) -> Rc<Wheel> {
        let slots = RefCell::new((0..SLOTS).map(|_| Vec::new()).collect());
        Rc::new(Wheel { start: now, tick: Cell::new(0), slots, entries: Cell::new(0) })
    }

    fn tick_of(&self, at: Instant) -> u64 {
        let ticks = at.saturating_duration_since(self.start).as_nanos() / WHEEL_TICK.as_nanos();
        ticks as u64 + 1
    }

    /// Looks at every tick that passed; wakes the tasks whose deadline did. Gives how many.
    pub fn advance(&self, now: Instant) -> usize {
        let last = self.tick_of(now) - 1;
        let mut woken = 0;
        while self.tick.get() < last {
            let tick = self.tick.get() + 1;
            self.tick.set(tick);
            let slot = (tick % SLOTS) as usize;
            let mut due = std::mem::take(&mut self.slots.borrow_mut()[slot]);
            self.entries.set(self.entries.get() - due.len());
            for entry in due.drain(..) {
                woken += usize::from(self.look(&entry, tick));
            }
            let mut slots = self.slots.borrow_mut();
            if slots[slot].is_empty() && due.capacity() <= 64 {
                slots[slot] = due;
            }
            if self.entries.get() == 0 {
                self.tick.set(last);
            }
        }
        woken
    }

    fn look(&self, entry: &Rc<Entry>, tick: u64) -> bool {
        if entry.queued.get() != tick {
            return false;
        }
        entry.queued.set(NONE);
        match entry.due.get() {
            NONE => false,
            due if due <= tick => match entry.waker.take() {
                Some(waker) => {
                    waker.wake();
                    true
                }
                None => false,
            },
            due => {
                self.queue(entry, due);
                false
            }
        }
    }

    fn queue(&self, entry: &Rc<Entry>, due: u64) {
        let at = due.clamp(self.tick.get() + 1, self.tick.get() + SLOTS - 1);
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots[(at % SLOTS) as usize];
        entry.queued.set(at);
        entry.place.set(slot.len() as u32);
        slot.push(entry.clone());
        self.entries.set(self.entries.get() + 1);
    }

    /// Looks at this entry no more. Left to lie until its tick, those of connections that were closed long
    /// before would pile up: 72 bytes each, for up to 256 s.
    fn forget(&self, entry: &Rc<Entry>) {
        let queued = entry.queued.replace(NONE);
        if queued == NONE {
            return;
        }
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots[(queued % SLOTS) as usize];
        let place = entry.place.get() as usize;
        // It is not there while its slot is looked at.
        if slot.get(place).is_some_and(|held| Rc::ptr_eq(held, entry)) {
            slot.swap_remove(place);
            if let Some(moved) = slot.get(place) {
                moved.place.set(place as u32);
            }
            self.entries.set(self.entries.get() - 1);
        }
    }

    /// Of every task that waits with a deadline, so that it can be told of something else.
    pub fn wakers(&self) -> Vec<Waker> {
        let slots = self.slots.borrow();
        let waiting = slots.iter().flatten().filter(|entry| entry.due.get() != NONE);
        waiting.filter_map(|entry| entry.waker.borrow().clone()).collect()
    }

    /// When to look next; `None` when nothing waits.
    pub fn next(&self) -> Option<Instant> {
        if self.entries.get() == 0 {
            return None;
        }
        let slots = self.slots.borrow();
        let from = self.tick.get();
        let ahead = (1..=SLOTS).find(|ahead| !slots[((from + ahead) % SLOTS) as usize].is_empty())?;
        Some(self.start + WHEEL_TICK * u32::try_from(from + ahead).unwrap_or(u32::MAX))
    }
}

/// One connection's deadline on the wheel. Passes up to one tick late, never early.
pub struct Deadline {
    wheel: Rc<Wheel>,
    entry: Rc<Entry>,
}

impl Deadline {
    /// A deadline that is not set.
    pub fn new(wheel: &Rc<Wheel>) -> Deadline {
        let (due, queued) = (Cell::new(NONE), Cell::new(NONE));
        let entry = Entry { due, queued, place: Cell::new(0), waker: RefCell::new(None) };
        Deadline { wheel: wheel.clone(), entry: Rc::new(entry) }
    }

    /// Sets it to `wait` after `now`.
    pub fn set(&self, now: Instant, wait: Duration) {
        let due = self.wheel.tick_of(now + wait);
        self.entry.due.set(due);
        if self.entry.queued.get() > due {
            self.wheel.forget(&self.entry);
            self.wheel.queue(&self.entry, due);
        }
    }

    /// Sets it to never.
    pub fn clear(&self) {
        self.entry.due.set(NONE);
    }

    /// Whether it passed; remembers the task to wake when it did not.
    pub fn poll(&self, context: &Context<'_>) -> bool {
        if self.has_passed() {
            return true;
        }
        super::ring::remember(&mut self.entry.waker.borrow_mut(), context);
        false
    }

    /// Whether it passed.
    pub fn has_passed(&self) -> bool {
        self.entry.due.get() <= self.wheel.tick.get()
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.entry.due.set(NONE);
        self.entry.waker.take();
        self.wheel.forget(&self.entry);
    }
}

const NONE: u64 = u64::MAX;
/// 256 s at 250 ms; what is later is looked at once more then.
const SLOTS: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn polled(deadline: &Deadline) -> Arc<Count> {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        assert!(!deadline.poll(&Context::from_waker(&waker)));
        count
    }

    #[test]
    fn a_deadline_wakes_its_task_once_and_never_early() {
        let start = Instant::now();
        let wheel = Wheel::new(start);
        let deadline = Deadline::new(&wheel);
        deadline.set(start, Duration::from_secs(5));
        let woken = polled(&deadline);
        wheel.advance(start + Duration::from_millis(4_990));
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        wheel.advance(start + Duration::from_millis(5_260));
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(deadline.has_passed());
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn whoever_waits_with_a_deadline_can_be_told_of_something_else() {
        let start = Instant::now();
        let wheel = Wheel::new(start);
        let [waiting, cleared, gone] = [(); 3].map(|()| Deadline::new(&wheel));
        let told = [&waiting, &cleared, &gone].map(|deadline| {
            deadline.set(start, Duration::from_secs(5));
            polled(deadline)
        });
        cleared.clear();
        drop(gone);
        wheel.wakers().iter().for_each(Waker::wake_by_ref);
        assert_eq!(told.map(|count| count.0.load(Ordering::Relaxed)), [1, 0, 0]);
        assert!(!waiting.has_passed());
    }

    #[test]
    fn a_deadline_moved_later_passes_later_and_moved_earlier_passes_earlier() {
        let start = Instant::now();
        let wheel = Wheel::new(start);
        let deadline = Deadline::new(&wheel);
        deadline.set(start, Duration::from_secs(10));
        deadline.set(start, Duration::from_secs(600));
        let woken = polled(&deadline);
        wheel.advance(start + Duration::from_secs(599));
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        deadline.set(start + Duration::from_secs(599), Duration::from_millis(1));
        wheel.advance(start + Duration::from_millis(599_600));
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_dropped_or_cleared_deadline_wakes_nobody() {
        let start = Instant::now();
        let wheel = Wheel::new(start);
        let (dropped, cleared) = (Deadline::new(&wheel), Deadline::new(&wheel));
        dropped.set(start, Duration::from_secs(1));
        cleared.set(start, Duration::from_secs(1));
        let counts = [polled(&dropped), polled(&cleared)];
        drop(dropped);
        cleared.clear();
        wheel.advance(start + Duration::from_secs(3));
        assert!(counts.iter().all(|count| count.0.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn what_was_dropped_leaves_nothing_on_the_wheel_and_the_others_pass() {
        let start = Instant::now();
        let wheel = Wheel::new(start);
        let mut deadlines: Vec<_> = (0..100).map(|_| Deadline::new(&wheel)).collect();
        for (number, deadline) in deadlines.iter().enumerate() {
            deadline.set(start, Duration::from_secs(100));
            // Some are moved to where others lie.
            deadline.set(start, Duration::from_secs(if number % 3 == 0 { 10 } else { 100 }));
        }
        assert_eq!(wheel.entries.get(), 100, "each lies in one place");
        let mut number = 0;
        deadlines.retain(|_| {
            number += 1;
            number % 2 == 0
        });
        assert_eq!(wheel.entries.get(), 50);
        let counts: Vec<_> = deadlines.iter().map(polled).collect();
        wheel.advance(start + Duration::from_secs(11));
        let woken =
            |counts: &[Arc<Count>]| counts.iter().map(|count| count.0.load(Ordering::Relaxed)).sum::<usize>();
        assert_eq!(woken(&counts), 17);
        drop(deadlines.split_off(25));
        wheel.advance(start + Duration::from_secs(101));
        assert_eq!((woken(&counts[..25]), woken(&counts)), (25, 25 + woken(&counts[25..])));
        drop(deadlines);
        assert_eq!((wheel.entries.get(), wheel.next()), (0, None));
    }
}
