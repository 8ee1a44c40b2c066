//! `floor crypto`: what the arithmetic of a handshake costs the server, by `ring`, on this machine, now.
//!
//! A full mutual handshake cannot do without one signature (CertificateVerify), two verifications (the client's
//! CertificateVerify, and its certificate's own signature), and a key agreement; a resumed one needs the agreement alone.
//! Hashing, AEAD and all of TLS are left out: this is a floor. All threads work at the same time, because that is what a
//! server under load meets: a CPU whose neighbours are busy.

use std::time::Duration;

use ring::agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey as Agreed, X25519, agree_ephemeral};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};

use crate::server;

/// Operations between two looks at the clock: about 5 ms, so that the looks cost nothing.
const BATCH: u32 = 50;

/// Microseconds of CPU for one operation, the median of its batches.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Costs {
    /// Threads that worked at once.
    pub threads: usize,
    /// Batches measured of each kind.
    pub batches: usize,
    /// ECDSA P-256 signature.
    pub sign_us: f64,
    /// ECDSA P-256 verification.
    pub verify_us: f64,
    /// X25519: a key pair and one agreement.
    pub x25519_us: f64,
    /// ECDH P-256, for comparison.
    pub ecdh_p256_us: f64,
    /// Of a full mutual handshake: one signature, two verifications, X25519.
    pub full_us: f64,
    /// Of a resumed one: X25519.
    pub resumed_us: f64,
}

const KINDS: usize = 4;

/// Measures for `time` on `threads` threads. Errors: a text.
pub fn measure(threads: usize, time: Duration) -> Result<Costs, String> {
    let cpus = server::cpus().map_err(|error| error.to_string())?;
    let workers: Vec<_> = (0..threads)
        .map(|index| {
            let cpu = cpus[index % cpus.len()];
            std::thread::spawn(move || {
                server::pin(cpu).map_err(|error| error.to_string())?;
                batches(time).map_err(|_| "ring refused".to_owned())
            })
        })
        .collect();
    let mut sum: [Vec<f64>; KINDS] = Default::default();
    for worker in workers {
        let found = worker.join().map_err(|_| "a thread panicked".to_owned())??;
        sum.iter_mut().zip(found).for_each(|(sum, found)| sum.extend(found));
    }
    let batches = sum[0].len();
    let [sign_us, verify_us, x25519_us, ecdh_p256_us] = sum.map(median);
    let full_us = sign_us + 2.0 * verify_us + x25519_us;
    Ok(Costs {
        threads,
        batches,
        sign_us,
        verify_us,
        x25519_us,
        ecdh_p256_us,
        full_us,
        resumed_us: x25519_us,
    })
}

/// Batches of the kinds in turn, so that a slow moment meets all of them.
fn batches(time: Duration) -> Result<[Vec<f64>; KINDS], ring::error::Unspecified> {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random)?;
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random)
        .map_err(|_| ring::error::Unspecified)?;
    let message = [7; 130];
    let signature = key.sign(&random, &message)?;
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key().as_ref().to_vec());
    let peer = |algorithm| EphemeralPrivateKey::generate(algorithm, &random)?.compute_public_key();
    let (x25519, p256) = (Agreed::new(&X25519, peer(&X25519)?), Agreed::new(&ECDH_P256, peer(&ECDH_P256)?));
    let mut found: [Vec<f64>; KINDS] = Default::default();
    let begin = std::time::Instant::now();
    while begin.elapsed() < time || found[0].is_empty() {
        found[0].push(batch(|| key.sign(&random, &message).map(drop))?);
        found[1].push(batch(|| public.verify(&message, signature.as_ref()))?);
        found[2].push(batch(|| agree(&x25519, &random))?);
        found[3].push(batch(|| agree(&p256, &random))?);
    }
    Ok(found)
}

fn agree<B: AsRef<[u8]>>(peer: &Agreed<B>, random: &SystemRandom) -> Result<(), ring::error::Unspecified> {
    let own = EphemeralPrivateKey::generate(peer.algorithm(), random)?;
    own.compute_public_key()?;
    agree_ephemeral(own, peer, |secret| {
        std::hint::black_box(secret);
    })
}

fn batch<E>(mut work: impl FnMut() -> Result<(), E>) -> Result<f64, E> {
    let begin = thread_cpu();
    for _ in 0..BATCH {
        work()?;
    }
    Ok((thread_cpu() - begin).as_secs_f64() * 1e6 / f64::from(BATCH))
}

/// CPU time of this thread: what a neighbour takes is not counted.
fn thread_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: only writes the struct it is given; the clock exists on every kernel we run on.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
