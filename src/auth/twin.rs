//! The other octets of a certificate that ECDSA signed: who knows a signature (r, s) also knows (r, n - s),
//! which is as good, and a certificate with it has another thumbprint. No key is needed for that.

use std::iter;

use ring::digest::{SHA256, digest};

/// SHA-256 of the certificate, and of each that is as good: whoever blocks one means them all.
pub fn thumbprints(der: &[u8]) -> Vec<[u8; 32]> {
    let all = iter::once(der.to_vec()).chain(twins(der));
    let digests = all.map(|one| digest(&SHA256, &one).as_ref().try_into().expect("SHA-256 has 32 octets"));
    digests.collect()
}

/// The certificate with the other signature, for each curve that its signature may be of; none where the
/// signature is no pair of numbers.
pub(super) fn twins(der: &[u8]) -> Vec<Vec<u8>> {
    read(der).map_or_else(Vec::new, |(signed, r, s)| {
        let others = ORDERS.iter().filter_map(|order| less(order, s));
        others.map(|s| write(signed, r, &s)).collect()
    })
}

/// What is signed with the name of the algorithm, and the two numbers of the signature.
fn read(der: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (SEQUENCE, whole, []) = element(der)? else { return None };
    let (_, _, behind) = element(whole)?;
    let (_, _, signature) = element(behind)?;
    let (BITS, [0, pair @ ..], []) = element(signature)? else { return None };
    let (SEQUENCE, pair, []) = element(pair)? else { return None };
    let (INTEGER, r, rest) = element(pair)? else { return None };
    let (INTEGER, s, []) = element(rest)? else { return None };
    Some((&whole[..whole.len() - signature.len()], r, s))
}

fn write(signed: &[u8], r: &[u8], s: &[u8]) -> Vec<u8> {
    let pair = [wrapped(INTEGER, r), wrapped(INTEGER, s)].concat();
    let bits = [&[0], &wrapped(SEQUENCE, &pair)[..]].concat();
    wrapped(SEQUENCE, &[signed, &wrapped(BITS, &bits)].concat())
}

/// `order` less a number below it, both big-endian; as DER writes it.
fn less(order: &[u8], number: &[u8]) -> Option<Vec<u8>> {
    let zeros = number.iter().take_while(|octet| **octet == 0).count();
    let number = &number[zeros..];
    let room = order.len().checked_sub(number.len())?;
    let mut padded = vec![0; room];
    padded.extend_from_slice(number);
    if number.is_empty() || padded.as_slice() >= order {
        return None;
    }
    let mut borrow = false;
    let mut found: Vec<u8> = Vec::with_capacity(order.len() + 1);
    for (high, low) in order.iter().zip(&padded).rev() {
        let (less, first) = high.overflowing_sub(*low);
        let (less, second) = less.overflowing_sub(u8::from(borrow));
        borrow = first || second;
        found.push(less);
    }
    while found.last() == Some(&0) {
        found.pop();
    }
    if found.last().is_some_and(|octet| octet & 0x80 != 0) {
        found.push(0);
    }
    found.reverse();
    Some(found)
}

/// Tag and content of the first element, and what is behind it; lengths as certificates have them.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (size, rest) = match first {
        0..=0x7F => (usize::from(first), rest),
        0x81..=0x83 => {
            let (octets, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
            (octets.iter().fold(0, |size, octet| size << 8 | usize::from(*octet)), rest)
        }
        _ => return None,
    };
    let (content, behind) = rest.split_at_checked(size)?;
    Some((tag, content, behind))
}

fn wrapped(tag: u8, content: &[u8]) -> Vec<u8> {
    let size = content.len().to_be_bytes();
    let zeros = size.iter().take_while(|octet| **octet == 0).count();
    let mut der = vec![tag];
    if content.len() >= 0x80 {
        der.push(0x80 | (size.len() - zeros) as u8);
        der.extend_from_slice(&size[zeros..]);
    } else {
        der.push(content.len() as u8);
    }
    der.extend_from_slice(content);
    der
}

const INTEGER: u8 = 0x02;
const BITS: u8 = 0x03;
const SEQUENCE: u8 = 0x30;

/// Orders of P-256 and P-384 (SEC 2, 2.4.2 and 2.5.1).
const ORDERS: [&[u8]; 2] = [
    &[
        0xFF, 0xFF, 0xFF, 0xFF, 0x00, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xBC,
        0xE6, 0xFA, 0xAD, 0xA7, 0x17, 0x9E, 0x84, 0xF3, 0xB9, 0xCA, 0xC2, 0xFC, 0x63, 0x25, 0x51,
    ],
    &[
        0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
        0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xC7, 0x63, 0x4D, 0x81, 0xF4, 0x37, 0x2D, 0xDF, 0x58, 0x1A,
        0x0D, 0xB2, 0x48, 0xB0, 0xA7, 0x7A, 0xEC, 0xEC, 0x19, 0x6A, 0xCC, 0xC5, 0x29, 0x73,
    ],
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twin_of_a_twin_is_the_certificate_itself() {
        let leaf: &[u8] = include_bytes!("../../fuzz/seeds/certificate/client.der");
        let found = twins(leaf);
        assert!(!found.is_empty() && found.iter().all(|twin| twin != leaf));
        assert!(found.iter().any(|twin| twins(twin).iter().any(|again| again == leaf)));
    }

    #[test]
    fn what_is_no_pair_of_numbers_has_no_twin() {
        let rows: [&[u8]; 6] =
            [b"", b"\x30", b"\x30\x00", b"\x30\x80\x00\x00", b"\x30\x84\xFF\xFF\xFF\xFF", b"0"];
        for row in rows {
            assert!(twins(row).is_empty(), "{row:?}");
        }
        assert_eq!(less(ORDERS[0], &[]), None);
        assert_eq!(less(ORDERS[0], ORDERS[0]), None);
        assert_eq!(less(&[1, 0], &[0xFF]), Some(vec![1]));
        assert_eq!(less(&[1, 0], &[1]), Some(vec![0, 0xFF]));
    }
}
