//! What a peer must not do, a row each, and what it is told.

use std::time::Instant;

use super::claims::{request_message, response_message};
use crate::channel::frame::FrameKind as Kind;
use crate::channel::*;
use crate::limits::{
    CHANNEL_WINDOW, FIELD_COUNT_MAX, FRAME_PAYLOAD_SIZE_MAX, IDENTITY_SIZE_MAX, INTERIM_COUNT_MAX,
};

type Frames = Vec<(Kind, u32, Vec<u8>)>;

/// The first error that a fresh channel finds in these frames. A gateway has opened streams 1 and 2.
fn judge(side: Side, frames: Frames) -> Result<(), ChannelError> {
    let now = Instant::now();
    let mut channel = Channel::new(side, now);
    if side == Side::Gateway {
        channel.open(&request_message(false), 1).unwrap();
        channel.open(&request_message(true), 2).unwrap();
    }
    let mut bytes = Vec::new();
    for (kind, stream, payload) in frames {
        frame::put(&mut bytes, kind, stream, &payload);
    }
    let mut used = 0;
    while let Some((size, _)) = channel.handle_frame(&bytes[used..], now)? {
        used += size;
    }
    assert_eq!(used, bytes.len());
    Ok(())
}

fn full(stream: u32) -> (Kind, u32, Vec<u8>) {
    (Kind::Data, stream, vec![0; 16_000])
}

fn open(stream: u32) -> (Kind, u32, Vec<u8>) {
    (Kind::Open, stream, request_message(true))
}

fn head(stream: u32, status: u16) -> (Kind, u32, Vec<u8>) {
    (Kind::Head, stream, response_message(status))
}

#[test]
fn a_gateway_refuses_what_a_connector_must_not_say() {
    let pong = (Kind::Pong, 0, vec![0; 8]);
    let rows: Vec<(Frames, ChannelError)> = vec![
        (vec![open(3)], ChannelError::Unexpected(Kind::Open)),
        (vec![(Kind::Hello, 0, vec![])], ChannelError::Unexpected(Kind::Hello)),
        (vec![(Kind::Identity, 1, vec![1])], ChannelError::Unexpected(Kind::Identity)),
        (vec![(Kind::SettingsAck, 0, vec![0; 42])], ChannelError::Unexpected(Kind::SettingsAck)),
        (vec![head(3, 200)], ChannelError::NeverOpened(Kind::Head, 3)),
        (vec![head(0, 200)], ChannelError::NeverOpened(Kind::Head, 0)),
        (vec![full(1)], ChannelError::StreamState(Kind::Data, 1)),
        (vec![(Kind::End, 1, vec![])], ChannelError::StreamState(Kind::End, 1)),
        (vec![head(1, 103), full(1)], ChannelError::StreamState(Kind::Data, 1)),
        (vec![head(1, 200), head(1, 200)], ChannelError::StreamState(Kind::Head, 1)),
        (vec![head(2, 200), (Kind::End, 2, vec![]), full(2)], ChannelError::StreamState(Kind::Data, 2)),
        (vec![head(1, 103); INTERIM_COUNT_MAX + 1], ChannelError::TooManyInterims(1)),
        (vec![head(1, 200), full(1), full(1), full(1), full(1), full(1)], ChannelError::StreamWindow(1)),
        (vec![(Kind::Credit, 1, vec![0, 16, 0, 0])], ChannelError::CreditOverflow(1)),
        (vec![(Kind::Credit, 0, vec![0, 0, 0, 1])], ChannelError::CreditOverflow(0)),
        (vec![(Kind::Credit, 0, vec![255; 4])], ChannelError::CreditOverflow(0)),
        (vec![pong], ChannelError::UnaskedPong),
        (vec![(Kind::Ping, 0, vec![0; 8]); 17], ChannelError::PingFlood),
        (vec![(Kind::Settings, 0, vec![0; 48])], ChannelError::BadPublication),
        (vec![(Kind::Settings, 0, vec![0; 10])], ChannelError::BadPublication),
        (vec![(Kind::Settings, 0, [&[0; 40][..], &[255; 20]].concat())], ChannelError::BadPublication),
        (vec![(Kind::Close, 0, vec![0]), head(1, 200)], ChannelError::AfterClose),
        (vec![(Kind::Revoked, 0, vec![0; 10])], ChannelError::BadPublication),
        // Nothing was asked.
        (vec![(Kind::Renewal, 0, vec![1])], ChannelError::Unexpected(Kind::Renewal)),
    ];
    for (frames, error) in rows {
        let row = format!("{frames:?}");
        assert_eq!(judge(Side::Gateway, frames), Err(error), "{}", &row[..row.len().min(200)]);
    }
}

