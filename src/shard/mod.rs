//! A shard: one executor pinned to one CPU, one ring, its buffers, its deadlines, its place in the
//! mesh. Shards share nothing; what crosses between them are messages.
//!
//! The executor is glommio's; sockets live on a ring of our own that a task inside the executor
//! drives (`drive`). What a shard serves is a role's business.

mod buffers;
mod deadline;
mod errand;
mod mesh;
mod nest;
mod probe;
mod ring;
mod socket;

pub use buffers::{Lent, Outgoing, Pool, SharedBuffer};
pub use deadline::{Deadline, Wheel};
pub use mesh::{Mesh, Port};
pub use nest::{Nest, Nested};
pub use probe::{Needs, ProbeError, ProbeErrors, probe, raise_open_files};
pub use ring::{Polled, Ring, RingCounts, Slots, Turns};
pub use socket::{Listener, Socket};

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use errand::Errands;
use futures_lite::FutureExt;
use glommio::{LocalExecutorBuilder, Placement};

use crate::allocations::{Whose, of_this_thread};
use crate::limits;

/// What the tasks of one shard hold in common.
pub struct Shard {
    /// Which shard of the process.
    pub index: usize,
    /// Sockets.
    pub ring: Rc<Ring>,
    /// Deadlines.
    pub wheel: Rc<Wheel>,
    stopped: Cell<bool>,
    /// Somebody wants another turn although nothing happens; see [`Shard::stay_awake`].
    awake: Cell<bool>,
    /// Tasks that panicked: each a mistake of ours.
    pub panics: Cell<u64>,
    /// Kinds of tasks whose size is known.
    measured: RefCell<Vec<&'static str>>,
    next_id: Cell<u64>,
    /// How often a task of this shard ran; see [`drive`].
    polls: Cell<u64>,
    /// What threads outside bring back.
    errands: Errands,
}

/// Bytes of a task of each kind that this process has started, its future's whole state.
pub fn task_sizes() -> BTreeMap<&'static str, usize> {
    TASK_SIZES.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

static TASK_SIZES: Mutex<BTreeMap<&'static str, usize>> = Mutex::new(BTreeMap::new());

impl Shard {
    /// The time of this turn of the loop.
    pub fn now(&self) -> Instant {
        self.ring.now()
    }

    /// A deadline that is not set.
    pub fn deadline(&self) -> Deadline {
        Deadline::new(&self.wheel)
    }

    /// A number this shard gives once.
    pub fn next_id(&self) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        id
    }

    /// Starts a task that serves a peer. A panic in it ends that task alone and is counted.
    pub fn spawn(self: &Rc<Self>, name: &'static str, task: impl Future<Output = ()> + 'static) {
        let task = AssertUnwindSafe(task).catch_unwind();
        let task = Guarded { task, name, shard: self.clone() };
        self.measure(name, size_of_val(&task));
        glommio::spawn_local(task).detach();
    }

    /// Thousands of tasks of one kind may wait at once: what each takes is no secret.
    fn measure(&self, name: &'static str, size: usize) {
        if self.measured.borrow().contains(&name) {
            return;
        }
        self.measured.borrow_mut().push(name);
        TASK_SIZES.lock().unwrap_or_else(PoisonError::into_inner).insert(name, size);
    }

    /// Runs `errand`, which may block, in a thread of its own and waits for what it brings.
    ///
    /// # Errors
    /// When no thread can be started.
    pub async fn errand<T: Send + 'static>(
        &self,
        errand: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        self.errands.run(errand).await
    }

    /// Wakes every task that waits with a deadline, so that it hears of something else; a few in each turn.
    pub fn wake_everybody(self: &Rc<Self>) {
        let waiting = self.wheel.wakers();
        self.spawn("look again", async move {
            for some in waiting.chunks(limits::RECHECKED_PER_TURN) {
                some.iter().for_each(Waker::wake_by_ref);
                futures_lite::future::yield_now().await;
            }
        });
    }

    /// Has the driver take another turn at once instead of sleeping: somebody has put off until then what
    /// nothing else would wake it for.
    pub fn stay_awake(&self) {
        self.awake.set(true);
    }

    /// Ends the shard's driver; its thread ends when the main task does.
    pub fn stop(&self) {
        self.stopped.set(true);
    }

    /// Waits for `wait`, on the shard's wheel.
    pub async fn sleep(&self, wait: Duration) {
        let deadline = self.deadline();
        deadline.set(self.now(), wait);
        std::future::poll_fn(|context| if deadline.poll(context) { Poll::Ready(()) } else { Poll::Pending })
            .await;
    }
}

