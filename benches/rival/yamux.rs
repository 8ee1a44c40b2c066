//! Streams and nothing else: the crate `yamux`, over memory, without a runtime. It knows no heads, so the
//! channel's messages travel behind their length.

use std::hint::black_box;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use cmg::channel::{RequestMessage, ResponseMessage};
use futures_lite::io::{AsyncRead, AsyncWrite};
use yamux::{Config, Connection, Mode, Stream};

use super::Rival;
use super::pipe::{Pipe, pipe};
use crate::fixtures::channel::{answer, request};

pub struct Yamux {
    gateway: Connection<Pipe>,
    connector: Connection<Pipe>,
    message: Vec<u8>,
}

impl Yamux {
    pub fn new() -> Yamux {
        let (one, other) = pipe();
        Yamux {
            gateway: Connection::new(one, Config::default(), Mode::Client),
            connector: Connection::new(other, Config::default(), Mode::Server),
            message: Vec::new(),
        }
    }

    /// Lets both connections do what they can; a stream that came.
    fn turn(&mut self, context: &mut Context<'_>) -> Option<Stream> {
        assert!(self.gateway.poll_next_inbound(context).is_pending(), "only one side opens");
        match self.connector.poll_next_inbound(context) {
            Poll::Ready(Some(stream)) => Some(stream.expect("a sound peer")),
            Poll::Ready(None) => panic!("the connection ended"),
            Poll::Pending => None,
        }
    }

    fn open(&mut self, context: &mut Context<'_>) -> Ours {
        let Poll::Ready(Ok(stream)) = self.gateway.poll_new_outbound(context) else { panic!("no stream") };
        self.message.clear();
        self.message.extend_from_slice(&[0; 2]);
        request(&mut self.message);
        lengthen(&mut self.message);
        Ours {
            stream,
            unsent: self.message.clone(),
            sent: 0,
            has_closed: false,
            received: Vec::new(),
            is_done: false,
        }
    }
}

/// Fills in the length in front of a message.
fn lengthen(message: &mut [u8]) {
    let size = (message.len() - 2) as u16;
    message[..2].copy_from_slice(&size.to_be_bytes());
}

/// The message behind its length, and what follows it.
fn split(received: &[u8]) -> (&[u8], &[u8]) {
    let (length, rest) = received.split_first_chunk::<2>().expect("a length");
    rest.split_at(usize::from(u16::from_be_bytes(*length)))
}

/// One side of a stream: sends what it has, then takes all there is.
struct Ours {
    stream: Stream,
    unsent: Vec<u8>,
    sent: usize,
    has_closed: bool,
    received: Vec<u8>,
    is_done: bool,
}

impl Ours {
    fn send(&mut self, context: &mut Context<'_>) {
        while self.sent < self.unsent.len() {
            match Pin::new(&mut self.stream).poll_write(context, &self.unsent[self.sent..]) {
                Poll::Ready(size) => self.sent += size.expect("an open stream"),
                Poll::Pending => return,
            }
        }
        if !self.has_closed && Pin::new(&mut self.stream).poll_close(context).is_ready() {
            self.has_closed = true;
        }
    }

    fn receive(&mut self, context: &mut Context<'_>) {
        let mut buffer = [0; 16 * 1024];
        while !self.is_done {
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Ready(size) => {
                    let size = size.expect("an open stream");
                    self.received.extend_from_slice(&buffer[..size]);
                    self.is_done = size == 0;
                }
                Poll::Pending => return,
            }
        }
    }
}

impl Rival for Yamux {
    fn exchange(&mut self, count: usize, body: &[u8]) {
        let mut context = Context::from_waker(Waker::noop());
        let mut asked: Vec<Ours> = (0..count).map(|_| self.open(&mut context)).collect();
        let mut answered: Vec<Ours> = Vec::with_capacity(count);
        while !asked.iter().all(|stream| stream.is_done) {
            for stream in asked.iter_mut().filter(|stream| !stream.has_closed) {
                stream.send(&mut context);
            }
            while let Some(stream) = self.turn(&mut context) {
                answered.push(Ours {
                    stream,
                    unsent: Vec::new(),
                    sent: 0,
                    has_closed: false,
                    received: Vec::new(),
                    is_done: false,
                });
            }
            for stream in answered.iter_mut().filter(|stream| !stream.has_closed) {
                stream.receive(&mut context);
                if stream.is_done && stream.unsent.is_empty() {
                    let message = RequestMessage::parse(split(&stream.received).0).expect("a sound peer");
                    assert!(black_box(message.fields().count()) > 2);
                    stream.unsent.extend_from_slice(&[0; 2]);
                    answer(&mut stream.unsent);
                    lengthen(&mut stream.unsent);
                    stream.unsent.extend_from_slice(body);
                }
                if !stream.unsent.is_empty() {
                    stream.send(&mut context);
                }
            }
            asked
                .iter_mut()
                .filter(|stream| stream.has_closed)
                .for_each(|stream| stream.receive(&mut context));
        }
        for stream in &asked {
            let (message, received) = split(&stream.received);
            let message = ResponseMessage::parse(message).expect("a sound peer");
            assert!(black_box(message.fields().count()) > 2);
            assert_eq!(received.len(), body.len());
        }
    }
}