#[test]
fn a_connector_refuses_what_a_gateway_must_not_say() {
    let named = |number: u32| (Kind::Identity, number, vec![1]);
    let mut unknown = request_message(false);
    unknown[19] = 5;
    let mut wide = request_message(false);
    wide[20] = 1;
    let mut closed = request_message(false);
    closed[20..24].fill(0);
    let window = "too short, or its window is out of range";
    let late: Frames = vec![open(1), (Kind::Reset, 1, vec![129])];
    let flood: Frames = (0..=CHANNEL_WINDOW / 16_000).map(|_| full(1)).collect();
    let rows: Vec<(Frames, ChannelError)> = vec![
        (vec![head(1, 200)], ChannelError::Unexpected(Kind::Head)),
        (vec![(Kind::Settings, 0, vec![0; 60])], ChannelError::Unexpected(Kind::Settings)),
        (vec![(Kind::Revoked, 0, vec![0; 60])], ChannelError::Unexpected(Kind::Revoked)),
        (vec![(Kind::Renewal, 0, vec![]); 2], ChannelError::Unexpected(Kind::Renewal)),
        (vec![open(0)], ChannelError::StreamOrder(0)),
        (vec![open(1), open(1)], ChannelError::StreamOrder(1)),
        (vec![open(2), open(1)], ChannelError::StreamOrder(1)),
        (vec![open(40_000)], ChannelError::StreamOrder(40_000)),
        (vec![full(1)], ChannelError::NeverOpened(Kind::Data, 1)),
        (vec![(Kind::Open, 1, unknown)], ChannelError::BadIdentity(5)),
        (vec![(Kind::Open, 1, wide)], ChannelError::Malformed(Kind::Open, window)),
        (vec![(Kind::Open, 1, closed)], ChannelError::Malformed(Kind::Open, window)),
        (vec![named(0)], ChannelError::BadIdentity(0)),
        (vec![named(1), named(1)], ChannelError::BadIdentity(1)),
        (vec![(Kind::IdentityGone, 1, vec![])], ChannelError::BadIdentity(1)),
        (
            vec![(Kind::Identity, 1, vec![0; IDENTITY_SIZE_MAX + 1])],
            ChannelError::Malformed(Kind::Identity, "too long"),
        ),
        (vec![(Kind::Open, 1, request_message(false)), full(1)], ChannelError::StreamState(Kind::Data, 1)),
        (vec![open(1), (Kind::Data, 1, vec![])], ChannelError::Malformed(Kind::Data, "no bytes")),
        (vec![(Kind::Drain, 0, vec![0; 4]), open(1)], ChannelError::Unexpected(Kind::Open)),
        ([late, vec![open(1)]].concat(), ChannelError::StreamOrder(1)),
        ([vec![open(1)], flood].concat(), ChannelError::StreamWindow(1)),
    ];
    for (frames, error) in rows {
        let row = format!("{frames:?}");
        assert_eq!(judge(Side::Connector, frames), Err(error), "{}", &row[..row.len().min(200)]);
    }
}

