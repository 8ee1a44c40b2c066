use std::io::{Read, Write};
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::cipher::{AeadKey, Iv};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{CipherSuite, ClientConfig, ClientConnection, RootCertStore, ServerConfig};

use super::*;

/// The two configurations of a connection, with one cipher suite.
fn configs(suite: CipherSuite) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["gateway".to_owned()]).unwrap().self_signed(&key).unwrap();
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.retain(|known| known.suite() == suite);
    let provider = Arc::new(provider);
    let tls13 = &[&rustls::version::TLS13];
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(tls13)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.der().clone()], key)
        .unwrap();
    server.enable_secret_extraction = true;
    let mut roots = RootCertStore::empty();
    roots.add(own.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(tls13)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

/// Records of a server, and the client of rustls that it speaks with.
pub(in crate::transport) fn pair(suite: CipherSuite) -> (Records, ClientConnection) {
    let (server, client) = configs(suite);
    let mut client = ClientConnection::new(client, ServerName::try_from("gateway").unwrap()).unwrap();
    let mut server = UnbufferedServerConnection::new(server).unwrap();
    let mut received = Vec::new();
    loop {
        while client.wants_write() {
            client.write_tls(&mut received).unwrap();
        }
        let UnbufferedStatus { discard, state } = server.process_tls_records(&mut received);
        let mut sent = Vec::new();
        let mut ready = false;
        match state.unwrap() {
            ConnectionState::EncodeTlsData(mut data) => {
                sent.resize(8192, 0);
                let size = data.encode(&mut sent).unwrap();
                sent.truncate(size);
            }
            ConnectionState::TransmitTlsData(done) => done.done(),
            ConnectionState::WriteTraffic(_) => ready = true,
            _ => {}
        }
        received.drain(..discard);
        give(&mut client, &sent).unwrap();
        if ready && !client.is_handshaking() {
            return (Records::of_server(server).unwrap(), client);
        }
    }
}

fn give(client: &mut ClientConnection, mut bytes: &[u8]) -> Result<(), Error> {
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).unwrap();
        client.process_new_packets()?;
    }
    Ok(())
}

/// What rustls decrypts of these bytes.
pub(in crate::transport) fn heard(client: &mut ClientConnection, bytes: &[u8]) -> Vec<u8> {
    let (mut plain, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        client.read_tls(&mut rest).unwrap();
        client.process_new_packets().unwrap();
        let mut buffer = vec![0; 32 * 1024];
        while let Ok(size @ 1..) = client.reader().read(&mut buffer) {
            plain.extend_from_slice(&buffer[..size]);
        }
    }
    plain
}

fn said(client: &mut ClientConnection, bytes: &[u8]) -> Vec<u8> {
    let mut cipher = Vec::new();
    for piece in bytes.chunks(16 * 1024) {
        client.writer().write_all(piece).unwrap();
        while client.wants_write() {
            client.write_tls(&mut cipher).unwrap();
        }
    }
    cipher
}

/// Opens `cipher` as it would arrive in pieces of `step` bytes.
fn opened(records: &mut Records, cipher: &[u8], step: usize, out: &mut Vec<u8>) -> Result<Vec<u8>, Error> {
    let (mut plain, mut buffer) = (Vec::new(), Vec::new());
    for piece in cipher.chunks(step) {
        buffer.extend_from_slice(piece);
        let Opened { used, plain: size } = records.open(&mut buffer, out)?;
        plain.extend_from_slice(&buffer[..size]);
        buffer.drain(..used);
    }
    assert!(buffer.is_empty(), "all records are whole");
    Ok(plain)
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 31 % 251) as u8).collect()
}

/// A record of any content type, as a peer with the keys could make it.
pub(in crate::transport) fn crafted(client_side: &mut Half, content: &[u8]) -> Vec<u8> {
    let [high, low] = ((content.len() + TAG) as u16).to_be_bytes();
    let header = [APPLICATION_DATA, 3, 3, high, low];
    let mut record = content.to_vec();
    let tag = client_side.seal(header, &mut record).unwrap();
    [&header[..], &record, &tag].concat()
}

