//! Hostile bytes against every reader of this core, and scripts against two ends at once.

use std::time::Instant;

use super::mux::Channel;
use super::simulation;
use super::*;
use crate::limits::{CHANNEL_WINDOW, WINDOW_GROWTH_BUDGET};

/// Fuzzer entry: the first byte chooses what the rest is for. Beyond not panicking:
/// - frames: windows and tables stay sound whatever is heard, and nothing is read beyond the bytes;
/// - messages: what is read and written again is the same bytes;
/// - scripts: nothing is lost, doubled, misrouted or left over.
pub fn fuzz(bytes: &[u8]) {
    let Some((choice, rest)) = bytes.split_first() else { return };
    // A core has no clock: any instant will do as the beginning, only differences count.
    let now = Instant::now();
    match choice % 5 {
        0 => frames(Side::Gateway, rest, now),
        1 => frames(Side::Connector, rest, now),
        2 => messages(rest),
        3 => hellos(rest),
        _ => simulation::run(rest, now, if choice & 0x80 == 0 { 0 } else { u32::MAX - 5 }),
    }
}

fn frames(side: Side, bytes: &[u8], now: Instant) {
    let mut channel = Channel::new(side, now);
    open_some(&mut channel);
    let mut used = 0;
    while let Ok(Some((size, event))) = channel.handle_frame(&bytes[used..], now) {
        used += size;
        assert!(used <= bytes.len());
        answer(&mut channel, event);
        channel.assert_sound();
    }
    let count = channel.transmit_len();
    channel.transmitted(count);
    channel.close(CloseCode::Done, "");
}

/// A gateway hears nothing before it asked.
fn open_some(channel: &mut Channel) {
    if channel.side == Side::Connector {
        return;
    }
    let start = RequestStart {
        request_id: [0; 16],
        identity: 0,
        window: 1000,
        has_body: true,
        length: None,
        is_tunnel: false,
        expect_continue: false,
        method: b"GET",
        target: b"/",
        host: b"",
    };
    let mut message = Vec::new();
    RequestWriter::new(&mut message, &start).expect("small").finish();
    for token in 0..4 {
        channel.open(&message, token).expect("a fresh channel takes streams");
    }
}

/// Does something with an event, so that streams come and go.
fn answer(channel: &mut Channel, event: Event<'_>) {
    match event {
        Event::Opened { stream, message } => match RequestMessage::parse(message) {
            Ok(request) => channel.set_token(stream, request.window),
            Err(_) => channel.reset(stream, ResetCode::Protocol),
        },
        Event::Head { stream, message, .. } if ResponseMessage::parse(message).is_err() => {
            channel.reset(stream, ResetCode::Protocol);
        }
        Event::Data { stream, data, .. } => channel.consumed(stream, data.len()),
        Event::End { stream, trailers, .. } if parse_trailers(trailers).is_err() => {
            channel.reset(stream, ResetCode::Protocol);
        }
        Event::Settings(publication) => channel.acknowledge(publication.revision, Verdict::InForce, ""),
        _ => {}
    }
}

fn messages(bytes: &[u8]) {
    if let Ok(request) = RequestMessage::parse(bytes) {
        let mut again = Vec::new();
        let mut writer = RequestWriter::new(&mut again, &request).expect("it came in one frame");
        for field in request.fields() {
            writer.field(field.name, field.value).expect("it came in one frame");
        }
        writer.finish();
        assert_eq!(again, bytes);
    }
    if let Ok(response) = ResponseMessage::parse(bytes) {
        let mut again = Vec::new();
        let mut writer = ResponseWriter::new(&mut again, &response).expect("it came in one frame");
        for field in response.fields() {
            writer.field(field.name, field.value).expect("it came in one frame");
        }
        writer.finish();
        assert_eq!(again, bytes);
    }
    if let Ok(fields) = parse_trailers(bytes) {
        let mut again = Vec::new();
        let mut writer = TrailersWriter::new(&mut again);
        for field in fields {
            writer.field(field.name, field.value).expect("it came in one frame");
        }
        writer.finish();
        assert_eq!(again, bytes);
    }
}

fn hellos(bytes: &[u8]) {
    if let Ok(hello) = Hello::parse(bytes) {
        let mut again = Vec::new();
        hello.encode(&mut again);
        let (frame, _) = frame::take(&again).expect("well-formed").expect("whole");
        assert_eq!(Hello::parse(frame.payload), Ok(hello));
        assert!(bytes.starts_with(frame.payload));
    }
    if let Ok(reply) = HelloReply::parse(bytes) {
        let mut again = Vec::new();
        reply.encode(&mut again);
        let (frame, _) = frame::take(&again).expect("well-formed").expect("whole");
        assert_eq!(HelloReply::parse(frame.payload), Ok(reply));
    }
}

impl Channel {
    /// What holds between any two calls.
    pub(super) fn assert_sound(&mut self) {
        let mut grown = 0;
        for stream in self.streams.iter() {
            assert!(stream.window.is_sound() && !stream.is_over());
            grown += stream.window.grown();
        }
        assert_eq!(self.growth_left + grown, WINDOW_GROWTH_BUDGET as u32);
        assert!(self.credit.left() <= CHANNEL_WINDOW);
        assert!(self.streams.is_sound());
    }

    /// Nothing is left over, here and at the other end, once all was carried out.
    pub(super) fn assert_idle(&self, peer: &Channel) {
        assert_eq!((self.stream_count(), self.transmit_len()), (0, 0));
        assert_eq!(self.credit.left(), peer.window.granted() as usize, "channel credit leaked");
        assert!(peer.window.is_sound());
        assert_eq!(self.growth_left, WINDOW_GROWTH_BUDGET as u32);
        assert_eq!(self.identities, peer.identities);
    }
}
