//! Kinds of keys: what is asked for, what is made, what a certificate turns out to have.

use std::fmt;

use rcgen::{KeyPair, RsaKeySize};
use x509_parser::prelude::X509Certificate;
use x509_parser::public_key::PublicKey;

/// A kind of key. ECDSA P-256 is what cmg makes unless told otherwise: a handshake with it costs a
/// fraction of one with RSA, and everything that speaks TLS 1.2 today knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA on the curve P-256.
    #[default]
    P256,
    /// ECDSA on the curve P-384.
    P384,
    /// RSA of 2048 bits.
    Rsa2048,
    /// RSA of 3072 bits.
    Rsa3072,
    /// RSA of 4096 bits.
    Rsa4096,
}

impl KeyKind {
    /// All of them.
    pub const ALL: [KeyKind; 5] =
        [KeyKind::P256, KeyKind::P384, KeyKind::Rsa2048, KeyKind::Rsa3072, KeyKind::Rsa4096];

    /// As an option spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            KeyKind::P256 => "p256",
            KeyKind::P384 => "p384",
            KeyKind::Rsa2048 => "rsa2048",
            KeyKind::Rsa3072 => "rsa3072",
            KeyKind::Rsa4096 => "rsa4096",
        }
    }

    /// Makes a key.
    pub(crate) fn make(self) -> Result<KeyPair, rcgen::Error> {
        let rsa = |size| KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size);
        match self {
            KeyKind::P256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            KeyKind::P384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            KeyKind::Rsa2048 => rsa(RsaKeySize::_2048),
            KeyKind::Rsa3072 => rsa(RsaKeySize::_3072),
            KeyKind::Rsa4096 => rsa(RsaKeySize::_4096),
        }
    }

    /// The kind of a certificate's key; `None` for one that cmg does not make.
    pub(super) fn of(certificate: &X509Certificate<'_>) -> Option<KeyKind> {
        let bits = match certificate.public_key().parsed().ok()? {
            PublicKey::RSA(key) => (true, key.key_size()),
            PublicKey::EC(point) => (false, point.key_size()),
            _ => return None,
        };
        match bits {
            (false, 256) => Some(KeyKind::P256),
            (false, 384) => Some(KeyKind::P384),
            (true, 2048) => Some(KeyKind::Rsa2048),
            (true, 3072) => Some(KeyKind::Rsa3072),
            (true, 4096) => Some(KeyKind::Rsa4096),
            _ => None,
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