/// Records, and the half that protects what they receive.
pub(in crate::transport) fn crafted_pair() -> (Records, Half) {
    let (mut records, _) = pair(CipherSuite::TLS13_AES_128_GCM_SHA256);
    let half = || {
        let (key, iv) = (AeadKey::from([7; 32]), Iv::from([9; NONCE]));
        Half::new((0, ConnectionTrafficSecrets::Aes256Gcm { key, iv })).unwrap()
    };
    records.receiving = half();
    (records, half())
}

const SUITES: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
];

#[test]
fn what_rustls_says_is_opened_in_place_however_it_is_split_and_the_reverse() {
    let bytes = pattern(100_000);
    for suite in SUITES {
        for step in [1_000, 16_384, 16_406, 65_536, 200_000] {
            let (mut records, mut client) = pair(suite);
            let mut out = Vec::new();
            let cipher = said(&mut client, &bytes);
            assert!(opened(&mut records, &cipher, step, &mut out).unwrap() == bytes, "{suite:?} {step}");
            assert!(out.is_empty());
            records.seal(&bytes, &mut out).unwrap();
            assert_eq!(out.len(), bytes.len() + 7 * OVERHEAD, "full records");
            assert!(heard(&mut client, &out) == bytes, "{suite:?} {step}");
        }
    }
}

#[test]
fn keys_are_renewed_before_their_limit_and_when_the_peer_asks() {
    let bytes = pattern(300_000);
    let (mut records, mut client) = pair(CipherSuite::TLS13_AES_256_GCM_SHA384);
    records.limit(5);
    let mut out = Vec::new();
    records.seal(&bytes, &mut out).unwrap();
    assert!(out.len() > bytes.len() + 19 * OVERHEAD, "some records carry no data");
    assert!(records.sending.sequence < 5);
    assert!(heard(&mut client, &out) == bytes);
    for _ in 0..3 {
        client.refresh_traffic_keys().unwrap();
        let (cipher, mut answer) = (said(&mut client, &bytes), Vec::new());
        assert!(opened(&mut records, &cipher, 50_000, &mut answer).unwrap() == bytes);
        assert!(answer.is_empty(), "what it asked for comes with the next data");
        records.seal(b"more", &mut answer).unwrap();
        assert_eq!(answer.len(), b"more".len() + OVERHEAD + 5 + OVERHEAD, "new keys are announced");
        records.seal(b"", &mut answer).unwrap();
        assert_eq!(heard(&mut client, &answer), b"more");
    }
}

#[test]
fn a_changed_byte_is_an_error_and_the_peer_is_told() {
    let (mut records, mut client) = pair(CipherSuite::TLS13_AES_128_GCM_SHA256);
    let cipher = said(&mut client, b"to be changed");
    for at in 0..cipher.len() {
        let sequence = records.receiving.sequence;
        let mut changed = cipher.clone();
        changed[at] ^= 1;
        let mut out = Vec::new();
        match records.open(&mut changed, &mut out) {
            // A length that says that more is to come.
            Ok(opened) => assert!(opened == Opened { used: 0, plain: 0 } && (3..5).contains(&at), "{at}"),
            Err(error) => {
                assert!(!out.is_empty(), "an alert for {at}");
                assert!(at == 0 || (3..5).contains(&at) || error == Error::DecryptError, "{at}: {error}");
            }
        }
        records.receiving.sequence = sequence;
    }
    let (mut records, mut client) = pair(CipherSuite::TLS13_AES_128_GCM_SHA256);
    let mut cipher = said(&mut client, b"to be changed");
    let last = cipher.len() - 1;
    cipher[last] ^= 1;
    let mut out = Vec::new();
    assert_eq!(records.open(&mut cipher, &mut out), Err(Error::DecryptError));
    let told = give(&mut client, &out).unwrap_err();
    assert_eq!(told, Error::AlertReceived(AlertDescription::BadRecordMac));
}

#[test]
fn a_record_is_opened_once_and_in_its_place() {
    let (mut records, mut client) = pair(CipherSuite::TLS13_AES_128_GCM_SHA256);
    let mut out = Vec::new();
    let cipher = said(&mut client, b"once");
    assert_eq!(opened(&mut records, &cipher, 100, &mut out).unwrap(), b"once");
    assert_eq!(opened(&mut records, &cipher, 100, &mut out), Err(Error::DecryptError));
}