#[test]
fn headers_are_judged_before_their_payload_is_awaited() {
    let rows: [(&[u8], Result<bool, ChannelError>); 8] = [
        (b"", Ok(false)),
        (&[9, 0, 0, 1, 0, 0, 0], Ok(false)),
        (&[9, 0, 0, 1, 0, 0, 0, 1], Ok(false)),
        (&[9, 0, 0, 1, 0, 0, 0, 1, 77], Ok(true)),
        (&[9, 0, 255, 255, 0, 0, 0, 1], Err(ChannelError::FrameTooLong(65_535))),
        (&[9, 1, 0, 1, 0, 0, 0, 1], Err(ChannelError::UnknownFlags(Kind::Data, 1))),
        (&[99, 0, 0, 0, 0, 0, 0, 1], Err(ChannelError::UnknownFrame(99))),
        (&[99, 0x80, 0, 0, 0, 0, 0, 1], Ok(true)),
    ];
    for (bytes, expected) in rows {
        assert_eq!(frame::take(bytes).map(|taken| taken.is_some()), expected, "{bytes:?}");
    }
    let mut bytes = Vec::new();
    frame::put(&mut bytes, Kind::Data, 1, &vec![0; FRAME_PAYLOAD_SIZE_MAX]);
    assert_eq!(bytes.len(), 16 * 1024, "a full frame fills a TLS record exactly");
}

/// `request_message(true)` with bytes changed.
fn changed(at: usize, with: &[u8]) -> Vec<u8> {
    let mut message = request_message(true);
    message[at..at + with.len()].copy_from_slice(with);
    message
}

#[test]
fn a_request_message_that_is_not_exact_is_refused() {
    let target_at = 40 + 3;
    let rows = [
        ("unknown flag", changed(32, &[0x11])),
        ("stray length", changed(31, &[1])),
        ("tunnel with a length", changed(24, &[0, 0, 0, 0, 0, 0, 0, 1, 0x07])),
        ("length without a body", changed(24, &[0, 0, 0, 0, 0, 0, 0, 1, 0x02])),
        ("tunnel without a body", changed(32, &[0x04])),
        ("tunnel without its protocol", changed(32, &[0x05])),
        ("method with a blank", changed(40, b"G T")),
        ("target without a slash", changed(target_at, b"x")),
        ("target with a blank", changed(target_at + 5, b" ")),
        ("target with a fragment", changed(target_at + 5, b"#")),
        ("target with obs-text", changed(target_at + 5, &[0xc3])),
        ("method longer than the message", changed(33, &[255])),
        ("fewer fields than said", changed(38, &[0, 3])),
        ("more fields than said", changed(38, &[0, 1])),
        ("a count beyond the bound", changed(38, &[255, 255])),
        ("no window", changed(20, &[0; 4])),
    ];
    assert!(RequestMessage::parse(&request_message(true)).is_ok());
    for (row, message) in rows {
        assert!(RequestMessage::parse(&message).is_err(), "{row}");
    }
    let whole = request_message(true);
    for size in 0..whole.len() {
        assert!(RequestMessage::parse(&whole[..size]).is_err(), "cut at {size}");
    }
}

fn asks_for_a_tunnel(method: &[u8], expect_continue: bool, fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let whole = request_message(true);
    let plain = RequestMessage::parse(&whole).unwrap();
    let start = RequestStart { method: b"GET", expect_continue: false, is_tunnel: false, ..*plain };
    let mut out = Vec::new();
    let mut writer = RequestWriter::new(&mut out, &start).unwrap();
    for (name, value) in fields {
        writer.field(name, value).unwrap();
    }
    writer.finish();
    out[32] = 0x05 | if expect_continue { 0x08 } else { 0 };
    out[40..43].copy_from_slice(method);
    out
}

#[test]
fn a_tunnel_has_one_protocol_and_nothing_else_has() {
    let websocket: (&[u8], &[u8]) = (b"Upgrade", b"websocket");
    let rows: [(Vec<u8>, bool); 11] = [
        (asks_for_a_tunnel(b"GET", false, &[websocket]), true),
        (asks_for_a_tunnel(b"GET", false, &[(b"A", b"b"), (b"upgrade", b"X-Own")]), true),
        (asks_for_a_tunnel(b"GET", false, &[]), false),
        (asks_for_a_tunnel(b"GET", false, &[websocket, websocket]), false),
        (asks_for_a_tunnel(b"GET", false, &[(b"Upgrade", b"h2c")]), false),
        (asks_for_a_tunnel(b"GET", false, &[(b"Upgrade", b"H2")]), false),
        (asks_for_a_tunnel(b"GET", false, &[(b"Upgrade", b"websocket, other")]), false),
        (asks_for_a_tunnel(b"GET", false, &[(b"Upgrade", b"websocket/13")]), false),
        (asks_for_a_tunnel(b"GET", false, &[(b"Upgrade", b"")]), false),
        (asks_for_a_tunnel(b"PUT", false, &[websocket]), false),
        (asks_for_a_tunnel(b"GET", true, &[websocket]), false),
    ];
    for (message, is_taken) in rows {
        let read = RequestMessage::parse(&message);
        assert_eq!(read.is_ok(), is_taken, "{read:?}");
        assert!(read.is_err() || read.is_ok_and(|read| read.is_tunnel && read.protocol().is_some()));
    }
    let mut ordinary = asks_for_a_tunnel(b"GET", false, &[websocket]);
    ordinary[32] = 0x01;
    assert!(RequestMessage::parse(&ordinary).is_err(), "an upgrade that is not flagged");
}

