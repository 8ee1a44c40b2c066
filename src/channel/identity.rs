//! Payload of IDENTITY: who a client is, said once per client connection and channel.
//!
//! ```text
//! version u8 = 1 │ address kind u8 = 4 or 6 │ address, 4 or 16 bytes │ leaf present u8 = 0 or 1 │ leaf DER, to the end
//! ```
//! The gateway judged the certificate; the connection point only passes it on.

use std::net::IpAddr;

use super::bytes::Bytes;
use super::error::ChannelError;
use super::fields::TooLarge;
use super::frame::FrameKind;
use super::message;
use crate::limits::IDENTITY_SIZE_MAX;

const FORMAT: u8 = 1;

/// A client, as the gateway knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity<'b> {
    /// Where it connects from; an IPv4 address is never written as an IPv6 one.
    pub peer: IpAddr,
    /// DER of the certificate it showed, not empty.
    pub leaf: Option<&'b [u8]>,
}

impl<'b> Identity<'b> {
    /// Appends the payload to `out`.
    ///
    /// # Errors
    /// [`TooLarge`] above [`IDENTITY_SIZE_MAX`]; `out` is as before.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLarge> {
        let leaf = self.leaf.unwrap_or_default();
        if leaf.len() + FIXED_SIZE_MAX > IDENTITY_SIZE_MAX {
            return Err(TooLarge);
        }
        out.push(FORMAT);
        match self.peer.to_canonical() {
            IpAddr::V4(address) => {
                out.push(4);
                out.extend_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                out.push(6);
                out.extend_from_slice(&address.octets());
            }
        }
        out.push(u8::from(!leaf.is_empty()));
        out.extend_from_slice(leaf);
        Ok(())
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// `Malformed` for everything that [`Identity::encode`] does not write.
    pub fn parse(payload: &'b [u8]) -> Result<Identity<'b>, ChannelError> {
        read(payload).map_err(|what| ChannelError::Malformed(FrameKind::Identity, what))
    }
}

fn read(payload: &[u8]) -> Result<Identity<'_>, &'static str> {
    if payload.len() > IDENTITY_SIZE_MAX {
        return Err("an identity is too long");
    }
    let mut bytes = Bytes(payload);
    if bytes.u8() != Some(FORMAT) {
        return Err("an identity of another version");
    }
    let peer = match bytes.u8() {
        Some(4) => bytes.array::<4>().map(IpAddr::from),
        Some(6) => bytes.array::<16>().map(IpAddr::from),
        _ => return Err("an unknown kind of address"),
    };
    let peer = peer.ok_or("an address is cut")?;
    if peer.to_canonical() != peer {
        return Err("an IPv4 address in IPv6 clothes");
    }
    match (bytes.u8(), bytes.0) {
        (Some(0), []) => Ok(Identity { peer, leaf: None }),
        (Some(1), leaf @ [_, ..]) => Ok(Identity { peer, leaf: Some(leaf) }),
        _ => Err("a leaf is missing or unannounced"),
    }
}

/// Number of the identity that an OPEN payload names; 0: none.
pub fn identity_of(open: &[u8]) -> u32 {
    message::open_facts(open).map_or(0, |facts| facts.identity)
}

/// All but the leaf.
const FIXED_SIZE_MAX: usize = 1 + 1 + 16 + 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(peer: &str, leaf: Option<&[u8]>) -> Vec<u8> {
        let mut out = Vec::new();
        Identity { peer: peer.parse().unwrap(), leaf }.encode(&mut out).unwrap();
        out
    }

    #[test]
    fn what_is_encoded_is_read_back_and_no_part_of_it_is() {
        for (peer, leaf) in [("192.0.2.7", None), ("2001:db8::1", Some(b"0\x82leaf".as_slice()))] {
            let out = encoded(peer, leaf);
            let identity = Identity { peer: peer.parse().unwrap(), leaf };
            assert_eq!(Identity::parse(&out), Ok(identity));
            let fixed = out.len() - leaf.map_or(0, |leaf| leaf.len() - 1);
            for cut in 0..fixed {
                assert!(Identity::parse(&out[..cut]).is_err(), "cut at {cut}");
            }
        }
    }

    #[test]
    fn a_mapped_address_travels_as_ipv4() {
        let out = encoded("::ffff:192.0.2.7", None);
        assert_eq!(Identity::parse(&out).unwrap().peer, "192.0.2.7".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn hostile_identities_are_refused() {
        let mapped = [&[1, 6][..], &[0; 10], &[255, 255, 192, 0, 2, 7], &[0]].concat();
        let long = [&[1, 4, 0, 0, 0, 0, 1][..], &[0; IDENTITY_SIZE_MAX]].concat();
        let rows: [&[u8]; 8] = [
            &[],
            &[2, 4, 1, 1, 1, 1, 0],
            &[1, 5, 1, 1, 1, 1, 0],
            &[1, 4, 1, 1, 1, 1, 0, 9],
            &[1, 4, 1, 1, 1, 1, 1],
            &[1, 4, 1, 1, 1, 1, 2, 9],
            &mapped,
            &long,
        ];
        for row in rows {
            assert!(Identity::parse(row).is_err(), "{row:?}");
        }
    }

    #[test]
    fn a_leaf_over_the_bound_is_not_encoded() {
        let mut out = Vec::new();
        let leaf = vec![1; IDENTITY_SIZE_MAX];
        let identity = Identity { peer: IpAddr::from([192, 0, 2, 7]), leaf: Some(&leaf) };
        assert_eq!(identity.encode(&mut out), Err(TooLarge));
        assert!(out.is_empty());
    }
}