pin_project_lite::pin_project! {
    /// A task whose panic is caught. By hand, because an `async` block would hold the task twice: once
    /// as what it captured, once as what it awaits.
    struct Guarded<F> {
        #[pin]
        task: F,
        name: &'static str,
        shard: Rc<Shard>,
    }
}

impl<F: Future<Output = std::thread::Result<()>>> Future for Guarded<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        this.shard.polls.set(this.shard.polls.get().wrapping_add(1));
        let ended = std::task::ready!(this.task.poll(context));
        if ended.is_err() {
            this.shard.panics.set(this.shard.panics.get() + 1);
            tracing::error!(
                shard = this.shard.index,
                task = this.name,
                "a task panicked; this is a bug of cmg"
            );
        }
        Poll::Ready(())
    }
}

/// Where a shard runs and how large its table of direct descriptors is.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Which shard of the process.
    pub index: usize,
    /// The CPU it is pinned to.
    pub cpu: usize,
    /// Direct descriptors.
    pub slots: u32,
    /// Who chooses their slots.
    pub owner: SlotOwner,
}

/// See [`Slots`].
pub type SlotOwner = Slots;

impl std::fmt::Debug for Slots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Slots::ByAccept => "by accept",
            Slots::ByRing => "by ring",
        })
    }
}

/// Runs one shard in a thread of its own until `main`'s future ends. `main` gives, besides, what the
/// driver does in each turn (taking messages from the inbox); it answers how many it found.
///
/// # Errors
/// When the executor or the ring cannot be made.
pub fn start<F, T, Fut>(place: Place, main: F) -> io::Result<std::thread::JoinHandle<io::Result<()>>>
where
    F: FnOnce(Rc<Shard>) -> (T, Fut) + Send + 'static,
    T: FnMut() -> usize + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let name = format!("shard-{}", place.index);
    std::thread::Builder::new().name(name).spawn(move || {
        let _counted = of_this_thread(Whose::Ours);
        let executor = LocalExecutorBuilder::new(Placement::Fixed(place.cpu))
            .io_memory(64 * 1024)
            .preempt_timer(PREEMPT_EVERY)
            .make()
            .map_err(|error| io::Error::other(format!("executor: {error}")))?;
        executor.run(async move {
            let ring = Ring::new(place.slots, place.owner).map_err(probe::explained)?;
            let shard = Rc::new(Shard {
                index: place.index,
                wheel: Wheel::new(ring.now()),
                errands: Errands::new(ring.wake_fd())?,
                ring,
                stopped: Cell::new(false),
                awake: Cell::new(false),
                panics: Cell::new(0),
                measured: RefCell::default(),
                next_id: Cell::new(1),
                polls: Cell::new(0),
            });
            let (turn, role) = main(shard.clone());
            let ends = shard.clone();
            shard.spawn("role", async move {
                role.await;
                ends.stop();
            });
            // A driver that ends by itself has a broken ring; then nothing on the shard goes on.
            drive(shard, turn).await
        })
    })
}

