//! The ciphers that protect records: ring's, or AWS-LC's for connections that carry large ones, where the CPU
//! has instructions for which AWS-LC has code and ring has none.
//!
//! With the vector instructions of 512 bits AWS-LC seals or opens 16 KiB in 0.7 to 0.9 us where ring takes
//! 1.4 to 1.6 (AES-128-GCM and AES-256-GCM, an AMD EPYC that has them). Small records gain nothing by it, and
//! requests of 200 bytes cost the gateway 2 % more in all; so a key becomes AWS-LC's with its first large
//! record. On other CPUs ring stays: it moves a record to the left while it opens it, for which AWS-LC makes a
//! second pass, and the two were not compared there.

use std::sync::LazyLock;

use aws_lc_rs::aead as aws_lc;
use ring::aead as ring;
use rustls::{ConnectionTrafficSecrets, Error};
use zeroize::Zeroizing;

use super::records::HEADER;

/// One direction's cipher with its key.
#[expect(
    clippy::large_enum_variant,
    reason = "on the heap the larger one took a quarter more, at every client"
)]
pub(super) enum Cipher {
    Ring {
        key: ring::LessSafeKey,
        /// What it becomes with its first large record.
        wide: Option<Box<Wide>>,
    },
    AwsLc(aws_lc::LessSafeKey),
}

/// A key that AWS-LC was not given yet; its unused end is zeros.
pub(super) struct Wide {
    algorithm: &'static aws_lc::Algorithm,
    key: Zeroizing<[u8; KEY_MAX]>,
}

impl Cipher {
    /// The cipher with its key, and the static part of the nonce.
    ///
    /// # Errors
    /// When the suite is none of TLS 1.3.
    pub fn new(secrets: &ConnectionTrafficSecrets) -> Result<(Cipher, [u8; NONCE]), Error> {
        let (libraries, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (CHACHA20_POLY1305, key, iv),
            _ => return Err(Error::General("a cipher this code does not know".into())),
        };
        let iv = iv.as_ref().try_into().map_err(|_| Error::EncryptError)?;
        let cipher = Cipher::of(libraries, key.as_ref(), *IS_WIDE).ok_or(Error::EncryptError)?;
        Ok((cipher, iv))
    }

    /// `None`: the key has another length than the cipher.
    fn of((of_ring, of_aws_lc): Libraries, key: &[u8], is_wide: bool) -> Option<Cipher> {
        let wide = match of_aws_lc.filter(|_| is_wide) {
            None => None,
            Some(algorithm) => {
                let mut kept = Zeroizing::new([0; KEY_MAX]);
                kept.get_mut(..key.len())?.copy_from_slice(key);
                Some(Box::new(Wide { algorithm, key: kept }))
            }
        };
        let key = ring::UnboundKey::new(of_ring, key).ok()?;
        Some(Cipher::Ring { key: ring::LessSafeKey::new(key), wide })
    }

    /// Takes the quicker cipher for a record of `size` bytes and those behind it.
    #[inline]
    fn choose(&mut self, size: usize) {
        if size >= LARGE
            && let Cipher::Ring { wide, .. } = self
            && let Some(wide) = wide.take()
        {
            self.widen(&wide);
        }
    }

    #[cold]
    fn widen(&mut self, Wide { algorithm, key }: &Wide) {
        let key = key.get(..algorithm.key_len()).unwrap_or_default();
        // Without it, ring goes on.
        if let Ok(key) = aws_lc::UnboundKey::new(algorithm, key) {
            *self = Cipher::AwsLc(aws_lc::LessSafeKey::new(key));
        }
    }

    /// Opens ciphertext and tag, which lie from `from` on; the content lies at the front of `bytes`
    /// afterwards. `None`: somebody else sealed it, or something else.
    #[inline]
    pub fn open<'b>(
        &mut self,
        nonce: [u8; NONCE],
        header: [u8; HEADER],
        bytes: &'b mut [u8],
        from: usize,
    ) -> Option<&'b [u8]> {
        self.choose(bytes.len().saturating_sub(from));
        let opened = match self {
            Cipher::Ring { key, .. } => {
                let nonce = ring::Nonce::assume_unique_for_key(nonce);
                key.open_within(nonce, ring::Aad::from(header), bytes, from..).ok()
            }
            Cipher::AwsLc(key) => open_wide(key, nonce, header, bytes, from),
        };
        opened.map(|content| &*content)
    }

    /// Seals `bytes` where they lie, and gives the tag. `None`: there are more than a key may seal.
    #[inline]
    pub fn seal(&mut self, nonce: [u8; NONCE], header: [u8; HEADER], bytes: &mut [u8]) -> Option<[u8; TAG]> {
        self.choose(bytes.len());
        match self {
            Cipher::Ring { key, .. } => {
                let nonce = ring::Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, ring::Aad::from(header), bytes);
                tag.ok()?.as_ref().try_into().ok()
            }
            Cipher::AwsLc(key) => seal_wide(key, nonce, header, bytes),
        }
    }
}

