//! What clients are offered, and tickets.

use std::io::{Read, Write};

use rustls::crypto::SupportedKxGroup;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConnection, HandshakeKind, NamedGroup, ServerConnection};

use super::*;

/// A gateway's configuration for clients, and what a client needs to believe it.
fn gateway() -> (Arc<ServerConfig>, RootCertStore) {
    let made = rcgen::generate_simple_self_signed(vec!["gateway".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let certified =
        rustls::sign::CertifiedKey::from_der(vec![made.cert.der().clone()], key, &provider()).expect("a key");
    let resolver = Arc::new(SingleCertAndKey::from(certified));
    (
        for_clients(resolver, Tickets::new(&[7; 32])).expect("sound"),
        roots(&[made.cert.der().clone()]).expect("a root"),
    )
}

/// As a client with these algorithms would be.
fn client(provider: CryptoProvider, roots: RootCertStore) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_safe_default_protocol_versions().expect("versions");
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

fn shake_hands(
    gateway: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
) -> (ClientConnection, ServerConnection) {
    let name = ServerName::try_from("gateway").expect("a name");
    let mut client = ClientConnection::new(client.clone(), name).expect("a client");
    let mut server = ServerConnection::new(gateway.clone()).expect("a server");
    for _ in 0..4 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).expect("written");
        }
        while server.read_tls(&mut &bytes[..]).expect("read") > 0 && !bytes.is_empty() {
            bytes.clear();
            server.process_new_packets().expect("a client");
        }
        while server.wants_write() {
            server.write_tls(&mut bytes).expect("written");
        }
        while client.read_tls(&mut &bytes[..]).expect("read") > 0 && !bytes.is_empty() {
            bytes.clear();
            client.process_new_packets().expect("a gateway");
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    (client, server)
}

#[test]
fn the_quick_cipher_is_taken_whatever_a_client_likes_best_and_another_if_it_has_no_other() {
    let (gateway, roots) = gateway();
    let only = |suite: CipherSuite| {
        let mut provider = rustls::crypto::ring::default_provider();
        provider.cipher_suites.retain(|held| held.suite() == suite);
        provider
    };
    let table = [
        (rustls::crypto::ring::default_provider(), CipherSuite::TLS13_AES_128_GCM_SHA256),
        (only(CipherSuite::TLS13_AES_256_GCM_SHA384), CipherSuite::TLS13_AES_256_GCM_SHA384),
        (only(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256), CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
        (
            only(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        ),
    ];
    for (provider, suite) in table {
        let (_, server) = shake_hands(&gateway, &client(provider, roots.clone()));
        assert_eq!(server.negotiated_cipher_suite().map(|held| held.suite()), Some(suite));
    }
}

#[test]
fn a_client_is_met_in_the_group_that_it_sent_a_key_for_and_comes_back_by_one_ticket() {
    let (gateway, roots) = gateway();
    let groups: [&'static dyn SupportedKxGroup; 3] = [
        rustls::crypto::ring::kx_group::X25519,
        rustls::crypto::ring::kx_group::SECP256R1,
        rustls::crypto::ring::kx_group::SECP384R1,
    ];
    for first in groups {
        let mut provider = rustls::crypto::ring::default_provider();
        provider.kx_groups.sort_by_key(|group| group.name() != first.name());
        let client = client(provider, roots.clone());
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let (mut client, mut server) = shake_hands(&gateway, &client);
            assert_eq!(server.handshake_kind(), Some(kind), "{first:?}");
            assert_eq!(server.negotiated_key_exchange_group().map(|group| group.name()), Some(first.name()));
            assert_eq!(client.tls13_tickets_received(), 1);
            client.writer().write_all(b"?").expect("a byte");
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).expect("written");
            server.read_tls(&mut &bytes[..]).expect("read");
            server.process_new_packets().expect("readable");
            let mut byte = [0];
            server.reader().read_exact(&mut byte).expect("a byte");
            assert_eq!(&byte, b"?");
        }
    }
    assert!(provider().kx_groups.iter().any(|group| group.name() == NamedGroup::X25519));
}

#[test]
fn a_ticket_is_read_in_its_epoch_and_the_next_and_never_by_another_secret() {
    let tickets = Tickets::new(&[7; 32]);
    let ticket = tickets.encrypt(b"session").expect("sealed");
    let epoch = u64::from_be_bytes(ticket[..8].try_into().expect("eight bytes"));
    for (now, read) in [(epoch, true), (epoch + 1, true), (epoch + 2, false), (epoch - 1, false)] {
        assert_eq!(tickets.open(&ticket, now).is_some(), read, "epoch {now}");
    }
    assert_eq!(tickets.open(&ticket, epoch).as_deref(), Some(b"session".as_slice()));
    assert!(Tickets::new(&[8; 32]).open(&ticket, epoch).is_none());
}

#[test]
fn a_damaged_ticket_is_not_read() {
    let tickets = Tickets::new(&[7; 32]);
    let ticket = tickets.encrypt(b"session").expect("sealed");
    let epoch = u64::from_be_bytes(ticket[..8].try_into().expect("eight bytes"));
    for at in 0..ticket.len() {
        let mut damaged = ticket.clone();
        damaged[at] ^= 1;
        assert!(tickets.open(&damaged, epoch).is_none(), "byte {at}");
        assert!(tickets.open(&ticket[..at], epoch).is_none(), "cut at {at}");
    }
}

/// Our side after the handshake, and rustls's with whom it speaks.
fn connected() -> (crate::transport::Tls, ClientConnection) {
    let (gateway, roots) = gateway();
    let client = client(provider().as_ref().clone(), roots);
    let name = ServerName::try_from("gateway").expect("a name");
    let mut client = ClientConnection::new(client, name).expect("a client");
    let mut tls = crate::transport::Tls::server(gateway).expect("a server");
    for _ in 0..3 {
        let mut out = Vec::new();
        assert!(exchange(&mut tls, &mut client, &mut out).is_empty());
    }
    assert!(tls.is_handshaken() && !client.is_handshaking());
    (tls, client)
}

/// What the client has written reaches our side, which says what is in `out` and what it answers; gives
/// what was said to it.
fn exchange(tls: &mut crate::transport::Tls, client: &mut ClientConnection, out: &mut Vec<u8>) -> Vec<u8> {
    let (mut cipher, mut plain) = (Vec::new(), Vec::new());
    while client.wants_write() {
        client.write_tls(&mut cipher).expect("written");
    }
    let used = tls.receive(&mut cipher, out, &mut |bytes| plain.extend_from_slice(bytes)).expect("sound");
    assert_eq!(used, cipher.len());
    hear(client, out);
    out.clear();
    plain
}

fn hear(client: &mut ClientConnection, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).expect("read");
        client.process_new_packets().expect("sound");
    }
}

#[test]
fn a_peer_that_asks_for_new_keys_gets_them_with_the_next_answer_before_and_after_the_hand_over() {
    for carried in [0, 4_000, 16_000, 40_000] {
        let (mut tls, mut client) = connected();
        let mut out = Vec::new();
        let mut received = 0;
        while received < carried {
            client.writer().write_all(&[1; 4_000]).expect("taken");
            received += exchange(&mut tls, &mut client, &mut out).len();
        }
        for round in 0..4 {
            client.refresh_traffic_keys().expect("TLS 1.3");
            assert!(exchange(&mut tls, &mut client, &mut out).is_empty());
            // Nothing to send is no reason to change hands.
            tls.send(b"", &mut out).expect("nothing");
            tls.send(b"answer", &mut out).expect("sent");
            hear(&mut client, &out);
            out.clear();
            let mut answer = [0; 16];
            let size = client.reader().read(&mut answer).expect("an answer");
            assert_eq!(&answer[..size], b"answer", "{carried} {round}");
        }
        assert_eq!(tls.is_handed_over(), carried > 8_192, "{carried}");
    }
}
