//! The channel of this crate.

use std::hint::black_box;
use std::time::Instant;

use cmg::channel::{Channel, Event, RequestMessage, ResponseMessage, Side, StreamId};

use super::Rival;
use crate::fixtures::channel::{answer, is_near_full, request};

pub struct Ours {
    gateway: Channel,
    connector: Channel,
    now: Instant,
    head: Vec<u8>,
    pipe: Vec<u8>,
    opened: Vec<StreamId>,
    ended: usize,
    received: usize,
}

impl Ours {
    pub fn new() -> Ours {
        let now = Instant::now();
        Ours {
            gateway: Channel::new(Side::Gateway, now),
            connector: Channel::new(Side::Connector, now),
            now,
            head: Vec::new(),
            pipe: Vec::new(),
            opened: Vec::new(),
            ended: 0,
            received: 0,
        }
    }

    fn ask(&mut self) {
        self.head.clear();
        request(&mut self.head);
        self.gateway.open(&self.head, 1).expect("room");
    }

    fn pass_requests(&mut self) {
        let Ours { gateway, connector, pipe, opened, now, .. } = self;
        carry(gateway, connector, pipe, *now, |_, event| {
            if let Event::Opened { stream, message } = event {
                let message = RequestMessage::parse(message).expect("a sound peer");
                assert!(black_box(message.fields().count()) > 2);
                opened.push(stream);
            }
        });
    }

    fn answer(&mut self, stream: StreamId, body: &[u8]) {
        self.head.clear();
        answer(&mut self.head);
        self.connector.head(stream, &self.head).expect("room");
        assert_eq!(self.connector.data(stream, body), body.len(), "a window is larger");
        self.connector.end(stream, &[]);
    }

    fn pass_answers(&mut self) {
        let Ours { gateway, connector, pipe, ended, received, now, .. } = self;
        carry(connector, gateway, pipe, *now, |gateway, event| match event {
            Event::Head { message, .. } => {
                let message = ResponseMessage::parse(message).expect("a sound peer");
                assert!(black_box(message.fields().count()) > 2);
            }
            Event::Data { stream, data, .. } => {
                *received += data.len();
                gateway.consumed(stream, data.len());
            }
            Event::End { .. } => *ended += 1,
            _ => {}
        });
    }
}

impl Rival for Ours {
    fn exchange(&mut self, count: usize, body: &[u8]) {
        (0..count).for_each(|_| self.ask());
        self.pass_requests();
        let mut opened = std::mem::take(&mut self.opened);
        for stream in opened.drain(..) {
            if is_near_full(&self.connector, body) {
                self.pass_answers();
            }
            self.answer(stream, body);
        }
        self.opened = opened;
        self.pass_answers();
        self.pass_requests();
        assert_eq!((self.ended, self.received), (count, count * body.len()));
        (self.ended, self.received) = (0, 0);
    }
}

fn carry(
    from: &mut Channel,
    to: &mut Channel,
    pipe: &mut Vec<u8>,
    now: Instant,
    mut hear: impl FnMut(&mut Channel, Event<'_>),
) {
    pipe.clear();
    pipe.extend_from_slice(from.transmit());
    from.transmitted(pipe.len());
    let mut at = 0;
    while let Some((size, event)) = to.handle_frame(&pipe[at..], now).expect("a sound peer") {
        at += size;
        hear(to, event);
    }
}