// Out of line: what all records pass through stays small.
#[inline(never)]
fn open_wide<'b>(
    key: &aws_lc::LessSafeKey,
    nonce: [u8; NONCE],
    header: [u8; HEADER],
    bytes: &'b mut [u8],
    from: usize,
) -> Option<&'b mut [u8]> {
    let nonce = aws_lc::Nonce::assume_unique_for_key(nonce);
    key.open_within(nonce, aws_lc::Aad::from(header), bytes, from..).ok()
}

#[inline(never)]
fn seal_wide(
    key: &aws_lc::LessSafeKey,
    nonce: [u8; NONCE],
    header: [u8; HEADER],
    bytes: &mut [u8],
) -> Option<[u8; TAG]> {
    let nonce = aws_lc::Nonce::assume_unique_for_key(nonce);
    let tag = key.seal_in_place_separate_tag(nonce, aws_lc::Aad::from(header), bytes);
    tag.ok()?.as_ref().try_into().ok()
}

/// One cipher in ring, and in AWS-LC if that may be the quicker one.
type Libraries = (&'static ring::Algorithm, Option<&'static aws_lc::Algorithm>);

const AES_128_GCM: Libraries = (&ring::AES_128_GCM, Some(&aws_lc::AES_128_GCM));
const AES_256_GCM: Libraries = (&ring::AES_256_GCM, Some(&aws_lc::AES_256_GCM));
/// No CPU has instructions made for it.
const CHACHA20_POLY1305: Libraries = (&ring::CHACHA20_POLY1305, None);

/// Whether the CPU has what AWS-LC's widest code for AES-GCM asks for.
static IS_WIDE: LazyLock<bool> = LazyLock::new(|| {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("vaes")
            && is_x86_feature_detected!("vpclmulqdq")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
});

/// Bytes from which a record is large.
const LARGE: usize = 4 * 1024;
/// Bytes of a key at most.
const KEY_MAX: usize = 32;
/// RFC 8446 5.2: what a cipher adds to a record; all three add as much.
pub(super) const TAG: usize = 16;
/// RFC 8446 5.3.
pub(super) const NONCE: usize = 12;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [(Libraries, usize); 3] = [(AES_128_GCM, 16), (AES_256_GCM, 32), (CHACHA20_POLY1305, 32)];

    proptest! {
        #[test]
        fn whichever_library_goes_on_seals_the_same_and_opens_nothing_else(
            key: [u8; 32],
            nonces: [[u8; NONCE]; 3],
            header: [u8; HEADER],
            content in prop::collection::vec(any::<u8>(), 0..20_000),
            small in 0_usize..200,
            from in 0_usize..40,
            flipped: prop::sample::Index,
        ) {
            for (libraries, size) in ALL {
                let mut sealing = [false, true].map(|is_wide| of(libraries, &key[..size], is_wide));
                let mut opening = [false, true].map(|is_wide| of(libraries, &key[..size], is_wide));
                let small = small.min(content.len());
                // Before a large record, it, and after it.
                for (nonce, content) in nonces.into_iter().zip([&content[..small], &content, &content[..small]]) {
                    let [sealed, other] = sealing.each_mut().map(|cipher| {
                        let mut out = [vec![0; from], content.to_vec()].concat();
                        let tag = cipher.seal(nonce, header, &mut out[from..]).unwrap();
                        out.extend_from_slice(&tag);
                        out
                    });
                    prop_assert_eq!(&sealed, &other);
                    for cipher in &mut opening {
                        let mut bytes = sealed.clone();
                        prop_assert_eq!(cipher.open(nonce, header, &mut bytes, from), Some(content));
                        let mut bytes = sealed.clone();
                        let at = from + flipped.index(bytes.len() - from);
                        bytes[at] ^= 1;
                        prop_assert_eq!(cipher.open(nonce, header, &mut bytes, from), None);
                        let mut other = header;
                        other[0] ^= 1;
                        prop_assert!(cipher.open(nonce, other, &mut sealed.clone(), from).is_none());
                        // Too short for a tag.
                        let short = &mut sealed.clone()[..from + 9];
                        prop_assert!(cipher.open(nonce, header, short, from).is_none());
                    }
                }
            }
        }
    }

    fn of(libraries: Libraries, key: &[u8], is_wide: bool) -> Cipher {
        Cipher::of(libraries, key, is_wide).unwrap()
    }

    #[test]
    fn aws_lc_is_taken_for_aes_alone_where_the_cpu_is_wide_and_with_the_first_large_record() {
        let kinds = |is_wide, size| {
            ALL.map(|(libraries, key)| {
                let mut cipher = of(libraries, &[7; 32][..key], is_wide);
                cipher.seal([0; NONCE], [0; HEADER], &mut vec![0; size]).unwrap();
                // What was large once stays so.
                cipher.seal([1; NONCE], [0; HEADER], &mut [0]).unwrap();
                matches!(cipher, Cipher::AwsLc(_))
            })
        };
        assert_eq!(kinds(true, LARGE), [true, true, false]);
        assert_eq!(kinds(true, LARGE - 1), [false; 3]);
        assert_eq!(kinds(false, LARGE), [false; 3]);
        assert!(Cipher::of(AES_128_GCM, &[7; 32], true).is_none(), "a key of another length");
        assert!(Cipher::of(AES_256_GCM, &[7; 33], true).is_none());
    }
}
