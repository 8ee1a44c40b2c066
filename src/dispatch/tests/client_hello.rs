//! Claims about hellos: made by rustls, which knows what they show; and bytes by hand.

use crate::dispatch::Hello;

/// A hello with these extensions, in a record.
fn hello(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.extend_from_slice(&[0, 0, 2, 0x13, 1, 1, 0]);
    body.extend_from_slice(&(extensions.len() as u16).to_be_bytes());
    body.extend_from_slice(extensions);
    let mut record = vec![22, 3, 1];
    record.extend_from_slice(&(body.len() as u16 + 4).to_be_bytes());
    record.extend_from_slice(&[1, 0]);
    record.extend_from_slice(&(body.len() as u16).to_be_bytes());
    record.extend_from_slice(&body);
    record
}

#[test]
fn tickets_are_found_where_they_stand_and_nowhere_else() {
    let table: [(&[u8], Option<&[u8]>); 10] = [
        (b"", None),
        (b"\0\x23\0\0", None),
        (b"\0\x23\0\x03abc", Some(b"abc")),
        (b"\0\x0a\0\x02xy\0\x23\0\x03abc", Some(b"abc")),
        // Identities of nine octets: a ticket of three with its age; then binders.
        (b"\0\x29\0\x0e\0\x09\0\x03abcAGES\0\x01\0", Some(b"abc")),
        // The newer way is preferred.
        (b"\0\x23\0\x01o\0\x29\0\x0b\0\x09\0\x03abcAGES", Some(b"abc")),
        // Lengths that lead out of their place.
        (b"\0\x23\0\x04abc", None),
        (b"\0\x29\0\x05\0\x09\0\x03abcAGES", None),
        (b"\0\x29\0\x05\0\x03\0\x03abcAGES", None),
        (b"\0\x29\0\x04\0\x02\0\0", None),
    ];
    for (extensions, ticket) in table {
        let bytes = hello(extensions);
        let protocols = &b""[..];
        assert_eq!(Hello::read(&bytes), Hello::Whole { ticket, protocols }, "{}", extensions.escape_ascii());
        for part in 0..bytes.len() {
            assert_eq!(Hello::read(&bytes[..part]), Hello::Partial, "{part}");
        }
    }
}

#[test]
fn protocols_are_those_that_are_offered_to_the_letter() {
    /// Extensions, protocols that are offered, and some that are not.
    type Row<'r> = (&'r [u8], &'r [&'r [u8]], &'r [&'r [u8]]);
    let rows: [Row<'_>; 7] = [
        (b"", &[], &[b"h2", b""]),
        (b"\0\x10\0\x05\0\x03\x02h2", &[b"h2"], &[b"h", b"2", b"", b"h2h2"]),
        (b"\0\x10\0\x08\0\x06\x02h2\x02h3", &[b"h2", b"h3"], &[b"h2\x02h3"]),
        // Beside tickets of either kind.
        (b"\0\x10\0\x05\0\x03\x02h2\0\x23\0\x03abc", &[b"h2"], &[b"abc"]),
        (b"\0\x10\0\x05\0\x03\x02h2\0\x29\0\x0b\0\x09\0\x03abcAGES", &[b"h2"], &[b"abc"]),
        // Lengths that lead out of their place.
        (b"\0\x10\0\x05\0\x04\x02h2", &[], &[b"h2"]),
        (b"\0\x10\0\x05\0\x03\x03h2", &[], &[b"h2"]),
    ];
    for (extensions, offered, others) in rows {
        let bytes = hello(extensions);
        let hello = Hello::read(&bytes);
        assert!(offered.iter().all(|protocol| hello.offers(protocol)), "{}", extensions.escape_ascii());
        assert!(!others.iter().any(|protocol| hello.offers(protocol)), "{}", extensions.escape_ascii());
        assert!(!Hello::read(&bytes[..bytes.len() - 1]).offers(b"h2"));
    }
}

