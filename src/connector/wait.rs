//! Waiting with an end: a future beside a deadline, and beside a client that may leave.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use crate::shard::Shard;
use crate::transport::Stream;

/// Waits for `future`, at most `wait`; `None`: it took longer.
pub async fn within<T>(shard: &Shard, wait: Duration, future: impl Future<Output = T>) -> Option<T> {
    let deadline = shard.deadline();
    deadline.set(shard.now(), wait);
    let mut future = pin!(future);
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending if deadline.poll(context) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Waits for `future` as long as somebody waits for the answer; `None`: the exchange broke off.
pub async fn unless_broken<T>(stream: &Stream, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    std::future::poll_fn(|context| {
        if stream.mailbox().broken().is_some() {
            return Poll::Ready(None);
        }
        stream.mailbox().watch(context);
        future.as_mut().poll(context).map(Some)
    })
    .await
}
