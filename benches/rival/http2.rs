//! HTTP/2: the crate `h2`, over memory, without a runtime.

use std::hint::black_box;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{self, ResponseFuture, SendRequest};
use h2::server::{self, SendResponse};

use super::Rival;
use super::heads;
use super::pipe::{Pipe, pipe};
use crate::fixtures::heads::{ANSWER, POLICY};

/// What the channel grants, as near as HTTP/2 can say it.
const STREAM_WINDOW: u32 = cmg::limits::STREAM_WINDOW_INITIAL as u32;
const WINDOW: u32 = cmg::limits::CHANNEL_WINDOW as u32;
const STREAMS: u32 = cmg::limits::STREAM_COUNT_MAX as u32;

pub struct Http2 {
    requests: SendRequest<Bytes>,
    gateway: client::Connection<Pipe, Bytes>,
    connector: server::Connection<Pipe, Bytes>,
}

impl Http2 {
    pub fn new() -> Http2 {
        let (one, other) = pipe();
        let mut gateway = client::Builder::new();
        gateway
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(WINDOW)
            .initial_max_send_streams(STREAMS as usize);
        let mut connector = server::Builder::new();
        connector
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_concurrent_streams(STREAMS);
        let mut gateway = pin!(gateway.handshake(one));
        let mut connector = pin!(connector.handshake(other));
        let mut context = Context::from_waker(Waker::noop());
        let (mut ready_gateway, mut ready_connector) = (None, None);
        while ready_gateway.is_none() || ready_connector.is_none() {
            if ready_gateway.is_none()
                && let Poll::Ready(done) = gateway.as_mut().poll(&mut context)
            {
                ready_gateway = Some(done.expect("a sound handshake"));
            }
            if ready_connector.is_none()
                && let Poll::Ready(done) = connector.as_mut().poll(&mut context)
            {
                ready_connector = Some(done.expect("a sound handshake"));
            }
        }
        let ((requests, gateway), connector) =
            (ready_gateway.expect("just made"), ready_connector.expect("just made"));
        Http2 { requests, gateway, connector }
    }

    fn turn(&mut self, context: &mut Context<'_>) -> Option<SendResponse<Bytes>> {
        assert!(Pin::new(&mut self.gateway).poll(context).is_pending(), "the connection lasts");
        match self.connector.poll_accept(context) {
            Poll::Ready(Some(Ok((request, respond)))) => {
                assert!(black_box(request.headers().iter().count()) > 2);
                Some(respond)
            }
            Poll::Ready(Some(Err(error))) => panic!("{error}"),
            Poll::Ready(None) => panic!("the connection ended"),
            Poll::Pending => None,
        }
    }
}

fn answer(mut respond: SendResponse<Bytes>, body: Bytes) {
    let head = heads::http_response(ANSWER, body.len());
    let mut stream = respond.send_response(head, false).expect("an open stream");
    stream.send_data(body, true).expect("an open stream");
}

/// An answer as far as it came.
enum Answer {
    Awaited(ResponseFuture),
    Body(RecvStream),
    Done,
}

impl Answer {
    /// Bytes that came by now.
    fn poll(&mut self, context: &mut Context<'_>) -> usize {
        if let Answer::Awaited(future) = self
            && let Poll::Ready(response) = Pin::new(future).poll(context)
        {
            let response = response.expect("an answer");
            assert!(black_box(response.headers().iter().count()) > 2);
            *self = Answer::Body(response.into_body());
        }
        let mut received = 0;
        while let Answer::Body(body) = self {
            match body.poll_data(context) {
                Poll::Ready(Some(data)) => {
                    let data = data.expect("a whole body");
                    received += data.len();
                    body.flow_control().release_capacity(data.len()).expect("as much as came");
                }
                Poll::Ready(None) => *self = Answer::Done,
                Poll::Pending => break,
            }
        }
        received
    }
}

impl Rival for Http2 {
    fn exchange(&mut self, count: usize, body: &[u8]) {
        let mut context = Context::from_waker(Waker::noop());
        let body = Bytes::copy_from_slice(body);
        let mut answers: Vec<Answer> = (0..count)
            .map(|_| {
                let request = heads::http_request(POLICY);
                let (answer, _) = self.requests.send_request(request, true).expect("room");
                Answer::Awaited(answer)
            })
            .collect();
        let mut received = 0;
        while answers.iter().any(|answer| !matches!(answer, Answer::Done)) {
            while let Some(respond) = self.turn(&mut context) {
                answer(respond, body.clone());
            }
            received += answers.iter_mut().map(|answer| answer.poll(&mut context)).sum::<usize>();
        }
        assert_eq!(received, count * body.len());
    }
}