#[test]
fn an_end_is_told_and_heard_and_nothing_counts_behind_it() {
    let (mut records, mut client) = pair(CipherSuite::TLS13_AES_128_GCM_SHA256);
    let mut out = Vec::new();
    records.close(&mut out).unwrap();
    give(&mut client, &out).unwrap();
    assert!(matches!(client.reader().read(&mut [0; 8]), Ok(0)), "a clean end");
    client.send_close_notify();
    let mut cipher = said(&mut client, &[]);
    client.write_tls(&mut cipher).unwrap();
    cipher.extend_from_slice(b"and more");
    let size = cipher.len();
    assert_eq!(records.open(&mut cipher, &mut Vec::new()), Ok(Opened { used: size, plain: 0 }));
    assert!(records.is_peer_closed());
}

#[test]
fn padding_is_taken_off_and_empty_records_pass() {
    let (mut records, mut peer) = crafted_pair();
    let mut cipher = crafted(&mut peer, b"padded\x17\0\0\0");
    cipher.extend(crafted(&mut peer, b"\x17"));
    cipher.extend(crafted(&mut peer, b"next\x17"));
    assert_eq!(opened(&mut records, &cipher, 1000, &mut Vec::new()).unwrap(), b"paddednext");
}

#[test]
fn what_no_peer_may_send_is_an_error_and_told() {
    let too_long = [vec![1; PAYLOAD_MAX + 1], vec![APPLICATION_DATA]].concat();
    let key_update_and_more = [24, 0, 0, 1, 0, 24, 22];
    let rows: [(&str, &[u8]); 11] = [
        ("no type", b"\0\0\0"),
        ("nothing", b""),
        ("an unknown type", b"x\x63"),
        ("a change of cipher", b"\x01\x14"),
        ("a hello", b"\x01\0\0\0\x16"),
        ("a ticket, from a client", b"\x04\0\0\0\x16"),
        ("an empty handshake record", b"\x16"),
        ("a key update with a bad request", b"\x18\0\0\x01\x02\x16"),
        ("a key update amid a record", &key_update_and_more),
        ("a message without end", b"\x18\xff\xff\xff\x16"),
        ("too much", &too_long),
    ];
    for (what, content) in rows {
        let (mut records, mut peer) = crafted_pair();
        let (mut cipher, mut out) = (crafted(&mut peer, content), Vec::new());
        assert!(records.open(&mut cipher, &mut out).is_err(), "{what}");
        assert!(!out.is_empty(), "{what} is told");
    }
    for (what, header) in [("too long", [23, 3, 3, 0x42, 0]), ("not protected", [22, 3, 3, 0, 1])] {
        let (mut records, _) = crafted_pair();
        let mut out = Vec::new();
        assert!(records.open(&mut header.clone(), &mut out).is_err(), "{what}, before it is whole");
        assert!(!out.is_empty(), "{what} is told");
    }
}

#[test]
fn data_between_the_parts_of_a_message_is_an_error() {
    let (mut records, mut peer) = crafted_pair();
    let mut cipher = crafted(&mut peer, b"\x18\0\x16");
    cipher.extend(crafted(&mut peer, b"data\x17"));
    assert!(records.open(&mut cipher, &mut Vec::new()).is_err());
}

#[test]
fn alerts_of_the_peer_end_the_connection_and_are_not_answered() {
    let (mut records, mut peer) = crafted_pair();
    let (mut cipher, mut out) = (crafted(&mut peer, b"\x02\x28\x15"), Vec::new());
    let error = records.open(&mut cipher, &mut out);
    assert_eq!(error, Err(Error::AlertReceived(AlertDescription::HandshakeFailure)));
    assert!(out.is_empty());
}

