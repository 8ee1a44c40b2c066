//! What clients are offered, and how they come back.

use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::client::ResolvesClientCert;
use rustls::crypto::SupportedKxGroup;
use rustls::server::ProducesTickets;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConnection, HandshakeKind, NamedGroup, ServerConnection};

use super::*;
use crate::transport::{FOR_CLIENTS, Tickets};

/// A gateway's configuration for clients, and what a client needs to believe it.
fn gateway() -> (Arc<ServerConfig>, RootCertStore) {
    let made = rcgen::generate_simple_self_signed(vec!["gateway".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let certified =
        rustls::sign::CertifiedKey::from_der(vec![made.cert.der().clone()], key, &provider()).expect("a key");
    let resolver = Arc::new(SingleCertAndKey::from(certified));
    (
        for_clients(resolver, Tickets::new(&[7; 32], FOR_CLIENTS), TlsVersion::Tls12).expect("sound"),
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
    greet(gateway, call(client))
}

/// A client that has its hello ready.
fn call(client: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("gateway").expect("a name");
    ClientConnection::new(client.clone(), name).expect("a client")
}

fn greet(gateway: &Arc<ServerConfig>, mut client: ClientConnection) -> (ClientConnection, ServerConnection) {
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

/// Tickets at a time of the test's choice, in seconds since 1970.
#[derive(Debug)]
struct At {
    tickets: Arc<Tickets>,
    now: AtomicU64,
}

impl ProducesTickets for At {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.tickets.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let nonce = ring::rand::generate(&ring::rand::SystemRandom::new()).ok()?.expose();
        self.tickets.seal(plain, nonce, self.now.load(Ordering::Relaxed))
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.tickets.open(ticket, self.now.load(Ordering::Relaxed))
    }
}

/// That gateway with other tickets.
fn with_tickets(gateway: &Arc<ServerConfig>, tickets: Arc<dyn ProducesTickets>) -> Arc<ServerConfig> {
    let mut config = ServerConfig::clone(gateway);
    config.ticketer = tickets;
    Arc::new(config)
}

fn in_version(version: &'static rustls::SupportedProtocolVersion, roots: RootCertStore) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider());
    let mut config = builder
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.enable_early_data = true;
    Arc::new(config)
}

#[test]
fn who_comes_back_within_an_epoch_resumes_for_ever_and_has_a_new_ticket_each_time() {
    let (gateway, roots) = gateway();
    let epoch = limits::TICKET_EPOCH.as_secs();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = in_version(version, roots.clone());
        let at = Arc::new(At { tickets: Tickets::new(&[7; 32], FOR_CLIENTS), now: AtomicU64::new(0) });
        let gateway = with_tickets(&gateway, at.clone());
        let visits = [
            (10 * epoch, HandshakeKind::Full),
            // With the ticket of the epoch before, each time: an old one would be two epochs old at the last.
            (11 * epoch + 1, HandshakeKind::Resumed),
            (12 * epoch + 1, HandshakeKind::Resumed),
            (13 * epoch + 1, HandshakeKind::Resumed),
            (15 * epoch + 1, HandshakeKind::Full),
        ];
        for (now, kind) in visits {
            at.now.store(now, Ordering::Relaxed);
            let (_, server) = shake_hands(&gateway, &client);
            assert_eq!(server.handshake_kind(), Some(kind), "{version:?} at {now}");
        }
    }
}

#[test]
fn instances_with_one_secret_resume_each_others_sessions_and_others_do_not() {
    let (gateway, roots) = gateway();
    let instance = |secret: u8, purpose| with_tickets(&gateway, Tickets::new(&[secret; 32], purpose));
    let table = [
        (instance(7, FOR_CLIENTS), HandshakeKind::Resumed),
        (instance(8, FOR_CLIENTS), HandshakeKind::Full),
        (instance(7, "channels"), HandshakeKind::Full),
    ];
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for (other, kind) in &table {
            let client = in_version(version, roots.clone());
            let (_, server) = shake_hands(&instance(7, FOR_CLIENTS), &client);
            assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
            let (_, server) = shake_hands(other, &client);
            assert_eq!(server.handshake_kind(), Some(*kind), "{version:?} {:?}", other.ticketer);
        }
    }
}

#[test]
fn a_ticket_carries_no_early_data_and_channels_give_none() {
    let (gateway, roots) = gateway();
    assert_eq!(gateway.max_early_data_size, 0);
    let config = in_version(&rustls::version::TLS13, roots);
    shake_hands(&gateway, &config);
    let mut client = call(&config);
    assert!(client.early_data().is_none(), "the client would and may not");
    let (_, server) = greet(&gateway, client);
    assert_eq!(server.handshake_kind(), Some(HandshakeKind::Resumed));

    let made = rcgen::generate_simple_self_signed(vec!["gateway".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let own = Credential { chain: vec![made.cert.der().clone()], key };
    let internal = Internal::new(&[made.cert.der().clone()], own).expect("sound");
    let channels = for_channels(&internal).expect("sound");
    assert_eq!((channels.send_tls13_tickets, channels.max_early_data_size), (0, 0));
    assert!(!channels.ticketer.enabled() && !channels.session_storage.can_cache());
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

/// Shows its certificate whatever is asked for, and notes of how many authorities it is told.
#[derive(Debug)]
struct Noting {
    shown: Arc<CertifiedKey>,
    told_of: Mutex<Option<usize>>,
}

impl ResolvesClientCert for Noting {
    fn resolve(&self, authorities: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        *self.told_of.lock().expect("one thread") = Some(authorities.len());
        Some(self.shown.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[test]
fn who_asks_for_a_channel_is_not_told_of_the_internal_ca() {
    let made = rcgen::generate_simple_self_signed(vec!["gateway".to_owned()]).expect("a certificate");
    let (ca, key) =
        ([made.cert.der().clone()], PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into()));
    let own = Credential { chain: ca.to_vec(), key };
    let shown = CertifiedKey::from_der(own.chain.clone(), own.key.clone_key(), &provider()).expect("a key");
    let noting = Arc::new(Noting { shown: Arc::new(shown), told_of: Mutex::default() });
    let builder = ClientConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().expect("versions");
    let builder = builder.with_root_certificates(roots(&ca).expect("a root"));
    let client = Arc::new(builder.with_client_cert_resolver(noting.clone()));
    let internal = Internal::new(&ca, own).expect("sound");
    shake_hands(&for_channels(&internal).expect("sound"), &client);
    assert_eq!(
        *noting.told_of.lock().expect("one thread"),
        Some(0),
        "asked for one, of nobody in particular"
    );
}
