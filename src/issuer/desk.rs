//! What is asked of the issuer, judged and signed. Waits for the folder and for the disk, so it is called on threads
//! that may wait, by one at a time.
//!
//! Whoever carries a request can send it again. Within the time in which it is good the same chain comes of it, and
//! counts once.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ring::digest;
use rustls::pki_types::UnixTime;

use super::counts::Counts;
use crate::auth::{InternalName, Renewal, RenewalFault, write_chain};
use crate::limits::{RENEWAL_REMEMBERED_FOR, RENEWALS_REMEMBERED_MAX};
use crate::pki::{self, Pki, PkiError, Terms};
use crate::transport::Internal;

/// See the file's head.
pub(super) struct Desk {
    internal: Arc<Internal>,
    folder: PathBuf,
    life: Option<Duration>,
    counts: Arc<Counts>,
    lately: Mutex<Lately>,
}

/// Why nothing is given.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("{0}")]
    Fault(#[from] RenewalFault),
    #[error("{0}")]
    Broken(#[from] PkiError),
}

impl Desk {
    pub(super) fn new(
        internal: &Arc<Internal>,
        folder: PathBuf,
        life: Option<Duration>,
        counts: &Arc<Counts>,
    ) -> Desk {
        let (internal, counts) = (internal.clone(), counts.clone());
        Desk { internal, folder, life, counts, lately: Mutex::default() }
    }

    /// The chain that comes of a request, which `peer` brought.
    pub(super) fn give(&self, bytes: &[u8], peer: &str) -> Result<Vec<u8>, Refused> {
        let renewable = Renewal::parse(bytes)?.judge(&self.internal.trust(), UnixTime::now())?;
        let mut lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        let of = (renewable.name.clone(), sha256(&renewable.key));
        if let Some(chain) = lately.find(&of, Instant::now()) {
            self.counts.repeated.add(1);
            tracing::debug!(name = %renewable.name, carried_by = peer, "it was asked for before");
            return Ok(chain);
        }
        let pki = Pki::existing(&self.folder)?.under(Terms { key: None, life: self.life });
        let chain = pki.renew(&renewable)?;
        let written = write_chain(&chain).ok_or(RenewalFault::Malformed("its chain would be too long"))?;
        self.counts.given.add(1);
        lately.put(of, written.clone(), Instant::now());
        let leaf = chain.first().map(AsRef::as_ref).unwrap_or_default();
        let serial = pki::serial_of(leaf).map(|serial| serial.to_string()).unwrap_or_default();
        let until = pki::not_after(leaf).and_then(|end| i64::try_from(end).ok());
        let until = until.and_then(|end| jiff::Timestamp::from_second(end).ok());
        let until = until.map(|end| end.to_string()).unwrap_or_default();
        tracing::info!(name = %renewable.name, serial, until, carried_by = peer, "an internal certificate was made");
        Ok(written)
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let hash = digest::digest(&digest::SHA256, bytes);
    hash.as_ref().try_into().expect("SHA-256 has 32 octets")
}

/// For whom a certificate was made, and for which key.
type Of = (InternalName, [u8; 32]);

/// What was made lately, the oldest first.
#[derive(Default)]
struct Lately(VecDeque<(Instant, Of, Vec<u8>)>);

impl Lately {
    fn find(&mut self, of: &Of, now: Instant) -> Option<Vec<u8>> {
        while self.0.front().is_some_and(|(at, ..)| now.duration_since(*at) > RENEWAL_REMEMBERED_FOR) {
            self.0.pop_front();
        }
        self.0.iter().find(|(_, made, _)| made == of).map(|(.., chain)| chain.clone())
    }

    fn put(&mut self, of: Of, chain: Vec<u8>, now: Instant) {
        if self.0.len() == RENEWALS_REMEMBERED_MAX {
            self.0.pop_front();
        }
        self.0.push_back((now, of, chain));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::InternalRole;

    #[test]
    fn what_was_made_is_remembered_while_it_can_be_asked_for_again_and_not_without_end() {
        let name = InternalName { role: InternalRole::Gateway, site: None, name: "gw1".to_owned() };
        let of = |key: usize| (name.clone(), sha256(&key.to_be_bytes()));
        let (mut lately, now) = (Lately::default(), Instant::now());
        lately.put(of(0), vec![0], now);
        assert_eq!(lately.find(&of(0), now + RENEWAL_REMEMBERED_FOR), Some(vec![0]));
        assert_eq!(lately.find(&of(1), now), None);
        assert_eq!(lately.find(&of(0), now + RENEWAL_REMEMBERED_FOR + Duration::from_secs(1)), None);
        for key in 0..=RENEWALS_REMEMBERED_MAX {
            lately.put(of(key), vec![1], now);
        }
        assert_eq!((lately.find(&of(0), now), lately.find(&of(1), now)), (None, Some(vec![1])));
        assert_eq!(lately.0.len(), RENEWALS_REMEMBERED_MAX);
    }
}