#[test]
fn records_without_data_have_an_end_and_data_counts_anew() {
    let kinds: [&[u8]; 3] = [b"\x17", b"\x01\x5a\x15", b"\0\0\x17\0\0"];
    for content in kinds {
        let (mut records, mut peer) = crafted_pair();
        let has_data = content.starts_with(b"\0");
        for count in 0..=2 * WITHOUT_DATA_MAX {
            let mut cipher = crafted(&mut peer, content);
            let is_sound = records.open(&mut cipher, &mut Vec::new()).is_ok();
            assert_eq!(is_sound, has_data || count < WITHOUT_DATA_MAX, "{content:?} {count}");
        }
    }
    let (mut records, mut peer) = crafted_pair();
    for _ in 0..10 {
        for _ in 1..WITHOUT_DATA_MAX {
            records.open(&mut crafted(&mut peer, b"\x17"), &mut Vec::new()).unwrap();
        }
        records.open(&mut crafted(&mut peer, b"d\x17"), &mut Vec::new()).unwrap();
    }
}

#[test]
fn key_updates_without_data_have_an_end() {
    let (mut records, mut peer) = crafted_pair();
    for count in 0..=WITHOUT_DATA_MAX {
        let mut cipher = crafted(&mut peer, b"\x18\0\0\x01\0\x16");
        let opened = records.open(&mut cipher, &mut Vec::new());
        assert_eq!(opened.is_ok(), count < WITHOUT_DATA_MAX, "{count}");
        // The next keys, which this peer does not know.
        (records.receiving, peer) = {
            let (other, peer) = crafted_pair();
            (other.receiving, peer)
        };
    }
}

#[test]
fn a_peer_that_asks_for_keys_and_reads_nothing_makes_no_answer_wait() {
    let (mut records, mut client) = pair(CipherSuite::TLS13_AES_128_GCM_SHA256);
    let mut out = Vec::new();
    for _ in 0..100 {
        client.refresh_traffic_keys().unwrap();
        let cipher = said(&mut client, b"x");
        assert_eq!(opened(&mut records, &cipher, 1_000, &mut out).unwrap(), b"x");
    }
    assert!(out.is_empty(), "{} bytes wait", out.len());
    records.seal(b"one answer for all", &mut out).unwrap();
    assert_eq!(out.len(), 18 + OVERHEAD + 5 + OVERHEAD);
    assert_eq!(heard(&mut client, &out), b"one answer for all");
}

#[test]
fn nothing_is_left_unprotected_when_sealing_fails_and_no_nonce_is_used_twice() {
    let (mut records, _) = pair(CipherSuite::TLS13_AES_128_GCM_SHA256);
    records.limit(u64::MAX);
    records.sending.sequence = u64::MAX - 2;
    let mut out = b"sealed before".to_vec();
    records.seal_record(APPLICATION_DATA, b"last", &mut out).unwrap();
    records.seal_record(APPLICATION_DATA, b"last", &mut out).unwrap();
    let sealed = out.clone();
    for _ in 0..3 {
        assert!(records.seal(b"secret", &mut out).is_err());
        assert!(records.close(&mut out).is_err());
        assert_eq!(out, sealed);
    }
}

#[test]
fn padding_counts_as_content_does() {
    for (size, is_sound) in [(PAYLOAD_MAX + 1, true), (PAYLOAD_MAX + 2, false), (PAYLOAD_MAX + 240, false)] {
        let (mut records, mut peer) = crafted_pair();
        let mut content = vec![0; size];
        content[..2].copy_from_slice(b"a\x17");
        let mut cipher = crafted(&mut peer, &content);
        assert_eq!(records.open(&mut cipher, &mut Vec::new()).is_ok(), is_sound, "{size}");
    }
}

#[test]
fn the_version_of_a_record_says_nothing_and_is_protected_as_it_came() {
    let (mut records, mut peer) = crafted_pair();
    let header = [APPLICATION_DATA, 9, 9, 0, 2 + TAG as u8];
    let mut record = b"v\x17".to_vec();
    let tag = peer.seal(header, &mut record).unwrap();
    let mut cipher = [&header[..], &record, &tag].concat();
    assert_eq!(records.open(&mut cipher, &mut Vec::new()), Ok(Opened { used: cipher.len(), plain: 1 }));
}

