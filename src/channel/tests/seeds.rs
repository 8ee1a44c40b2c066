//! Two ends on a made-up network, and hostile bytes, by seed. A failure names its seed.

use std::time::Instant;

use super::claims::{request_message, response_message, tunnel_messages};
use crate::channel::frame::{FrameKind, put};
use crate::channel::*;
use crate::limits::FRAME_PAYLOAD_SIZE_MAX;
use crate::seeded::{Random, for_each_seed, keep, run};

#[test]
fn nothing_is_lost_doubled_misrouted_or_left_over() {
    for_each_seed(150, |seed| {
        let mut random = Random(seed);
        let size = 100 + random.below(3_000);
        let script = random.bytes(size);
        simulation::run(&script, Instant::now(), 0);
    });
}

#[test]
fn stream_numbers_wrap_unnoticed() {
    for_each_seed(50, |seed| {
        let mut random = Random(seed ^ 0xabcd);
        let script = random.bytes(1_500);
        simulation::run(&script, Instant::now(), u32::MAX - random.below(40) as u32);
    });
}

#[test]
fn seeded_frames_are_written_as_they_were_read() {
    let frames: [(FrameKind, u32, &[u8]); 5] = [
        (FrameKind::Data, 1, b"hello"),
        (FrameKind::End, 1, b""),
        (FrameKind::Ping, 0, b"12345678"),
        (FrameKind::Credit, 7, &[0, 0, 4, 0]),
        (FrameKind::Close, 0, b"\0done"),
    ];
    let mut all = Vec::new();
    frames.iter().for_each(|(kind, stream, payload)| put(&mut all, *kind, *stream, payload));
    all.extend_from_slice(&[200, frame::FLAG_MAY_IGNORE, 0, 1, 0, 0, 0, 0, 9]);
    keep("frame", &[("several", all)]);
    run("frame", 15_000, fuzz::frame);
    for size in [FRAME_PAYLOAD_SIZE_MAX - 1, FRAME_PAYLOAD_SIZE_MAX, FRAME_PAYLOAD_SIZE_MAX + 1] {
        let [high, low] = (size as u16).to_be_bytes();
        fuzz::frame(&[vec![FrameKind::Data as u8, 0, high, low, 0, 0, 0, 1], vec![7; size]].concat());
    }
}

#[test]
fn seeded_hellos_are_written_as_they_were_read() {
    let hello = Hello {
        version: VERSION,
        connection_id: [7; 16],
        connection_point: "dmz-1".to_owned(),
        site: "PS1".to_owned(),
        index: 1,
        count: 4,
        connector_shards: 2,
        instance: "gw1".to_owned(),
    };
    let reply = HelloReply {
        version: VERSION,
        refusal: None,
        text: "welcome".to_owned(),
        instance: "gw1".to_owned(),
        instance_id: [8; 16],
        shards: 4,
        shard: 1,
        instances: vec!["a.example:10140".to_owned(), "b.example:10141".to_owned()],
    };
    let refused = HelloReply { refusal: Some(HelloRefusal::Full), instances: Vec::new(), ..reply.clone() };
    let payload = |encode: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        encode(&mut out);
        out.split_off(crate::limits::FRAME_HEADER_SIZE)
    };
    keep(
        "hello",
        &[
            ("hello", payload(&|out| hello.encode(out))),
            ("reply", payload(&|out| reply.encode(out))),
            ("refused", payload(&|out| refused.encode(out))),
        ],
    );
    run("hello", 15_000, fuzz::hello);
}

#[test]
fn seeded_messages_are_written_as_they_were_read() {
    let mut trailers = Vec::new();
    let mut writer = TrailersWriter::new(&mut trailers);
    writer.field(b"Digest", b"sha-256=abc").unwrap();
    writer.finish();
    let (mut with_leaf, mut alone) = (Vec::new(), Vec::new());
    let peer = "2001:db8::1".parse().unwrap();
    Identity { peer, leaf: Some(b"0\x82leaf") }.encode(&mut with_leaf).unwrap();
    Identity { peer: "192.0.2.7".parse().unwrap(), leaf: None }.encode(&mut alone).unwrap();
    let [tunnel, switching] = tunnel_messages();
    keep(
        "message",
        &[
            ("get", request_message(false)),
            ("post", request_message(true)),
            ("answer", response_message(200)),
            ("interim", response_message(103)),
            ("tunnel", tunnel),
            ("switching", switching),
            ("trailers", trailers),
            ("identity_v6", with_leaf),
            ("identity_v4", alone),
        ],
    );
    run("message", 15_000, fuzz::message);
}

#[test]
fn seeded_beginnings_over_https_are_one_thing_and_whole() {
    let (mut ask, mut yes, mut no) = (Vec::new(), Vec::new(), Vec::new());
    upgrade::write_ask(&mut ask, "gw1.gateway.cmg.internal");
    upgrade::write_yes(&mut yes);
    upgrade::write_no(&mut no);
    keep("upgrade", &[("ask", ask), ("yes", yes), ("no", no)]);
    run("upgrade", 8_000, fuzz::upgrade);
}

#[test]
fn a_seeded_peer_ends_its_own_streams_or_the_channel() {
    run("peer", 8_000, fuzz::peer);
}

#[test]
fn seeded_operations_lose_double_and_misroute_nothing() {
    run("channel", 200, fuzz::operations);
}

/// Frames with headers that are right and payloads that may be.
#[test]
fn frames_of_any_content_never_break_a_channel() {
    for_each_seed(4_000, |seed| {
        let mut random = Random(seed ^ 0xf00d);
        let mut bytes = vec![random.below(2) as u8];
        for _ in 0..1 + random.below(12) {
            frame(&mut random, &mut bytes);
        }
        for _ in 0..random.below(4) {
            let at = 1 + random.below(bytes.len() - 1);
            bytes[at] = random.next() as u8;
        }
        fuzz::peer(&bytes);
    });
}

/// A frame whose header is right, whose payload may be.
fn frame(random: &mut Random, out: &mut Vec<u8>) {
    let kind = 3 + random.below(15) as u8;
    let size = [0, 1, 2, 4, 8, 16, 40, 48, 56, 200][random.below(10)];
    out.extend_from_slice(&[kind, 0, 0, size, 0, 0, 0, random.below(7) as u8]);
    let mut payload = random.bytes(usize::from(size));
    if kind == 7 && payload.len() >= 40 {
        payload[16..24].copy_from_slice(&[0, 0, 0, 0, 0, 0, 4, 0]);
    }
    out.extend_from_slice(&payload);
}