#[test]
fn an_answer_names_a_protocol_exactly_when_it_begins_a_tunnel() {
    let rows: [(u16, Body, &[&[u8]], bool); 9] = [
        (101, Body::Unknown, &[b"websocket"], true),
        (101, Body::Unknown, &[], false),
        (101, Body::Unknown, &[b"websocket", b"websocket"], false),
        (101, Body::Unknown, &[b"h2c"], false),
        (101, Body::Unknown, &[b"a b"], false),
        (101, Body::None, &[b"websocket"], false),
        (200, Body::Unknown, &[b"websocket"], false),
        (426, Body::None, &[b"websocket"], false),
        (100, Body::None, &[b"websocket"], false),
    ];
    for (status, body, protocols, is_taken) in rows {
        let mut out = Vec::new();
        // Status and flags are written behind: no writer would take them together.
        let start = ResponseStart { status: 200, reason: b"", length: None, body };
        let mut writer = ResponseWriter::new(&mut out, &start).unwrap();
        for protocol in protocols {
            writer.field(b"Upgrade", protocol).unwrap();
        }
        writer.finish();
        out[..2].copy_from_slice(&status.to_be_bytes());
        let read = ResponseMessage::parse(&out);
        assert_eq!(read.is_ok(), is_taken, "{status} {body:?} {protocols:?}: {read:?}");
    }
    let mut long = Vec::new();
    let start = ResponseStart { status: 200, reason: b"", length: Some(5), body: Body::Length };
    let mut writer = ResponseWriter::new(&mut long, &start).unwrap();
    writer.field(b"Upgrade", b"websocket").unwrap();
    writer.finish();
    long[..2].copy_from_slice(&101_u16.to_be_bytes());
    assert!(ResponseMessage::parse(&long).is_err(), "a tunnel with a length");
}

#[test]
fn field_values_and_names_cannot_smuggle() {
    let rows: [(&[u8], &[u8], bool); 10] = [
        (b"A", b"b", true),
        (b"A", b"", true),
        (b"A", &[0xe4, b'\t', 0xf6], true),
        (b"", b"b", false),
        (b"A B", b"b", false),
        (b"A:", b"b", false),
        (b"A", b"b\r\nC: d", false),
        (b"A", b"b\0", false),
        (b"A", b" b", false),
        (b"A", b"b\t", false),
    ];
    for (name, value, is_fine) in rows {
        let mut out = Vec::new();
        let mut writer = TrailersWriter::new(&mut out);
        writer.field(name, value).unwrap();
        writer.finish();
        assert_eq!(parse_trailers(&out).is_ok(), is_fine, "{name:?} {value:?}");
    }
}

#[test]
fn writers_refuse_what_does_not_fit() {
    let mut out = Vec::new();
    let mut writer = TrailersWriter::new(&mut out);
    assert_eq!(writer.field(b"a", &[b'x'; 5_000]), Err(TooLarge));
    for _ in 0..FIELD_COUNT_MAX {
        writer.field(b"a", b"b").unwrap();
    }
    assert_eq!(writer.field(b"a", b"b"), Err(TooLarge));
    writer.finish();
    assert_eq!(parse_trailers(&out).unwrap().count(), FIELD_COUNT_MAX);
    let start = ResponseStart { status: 200, reason: &[b'x'; 17_000], length: None, body: Body::None };
    assert!(ResponseWriter::new(&mut out, &start).is_err());
}
