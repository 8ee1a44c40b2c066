//! Session tickets: what a client keeps to come back without certificates and signatures.
//!
//! Stateless. Keys are derived from one secret, a new one for each epoch and each purpose, so shards,
//! instances and later starts that hold the same secret read each other's tickets. A ticket says nothing
//! about who may do what: certificates travel in it and are judged anew by whoever resumes (`auth`).

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::server::ProducesTickets;

use crate::limits;

/// The set of tickets that the gateway gives to clients. Another kind of listener has a purpose of its
/// own, and neither can read what the other gave; channels have no tickets, for their verifier would not
/// be asked about a resumed one.
pub const FOR_CLIENTS: &str = "clients";

/// One set of tickets: those of one secret and one purpose.
pub struct Tickets {
    secret: hmac::Key,
    purpose: &'static str,
    random: SystemRandom,
}

impl Tickets {
    /// Tickets under `secret`, for listeners of one purpose.
    pub fn new(secret: &[u8; 32], purpose: &'static str) -> Arc<Tickets> {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
        Arc::new(Tickets { secret, purpose, random: SystemRandom::new() })
    }

    /// Tickets that die with this process.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn of_this_process(purpose: &'static str) -> Result<Arc<Tickets>, ring::error::Unspecified> {
        let mut secret = [0; 32];
        SystemRandom::new().fill(&mut secret)?;
        Ok(Tickets::new(&secret, purpose))
    }

    /// HMAC as a key derivation: label, purpose, an octet that is in neither, epoch.
    fn key(&self, epoch: u64) -> Option<LessSafeKey> {
        let mut context = hmac::Context::with_key(&self.secret);
        for part in [LABEL, self.purpose.as_bytes(), &[0], &epoch.to_be_bytes()] {
            context.update(part);
        }
        UnboundKey::new(&AES_256_GCM, context.sign().as_ref()).ok().map(LessSafeKey::new)
    }

    /// Seals a session at `now`: epoch, nonce, ciphertext with its tag.
    pub(super) fn seal(&self, plain: &[u8], nonce: [u8; NONCE_LEN], now: u64) -> Option<Vec<u8>> {
        let epoch = epoch_of(now);
        let head = epoch.to_be_bytes();
        let mut sealed = plain.to_vec();
        self.key(epoch)?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&head), &mut sealed)
            .ok()?;
        Some([head.as_slice(), &nonce, &sealed].concat())
    }

    /// Opens a ticket at `now`; `None` for anything that is not one of this set, or too old.
    pub(super) fn open(&self, ticket: &[u8], now: u64) -> Option<Vec<u8>> {
        let (head, rest) = ticket.split_first_chunk::<8>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let epoch = u64::from_be_bytes(*head);
        if !is_read(epoch, now) {
            return None;
        }
        let mut bytes = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let size = self.key(epoch)?.open_in_place(nonce, Aad::from(head), &mut bytes).ok()?.len();
        bytes.truncate(size);
        Some(bytes)
    }
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tickets({})", self.purpose)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        limits::TICKET_EPOCH.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        self.seal(plain, nonce, now())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(ticket, now())
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn epoch_of(now: u64) -> u64 {
    now / limits::TICKET_EPOCH.as_secs()
}

/// This epoch, the one before, and the next one shortly before it begins: the clock of the instance that
/// gave the ticket may be ahead of ours.
fn is_read(epoch: u64, now: u64) -> bool {
    let ahead = epoch_of(now.saturating_add(limits::TICKET_CLOCK_SKEW.as_secs()));
    epoch == epoch_of(now) || epoch.checked_add(1) == Some(epoch_of(now)) || epoch == ahead
}

/// Another layout of tickets or sessions gets another number.
const LABEL: &[u8] = b"cmg ticket 1 ";

#[cfg(test)]
#[path = "tickets_tests.rs"]
mod tests;
