use std::io::Write;

use rustls::{CipherSuite, ClientConnection};

use super::super::records::tests::{crafted, crafted_pair, heard, pair};
use super::*;
use crate::limits::TRANSFER_SIZE;
use crate::seeded::Random;

const SUITE: CipherSuite = CipherSuite::TLS13_AES_128_GCM_SHA256;
const STREAM: u32 = 7;

fn header(size: u16) -> [u8; FRAME_HEADER_SIZE] {
    let ([l0, l1], [s0, s1, s2, s3]) = (size.to_be_bytes(), STREAM.to_be_bytes());
    [9, 0, l0, l1, s0, s1, s2, s3]
}

/// One record of a client with these bytes.
fn record(client: &mut ClientConnection, content: &[u8]) -> Vec<u8> {
    let mut cipher = Vec::new();
    client.writer().write_all(content).unwrap();
    while client.wants_write() {
        client.write_tls(&mut cipher).unwrap();
    }
    cipher
}

/// What the frames in these bytes carry; each has its header.
fn unframed(mut bytes: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_first_chunk::<FRAME_HEADER_SIZE>().unwrap();
        let size = u16::from_be_bytes([head[2], head[3]]);
        assert_eq!(*head, header(size));
        let (payload, rest) = rest.split_at(usize::from(size));
        assert!(!payload.is_empty() && payload.len() <= FRAME_PAYLOAD_SIZE_MAX);
        content.extend_from_slice(payload);
        bytes = rest;
    }
    content
}

fn roomy(cipher: &[u8]) -> Vec<u8> {
    [&vec![0; RESEAL_HEADROOM][..], cipher].concat()
}

#[test]
fn a_body_passes_whatever_its_records_and_however_it_arrives() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let (mut from, mut client) = pair(SUITE);
        let (mut to, mut other) = pair(SUITE);
        let sizes: &[usize] =
            [&[16 * 1024][..], &[1, 16 * 1024], &[40], &[1, 100, 4096, 16 * 1024]][random.below(4)];
        let (mut said, mut cipher) = (Vec::new(), Vec::new());
        while cipher.len() < 3 * TRANSFER_SIZE / (1 + random.below(4)) {
            let most = sizes[random.below(sizes.len())];
            let size = if most == 16 * 1024 { most } else { 1 + random.below(most) };
            let content = random.bytes(size);
            cipher.extend(record(&mut client, &content));
            said.extend(content);
        }
        let (mut passed, mut buffer, mut arrived) = (Vec::new(), Vec::new(), &cipher[..]);
        while !arrived.is_empty() || !buffer.is_empty() {
            let (piece, rest) = arrived.split_at((1 + random.below(TRANSFER_SIZE)).min(arrived.len()));
            arrived = rest;
            buffer.extend_from_slice(piece);
            let content_max = 17_000 + random.below(TRANSFER_SIZE);
            let (size, most) = passable(&buffer, content_max);
            assert!(most <= content_max && size <= buffer.len());
            let before = buffer.clone();
            let mut bytes = roomy(&buffer);
            let range = RESEAL_HEADROOM..RESEAL_HEADROOM + size;
            assert!(to.seals_on(records_of(size)));
            let mut out = Vec::new();
            let resealed = reseal(&mut from, &mut to, &mut bytes, range, header, &mut out).unwrap();
            assert_eq!(resealed.outcome, Ok(()));
            assert!(out.is_empty());
            assert!(size == 0 || resealed.used > RESEAL_HEADROOM, "the first record always passes");
            let frames = heard(&mut other, &bytes[..resealed.sealed]);
            assert_eq!(frames.len(), resealed.framed);
            let content = unframed(&frames);
            assert_eq!(content.len(), resealed.content);
            passed.extend(content);
            assert_eq!(bytes[resealed.used..], before[resealed.used - RESEAL_HEADROOM..], "seed {seed}");
            buffer = bytes.split_off(resealed.used);
        }
        assert!(passed == said, "seed {seed}");
    }
}

#[test]
fn full_records_of_a_whole_transfer_pass_at_once() {
    let (mut from, mut client) = pair(SUITE);
    let (mut to, mut other) = pair(SUITE);
    let content = Random(1).bytes(TRANSFER_SIZE);
    let cipher: Vec<u8> = content.chunks(PAYLOAD_MAX).flat_map(|piece| record(&mut client, piece)).collect();
    let mut bytes = roomy(&cipher);
    let range = RESEAL_HEADROOM..bytes.len();
    let done = reseal(&mut from, &mut to, &mut bytes, range, header, &mut Vec::new());
    let resealed = done.unwrap();
    assert_eq!((resealed.used, resealed.content), (bytes.len(), TRANSFER_SIZE));
    assert!(unframed(&heard(&mut other, &bytes[..resealed.sealed])) == content);
}