#[test]
fn what_will_never_be_a_hello_is_not_waited_for() {
    let other = Hello::Whole { ticket: None, protocols: b"" };
    assert_eq!(Hello::read(b""), Hello::Partial);
    for bytes in [b"GET / HTTP/1.1".as_slice(), b"\x15", b"\x16\x03\x01\xff\xff", b"\x80\x2e\x01\x03\x01"] {
        assert_eq!(Hello::read(bytes), other, "{}", bytes.escape_ascii());
    }
    // Another handshake message, and a hello that goes on in a second record.
    let mut bytes = hello(b"\0\x23\0\x03abc");
    bytes[5] = 2;
    assert_eq!(Hello::read(&bytes), other);
    let mut bytes = hello(b"\0\x23\0\x03abc");
    bytes[6] = 1;
    assert_eq!(Hello::read(&bytes), other);
}

#[test]
fn seeded_hellos_show_only_tickets_that_stand_in_them() {
    crate::seeded::run("client_hello", 4_000, crate::dispatch::fuzz::client_hello);
}

/// Whoever makes certificates knows sockets and files as well.
#[cfg(feature = "shells")]
mod real {
    use std::sync::Arc;

    use rustls::client::{ClientSessionMemoryCache, Resumption};
    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

    use super::Hello;

    /// Hellos of a client of that version: at its first visit and at its second.
    fn visits(version: &'static rustls::SupportedProtocolVersion) -> (Vec<u8>, Vec<u8>) {
        let made = rcgen::generate_simple_self_signed(vec!["gateway".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        server.ticketer = rustls::crypto::ring::Ticketer::new().unwrap();
        server.send_tls13_tickets = 1;
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.resumption = Resumption::store(Arc::new(ClientSessionMemoryCache::new(8)));
        let (server, client) = (Arc::new(server), Arc::new(client));
        let mut first_bytes = [Vec::new(), Vec::new()];
        for (visit, kept) in first_bytes.iter_mut().enumerate() {
            let name = ServerName::try_from("gateway").unwrap();
            let mut client = ClientConnection::new(client.clone(), name).unwrap();
            let mut server = ServerConnection::new(server.clone()).unwrap();
            for round in 0..4 {
                let mut bytes = Vec::new();
                while client.wants_write() {
                    client.write_tls(&mut bytes).unwrap();
                }
                if round == 0 {
                    kept.clone_from(&bytes);
                }
                let mut rest = bytes.as_slice();
                while !rest.is_empty() {
                    server.read_tls(&mut rest).unwrap();
                    server.process_new_packets().unwrap();
                }
                let mut bytes = Vec::new();
                while server.wants_write() {
                    server.write_tls(&mut bytes).unwrap();
                }
                let mut rest = bytes.as_slice();
                while !rest.is_empty() {
                    client.read_tls(&mut rest).unwrap();
                    client.process_new_packets().unwrap();
                }
            }
            let kind = if visit == 0 { rustls::HandshakeKind::Full } else { rustls::HandshakeKind::Resumed };
            assert_eq!(server.handshake_kind(), Some(kind));
        }
        let [first, second] = first_bytes;
        let Hello::Whole { ticket: Some(ticket), .. } = Hello::read(&second) else { panic!("a ticket") };
        assert!(server.ticketer.decrypt(ticket).is_some(), "it is that server's");
        (first, second)
    }

    #[test]
    fn the_ticket_that_a_real_client_shows_is_found_and_a_first_visit_shows_none() {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let (first, second) = visits(version);
            assert_eq!(Hello::read(&first), Hello::Whole { ticket: None, protocols: b"" }, "{version:?}");
            // What comes behind the hello at once is not its concern.
            let both = [second.clone(), b"more".to_vec()].concat();
            assert_eq!(Hello::read(&both), Hello::read(&second));
            if std::env::var_os("CMG_WRITE_SEEDS").is_some() {
                let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/client_hello");
                std::fs::create_dir_all(&folder).unwrap();
                let name =
                    if version.version == rustls::ProtocolVersion::TLSv1_3 { "tls13" } else { "tls12" };
                std::fs::write(folder.join(format!("{name}-first")), first).unwrap();
                std::fs::write(folder.join(format!("{name}-resumes")), second).unwrap();
            }
        }
    }
}