/// Any bytes as what a peer with the keys protects: a size, so much content, and so on; the greatest size
/// stands for bytes without protection. How they arrive must not matter, and what is opened is what a
/// simpler reader finds.
fn fuzz(bytes: &[u8]) {
    let (whole, in_steps) = (run_script(bytes, usize::MAX), run_script(bytes, 7));
    assert_eq!(whole, in_steps, "how it arrives matters");
}

fn run_script(mut script: &[u8], step: usize) -> (Vec<u8>, Option<Error>) {
    let (mut records, mut peer) = crafted_pair();
    let (mut plain, mut told, mut expected) = (Vec::new(), Vec::new(), Vec::new());
    while let Some((&size, rest)) = script.split_first() {
        let is_raw = size == u8::MAX;
        let (content, rest) = rest.split_at(usize::from(size).min(rest.len()));
        script = rest;
        let cipher = if is_raw { content.to_vec() } else { crafted(&mut peer, content) };
        let end = content.iter().rposition(|&byte| byte != 0);
        let (mut buffer, mut left) = (Vec::new(), &cipher[..]);
        while !left.is_empty() {
            let (piece, more) = left.split_at(step.min(left.len()));
            left = more;
            buffer.extend_from_slice(piece);
            let opened = records.open(&mut buffer, &mut told);
            assert!(records.message.len() <= MESSAGE_HEADER + MESSAGE_MAX + PAYLOAD_MAX);
            match opened {
                Ok(opened) => {
                    assert!(opened.plain <= opened.used);
                    plain.extend_from_slice(&buffer[..opened.plain]);
                    buffer.drain(..opened.used);
                }
                Err(error) => {
                    let is_heard = matches!(error, Error::AlertReceived(_));
                    assert_eq!(told.len(), if is_heard { 0 } else { OVERHEAD + 2 }, "{error}");
                    assert_eq!(plain, expected, "nothing of a wrong record");
                    return (plain, Some(error));
                }
            }
        }
        if let (false, Some(end)) = (is_raw || records.is_peer_closed(), end)
            && content[end] == APPLICATION_DATA
        {
            expected.extend_from_slice(&content[..end]);
        }
        if !is_raw && records.receiving.sequence == 0 {
            // New keys: of them this peer knows no more than of the first.
            let (other, half) = crafted_pair();
            (records.receiving, peer) = (other.receiving, half);
        }
        // Bytes without protection are the beginning of a record at most.
        if !buffer.is_empty() || records.is_peer_closed() {
            break;
        }
        assert!(told.is_empty(), "nothing is said before data is");
    }
    assert_eq!(plain, expected);
    (plain, None)
}

#[test]
fn seeded_records_are_opened_alike_however_they_arrive() {
    let script = |contents: &[&[u8]]| {
        let one = |content: &&[u8]| [&[content.len() as u8], *content].concat();
        contents.iter().flat_map(one).collect::<Vec<u8>>()
    };
    let seeds = [
        ("data", script(&[b"some data\x17", b"\x17", b"padded\x17\0\0\0"])),
        ("keys", script(&[b"a\x17", b"\x18\0\0\x01\x01\x16", b"b\x17", b"\x18\0\0\x01\0\x16", b"c\x17"])),
        ("split", script(&[b"\x18\0\x16", b"\0\x01\0\x16", b"d\x17"])),
        ("interleaved", script(&[b"\x18\0\x16", b"d\x17", b"\0\x01\0\x16"])),
        ("close", script(&[b"end\x17", b"\x01\0\x15", b"late\x17"])),
        ("alert", script(&[b"x\x17", b"\x02\x28\x15"])),
        ("ticket", script(&[b"\x04\0\0\x02ab\x16"])),
        ("raw", [&script(&[b"x\x17"])[..], b"\xff\x17\x03\x03\0\x20abcdef"].concat()),
        ("plain_alert", b"\xff\x15\x03\x03\0\x02\x01\0".to_vec()),
    ];
    crate::seeded::keep("records", &seeds);
    crate::seeded::run("records", 300, fuzz);
}

#[test]
fn a_connection_at_rest_holds_little_more_than_two_keys() {
    // The allocator's next size is 2,048, for which every client would pay.
    assert!(size_of::<Records>() <= 1_792, "{}", size_of::<Records>());
}
