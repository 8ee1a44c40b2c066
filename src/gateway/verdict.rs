//! Whether a client's certificate is good for a site: by what is remembered of its chain, or judged
//! from the beginning.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::PoisonError;

use rustls::pki_types::{CertificateDer, UnixTime};

use super::gate::{self, Gate};
use super::request::Request;
use crate::auth::{self, Asked, CertificateFault};
use crate::limits::{self, UNLISTED_TOLD_MAX};
use crate::logs;
use crate::refusal::{Refusal, Refused};

/// A verdict, and the subject of the certificate, trusted or not; for logs.
pub type Verdict = (Result<(), Refused>, Option<Rc<str>>);

/// Judges the chain that a client proved to hold the key of, for the site of this request and under its
/// settings.
pub fn judge(gate: &Gate, chain: &[CertificateDer<'_>], request: &Request) -> Verdict {
    let now = UnixTime::now();
    let asked = Asked::new(chain, request.site, request.settings.epoch);
    if let Some(subject) = gate.verdicts.borrow_mut().find(&asked, now) {
        gate::add(&gate.counters().verdicts_known, 1);
        return (Ok(()), Some(subject));
    }
    let leaf = chain.first().map_or(&[][..], |leaf| leaf.as_ref());
    if !leaf.is_empty() {
        gate::add(&gate.counters().verdicts_new, 1);
    }
    match auth::judge(chain, &request.settings.sites[request.site].trust, now) {
        Ok(facts) if leaf.len() > LEAF_SIZE_MAX => {
            let cause = format!("the certificate has {} octets, more than {LEAF_SIZE_MAX}", leaf.len());
            (Err(Refused::new(Refusal::UntrustedCertificate, cause)), Some(bounded(facts.subject)))
        }
        Ok(facts) => {
            if !facts.unchecked.is_empty() {
                gate::add(&gate.counters().verdicts_unchecked, 1);
                tell_unchecked(gate, request.site, &facts.unchecked);
            }
            let subject = bounded(facts.subject);
            gate.verdicts.borrow_mut().remember(asked, &subject, facts.valid);
            (Ok(()), Some(subject))
        }
        Err(fault) => {
            let refused = Refused::new(fault.refusal(), logs::bounded(fault.to_string()));
            (Err(refused), auth::subject_of(leaf).map(bounded))
        }
    }
}

/// Why somebody whose chain was accepted for a site is not let in any more. Rarely more than a look at the
/// lists: only whom one of them may name is judged again.
pub fn shut_out(gate: &Gate, chain: &[CertificateDer<'_>], site: usize) -> Option<Refused> {
    let in_force = gate.in_force();
    let trust = &in_force.sites.get(site)?.trust;
    if !auth::may_be_shut_out(chain, trust) {
        return None;
    }
    let fault = auth::judge(chain, trust, UnixTime::now()).err()?;
    Some(Refused::new(fault.refusal(), logs::bounded(fault.to_string())))
}

/// Says of each authority once that nothing could be looked up in its list.
fn tell_unchecked(gate: &Gate, site: usize, unchecked: &[CertificateFault]) {
    let mut told = gate.common.unlisted.lock().unwrap_or_else(PoisonError::into_inner);
    for fault in unchecked.iter().filter(|fault| told.is_news(site, fault)) {
        let (code, cause) = (&gate.common.settings.sites[site].code, logs::bounded(fault.to_string()));
        tracing::warn!(site = code, cause, "clients are admitted unchecked, as revocation.mode = soft says");
    }
}

/// Authorities of which it was said that no list of theirs is in force, those that are named where nobody looks
/// apart; of one whose list ended, for which list.
#[derive(Default)]
pub struct Unlisted {
    told: BTreeMap<(usize, Box<str>, bool), Option<u64>>,
}

impl Unlisted {
    fn is_news(&mut self, site: usize, fault: &CertificateFault) -> bool {
        let Some((issuer, is_misplaced, since)) = fault.unlisted() else { return false };
        let key = (site, issuer.into(), is_misplaced);
        let is_news = match self.told.get(&key) {
            None => self.told.len() < UNLISTED_TOLD_MAX,
            // Of several keys of one name those that are told of take no turns.
            Some(told) => since > *told,
        };
        if is_news {
            self.told.insert(key, since);
        }
        is_news
    }
}

fn bounded(subject: String) -> Rc<str> {
    logs::bounded(subject).into()
}

/// A certificate that fits an IDENTITY frame beside the address.
const LEAF_SIZE_MAX: usize = limits::IDENTITY_SIZE_MAX - 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_without_a_list_is_told_of_once_and_of_so_many_at_most() {
        let none =
            |issuer: &str| CertificateFault::NoList { issuer: issuer.to_owned(), unusable: Vec::new() };
        let by_ldap = |issuer: &str| CertificateFault::NoList {
            issuer: issuer.to_owned(),
            unusable: vec!["ldap:///CN=A".to_owned()],
        };
        let ended = |since| CertificateFault::ListTooOld { issuer: "CN=A".to_owned(), since };
        let mut told = Unlisted::default();
        let rows = [
            (0, none("CN=A"), true),
            (0, none("CN=A"), false),
            (1, none("CN=A"), true),
            (0, ended(7), true),
            (0, ended(7), false),
            (0, ended(8), true),
            (0, ended(7), false),
            (0, none("CN=A"), false),
            (0, by_ldap("CN=A"), true),
            (0, by_ldap("CN=A"), false),
            (0, CertificateFault::BadSignature, false),
        ];
        for (row, (site, fault, expected)) in rows.into_iter().enumerate() {
            assert_eq!(told.is_news(site, &fault), expected, "row {row}");
        }
        let more = (0..2 * UNLISTED_TOLD_MAX).filter(|name| told.is_news(0, &none(&format!("CN={name}"))));
        assert_eq!(more.count(), UNLISTED_TOLD_MAX - 3);
    }
}
