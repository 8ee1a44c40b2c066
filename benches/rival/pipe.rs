//! A connection over memory, for crates that want a socket: both ends in one thread, polled in turn, so
//! nobody need be woken.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_lite::io::{AsyncRead as FuturesRead, AsyncWrite as FuturesWrite};
use tokio::io::{AsyncRead as TokioRead, AsyncWrite as TokioWrite, ReadBuf};

#[derive(Default)]
struct Way {
    bytes: Vec<u8>,
    at: usize,
}

impl Way {
    fn read(&mut self, into: &mut [u8]) -> usize {
        let size = into.len().min(self.bytes.len() - self.at);
        into[..size].copy_from_slice(&self.bytes[self.at..self.at + size]);
        self.at += size;
        if self.at == self.bytes.len() {
            self.bytes.clear();
            self.at = 0;
        }
        size
    }
}

/// One end.
pub struct Pipe {
    from: Rc<RefCell<Way>>,
    to: Rc<RefCell<Way>>,
}

/// Both ends of a new one.
pub fn pipe() -> (Pipe, Pipe) {
    let (one, other) = (Rc::default(), Rc::default());
    (Pipe { from: Rc::clone(&one), to: Rc::clone(&other) }, Pipe { from: other, to: one })
}

impl TokioRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let size = self.from.borrow_mut().read(into.initialize_unfilled());
        into.advance(size);
        if size > 0 { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl TokioWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.to.borrow_mut().bytes.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl FuturesRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let size = self.from.borrow_mut().read(into);
        if size > 0 { Poll::Ready(Ok(size)) } else { Poll::Pending }
    }
}

impl FuturesWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.to.borrow_mut().bytes.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