/// Drives the shard's ring: tells who waited, lets the tasks run that were woken, and gives to the
/// kernel, in one call, what they want and the wait for what comes next.
///
/// It sleeps in the ring itself, never in the executor. Sleeping in glommio instead cost 20 us a wake,
/// and glommio 0.9 can sleep although tasks are ready (see [`Heartbeat`]). It sleeps only when nothing
/// is left to do: no task is ready, no message waits in the inbox, nobody waits for what was queued, and
/// nobody put anything off until the next turn.
async fn drive(shard: Rc<Shard>, mut turn: impl FnMut() -> usize) -> io::Result<()> {
    let ring = shard.ring.clone();
    let mut heartbeat = Heartbeat::default();
    let mut way_given = ring.now();
    while !shard.stopped.get() {
        heartbeat.beat(ring.now()).await;
        ring.deliver();
        shard.wheel.advance(ring.now());
        // An inbox that was not found empty rings nobody for what lies in it.
        let told = turn() + shard.errands.deliver();
        let mut at_rest = settle(&shard).await;
        let turns = ring.take_turns();
        if turns.taken > 0 {
            at_rest = settle(&shard).await;
        }
        let is_wanted = shard.awake.replace(false) || shard.stopped.get();
        let is_wanted = is_wanted || ring.has_patient() || ring.can_feed();
        if at_rest && told == 0 && !ring.is_pressed() && !is_wanted {
            ring.wait(shard.wheel.next())?;
        } else {
            ring.submit()?;
            if turns.taken > 0 && turns.gently && ring.now() >= way_given + limits::GIVE_WAY_EVERY {
                give_way();
                way_given = ring.now();
            }
        }
    }
    Ok(())
}

/// Lets another process have this CPU, if one wants it: what is left to do here can wait, and what an
/// ordinary request waits for may be there (a gateway and a connection point on one machine). Otherwise the
/// kernel's scheduler looks again after a tick of up to 10 ms.
fn give_way() {
    // SAFETY: it takes nothing and touches no memory.
    unsafe { libc::sched_yield() };
}

/// Lets the tasks run that are ready, and those that they wake: what they all send leaves in one system
/// call. Whether none is ready any more. The executor runs tasks in the order they were woken; so when
/// none ran while this one stood at the end of the line, none is.
async fn settle(shard: &Shard) -> bool {
    for _ in 0..ROUNDS_PER_TURN {
        let polls = shard.polls.get();
        futures_lite::future::yield_now().await;
        if shard.polls.get() == polls {
            return true;
        }
        if shard.ring.is_pressed() {
            return false;
        }
    }
    false
}

/// Keeps the executor from oversleeping. glommio 0.9 sleeps although tasks are ready when its
/// preemption timer fires before the first of them ran (a process that lost its CPU at the wrong
/// moment; seen within seconds on two busy cores, and for good). Its preemption timer is set so far off
/// that it does not fire; should it, a timer armed here makes such a sleep short.
#[derive(Default)]
struct Heartbeat {
    timer: Option<(Instant, glommio::timer::Timer)>,
}

impl Heartbeat {
    /// Arms the timer anew when it has passed.
    async fn beat(&mut self, now: Instant) {
        if self.timer.as_ref().is_some_and(|(armed, _)| now.duration_since(*armed) < HEARTBEAT_EVERY) {
            return;
        }
        let _counted = of_this_thread(Whose::Executor);
        let mut timer = glommio::timer::Timer::new(HEARTBEAT_EVERY);
        // One poll registers it with the executor; who is woken is this task, which is ready anyway.
        std::future::poll_fn(|context| {
            let _ = Pin::new(&mut timer).poll(context);
            Poll::Ready(())
        })
        .await;
        self.timer = Some((now, timer));
    }
}

/// A task that wakes another that wakes a third: client, link, and one to spare. Tasks that go on waking
/// themselves have much to move, and the kernel must hear of it.
const ROUNDS_PER_TURN: usize = 4;
/// glommio's own timers and rings are not on the data path: it need not look at them.
const PREEMPT_EVERY: Duration = Duration::from_secs(3600);
/// The longest sleep with work to do; see [`Heartbeat`].
const HEARTBEAT_EVERY: Duration = Duration::from_millis(5);

/// The CPUs this process may use, in order.
pub fn allowed_cpus() -> Vec<usize> {
    // SAFETY: cpu_set_t is plain old data and the size given is its own.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) != 0 {
            return vec![0];
        }
        (0..libc::CPU_SETSIZE as usize).filter(|cpu| libc::CPU_ISSET(*cpu, &set)).collect()
    }
}

/// Slots of a ring's table: what the hard limit of open files leaves, at most the bound.
pub fn slots_for(open_files_hard: u64) -> u32 {
    let room = open_files_hard.saturating_sub(u64::from(limits::OPEN_FILES_RESERVE));
    u32::try_from(room).unwrap_or(u32::MAX).clamp(64, limits::DIRECT_SLOTS_MAX)
}