#[test]
fn padding_stays_behind_and_messages_of_tls_are_heard_on_the_way() {
    let (mut from, mut peer) = crafted_pair();
    let (mut to, mut other) = pair(SUITE);
    let padded = [&b"padded\x17"[..], &[0; 200]].concat();
    let contents: [&[u8]; 5] = [b"some \x17", &padded, b"\x17", b" data\x17", b"\x01\0\x15"];
    let mut cipher: Vec<u8> = contents.iter().flat_map(|content| crafted(&mut peer, content)).collect();
    let end = cipher.len();
    cipher.extend_from_slice(b"late");
    let (size, most) = passable(&cipher[..end], 1000);
    assert_eq!(size, end);
    assert!(most >= b"some padded data".len());
    let mut bytes = roomy(&cipher);
    let range = RESEAL_HEADROOM..RESEAL_HEADROOM + size;
    let done = reseal(&mut from, &mut to, &mut bytes, range, header, &mut Vec::new());
    let resealed = done.unwrap();
    assert_eq!(resealed.outcome, Ok(()));
    assert!(from.is_peer_closed());
    assert_eq!(unframed(&heard(&mut other, &bytes[..resealed.sealed])), b"some padded data");
    assert_eq!(bytes[resealed.used..], *b"late");
}

#[test]
fn a_changed_byte_is_an_error_and_what_came_before_it_passes() {
    let (mut from, mut client) = pair(SUITE);
    let (mut to, mut other) = pair(SUITE);
    let mut cipher = record(&mut client, b"right");
    let right = cipher.len();
    cipher.extend(record(&mut client, b"wrong"));
    cipher[right + HEADER] ^= 1;
    let mut bytes = roomy(&cipher);
    let range = RESEAL_HEADROOM..bytes.len();
    let mut out = Vec::new();
    let resealed = reseal(&mut from, &mut to, &mut bytes, range, header, &mut out).unwrap();
    assert_eq!(resealed.outcome, Err(Error::DecryptError));
    assert!(!out.is_empty(), "the peer is told");
    assert_eq!(unframed(&heard(&mut other, &bytes[..resealed.sealed])), b"right");
}

#[test]
fn whatever_comes_nothing_leaves_but_sealed_records() {
    for seed in 0..400 {
        let mut random = Random(seed);
        let (mut from, mut client) = pair(SUITE);
        let (mut to, mut other) = pair(SUITE);
        let (mut said, mut cipher) = (Vec::new(), Vec::new());
        for _ in 0..random.below(4) {
            let size = 1 + random.below(2000);
            let content = random.bytes(size);
            cipher.extend(record(&mut client, &content));
            said.extend(content);
        }
        for _ in 0..1 + random.below(3) {
            let edges = [0, 1, 15, 16, 17, 18, PAYLOAD_MAX + 256, PAYLOAD_MAX + 257, 65_535];
            let size = if random.below(2) == 0 { random.below(17) } else { edges[random.below(edges.len())] };
            let kind = [23, 23, 23, 22, 21, 20, 0][random.below(7)];
            let [high, low] = (size as u16).to_be_bytes();
            cipher.extend([kind, 3, 3, high, low]);
            cipher.extend(random.bytes(size));
        }
        cipher.truncate(TRANSFER_SIZE);
        if random.below(3) == 0 {
            cipher.truncate(random.below(cipher.len() + 1));
        }
        let (size, _) = passable(&cipher, random.below(TRANSFER_SIZE));
        let mut bytes = roomy(&cipher);
        let range = RESEAL_HEADROOM..RESEAL_HEADROOM + size;
        let done = reseal(&mut from, &mut to, &mut bytes, range, header, &mut Vec::new());
        let resealed = done.unwrap();
        let content = unframed(&heard(&mut other, &bytes[..resealed.sealed]));
        assert_eq!(content.len(), resealed.content, "seed {seed}");
        assert!(said.starts_with(&content), "seed {seed}");
        assert_eq!(bytes[RESEAL_HEADROOM + size..], cipher[size..], "seed {seed}");
    }
}

#[test]
fn no_more_content_is_passable_than_there_is_room_for() {
    let (_, mut client) = pair(SUITE);
    let one = record(&mut client, &[1; 1000]);
    let two = [&one[..], &record(&mut client, &[2; 1000])].concat();
    for (bytes, content_max, expected) in [
        (&two[..], 2000, (two.len(), 2000)),
        (&two, 1999, (one.len(), 1000)),
        (&two, 999, (0, 0)),
        (&two[..two.len() - 1], 9999, (one.len(), 1000)),
        (&two[..4], 9999, (0, 0)),
    ] {
        assert_eq!(passable(bytes, content_max), expected);
    }
    assert_eq!(first(&two), Some(1000));
    assert_eq!(first(&one[..one.len() - 1]), None);
}

#[test]
fn nothing_passes_where_new_keys_come_first() {
    let (mut to, mut peer) = crafted_pair();
    let room = |to: &Records| (0..10).take_while(|records| to.seals_on(*records)).count();
    to.limit(9);
    let before = room(&to);
    assert!(before > 1);
    let mut bytes = roomy(b"data and room for what stands behind it");
    to.seal_in_place(&mut bytes, RESEAL_HEADROOM - HEADER, 4).unwrap();
    assert_eq!(room(&to), before - 1);
    let mut asked = crafted(&mut peer, b"\x18\0\0\x01\x01\x16");
    to.open(&mut asked, &mut Vec::new()).unwrap();
    assert_eq!(room(&to), 0, "the peer asked for new keys");
}
