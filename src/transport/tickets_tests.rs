//! Claims about tickets over time; how clients fare with them is in `tls_config_tests.rs`.

use super::*;

const EPOCH: u64 = limits::TICKET_EPOCH.as_secs();
const SKEW: u64 = limits::TICKET_CLOCK_SKEW.as_secs();
/// Some time in the middle of an epoch.
const NOON: u64 = 80_000 * EPOCH + EPOCH / 2;

fn tickets() -> Arc<Tickets> {
    Tickets::new(&[7; 32], FOR_CLIENTS)
}

fn sealed(now: u64) -> Vec<u8> {
    tickets().seal(b"session", [9; NONCE_LEN], now).expect("sealed")
}

#[test]
fn a_ticket_is_read_in_its_epoch_and_the_next_and_a_little_before_its_own() {
    let begin = 80_000 * EPOCH;
    let table = [
        // Given at, read at, whether.
        (begin, begin, true),
        (begin, begin + EPOCH - 1, true),
        (begin, begin + 2 * EPOCH - 1, true),
        (begin, begin + 2 * EPOCH, false),
        (begin + EPOCH - 1, begin + 2 * EPOCH - 1, true),
        (begin + EPOCH - 1, begin + 2 * EPOCH, false),
        // By an instance whose clock is ahead.
        (begin, begin - 1, true),
        (begin + SKEW - 1, begin - 1, true),
        (begin, begin - SKEW, true),
        (begin, begin - SKEW - 1, false),
        (begin, begin - EPOCH, false),
        // By one whose clock is behind, over the border.
        (begin - 1, begin + SKEW, true),
        (begin, 0, false),
    ];
    for (given, read, whether) in table {
        let opened = tickets().open(&sealed(given), read);
        assert_eq!(opened.is_some(), whether, "given at {given}, read at {read}");
        assert!(opened.is_none_or(|plain| plain == b"session"));
    }
}

#[test]
fn clocks_at_either_end_of_time_are_no_trouble() {
    for now in [0, 1, EPOCH, u64::MAX - EPOCH, u64::MAX] {
        let ticket = sealed(now);
        assert_eq!(tickets().open(&ticket, now).as_deref(), Some(b"session".as_slice()), "{now}");
        for other in [0, u64::MAX] {
            let _ = tickets().open(&ticket, other);
        }
    }
}

#[test]
fn each_secret_purpose_and_epoch_has_a_key_of_its_own() {
    let ticket = sealed(NOON);
    for (secret, purpose) in
        [([8; 32], FOR_CLIENTS), ([7; 32], "channels"), ([7; 32], "client"), ([7; 32], "")]
    {
        assert!(Tickets::new(&secret, purpose).open(&ticket, NOON).is_none(), "{purpose}");
    }
    let mut renamed = ticket.clone();
    renamed[..8].copy_from_slice(&(NOON / EPOCH - 1).to_be_bytes());
    assert!(tickets().open(&renamed, NOON).is_none(), "another epoch's key opened it");
    // A later start with the same secret is the same set.
    assert!(Tickets::new(&[7; 32], FOR_CLIENTS).open(&ticket, NOON).is_some());
}

#[test]
fn the_key_of_an_epoch_is_what_it_was_in_earlier_versions() {
    // Instances of two versions stand side by side while one replaces the other. A change of this text is a
    // change of the label in `tickets.rs`.
    let ticket = tickets().seal(b"", [0; NONCE_LEN], 0).expect("sealed");
    let text: String = ticket.iter().map(|octet| format!("{octet:02x}")).collect();
    assert_eq!(text, "000000000000000000000000000000000000000049d97e0a21748c5b8242481e07ccc0fe");
}

#[test]
fn a_damaged_ticket_is_not_read() {
    let ticket = sealed(NOON);
    for at in 0..ticket.len() {
        let mut damaged = ticket.clone();
        damaged[at] ^= 1;
        assert!(tickets().open(&damaged, NOON).is_none(), "byte {at}");
        assert!(tickets().open(&ticket[..at], NOON).is_none(), "cut at {at}");
    }
}

#[test]
fn no_two_tickets_are_sealed_with_one_nonce() {
    let tickets = tickets();
    let nonces = (0..1_000).map(|_| tickets.encrypt(b"session").expect("sealed")[8..8 + NONCE_LEN].to_vec());
    let nonces: std::collections::BTreeSet<_> = nonces.collect();
    assert_eq!(nonces.len(), 1_000);
}
