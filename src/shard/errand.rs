//! What blocks (name resolution, a slow disk) is done by a thread outside; the shard's task waits for
//! what it brings back.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::task::{Poll, Waker};

use super::ring;

/// The errands of one shard.
pub(super) struct Errands {
    /// The shard's eventfd, open as long as a thread may write to it.
    wake: Arc<OwnedFd>,
    done: (mpsc::Sender<u64>, mpsc::Receiver<u64>),
    waiting: RefCell<(u64, HashMap<u64, Waker>)>,
}

impl Errands {
    /// `wake` is the eventfd of the shard's ring.
    pub(super) fn new(wake: RawFd) -> io::Result<Errands> {
        // SAFETY: the duplicate, if one was made, is owned here alone.
        let wake = unsafe {
            let copy = libc::fcntl(wake, libc::F_DUPFD_CLOEXEC, 0);
            if copy < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(copy)
        };
        Ok(Errands { wake: Arc::new(wake), done: mpsc::channel(), waiting: RefCell::default() })
    }

    /// See [`super::Shard::errand`].
    pub(super) async fn run<T: Send + 'static>(
        &self,
        errand: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let number = {
            let mut waiting = self.waiting.borrow_mut();
            waiting.0 += 1;
            waiting.0
        };
        let result = Arc::new(Mutex::new(None));
        let (put, tell, wake) = (result.clone(), self.done.0.clone(), self.wake.clone());
        std::thread::Builder::new().name("errand".into()).spawn(move || {
            let brought = errand();
            *put.lock().unwrap_or_else(PoisonError::into_inner) = Some(brought);
            // The shard may have ended meanwhile.
            let _ = tell.send(number);
            ring::wake(wake.as_raw_fd());
        })?;
        std::future::poll_fn(|context| {
            if let Some(brought) = result.lock().unwrap_or_else(PoisonError::into_inner).take() {
                return Poll::Ready(Ok(brought));
            }
            self.waiting.borrow_mut().1.insert(number, context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Wakes the tasks whose errand is done; gives how many.
    pub(super) fn deliver(&self) -> usize {
        let mut count = 0;
        while let Ok(number) = self.done.1.try_recv() {
            count += 1;
            if let Some(waker) = self.waiting.borrow_mut().1.remove(&number) {
                waker.wake();
            }
        }
        count
    }
}
