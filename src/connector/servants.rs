//! The tasks that serve exchanges: one that has served waits for the next, so that an exchange
//! allocates no task.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::Here;
use super::exchange::{Asking, serve};
use crate::limits;
use crate::transport::Stream;

/// An exchange to serve.
pub struct Job {
    /// Its stream.
    pub stream: Stream,
    /// Its OPEN payload, in a buffer of the shard's pool.
    pub message: Vec<u8>,
    /// Who asks.
    pub asking: Asking,
}

/// The tasks of one shard that wait for an exchange.
#[derive(Default)]
pub struct Servants {
    idle: RefCell<Vec<Rc<Servant>>>,
}

/// What a task has in common with who gives it work.
#[derive(Default)]
struct Servant {
    job: Cell<Option<Job>>,
    waker: RefCell<Option<Waker>>,
}

impl Servants {
    /// Has a task serve this exchange: one that waits for work, else a new one. A task is among those
    /// that wait only while it does, so that one that panicked is never given any.
    pub fn serve(here: &Rc<Here>, job: Job) {
        let idle = here.servants.idle.borrow_mut().pop();
        if let Some(servant) = idle {
            servant.job.set(Some(job));
            if let Some(waker) = servant.waker.borrow_mut().take() {
                waker.wake();
            }
            return;
        }
        let servant = Rc::new(Servant::default());
        servant.job.set(Some(job));
        here.shard.spawn("exchange", live(here.clone(), servant));
    }

    /// Whether `servant` shall wait for more.
    fn keep(&self, servant: &Rc<Servant>) -> bool {
        let mut idle = self.idle.borrow_mut();
        let is_wanted = idle.len() < limits::EXCHANGE_TASKS_SPARE_MAX;
        if is_wanted {
            idle.push(servant.clone());
        }
        is_wanted
    }
}

// Not an `async fn`, which would keep its arguments twice.
#[allow(clippy::manual_async_fn)]
fn live(here: Rc<Here>, servant: Rc<Servant>) -> impl Future<Output = ()> {
    async move {
        loop {
            let job = servant.next().await;
            // Lent, not handed over: the task would hold it twice for as long as a request is held.
            serve(&here, &job).await;
            let Job { stream, message, asking } = job;
            drop((stream, asking));
            here.shard.ring.pool.borrow_mut().give_back(message);
            if !here.servants.keep(&servant) {
                return;
            }
        }
    }
}

impl Servant {
    /// Waits for work.
    fn next(&self) -> impl Future<Output = Job> {
        std::future::poll_fn(|context| {
            if let Some(job) = self.job.take() {
                return Poll::Ready(job);
            }
            *self.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_task<A, B, T>(_: impl Fn(A, B) -> T) -> usize {
        size_of::<T>()
    }

    #[test]
    fn the_task_of_an_exchange_holds_its_relay_once() {
        let size = size_of_task(live);
        assert!(size <= limits::EXCHANGE_TASK_SIZE_MAX, "{size}");
    }
}
