//! How often the data path allocates, counted by whose doing it is; only with the feature
//! `count-allocations`, otherwise nothing is compiled in.
//!
//! Only threads of shards are counted, and there three kinds apart: rustls allocates once per record in
//! each direction and the executor for its timers, both by their nature; what is left is ours, and a
//! request that is like the one before must cause none.

/// Whose doing an allocation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Of a thread that is no shard's.
    Elsewhere,
    /// The data path's own.
    Ours,
    /// Within rustls.
    Tls,
    /// For the executor's timers.
    Executor,
}

#[cfg(feature = "count-allocations")]
pub use counting::{Counting, counts, of_this_thread};
#[cfg(not(feature = "count-allocations"))]
pub use idle::of_this_thread;

#[cfg(not(feature = "count-allocations"))]
mod idle {
    use super::Whose;

    /// Nothing: nobody counts.
    pub struct Scope;

    /// What this thread allocates while what it gives lives is `whose`; nobody counts.
    #[inline(always)]
    pub fn of_this_thread(_whose: Whose) -> Scope {
        Scope
    }
}

#[cfg(feature = "count-allocations")]
mod counting {
    use std::alloc::{GlobalAlloc, Layout};
    use std::cell::Cell;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::Whose;

    thread_local! {
        static WHOSE: Cell<Whose> = const { Cell::new(Whose::Elsewhere) };
    }

    static COUNTS: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

    /// Allocations so far, by whose doing; those of other threads left out.
    pub fn counts() -> [(&'static str, u64); 3] {
        let of = |whose: Whose| COUNTS[whose as usize].load(Ordering::Relaxed);
        [("ours", of(Whose::Ours)), ("tls", of(Whose::Tls)), ("executor", of(Whose::Executor))]
    }

    /// Until it is dropped, what this thread allocates is somebody else's doing.
    pub struct Scope(Whose);

    /// What this thread allocates while what it gives lives is `whose`. On a thread that is no shard's,
    /// only [`Whose::Ours`] changes anything: it makes it one.
    pub fn of_this_thread(whose: Whose) -> Scope {
        let before = WHOSE.get();
        if before != Whose::Elsewhere || whose == Whose::Ours {
            WHOSE.set(whose);
        }
        Scope(before)
    }

    impl Drop for Scope {
        fn drop(&mut self) {
            WHOSE.set(self.0);
        }
    }

    /// Counts, and leaves the work to another allocator.
    pub struct Counting<A>(pub A);

    fn count() {
        // A thread that ends has no name for what it allocates any more.
        if let Ok(whose) = WHOSE.try_with(Cell::get) {
            COUNTS[whose as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    // SAFETY: every call is passed on as it came.
    unsafe impl<A: GlobalAlloc> GlobalAlloc for Counting<A> {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            count();
            unsafe { self.0.alloc(layout) }
        }
        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            unsafe { self.0.dealloc(pointer, layout) }
        }
        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            count();
            unsafe { self.0.alloc_zeroed(layout) }
        }
        unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            count();
            unsafe { self.0.realloc(pointer, layout, size) }
        }
    }
}
