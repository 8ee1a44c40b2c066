use std::net::SocketAddr;

use crate::dispatch::preface::{Preface, PrefaceError, checksum};
use crate::limits::PREFACE_SIZE_MAX;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header as the specification draws it.
fn header(command: u8, family: u8, block: &[&[u8]]) -> Vec<u8> {
    let block = block.concat();
    let size = (block.len() as u16).to_be_bytes();
    [SIGNATURE, &[command, family], &size, &block].concat()
}

const FOUR: &[u8] = &[192, 0, 2, 7, 198, 51, 100, 1, 0x1f, 0x90, 1, 0xbb];

fn six(from: &str) -> Vec<u8> {
    let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    [&octets(from)[..], &octets("2001:db8::1"), &[0x1f, 0x90, 1, 0xbb]].concat()
}

fn whole(bytes: &[u8], client: Option<&str>) {
    let client = client.map(|client| client.parse::<SocketAddr>().unwrap());
    let size = bytes.len();
    assert_eq!(Preface::read(bytes), Ok(Preface::Whole { size, client }), "{}", bytes.escape_ascii());
    let more = [bytes, b"\x16\x03\x01"].concat();
    assert_eq!(
        Preface::read(&more),
        Ok(Preface::Whole { size, client }),
        "what comes behind does not matter"
    );
    for part in 0..size {
        assert_eq!(Preface::read(&bytes[..part]), Ok(Preface::Partial), "{part}");
    }
    assert!(Preface::begins(bytes));
}

#[test]
fn a_header_names_the_client_and_ends_where_it_says() {
    whole(&header(0x21, 0x11, &[FOUR]), Some("192.0.2.7:8080"));
    whole(&header(0x21, 0x21, &[&six("2001:db8::7")]), Some("[2001:db8::7]:8080"));
    // One client has one address.
    whole(&header(0x21, 0x21, &[&six("::ffff:192.0.2.7")]), Some("192.0.2.7:8080"));
    // Padding, an application protocol, and a value of nobody's.
    whole(
        &header(0x21, 0x11, &[FOUR, b"\x04\0\x02ab", b"\x01\0\x02h2", b"\xe0\0\0"]),
        Some("192.0.2.7:8080"),
    );
}

#[test]
fn a_proxy_that_looks_whether_we_are_there_names_nobody() {
    whole(&header(0x20, 0, &[]), None);
    whole(&header(0x20, 0x11, &[FOUR]), None);
    whole(&header(0x20, 0x31, &[b"anything at all"]), None);
}

#[test]
fn what_could_be_read_in_two_ways_is_refused_at_once() {
    let long = u16::try_from(PREFACE_SIZE_MAX - 15).unwrap().to_be_bytes();
    let refused: [(&[u8], PrefaceError); 13] = [
        (b"\x16\x03\x01\x02\0", PrefaceError::Missing),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 8080 443\r\n", PrefaceError::Missing),
        (b"\r\n\r\n\0\r\nQUIT\r", PrefaceError::Missing),
        (&header(0x11, 0x11, &[FOUR]), PrefaceError::Command(0x11)),
        (&header(0x22, 0x11, &[FOUR]), PrefaceError::Command(0x22)),
        (&header(0x21, 0, &[]), PrefaceError::Family(0)),
        (&header(0x21, 0x12, &[FOUR]), PrefaceError::Family(0x12)),
        (&header(0x21, 0x31, &[&[0; 216]]), PrefaceError::Family(0x31)),
        (&[SIGNATURE, &[0x20, 0], &long].concat(), PrefaceError::TooLong(PREFACE_SIZE_MAX + 1)),
        (&header(0x21, 0x11, &[&FOUR[1..]]), PrefaceError::Addresses),
        (&header(0x21, 0x21, &[FOUR]), PrefaceError::Addresses),
        (&header(0x21, 0x11, &[FOUR, b"\x04\0\x02a"]), PrefaceError::Values),
        (&header(0x21, 0x11, &[FOUR, b"\x04\0"]), PrefaceError::Values),
    ];
    for (bytes, error) in refused {
        assert_eq!(Preface::read(bytes), Err(error), "{}", bytes.escape_ascii());
    }
}

#[test]
fn a_checksum_that_is_there_is_right() {
    assert_eq!(checksum(b"123456789"), 0xe306_9283, "the check value of CRC-32C");
    let zeros = header(0x21, 0x11, &[FOUR, b"\x03\0\x04\0\0\0\0", b"\xe0\0\x01x"]);
    let sum = checksum(&zeros).to_be_bytes();
    let right = header(0x21, 0x11, &[FOUR, b"\x03\0\x04", &sum, b"\xe0\0\x01x"]);
    whole(&right, Some("192.0.2.7:8080"));
    for at in 16..right.len() {
        let mut wrong = right.clone();
        wrong[at] ^= 1;
        // What changes the type of the checksum leaves a header that says nothing of one.
        assert_eq!(Preface::read(&wrong).is_ok(), at == 28, "{at}");
    }
    let short = header(0x21, 0x11, &[FOUR, b"\x03\0\x03abc"]);
    assert_eq!(Preface::read(&short), Err(PrefaceError::Checksum));
    let zeros = [b"\x03\0\x04\0\0\0\0".as_slice(); 2].concat();
    let twice = header(0x21, 0x11, &[FOUR, &zeros]);
    assert_eq!(Preface::read(&twice), Err(PrefaceError::Checksum));
}

#[test]
fn seeded_prefaces_end_where_they_say() {
    crate::seeded::run("preface", 4_000, crate::dispatch::fuzz::preface);
}

#[test]
fn seeds_are_those_that_the_specification_draws() {
    let sum = |header: &[u8]| checksum(header).to_be_bytes();
    let zeros = header(0x21, 0x11, &[FOUR, b"\x03\0\x04\0\0\0\0"]);
    let seeds = [
        ("ipv4", header(0x21, 0x11, &[FOUR])),
        ("ipv6", header(0x21, 0x21, &[&six("2001:db8::7")])),
        ("local", header(0x20, 0, &[])),
        ("checksum", header(0x21, 0x11, &[FOUR, b"\x03\0\x04", &sum(&zeros)])),
    ];
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/preface");
    for (name, bytes) in seeds {
        if std::env::var_os("CMG_WRITE_SEEDS").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(name), &bytes).unwrap();
        }
        assert_eq!(std::fs::read(folder.join(name)).unwrap(), bytes, "{name}");
    }
}
